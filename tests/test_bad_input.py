"""What cannot be embedded, and folders that hold no usable model, through every door."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from emb_model_provider.core.config import Config
from emb_model_provider.core.errors import (
    EmbeddingInputError,
    ModelFilesError,
    ModelLoadError,
    TextTypeError,
    TextValueError,
)
from emb_model_provider.core.model_manager import ModelManager
from langchain_embprov import EmbProviderEmbeddings
from llamaindex_embprov import EmbProviderEmbedding

if TYPE_CHECKING:
    from conftest import Gate

Embed = Callable[[str, Any], Any]  # a model's folder, and texts


def by_manager(folder: str, texts: Any) -> Any:
    manager = ModelManager(Config(model_path=folder))
    manager.load_model()
    return manager.generate_embeddings(texts)


def by_manager_in_batches(folder: str, texts: Any) -> Any:
    manager = ModelManager(Config(model_path=folder))
    manager.load_model()
    return manager.generate_batch_embeddings(texts, batch_size=1)


def by_langchain(folder: str, texts: Any) -> Any:
    return EmbProviderEmbeddings(model_path=folder).embed_documents(texts)


def by_async_langchain(folder: str, texts: Any) -> Any:
    return asyncio.run(EmbProviderEmbeddings(model_path=folder).aembed_documents(texts))


def by_llamaindex(folder: str, texts: Any) -> Any:
    return EmbProviderEmbedding(model_path=folder, embed_batch_size=1).get_text_embedding_batch(texts)


def by_async_llamaindex(folder: str, texts: Any) -> Any:
    embedding = EmbProviderEmbedding(model_path=folder, embed_batch_size=1)
    return asyncio.run(embedding.aget_text_embedding_batch(texts))


MANAGERS = [by_manager, by_manager_in_batches]
ADAPTERS = [by_langchain, by_async_langchain, by_llamaindex, by_async_llamaindex]
SINGLE: list[Callable[[str, Any], Any]] = [
    lambda folder, text: EmbProviderEmbeddings(model_path=folder).embed_query(text),
    lambda folder, text: asyncio.run(EmbProviderEmbeddings(model_path=folder).aembed_query(text)),
    lambda folder, text: EmbProviderEmbedding(model_path=folder).get_query_embedding(text),
    lambda folder, text: EmbProviderEmbedding(model_path=folder).get_text_embedding(text),
    lambda folder, text: asyncio.run(EmbProviderEmbedding(model_path=folder).aget_query_embedding(text)),
    lambda folder, text: asyncio.run(EmbProviderEmbedding(model_path=folder).aget_text_embedding(text)),
]

# texts, the error, and what its message must say
BAD_TEXTS: list[tuple[Any, type[EmbeddingInputError], str]] = [
    (["good", "better", None], TextTypeError, "Text 2 is not a str but NoneType"),
    (["good", 7], TextTypeError, "Text 1 is not a str but int"),
    ([1.5], TextTypeError, "Text 0 is not a str but float"),
    (["good", b"bytes"], TextTypeError, "Text 1 is not a str but bytes"),
    (["good", ["nested"]], TextTypeError, "Text 1 is not a str but list"),
    ("a bare string", TextTypeError, "Expected a list of texts, got str"),
    (b"bytes", TextTypeError, "Expected a list of texts, got bytes"),
    (None, TextTypeError, "Expected a list of texts, got NoneType"),
    (7, TextTypeError, "Expected a list of texts, got int"),
    (["good", "half of \ud83d an emoji"], TextValueError, "Text 1 has a lone surrogate at position 8"),
]
BAD_IDS = ["None", "int", "float", "bytes", "list", "a str", "all bytes", "no list", "a number", "surrogate"]


@pytest.mark.parametrize("embed", [*MANAGERS, *ADAPTERS])
@pytest.mark.parametrize(("texts", "error", "said"), BAD_TEXTS, ids=BAD_IDS)
def test_a_bad_text_is_named_and_nothing_is_embedded(
    toy_model: Path, embed: Embed, texts: Any, error: type[EmbeddingInputError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        embed(str(toy_model), texts)
    assert isinstance(caught.value, TypeError if error is TextTypeError else ValueError)


@pytest.mark.parametrize("embed", ADAPTERS)
@pytest.mark.parametrize(("texts", "error", "said"), BAD_TEXTS, ids=BAD_IDS)
def test_an_adapter_refuses_a_bad_text_before_it_embeds_another(
    toy_model: Path, gate: Gate, embed: Embed, texts: Any, error: type[EmbeddingInputError], said: str
) -> None:
    with pytest.raises(error, match=said):
        embed(str(toy_model), texts)
    assert gate.calls == []


@pytest.mark.parametrize("embed", SINGLE)
@pytest.mark.parametrize("text", [None, 7, b"bytes", ["list"], "\udfff"])
def test_a_single_bad_text_is_refused(toy_model: Path, embed: Embed, text: Any) -> None:
    with pytest.raises(EmbeddingInputError, match="Text 0"):
        embed(str(toy_model), text)


@pytest.mark.parametrize("size", [0, -1, 2.0, "4"])
def test_a_batch_size_that_is_none_is_refused(toy_model: Path, size: Any) -> None:
    manager = ModelManager(Config(model_path=str(toy_model)))
    manager.load_model()
    with pytest.raises(ValueError, match=f"batch_size must be a whole number, 1 or more; got {size!r}"):
        manager.generate_batch_embeddings(["text"], batch_size=size)


def truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def garbage(file: Path) -> None:
    file.write_bytes(b"<html>Please log in</html>" * 100)


def empty(file: Path) -> None:
    file.write_bytes(b"")


# what happens to which file of a good folder
DAMAGE: list[tuple[str, Callable[[Path], None]]] = [
    ("model.safetensors", Path.unlink),
    ("model.safetensors", truncated),
    ("model.safetensors", garbage),
    ("model.safetensors", empty),
    ("tokenizer.json", truncated),
    ("tokenizer.json", garbage),
    ("tokenizer.json", empty),
    ("config.json", Path.unlink),
    ("config.json", truncated),
    ("modules.json", truncated),
    ("modules.json", empty),
    ("1_Pooling/config.json", Path.unlink),
    ("1_Pooling/config.json", garbage),
    ("sentence_bert_config.json", garbage),
]


@pytest.mark.parametrize("embed", [by_manager, by_langchain, by_async_llamaindex])
@pytest.mark.parametrize(
    ("file", "damage"), DAMAGE, ids=[f"{file} {damage.__name__}" for file, damage in DAMAGE]
)
def test_a_damaged_folder_is_an_error_that_names_the_file_and_what_to_do(
    toy_model: Path, tmp_path: Path, embed: Embed, file: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy_model, folder)
    damage(folder / file)
    with pytest.raises(ModelFilesError) as caught:
        embed(str(folder), ["text"])
    said = str(caught.value)
    assert str(folder) in said
    assert file in said
    assert "ownload the model again" in said


@pytest.mark.parametrize("embed", [by_manager, by_langchain, by_async_llamaindex])
class TestFolder:
    def test_that_is_missing(self, tmp_path: Path, embed: Embed) -> None:
        with pytest.raises(ModelLoadError, match=r"nowhere.*Give the folder that holds the model"):
            embed(str(tmp_path / "nowhere"), ["text"])

    def test_that_is_empty(self, tmp_path: Path, embed: Embed) -> None:
        with pytest.raises(ModelFilesError, match=r"is empty\. Give the folder that holds the model"):
            embed(str(tmp_path), ["text"])

    def test_that_is_a_file(self, toy_model: Path, embed: Embed) -> None:
        with pytest.raises(ModelFilesError, match=r"config\.json is not a folder"):
            embed(str(toy_model / "config.json"), ["text"])

    def test_of_something_else(self, tmp_path: Path, embed: Embed) -> None:
        (tmp_path / "notes.txt").write_text("no model")
        with pytest.raises(ModelFilesError, match=r"modules\.json.*config\.json"):
            embed(str(tmp_path), ["text"])

    def test_with_pickled_weights_only(self, toy_model: Path, tmp_path: Path, embed: Embed) -> None:
        folder = tmp_path / "model"
        shutil.copytree(toy_model, folder)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin.*refused"):
            embed(str(folder), ["text"])
