"""The front door: a Config to a loaded model, and vectors as sentence-transformers gives them."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from emb_model_provider.core.config import Config
from emb_model_provider.core.errors import ConfigError, ModelLoadError, ModelNotLoadedError
from emb_model_provider.core.loaders.base import BaseModelLoader
from emb_model_provider.core.loaders.huggingface import HuggingFaceModelLoader
from emb_model_provider.core.model_manager import ModelManager

if TYPE_CHECKING:
    from conftest import HfCache
    from sentence_transformers import SentenceTransformer

NAME = "sentence-transformers/all-MiniLM-L6-v2"


def manager_of(folder: Path, **settings: Any) -> ModelManager:
    manager = ModelManager(Config(model_path=str(folder), **settings))
    manager.load_model()
    return manager


def test_the_seeds_program_gives_the_oracles_vectors(oracle: SentenceTransformer) -> None:
    from emb_model_provider.core.config import Config
    from emb_model_provider.core.model_manager import ModelManager

    config = Config(model_source="huggingface", model_name="sentence-transformers/all-MiniLM-L6-v2")
    manager = ModelManager(config)
    manager.load_model(config.model_name)
    embeddings = manager.generate_embeddings(["Hello world", "Test text"])

    expected = oracle.encode(["Hello world", "Test text"])
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_real_texts_get_the_oracles_vectors_in_order(
    oracle: SentenceTransformer, real_texts: list[str]
) -> None:
    manager = ModelManager()
    manager.load_model()
    expected = oracle.encode(real_texts)
    np.testing.assert_allclose(manager.generate_embeddings(real_texts), expected, atol=1e-5)
    few = manager.generate_batch_embeddings(real_texts[:20], batch_size=1)
    np.testing.assert_allclose(few, expected[:20], atol=1e-5)


@pytest.mark.parametrize("name", ["", "  ", "a\0b/c", "a/b\ud800", 5])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="A model's name is a name `owner/name` on a hub, or a folder"):
        ModelManager(Config(offline=True)).load_model(name)


@pytest.mark.parametrize("name", ["x" * 300, "owner/" + "x" * 300, "~nobody/x", "./" + "x" * 300])
def test_a_name_that_no_file_can_have_is_not_found(name: str) -> None:
    with pytest.raises(ModelLoadError):
        ModelManager(Config(offline=True)).load_model(name)


class TestVectors:
    def test_are_lists_of_python_floats(self, toy_model: Path) -> None:
        vectors = manager_of(toy_model).generate_embeddings(["one", "two"])
        assert [len(vector) for vector in vectors] == [32, 32]
        assert {type(number) for vector in vectors for number in vector} == {float}

    def test_of_no_text_are_none(self, toy_model: Path) -> None:
        manager = manager_of(toy_model)
        assert manager.generate_embeddings([]) == []
        assert manager.generate_batch_embeddings([], batch_size=4) == []

    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_do_not_depend_on_the_batch_size(self, toy_model: Path, real_texts: list[str], size: int) -> None:
        manager = manager_of(toy_model)
        expected = manager.generate_embeddings(real_texts[:50])
        vectors = manager.generate_batch_embeddings(real_texts[:50], batch_size=size)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)

    def test_before_a_model_is_loaded_are_an_error_that_says_so(self) -> None:
        manager = ModelManager()
        for call in (
            lambda: manager.generate_embeddings(["text"]),
            lambda: manager.generate_batch_embeddings(["text"]),
            manager.get_model_info,
        ):
            with pytest.raises(ModelNotLoadedError, match=r"Call load_model"):
                call()
        assert not manager.loaded


class TestWhereAModelIsFound:
    def test_a_given_folder_comes_first(self, toy_model: Path, minilm: Path, hf_cache: HfCache) -> None:
        hf_cache(minilm, NAME)
        info = manager_of(toy_model).get_model_info()
        assert (info["source"], info["folder"], info["dimension"]) == ("path", str(toy_model), 32)

    def test_a_name_may_be_a_folder(self, monkeypatch: pytest.MonkeyPatch, toy_model: Path) -> None:
        monkeypatch.chdir(toy_model.parent)
        for name in (str(toy_model), toy_model.name, f"./{toy_model.name}"):
            manager = ModelManager(Config(model_name=name))
            manager.load_model()
            assert manager.get_model_info()["source"] == "path"

    def test_a_copy_in_the_hubs_cache_comes_before_a_package(
        self, toy_model: Path, hf_cache: HfCache
    ) -> None:
        snapshot = hf_cache(toy_model, NAME)
        manager = ModelManager(Config(model_name=NAME))
        manager.load_model()
        info = manager.get_model_info()
        assert (info["source"], info["repo_id"], info["folder"]) == ("huggingface", NAME, str(snapshot))
        assert info["revision"] == snapshot.name
        assert info["dimension"] == 32

    def test_a_package_is_used_when_the_cache_has_no_copy(self, minilm: Path) -> None:
        manager = ModelManager()
        manager.load_model()
        info = manager.get_model_info()
        assert (info["source"], info["folder"], info["dimension"]) == ("package", str(minilm), 384)

    @pytest.mark.parametrize(
        "lost",
        ["model.safetensors", "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json"],
    )
    def test_a_copy_that_lacks_a_file_is_not_used(
        self, toy_model: Path, hf_cache: HfCache, lost: str
    ) -> None:
        (hf_cache(toy_model, NAME) / lost).unlink()
        manager = ModelManager(Config(model_name=NAME))
        manager.load_model()
        assert manager.get_model_info()["source"] == "package"

    def test_a_copy_being_downloaded_is_not_used(self, toy_model: Path, hf_cache: HfCache) -> None:
        weights = hf_cache(toy_model, NAME) / "model.safetensors"
        blob = Path(os.path.realpath(weights))
        blob.rename(f"{blob}.incomplete")
        manager = ModelManager(Config(model_name=NAME))
        manager.load_model()
        assert manager.get_model_info()["source"] == "package"

    def test_nowhere_says_what_was_tried_and_the_next_step(self) -> None:
        manager = ModelManager(Config(model_name="nobody/nothing", offline=True))
        with pytest.raises(ModelLoadError) as caught:
            manager.load_model()
        said = str(caught.value)
        assert "nobody/nothing" in said
        assert "Hugging Face" in said
        assert "EMB_PROVIDER_OFFLINE" in said or "offline" in said


class TestInfo:
    def test_tells_what_the_models_files_say(self, toy_model: Path) -> None:
        info = manager_of(toy_model, device="cpu").get_model_info()
        expected = {
            "source": "path",
            "repo_id": None,
            "folder": str(toy_model),
            "architecture": "bert",
            "dimension": 32,
            "max_length": 32,
            "pooling": "mean",
            "normalized": True,
            "prompts": {"query": "query: ", "document": "passage: "},
            "device": "cpu",
            "substitute_for": None,
        }
        assert {key: info[key] for key in expected} == expected

    @pytest.mark.parametrize(("setting", "length"), [(8, 8), (1000, 32)])
    def test_a_context_length_may_only_shorten(self, toy_model: Path, setting: int, length: int) -> None:
        manager = manager_of(toy_model, max_context_length=setting)
        assert manager.get_model_info()["max_length"] == length


class TestSharing:
    def test_equal_settings_share_one_model(self, toy_model: Path) -> None:
        first, second = manager_of(toy_model), manager_of(toy_model)
        assert first.model is second.model
        assert manager_of(toy_model, max_batch_size=3).model is not first.model

    def test_a_model_is_let_go_with_its_last_manager(self, toy_model: Path) -> None:
        manager = manager_of(toy_model)
        remembered = weakref.ref(manager.model)
        del manager
        gc.collect()
        assert remembered() is None

    def test_loading_again_keeps_the_model(self, toy_model: Path) -> None:
        manager = manager_of(toy_model)
        assert manager.load_model() is manager.model is manager.load_model()

    def test_a_manager_can_change_its_model(self, toy_model: Path) -> None:
        manager = ModelManager()
        manager.load_model(str(toy_model))
        assert manager.get_model_info()["dimension"] == 32
        manager.load_model()
        assert manager.get_model_info()["dimension"] == 384

    def test_many_threads_embed_at_once(self, toy_model: Path) -> None:
        manager = manager_of(toy_model)
        texts = [f"text number {n} " * (n % 5 + 1) for n in range(40)]
        expected = manager.generate_embeddings(texts)
        together = threading.Barrier(4)

        def embed(part: int) -> list[list[float]]:
            together.wait(60)
            return [manager.generate_embeddings([text])[0] for text in texts[part::4]]

        with ThreadPoolExecutor(4) as pool:
            for part, vectors in enumerate(pool.map(embed, range(4))):
                np.testing.assert_allclose(vectors, expected[part::4], atol=1e-5)


class TestLoader:
    def test_loads_and_embeds_by_itself(self, toy_model: Path, hf_cache: HfCache) -> None:
        hf_cache(toy_model, "org/toy")
        loader: BaseModelLoader = HuggingFaceModelLoader(Config())
        assert loader.model is None
        with pytest.raises(ModelNotLoadedError, match="Call load_model"):
            loader.generate_embeddings(["text"])
        assert loader.load_model("org/toy") is loader.model
        expected = manager_of(toy_model).generate_embeddings(["text"])
        assert loader.generate_embeddings(["text"]) == expected

    def test_the_cores_module_has_the_loaders(self) -> None:
        from emb_model_provider.core import model_manager

        assert model_manager.BaseModelLoader is BaseModelLoader
        assert model_manager.HuggingFaceModelLoader is HuggingFaceModelLoader


def test_nothing_is_printed(
    toy_model: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="emb_model_provider")
    manager_of(toy_model).generate_embeddings(["text"] * 3)
    assert capfd.readouterr() == ("", "")
