"""Repositories in ModelScope's own format: the vectors of its pipeline, or a refusal by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import TEXTS, make_bert
from models import edit_json, load, load_oracle
from native import change, make_native, pipeline_vectors

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import Normalize, Pooling
from emb_model_provider.core.embedding.model_format import read_description
from emb_model_provider.core.embedding.modelscope_format import is_modelscope_native
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native model with the pipeline's defaults."""
    return make_native(tmp_path_factory.mktemp("native") / "model")


@pytest.fixture
def native(made: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    return shutil.copytree(made, tmp_path / "native")


@pytest.mark.parametrize(
    ("model", "preprocessor", "expected"),
    [
        pytest.param({}, {}, {"pooling": "cls", "length": 128}, id="the defaults"),
        pytest.param({"emb_pooler_type": "cls"}, {}, {"pooling": "cls", "length": 128}, id="cls"),
        pytest.param({"emb_pooler_type": "avg"}, {}, {"pooling": "avg", "length": 128}, id="avg"),
        pytest.param(
            {"normalize": True}, {}, {"pooling": "cls", "length": 128, "normalize": True}, id="normalised"
        ),
        pytest.param(
            {"emb_pooler_type": "avg", "normalize": True},
            {"max_length": 16},
            {"pooling": "avg", "length": 16, "normalize": True},
            id="everything",
        ),
        pytest.param({}, {"sequence_length": 24}, {"pooling": "cls", "length": 24}, id="sequence_length"),
        pytest.param(
            {}, {"max_length": 12, "sequence_length": 24}, {"pooling": "cls", "length": 12}, id="both lengths"
        ),
        pytest.param({}, {"max_length": None}, {"pooling": "cls", "length": 128}, id="no max_length"),
    ],
)
def test_vectors_are_those_of_modelscopes_pipeline(
    native: Path, model: dict[str, Any], preprocessor: dict[str, Any], expected: dict[str, Any]
) -> None:
    change(native, "model", **model)
    change(native, "preprocessor", **preprocessor)
    found = load(native, on_truncation="ignore").embed(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pipeline_vectors(native, TEXTS, **expected), atol=1e-5)


def test_the_settings_matter_to_the_vectors(made: Path) -> None:
    """Else the comparison above would prove nothing."""
    found = [
        pipeline_vectors(made, TEXTS, pooling=pooling, length=length)
        for pooling, length in (("cls", 128), ("avg", 128), ("cls", 16))
    ]
    for one, other in ((0, 1), (0, 2)):
        assert np.abs(found[one] - found[other]).max() > 0.01


def test_the_defaults_are_cls_not_normalised_and_128_tokens(native: Path) -> None:
    description = read_description(ModelFolder(native, "path"))
    assert description.layers == (Pooling(("cls",)),)
    assert description.max_seq_length == 128


def test_normalize_false_is_not_normalised(native: Path) -> None:
    change(native, "model", normalize=False)
    assert Normalize() not in read_description(ModelFolder(native, "path")).layers


@pytest.mark.parametrize("pooler", ["avg_top2", "avg_first_last", "mean", "CLS", "", None, 1])
def test_a_pooling_that_is_not_known_is_refused_by_name(native: Path, pooler: object) -> None:
    change(native, "model", emb_pooler_type=pooler)
    with pytest.raises(UnsupportedModelError, match="emb_pooler_type") as raised:
        load(native)
    assert repr(pooler) in str(raised.value)
    assert "configuration.json" in str(raised.value)


@pytest.mark.parametrize("kind", ["mgeo", "udever"])
def test_a_model_that_is_not_known_is_refused_by_name(native: Path, kind: str) -> None:
    change(native, "model", type=kind)
    with pytest.raises(UnsupportedModelError, match=f"model.type '{kind}'"):
        load(native)


@pytest.mark.parametrize("marker", ["boq", "eoq", "bod", "eod"])
def test_a_marker_around_texts_is_refused_by_name(native: Path, marker: str) -> None:
    change(native, "preprocessor", **{marker: "[unused1]"})
    with pytest.raises(UnsupportedModelError, match=f"preprocessor.{marker}"):
        load(native)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("model", {"normalize": "yes"}),
        ("model", {"normalize": 1}),
        ("preprocessor", {"max_length": "long"}),
        ("preprocessor", {"max_length": -1}),
        ("preprocessor", {"max_length": 12.5}),
        ("preprocessor", {"sequence_length": True}),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(
    native: Path, part: str, values: dict[str, Any]
) -> None:
    change(native, part, **values)
    with pytest.raises(UnsupportedModelError, match=f"{part}.{next(iter(values))}"):
        load(native)


def test_modules_json_wins_over_configuration_json(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model", pooling="max", normalize=True)
    configuration = {"task": "sentence-embedding", "pipeline": {"type": "sentence-embedding"}}
    edit_json(folder / "configuration.json", lambda _: configuration | {"model": {"emb_pooler_type": "avg"}})
    texts = TEXTS[:10]
    found = load(folder, on_truncation="ignore").embed(texts)
    np.testing.assert_allclose(found, load_oracle(folder).encode(texts), atol=1e-5)


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"task": "sentence-embedding"},
        {"task": "sentence-embedding", "pipeline": {}},
        {"task": "sentence-embedding", "pipeline": "sentence-embedding"},
        {"task": "text-classification", "pipeline": {"type": "text-classification"}},
    ],
)
def test_a_folder_for_no_such_pipeline_is_not_native_and_refused(
    native: Path, configuration: dict[str, Any]
) -> None:
    edit_json(native / "configuration.json", lambda _: configuration)
    assert not is_modelscope_native(ModelFolder(native, "path"))
    with pytest.raises(UnsupportedModelError, match=r"modules\.json"):
        load(native)


def test_parts_that_are_left_out_mean_the_defaults(native: Path) -> None:
    edit_json(
        native / "configuration.json", lambda content: {key: content[key] for key in ("task", "pipeline")}
    )
    expected = pipeline_vectors(native, TEXTS, pooling="cls", length=128)
    np.testing.assert_allclose(load(native, on_truncation="ignore").embed(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_lost_file_is_named(native: Path, lost: str) -> None:
    (native / lost).unlink()
    with pytest.raises(ModelFilesError, match=lost):
        load(native)


def test_weights_that_are_a_pickle_are_refused(native: Path) -> None:
    (native / "model.safetensors").rename(native / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="pickle"):
        load(native)
