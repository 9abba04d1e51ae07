"""EmbProviderEmbeddings in LangChain."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from emb_model_provider.core.config import Config
from emb_model_provider.core.errors import ConfigError
from emb_model_provider.core.model_manager import ModelManager
from langchain_embprov import EmbProviderEmbeddings

if TYPE_CHECKING:
    from conftest import Gate
    from sentence_transformers import SentenceTransformer


class TestLangChainsUnitSuite(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[EmbProviderEmbeddings]:
        return EmbProviderEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"device": "cpu"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environment = {
            "EMB_PROVIDER_MODEL_NAME": "BAAI/bge-small-en-v1.5",
            "EMB_PROVIDER_MODEL_SOURCE": "ModelScope",
            "EMB_PROVIDER_MAX_BATCH_SIZE": "7",
            "MODELSCOPE_CACHE_DIR": "/caches/modelscope",
        }
        attributes = {
            "model_name": "BAAI/bge-small-en-v1.5",
            "model_source": "modelscope",
            "max_batch_size": 7,
            "modelscope_cache_dir": "/caches/modelscope",
            "device": "cpu",
        }
        return environment, {"device": "cpu"}, attributes


class TestLangChainsIntegrationSuite(EmbeddingsIntegrationTests):
    """On the real all-MiniLM-L6-v2."""

    @property
    def embeddings_class(self) -> type[EmbProviderEmbeddings]:
        return EmbProviderEmbeddings


@pytest.fixture
def embeddings(toy_model: Path) -> EmbProviderEmbeddings:
    return EmbProviderEmbeddings(model_path=str(toy_model))


def test_documents_and_queries_get_the_oracles_vectors(oracle: SentenceTransformer) -> None:
    embeddings = EmbProviderEmbeddings()
    texts = ["Cats purr.", "Two\nlines", "猫会咕噜叫。", ""]
    np.testing.assert_allclose(embeddings.embed_documents(texts), oracle.encode(texts), atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query(texts[1]), oracle.encode(texts[1]), atol=1e-5)


def test_each_role_gets_the_prompt_saved_with_the_model(embeddings: EmbProviderEmbeddings) -> None:
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(embeddings.model_path), device="cpu")
    query, (document,) = embeddings.embed_query("hello"), embeddings.embed_documents(["hello"])
    np.testing.assert_allclose(query, oracle.encode_query("hello"), atol=1e-5)
    np.testing.assert_allclose(document, oracle.encode_document("hello"), atol=1e-5)
    assert np.abs(np.subtract(query, document)).max() > 0.01


def test_vectors_are_lists_of_python_floats_that_json_takes(embeddings: EmbProviderEmbeddings) -> None:
    vectors = [*embeddings.embed_documents(["a", "b"]), embeddings.embed_query("a")]
    assert {type(vector) for vector in vectors} == {list}
    assert {type(number) for vector in vectors for number in vector} == {float}
    assert json.loads(json.dumps(vectors)) == vectors


async def test_no_document_gives_no_vector(embeddings: EmbProviderEmbeddings) -> None:
    assert embeddings.embed_documents([]) == []
    assert await embeddings.aembed_documents([]) == []


def test_duplicates_and_order_are_kept(embeddings: EmbProviderEmbeddings) -> None:
    texts = ["b", "a long text with many words " * 3, "a", "b", "", "a"]
    vectors = embeddings.embed_documents(texts)
    assert vectors[0] == vectors[3]
    assert vectors[2] == vectors[5]
    alone = [embeddings.embed_documents([text])[0] for text in texts]
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


async def test_the_async_twins_give_the_same(embeddings: EmbProviderEmbeddings) -> None:
    assert await embeddings.aembed_query("hello") == embeddings.embed_query("hello")
    documents = ["hello", "world"]
    assert await embeddings.aembed_documents(documents) == embeddings.embed_documents(documents)


async def test_concurrent_queries_share_a_batch(embeddings: EmbProviderEmbeddings, gate: Gate) -> None:
    first = asyncio.create_task(embeddings.aembed_query("first"))
    assert await asyncio.to_thread(gate.entered.wait, 60)
    later = [asyncio.create_task(embeddings.aembed_query(f"query {n}")) for n in range(8)]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(first, *later)
    assert [len(texts) for texts, _ in gate.calls] == [1, 8]


async def test_the_event_loop_runs_on_while_documents_are_embedded(
    embeddings: EmbProviderEmbeddings, gate: Gate
) -> None:
    task = asyncio.create_task(embeddings.aembed_documents(["a", "b"]))
    assert await asyncio.to_thread(gate.entered.wait, 60)  # the loop itself waits for this thread
    assert not task.done()
    gate.open()
    assert len(await task) == 2


def test_a_vector_store_finds_the_right_document() -> None:
    store = InMemoryVectorStore(EmbProviderEmbeddings())
    texts = ["Cats purr when they are content.", "Dogs bark at strangers.", "The stock market fell."]
    store.add_documents([Document(text, id=str(n)) for n, text in enumerate(texts)])
    for question, right in (("Which animal purrs?", 0), ("What happened to shares?", 2)):
        (document,) = store.similarity_search(question, k=1)
        assert document.id == str(right)


async def test_an_async_vector_store_finds_the_right_document() -> None:
    store = await InMemoryVectorStore.afrom_texts(["Cats purr.", "Dogs bark."], EmbProviderEmbeddings())
    (document,) = await store.asimilarity_search("Which animal purrs?", k=1)
    assert document.page_content == "Cats purr."


class TestSettings:
    def test_are_all_those_of_the_config(self, toy_model: Path) -> None:
        assert set(Config.model_fields) <= set(EmbProviderEmbeddings.model_fields)
        embeddings = EmbProviderEmbeddings(model_path=str(toy_model), max_context_length=8)
        assert embeddings.get_model_info()["max_length"] == 8

    def test_equal_ones_share_the_managers_model(self, embeddings: EmbProviderEmbeddings) -> None:
        again = EmbProviderEmbeddings(model_path=embeddings.model_path)
        manager = ModelManager(Config(model_path=embeddings.model_path))
        assert again.model is embeddings.model is manager.load_model()

    def test_survive_a_small_pickle_with_the_same_vectors(self, embeddings: EmbProviderEmbeddings) -> None:
        vectors = embeddings.embed_documents(["hello"])
        pickled = pickle.dumps(embeddings)
        assert len(pickled) < 10_000
        again = pickle.loads(pickled)
        assert again == embeddings
        assert again.embed_documents(["hello"]) == vectors

    def test_survive_a_deep_copy(self, embeddings: EmbProviderEmbeddings) -> None:
        vector = embeddings.embed_query("hello")
        again = copy.deepcopy(embeddings)
        assert again == embeddings
        assert again.embed_query("hello") == vector

    @pytest.mark.parametrize(
        ("name", "advice"),
        [
            ("model", "model_name"),
            ("cache_folder", "HF_HOME"),
            ("model_kwargs", "device="),
            ("encode_kwargs", "max_batch_size"),
            ("query_encode_kwargs", "query prompt"),
            ("multi_process", "one process"),
            ("show_progres", "show_progress"),
        ],
    )
    def test_of_other_classes_are_refused_with_advice(self, name: str, advice: str) -> None:
        settings: dict[str, Any] = {name: {}}
        with pytest.raises(ConfigError, match=rf"Unknown setting '{name}'.*{advice}"):
            EmbProviderEmbeddings(**settings)

    def test_cannot_be_assigned(self, embeddings: EmbProviderEmbeddings) -> None:
        with pytest.raises(ConfigError, match="device cannot change"):
            embeddings.device = "cpu"
