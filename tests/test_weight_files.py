from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.weight_files import (
    count_parameters,
    layer_file,
    read_tensors,
    transformer_files,
)
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path, "path")


def touch(folder: ModelFolder, *names: str) -> None:
    for name in names:
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_bytes(b"x")


def write_index(folder: ModelFolder, name: str, *shards: object) -> None:
    weights = {f"tensor{i}": shard for i, shard in enumerate(shards)}
    (folder.path / f"{name}.index.json").write_text(json.dumps({"weight_map": weights}))


@pytest.mark.parametrize("pickles", [True, False])
def test_safetensors_come_first(folder: ModelFolder, pickles: bool) -> None:
    touch(folder, "model.safetensors", "pytorch_model.bin", "1/model.safetensors", "1/pytorch_model.bin")
    assert transformer_files(folder, allow_pickle_weights=pickles) == ("model.safetensors",)
    assert layer_file(folder, "1", pickles) == "1/model.safetensors"
    assert layer_file(folder, "", pickles) == "model.safetensors"


def test_every_shard_is_named_once(folder: ModelFolder) -> None:
    touch(folder, "b.safetensors", "a.safetensors")
    write_index(folder, "model.safetensors", "b.safetensors", "a.safetensors", "b.safetensors")
    assert transformer_files(folder) == ("a.safetensors", "b.safetensors")


def test_one_file_comes_before_shards(folder: ModelFolder) -> None:
    touch(folder, "model.safetensors")
    write_index(folder, "model.safetensors", "absent.safetensors")
    assert transformer_files(folder) == ("model.safetensors",)


@pytest.mark.parametrize("shard", ["absent.safetensors", "a.bin", 7, None])
def test_shards_that_are_none_are_refused(folder: ModelFolder, shard: object) -> None:
    touch(folder, "a.bin")
    write_index(folder, "model.safetensors", shard)
    with pytest.raises(ModelFilesError, match=str(shard)):
        transformer_files(folder)


def test_an_index_of_another_form_is_refused(folder: ModelFolder) -> None:
    (folder.path / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    with pytest.raises(ModelFilesError, match=r"index.json: weight_map must be an object"):
        transformer_files(folder)


def test_pickles_need_a_setting(folder: ModelFolder) -> None:
    touch(folder, "a.bin", "1/pytorch_model.bin")
    write_index(folder, "pytorch_model.bin", "a.bin")
    assert transformer_files(folder, allow_pickle_weights=True) == ("a.bin",)
    assert layer_file(folder, "1", allow_pickle_weights=True) == "1/pytorch_model.bin"
    for refused in (lambda: transformer_files(folder), lambda: layer_file(folder, "1", False)):
        with pytest.raises(UnsupportedModelError, match=r"\.bin is the only form.*EMB_PROVIDER_ALLOW_PICKLE"):
            refused()


def test_no_weights_are_named(folder: ModelFolder) -> None:
    for refused in (lambda: transformer_files(folder), lambda: layer_file(folder, "1", True)):
        with pytest.raises(ModelFilesError, match=r"model.safetensors is missing: the model has no weights"):
            refused()
    touch(folder, "model.Q4.gguf")
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        transformer_files(folder)


def test_headers_say_what_the_file_holds(folder: ModelFolder) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": np.ones(()),
        "c": np.ones((0, 4), np.int32),
    }
    save_file(arrays, folder.path / "x.safetensors", {"format": "pt"})
    content = (folder.path / "x.safetensors").read_bytes()
    tensors = {tensor.name: tensor for tensor in read_tensors(folder, "x.safetensors")}
    assert {name: (t.dtype, t.shape, t.size) for name, t in tensors.items()} == {
        "a": ("F16", (2, 3), 6),
        "b": ("F64", (), 1),
        "c": ("I32", (0, 4), 0),
    }
    for name in ("a", "b"):
        array = arrays[name]
        found = np.frombuffer(content, array.dtype, array.size, tensors[name].offset)
        assert np.array_equal(found.reshape(array.shape), array)


def test_parameters_are_floating_point_numbers(folder: ModelFolder) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "a": np.ones((2, 3), np.float32),
        "b": np.ones(2, np.float16),
        "ids": np.arange(512),
    }
    save_file(arrays, folder.path / "x.safetensors")
    assert count_parameters(folder, ["x.safetensors"]) == (8, "float32")
    assert count_parameters(folder, ["x.safetensors", "x.bin"]) == (None, None)
    assert count_parameters(folder, []) == (0, None)
