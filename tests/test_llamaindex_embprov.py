"""EmbProviderEmbedding in LlamaIndex."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.embedding import (
    EmbeddingEndEvent,
    EmbeddingStartEvent,
)
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_instrumentation import get_dispatcher
from pydantic import PrivateAttr, SecretStr

from emb_model_provider.core.config import Config
from emb_model_provider.core.errors import ConfigError
from emb_model_provider.core.model_manager import ModelManager
from llamaindex_embprov import EmbProviderEmbedding

if TYPE_CHECKING:
    from conftest import Gate
    from sentence_transformers import SentenceTransformer

TEXTS = ["Cats purr when they are content.", "Dogs bark at strangers.", "The stock market fell."]


@pytest.fixture
def embedding(toy_model: Path) -> EmbProviderEmbedding:
    return EmbProviderEmbedding(model_path=str(toy_model))


class Recorder(BaseEventHandler):
    """Keeps the embedding events."""

    _events: list[BaseEvent] = PrivateAttr(default_factory=list)

    def handle(self, event: BaseEvent, **_: Any) -> None:
        if isinstance(event, EmbeddingStartEvent | EmbeddingEndEvent):
            self._events.append(event)

    def of(self, kind: type[BaseEvent]) -> list[Any]:
        """The events of one kind, in order."""
        return [event for event in self._events if isinstance(event, kind)]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder, root = Recorder(), get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)


class TestRetrieval:
    def test_by_the_settings_finds_the_right_document(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Settings, "_embed_model", None)
        Settings.embed_model = EmbProviderEmbedding()
        index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS])
        retriever = index.as_retriever(similarity_top_k=1)
        for question, right in (("Which animal purrs?", 0), ("What happened to shares?", 2)):
            (found,) = retriever.retrieve(question)
            assert found.node.get_content() == TEXTS[right]

    async def test_async_finds_the_right_document(self) -> None:
        nodes = [TextNode(text=text) for text in TEXTS]
        index = VectorStoreIndex(nodes, embed_model=EmbProviderEmbedding(), use_async=False)
        (found,) = await index.as_retriever(similarity_top_k=1).aretrieve("Who barks?")
        assert found.node.get_content() == TEXTS[1]

    def test_has_the_oracles_vectors(self, oracle: SentenceTransformer) -> None:
        embedding = EmbProviderEmbedding()
        vectors = embedding.get_text_embedding_batch(TEXTS)
        np.testing.assert_allclose(vectors, oracle.encode(TEXTS), atol=1e-5)
        query = embedding.get_query_embedding("Which animal purrs?")
        np.testing.assert_allclose(query, oracle.encode("Which animal purrs?"), atol=1e-5)


class TestHooks:
    async def test_give_the_same_one_by_one_in_batches_and_async(
        self, embedding: EmbProviderEmbedding
    ) -> None:
        singles = [embedding.get_text_embedding(text) for text in TEXTS]
        async_singles = [await embedding.aget_text_embedding(text) for text in TEXTS]
        batch = embedding.get_text_embedding_batch(TEXTS)
        async_batch = await embedding.aget_text_embedding_batch(TEXTS)
        assert async_singles == singles
        assert async_batch == batch
        np.testing.assert_allclose(batch, singles, atol=1e-5)
        query = embedding.get_query_embedding(TEXTS[0])
        assert await embedding.aget_query_embedding(TEXTS[0]) == query
        assert np.abs(np.subtract(query, singles[0])).max() > 0.01  # it has a query prompt

    def test_average_several_queries(self, embedding: EmbProviderEmbedding) -> None:
        mean = np.mean([embedding.get_query_embedding(text) for text in TEXTS[:2]], axis=0)
        np.testing.assert_allclose(embedding.get_agg_embedding_from_queries(TEXTS[:2]), mean, atol=1e-6)

    def test_give_python_floats(self, embedding: EmbProviderEmbedding) -> None:
        vectors = [*embedding.get_text_embedding_batch(TEXTS), embedding.get_query_embedding("a")]
        assert {type(vector) for vector in vectors} == {list}
        assert {type(number) for vector in vectors for number in vector} == {float}

    async def test_give_nothing_for_nothing(self, embedding: EmbProviderEmbedding) -> None:
        assert embedding.get_text_embedding_batch([]) == []
        assert await embedding.aget_text_embedding_batch([]) == []

    @pytest.mark.parametrize(("size", "slices"), [(2, [2, 2, 1]), (5, [5]), (512, [5])])
    async def test_get_slices_of_the_batch_size(
        self, toy_model: Path, gate: Gate, size: int, slices: list[int]
    ) -> None:
        gate.open()
        embedding = EmbProviderEmbedding(model_path=str(toy_model), embed_batch_size=size)
        texts = [f"text {n}" for n in range(5)]
        await embedding.aget_text_embedding_batch(texts)
        assert sorted(len(part) for part, _ in gate.calls) == sorted(slices)
        gate.calls.clear()
        embedding.get_text_embedding_batch(texts)
        assert [len(part) for part, _ in gate.calls] == slices
        assert [text for part, _ in gate.calls for text in part] == texts

    async def test_leave_the_event_loop_free(self, embedding: EmbProviderEmbedding, gate: Gate) -> None:
        task = asyncio.create_task(embedding.aget_text_embedding_batch(TEXTS))
        assert await asyncio.to_thread(gate.entered.wait, 60)  # the loop itself waits for this thread
        assert not task.done()
        gate.open()
        assert len(await task) == 3

    async def test_batch_concurrent_queries(self, embedding: EmbProviderEmbedding, gate: Gate) -> None:
        first = asyncio.create_task(embedding.aget_query_embedding("first"))
        assert await asyncio.to_thread(gate.entered.wait, 60)
        later = [asyncio.create_task(embedding.aget_query_embedding(text)) for text in TEXTS]
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, *later)
        assert [len(texts) for texts, _ in gate.calls] == [1, 3]

    def test_show_progress_without_changing_a_vector(self, embedding: EmbProviderEmbedding) -> None:
        assert embedding.get_text_embedding_batch(
            TEXTS, show_progress=True
        ) == embedding.get_text_embedding_batch(TEXTS)


class TestEvents:
    async def test_come_once_for_each_batch(self, toy_model: Path, recorder: Recorder) -> None:
        debug = LlamaDebugHandler(print_trace_on_end=False)
        embedding = EmbProviderEmbedding(
            model_path=str(toy_model), embed_batch_size=2, callback_manager=CallbackManager([debug])
        )
        vectors = embedding.get_text_embedding_batch(TEXTS)
        assert len(recorder.of(EmbeddingStartEvent)) == 2
        assert [event.chunks for event in recorder.of(EmbeddingEndEvent)] == [TEXTS[:2], TEXTS[2:]]
        assert [v for event in recorder.of(EmbeddingEndEvent) for v in event.embeddings] == vectors
        assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 2
        await embedding.aget_text_embedding_batch(TEXTS)
        assert len(recorder.of(EmbeddingEndEvent)) == 4

    def test_come_once_for_a_query(self, embedding: EmbProviderEmbedding, recorder: Recorder) -> None:
        embedding.get_query_embedding("question")
        assert len(recorder.of(EmbeddingStartEvent)) == len(recorder.of(EmbeddingEndEvent)) == 1
        (start,) = recorder.of(EmbeddingStartEvent)
        assert start.model_dict == embedding.to_payload()

    def test_tell_of_the_model_without_path_or_secret(self, toy_model: Path) -> None:
        payload = EmbProviderEmbedding(
            model_path=str(toy_model), hf_token=SecretStr("hf_secret"), device="cpu"
        ).to_payload()
        assert payload["class_name"] == "EmbProviderEmbedding"
        assert payload["model_name"] == "sentence-transformers/all-MiniLM-L6-v2"
        assert (payload["model_source"], payload["device"]) == ("huggingface", "cpu")
        assert payload["embed_batch_size"] == 512
        assert "secret" not in json.dumps(payload)
        assert str(toy_model) not in json.dumps(payload)


# what changes vectors, or how LlamaIndex calls us
OTHER_SETTINGS: list[dict[str, Any]] = [
    {"model_name": "BAAI/bge-small-en-v1.5"},
    {"model_path": "/elsewhere"},
    {"model_source": "auto"},
    {"modelscope_model_id": "me/mine"},
    {"modelscope_model_mapping": {"a/b": "c/d"}},
    {"max_context_length": 8},
    {"revision": "v2"},
    {"embed_batch_size": 3},
    {"num_workers": 4},
]


class TestRoundTrip:
    @pytest.mark.parametrize("settings", [{}, *OTHER_SETTINGS])
    def test_keeps_every_setting(self, settings: dict[str, Any]) -> None:
        embedding = EmbProviderEmbedding(**settings)
        data = embedding.to_dict()
        assert data["class_name"] == "EmbProviderEmbedding"
        for again in (
            EmbProviderEmbedding.from_dict(data),
            EmbProviderEmbedding.from_json(embedding.to_json()),
            pickle.loads(pickle.dumps(embedding)),
        ):
            assert again == embedding
            assert again.to_dict() == data

    @pytest.mark.parametrize("settings", OTHER_SETTINGS)
    def test_tells_other_settings_apart(self, settings: dict[str, Any]) -> None:
        """An IngestionPipeline's cache is keyed by the text and `to_dict`."""
        assert EmbProviderEmbedding(**settings).to_dict() != EmbProviderEmbedding().to_dict()

    def test_holds_no_secret(self) -> None:
        embedding = EmbProviderEmbedding(hf_token=SecretStr("hf_secret"))
        shown = f"{embedding!r} {embedding.to_dict()} {embedding.to_json()}"
        assert "secret" not in shown

    def test_gives_the_same_vectors(self, embedding: EmbProviderEmbedding) -> None:
        vectors = embedding.get_text_embedding_batch(TEXTS)
        pickled = pickle.dumps(embedding)
        assert len(pickled) < 10_000
        for again in (EmbProviderEmbedding.from_dict(embedding.to_dict()), pickle.loads(pickled)):
            assert again.get_text_embedding_batch(TEXTS) == vectors

    def test_does_not_read_the_environment_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        embedding = EmbProviderEmbedding()
        data, pickled = embedding.to_dict(), pickle.dumps(embedding)
        monkeypatch.setenv("EMB_PROVIDER_DEVICE", "cuda:7")
        monkeypatch.setenv("MODELSCOPE_CACHE_DIR", "/elsewhere")
        assert EmbProviderEmbedding.from_dict(data) == embedding
        assert pickle.loads(pickled) == embedding


class TestSettings:
    def test_are_all_those_of_the_config_and_of_llamaindex(self, toy_model: Path) -> None:
        assert set(Config.model_fields) <= set(EmbProviderEmbedding.model_fields)
        embedding = EmbProviderEmbedding(model_path=str(toy_model), max_context_length=8, num_workers=2)
        assert embedding.get_model_info()["max_length"] == 8
        assert embedding.num_workers == 2

    def test_have_our_model_name_and_a_large_batch(self) -> None:
        embedding = EmbProviderEmbedding()
        assert embedding.model_name == "sentence-transformers/all-MiniLM-L6-v2"
        assert embedding.embed_batch_size == 512

    def test_equal_ones_share_the_managers_model(self, embedding: EmbProviderEmbedding) -> None:
        again = EmbProviderEmbedding(model_path=embedding.model_path, embed_batch_size=3)
        manager = ModelManager(Config(model_path=embedding.model_path))
        assert again.model is embedding.model is manager.load_model()

    def test_of_the_model_cannot_be_assigned_and_llamaindexs_can(
        self, embedding: EmbProviderEmbedding
    ) -> None:
        manager = CallbackManager([])
        embedding.callback_manager = manager
        embedding.embed_batch_size = 7
        assert (embedding.callback_manager, embedding.embed_batch_size) == (manager, 7)
        for name in Config.model_fields:
            with pytest.raises(ConfigError, match=f"{name} cannot change"):
                setattr(embedding, name, None)

    @pytest.mark.parametrize(
        ("name", "advice"),
        [
            ("cache_folder", "HF_HOME"),
            ("max_length", "max_context_length"),
            ("normalize", "model's files"),
            ("query_instruction", "query prompt"),
            ("text_instruction", "document prompt"),
            ("parallel_process", "one process"),
            ("target_devices", "device="),
            ("show_progress_bar", "show_progress"),
            ("embed_batchsize", "embed_batch_size"),
        ],
    )
    def test_of_other_classes_are_refused_with_advice(self, name: str, advice: str) -> None:
        settings: dict[str, Any] = {name: "x"}
        with pytest.raises(ConfigError, match=rf"Unknown setting '{name}'.*{advice}"):
            EmbProviderEmbedding(**settings)

    @pytest.mark.parametrize("size", [0, 2049])
    def test_batch_size_must_be_llamaindexs(self, size: int) -> None:
        with pytest.raises(ConfigError, match=rf"got {size}\. embed_batch_size .*1 to 2048"):
            EmbProviderEmbedding(embed_batch_size=size)

    def test_embeddings_cache_is_refused_with_the_reason(self) -> None:
        with pytest.raises(ConfigError, match="query and document vectors of every model"):
            EmbProviderEmbedding(embeddings_cache=SimpleKVStore())


class TestIngestion:
    def test_fills_the_nodes_and_its_cache(self, embedding: EmbProviderEmbedding, gate: Gate) -> None:
        gate.open()
        pipeline = IngestionPipeline(transformations=[embedding])
        for _ in range(2):
            nodes = pipeline.run(documents=[Document(text=text) for text in TEXTS])
            assert [node.embedding for node in nodes] == embedding.get_text_embedding_batch(
                [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
            )
        assert len(gate.calls) == 3  # the second run embedded nothing

    @pytest.mark.slow
    def test_in_two_processes_gives_the_same_vectors(self, embedding: EmbProviderEmbedding) -> None:
        expected = embedding.get_text_embedding_batch(TEXTS)
        pipeline = IngestionPipeline(transformations=[embedding], disable_cache=True)
        nodes = pipeline.run(documents=[Document(text=text) for text in TEXTS], num_workers=2)
        np.testing.assert_allclose([node.get_embedding() for node in nodes], expected, atol=1e-5)
