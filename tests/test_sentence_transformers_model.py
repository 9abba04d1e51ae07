import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding import model as model_module
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.loading import load_embedding_model
from emb_model_provider.core.errors import (
    ConfigError,
    MissingDependencyError,
    TextTypeError,
    TextValueError,
    UnsupportedModelError,
)

TEXTS = ["one", "two words", "", "a longer text of several words", "数字", "one"]
ENGINE = "sentence-transformers"


@pytest.fixture(scope="session")
def cnn_model(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a layer that our own reader does not know."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import CNN, Pooling

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cnn")
    base = SentenceTransformer(str(toy_model), device="cpu")
    cnn = CNN(base.get_embedding_dimension() or 0, 8, [1, 3])
    SentenceTransformer(modules=[base[0], cnn, Pooling(cnn.get_embedding_dimension())]).save(str(folder))
    return folder


@pytest.fixture
def copy(cnn_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(cnn_model, folder)
    return folder


def load(folder: Path, **settings: Any) -> Any:
    return load_embedding_model(ModelFolder(folder, "path"), Config(device="cpu", **settings))


def test_serves_what_our_reader_refuses_by_name(cnn_model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    with pytest.raises(UnsupportedModelError, match="CNN"):
        load(cnn_model)
    model = load(cnn_model, engine=ENGINE)
    expected = SentenceTransformer(str(cnn_model), device="cpu").encode(TEXTS)
    assert np.abs(model.embed(TEXTS) - expected).max() <= 1e-6
    assert model.dimension == expected.shape[1]
    assert model.embed([]).shape == (0, model.dimension)


def test_gives_our_readers_vectors_for_what_both_know(toy_model: Path) -> None:
    own, theirs = load(toy_model, engine="torch"), load(toy_model, engine=ENGINE)
    assert np.abs(own.embed(TEXTS) - theirs.embed(TEXTS)).max() <= 1e-5
    assert own.count_tokens(TEXTS) == theirs.count_tokens(TEXTS)


def test_prompts_truncation_and_shorter_vectors_are_ours(toy_model: Path) -> None:
    settings: dict[str, Any] = {"query_prompt": "find: ", "truncate_dim": 8, "max_context_length": 5}
    own = load(toy_model, engine="torch", **settings).embed(TEXTS, "query")
    theirs = load(toy_model, engine=ENGINE, **settings).embed(TEXTS, "query")
    assert theirs.shape == (len(TEXTS), 8)
    assert np.abs(own - theirs).max() <= 1e-5
    with pytest.raises(TextValueError, match="Text 0 has 11 tokens"):
        load(toy_model, engine=ENGINE, max_context_length=5, on_truncation="error").embed(TEXTS)


def test_a_stream_has_the_vectors_of_a_list(toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "WINDOW_TEXTS", 4)
    model = load(toy_model, engine=ENGINE, on_truncation="error", max_context_length=30)
    parts = list(model.embed_stream(iter(TEXTS), "query"))
    assert [len(part) for part in parts] == [4, 2]
    assert np.abs(np.concatenate(parts) - model.embed(TEXTS, "query")).max() <= 1e-6
    with pytest.raises(TextValueError, match="Text 5 has "):
        list(model.embed_stream(["short"] * 5 + ["long " * 50]))
    with pytest.raises(TextTypeError, match="Text 5 "):
        list(model.embed_stream(["short"] * 5 + [5]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": ("cpu", "cpu")}, "runs on one device"),
        ({"truncate_dim": 999}, "has vectors of 32 components"),
        ({"max_context_length": 2}, "leaves no room for text"),
    ],
)
def test_settings_that_it_would_not_keep_are_refused(
    toy_model: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load(toy_model, engine=ENGINE, **settings)


@pytest.mark.parametrize("key", ["model_args", "model_kwargs", "tokenizer_args", "config_kwargs"])
def test_arguments_for_other_libraries_are_refused(copy: Path, key: str) -> None:
    file = copy / "sentence_bert_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: {"anything": True}}))
    with pytest.raises(UnsupportedModelError, match=key):
        load(copy, engine=ENGINE)


def test_pickles_are_refused(copy: Path) -> None:
    weights = next(path for path in copy.rglob("model.safetensors") if path.parent != copy)
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(UnsupportedModelError, match=r"pytorch_model\.bin: the weights are a pickle"):
        load(copy, engine=ENGINE)


def test_code_of_the_models_own_is_refused(copy: Path) -> None:
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["type"] = "os.system"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModelError, match=r"os\.system"):
        load(copy, engine=ENGINE)


def test_missing_package_is_named(toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match="pip install sentence-transformers"):
        load(toy_model, engine=ENGINE)
