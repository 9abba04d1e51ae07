"""ModelScope as a source: its cache in every layout, its revisions, its client, its pipeline's contract."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from both_hubs import ID, SETTINGS, WEIGHTS, Side, same
from families import TEXTS
from models import load
from native import change, make_native, pipeline_vectors

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import (
    HubConnectionError,
    MissingDependencyError,
    ModelNotFoundError,
    TextTypeError,
)
from emb_model_provider.core.loaders import modelscope
from emb_model_provider.core.model_manager import ModelScopeModelLoader

GTE = "damo/nlp_gte_sentence-embedding_chinese-base"
CURRENT = "models/org--toy.v1/snapshots/master"
LAYOUTS = (CURRENT, "models/org/toy___v1", "hub/models/org/toy___v1", "org/toy___v1", "hub/org/toy___v1")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in ModelScope's own format."""
    folder = make_native(tmp_path_factory.mktemp("native") / "model")
    change(folder, "model", emb_pooler_type="avg")
    return folder


@pytest.fixture
def side(hubs: dict[str, Side]) -> Side:
    """ModelScope's hub."""
    return hubs["modelscope"]


def offline(**settings: Any) -> ModelScopeModelLoader:
    """A loader that makes no request."""
    given: dict[str, Any] = {"model_name": ID, "offline": True} | SETTINGS | settings
    return ModelScopeModelLoader(Config(**given))


def test_modelscope_loader(side: Side, native: Path) -> None:
    side.hub.add_model(GTE, native)

    config = Config(model_source="modelscope")
    loader = ModelScopeModelLoader(config)

    # Test model loading
    loader.load_model("damo/nlp_gte_sentence-embedding_chinese-base")
    assert loader.embed_pipeline is not None

    # Test embedding generation
    embeddings = loader.generate_embeddings(["test text"])
    assert len(embeddings) == 1
    assert len(embeddings[0]) > 0

    expected = pipeline_vectors(native, ["test text"], pooling="avg", length=128)
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


class TestPipeline:
    @pytest.fixture
    def loader(self, native: Path) -> ModelScopeModelLoader:
        loader = offline(model_path=str(native), on_truncation="ignore")
        assert loader.embed_pipeline is None
        loader.load_model()
        return loader

    def test_answers_like_modelscopes(self, loader: ModelScopeModelLoader, native: Path) -> None:
        assert loader.embed_pipeline is not None
        result = loader.embed_pipeline({"source_sentence": TEXTS})
        vectors = result["text_embedding"]
        assert isinstance(vectors, np.ndarray)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), 32)
        expected = pipeline_vectors(native, TEXTS, pooling="avg", length=128)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        again = loader.embed_pipeline(input={"source_sentence": TEXTS})
        np.testing.assert_array_equal(again["text_embedding"], vectors)

    def test_of_no_text_gives_no_vector(self, loader: ModelScopeModelLoader) -> None:
        assert loader.embed_pipeline is not None
        vectors = loader.embed_pipeline({"source_sentence": []})["text_embedding"]
        assert vectors.dtype == np.float32
        assert vectors.shape == (0, 32)

    @pytest.mark.parametrize(
        "wrong",
        ["text", ["a", "list"], {"text": ["a"]}, {"source_sentence": "text"}, {"source_sentence": [1]}],
    )
    def test_refuses_anything_but_texts(self, loader: ModelScopeModelLoader, wrong: Any) -> None:
        assert loader.embed_pipeline is not None
        with pytest.raises(TextTypeError):
            loader.embed_pipeline(wrong)

    def test_is_there_after_a_manager_has_loaded(self, side: Side) -> None:
        manager = side.manager()
        assert isinstance(manager.loader, ModelScopeModelLoader)
        assert manager.loader.embed_pipeline is not None
        found = manager.loader.embed_pipeline({"source_sentence": ["hello"]})["text_embedding"]
        assert found.tolist() == manager.generate_embeddings(["hello"])


class TestCopyOnDisk:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("cache", ["modelscope_cache_dir", "modelscope_cache"])
    def test_is_found_in_every_layout(
        self, isolated_environment: Path, toy_model: Path, toy: EmbeddingModel, cache: str, layout: str
    ) -> None:
        folder = shutil.copytree(toy_model, isolated_environment / cache / layout)
        model = offline().load_model()
        found = model.description.folder
        assert (found.path, found.source, found.repo_id, found.revision) == (
            folder,
            "modelscope",
            ID,
            "master",
        )
        assert same(model, toy)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_in_modelscopes_own_format_needs_no_file_of_sentence_transformers(
        self, isolated_environment: Path, native: Path, layout: str
    ) -> None:
        shutil.copytree(native, isolated_environment / "modelscope_cache" / layout)
        assert same(offline().load_model(), load(native))

    def test_is_found_beside_the_default_folder(
        self, isolated_environment: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The default is the old clients' folder; new ones keep theirs one level up."""
        monkeypatch.delenv("MODELSCOPE_CACHE_DIR")
        monkeypatch.delenv("MODELSCOPE_CACHE")
        monkeypatch.setenv("HOME", str(isolated_environment))
        cache = isolated_environment / ".cache" / "modelscope"
        assert offline().config.modelscope_cache_dir == f"{cache}/hub/"
        folder = shutil.copytree(toy_model, cache / CURRENT)
        found = offline().find_local(ID)
        assert found is not None
        assert found.path == folder

    def test_of_the_configured_folder_comes_first(self, isolated_environment: Path, toy_model: Path) -> None:
        shutil.copytree(toy_model, isolated_environment / "modelscope_cache" / CURRENT)
        ours = shutil.copytree(toy_model, isolated_environment / "modelscope_cache_dir" / LAYOUTS[-1])
        found = offline().find_local(ID)
        assert found is not None
        assert found.path == ours

    @pytest.mark.parametrize(
        "lost", [WEIGHTS, "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json"]
    )
    def test_that_lacks_a_file_is_not_used(
        self, isolated_environment: Path, toy_model: Path, lost: str
    ) -> None:
        folder = shutil.copytree(toy_model, isolated_environment / "modelscope_cache" / CURRENT)
        (folder / lost).unlink()
        loader = offline()
        assert loader.find_local(ID) is None
        with pytest.raises(HubConnectionError, match=lost):
            loader.load_model()

    @pytest.mark.parametrize("part", [f"{WEIGHTS}.incomplete", "1_Pooling/config.json.incomplete"])
    def test_that_is_not_finished_is_not_used(
        self, isolated_environment: Path, toy_model: Path, part: str
    ) -> None:
        folder = shutil.copytree(toy_model, isolated_environment / "modelscope_cache" / CURRENT)
        (folder / part).touch()
        with pytest.raises(HubConnectionError, match="not finished"):
            offline().load_model()
        (folder / part).unlink()
        assert offline().find_local(ID) is not None

    def test_that_is_harmed_does_not_hide_a_good_one(
        self, isolated_environment: Path, toy_model: Path
    ) -> None:
        harmed = shutil.copytree(toy_model, isolated_environment / "modelscope_cache_dir" / CURRENT)
        (harmed / WEIGHTS).unlink()
        good = shutil.copytree(toy_model, isolated_environment / "modelscope_cache" / LAYOUTS[1])
        found = offline().find_local(ID)
        assert found is not None
        assert found.path == good

    def test_needs_no_client(
        self, isolated_environment: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(toy_model, isolated_environment / "modelscope_cache" / CURRENT)
        monkeypatch.setattr(modelscope, "find_spec", lambda name: None)
        assert offline(offline=False).load_model().dimension == 32


class TestRevision:
    def test_that_is_not_master_is_looked_for_where_the_path_says_it(
        self, isolated_environment: Path, toy_model: Path
    ) -> None:
        cache = isolated_environment / "modelscope_cache"
        for layout in LAYOUTS:
            shutil.copytree(toy_model, cache / layout)
        assert offline(revision="v1.0").find_local(ID) is None
        tagged = shutil.copytree(toy_model, cache / "models/org--toy.v1/snapshots/v1.0")
        found = offline(revision="v1.0").find_local(ID)
        assert found is not None
        assert (found.path, found.revision) == (tagged, "v1.0")

    def test_is_downloaded_beside_master(self, side: Side, native: Path, toy: EmbeddingModel) -> None:
        side.hub.add_model(ID, native, revision="v1.0")
        assert same(side.load(), toy)
        manager = side.manager(revision="v1.0")
        assert same(manager.model, load(native))
        info = manager.get_model_info()
        assert (info["source"], info["repo_id"], info["revision"]) == ("modelscope", ID, "v1.0")
        assert info["folder"] == str(side.snapshot.parent / "v1.0")
        asked = re.findall(r"Revision=([^&]+)", " ".join(r.path for r in side.hub.requests))
        assert set(asked) == {"master", "v1.0"}

    def test_that_the_hub_does_not_know_is_named(self, side: Side) -> None:
        with pytest.raises(ModelNotFoundError, match=r"revision v9"):
            side.load(revision="v9")


class TestClient:
    def test_not_installed_says_what_to_install(self, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(modelscope, "find_spec", lambda name: None)
        with pytest.raises(RuntimeError) as raised:
            side.load()
        assert str(raised.value) == "ModelScope not installed. Install with: pip install modelscope"
        assert isinstance(raised.value, MissingDependencyError | ImportError)
        assert side.hub.requests == []

    @pytest.mark.parametrize("version", ["0.3.1", "0.4.6"])
    def test_too_old_to_tell_damaged_downloads_is_refused(
        self, side: Side, monkeypatch: pytest.MonkeyPatch, version: str
    ) -> None:
        monkeypatch.setattr(modelscope, "version", lambda name: version)
        with pytest.raises(MissingDependencyError, match=rf"modelscope-hub {version} .*pip install"):
            side.load()
        assert side.hub.requests == []

    @pytest.mark.parametrize("version", ["0.5.0", "0.5.1", "0.10.2", "1.0"])
    def test_new_enough_is_used(self, side: Side, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        monkeypatch.setattr(modelscope, "version", lambda name: version)
        assert side.loader().request(ID).repo_id == ID

    @pytest.mark.parametrize(
        ("variable", "endpoint"),
        [
            (None, "https://modelscope.cn"),
            ("", "https://modelscope.cn"),
            ("www.modelscope.ai", "https://www.modelscope.ai"),
            ("https://mirror.example/", "https://mirror.example"),
            ("http://127.0.0.1:8000/models", "http://127.0.0.1:8000/models"),
        ],
    )
    def test_asks_the_endpoint_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, variable: str | None, endpoint: str
    ) -> None:
        if variable is not None:
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", variable)
        request = ModelScopeModelLoader(Config()).request(ID)
        assert (request.endpoint, request.revision) == (endpoint, "master")

    def test_is_told_to_use_the_configured_cache(self, side: Side, tmp_path: Path) -> None:
        model = side.load(modelscope_cache_dir=str(tmp_path / "mine"))
        assert model.description.folder.path == tmp_path / "mine" / CURRENT
        assert not side.snapshot.exists()


def test_a_model_of_the_hub_is_asked_for_once(
    side: Side, native: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "emb_model_provider")
    side.hub.add_model(GTE, native)
    first = side.load(model_name=GTE)
    asked = len(side.hub.requests)
    assert same(side.load(model_name=GTE), first)
    assert same(first, load(native))
    assert len(side.hub.requests) == asked
    assert "Downloading" in caplog.text
