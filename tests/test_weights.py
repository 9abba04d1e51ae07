from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import LayerNorm
from emb_model_provider.core.embedding.weights import read_layer_weights, read_weights
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

VALUES = torch.tensor([[1.0, -2.5, 3e-3], [0.0, 65504.0, -1e-6]])


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path, "path")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("file", ["x.safetensors", "x.bin"])
def test_every_floating_point_type_becomes_float32(
    folder: ModelFolder, file: str, dtype: torch.dtype
) -> None:
    tensors = {
        "a": VALUES.to(dtype),
        "b": VALUES[0].clone().to(dtype),
        "none": torch.empty((0, 3), dtype=dtype),
    }
    save_file(tensors, folder.path / file) if file == "x.safetensors" else torch.save(
        tensors, folder.path / file
    )
    read = read_weights(folder, file)
    assert read.keys() == tensors.keys()
    for name, values in read.items():
        assert values.dtype == np.float32
        assert np.array_equal(values, tensors[name].float().numpy())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_other_types_are_refused(folder: ModelFolder, dtype: torch.dtype) -> None:
    save_file({"a": VALUES.to(dtype)}, folder.path / "x.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"x.safetensors: weights of the type (I8|I64|BOOL)"):
        read_weights(folder, "x.safetensors")


@pytest.mark.parametrize("content", [[VALUES], {"a": 1.5}, VALUES, {"a": "text"}])
def test_a_pickle_of_anything_but_named_tensors_is_refused(folder: ModelFolder, content: object) -> None:
    torch.save(content, folder.path / "x.bin")
    with pytest.raises(ModelFilesError, match=r"x.bin cannot be read as plain weights"):
        read_weights(folder, "x.bin")


@pytest.mark.parametrize("file", ["x.safetensors", "x.bin"])
def test_the_tensors_of_a_layer_are_those_it_needs(folder: ModelFolder, file: str) -> None:
    layer = LayerNorm(file, 3)
    tensors = {"norm.weight": torch.tensor([1.0, 2.0, 3.0]), "norm.bias": torch.zeros(3)}

    def write(**changes: torch.Tensor) -> None:
        content = tensors | {name.replace("_", "."): values for name, values in changes.items()}
        (save_file if file == "x.safetensors" else torch.save)(content, folder.path / file)

    write()
    assert {name: values.tolist() for name, values in read_layer_weights(folder, layer).items()} == {
        "norm.weight": [1, 2, 3],
        "norm.bias": [0, 0, 0],
    }
    for changes in (
        {"norm_bias": torch.zeros(4)},
        {"norm_bias": torch.zeros(1, 3)},
        {"more": torch.zeros(3)},
    ):
        write(**changes)
        with pytest.raises(ModelFilesError, match=f"{file} does not fit the config.json beside it"):
            read_layer_weights(folder, layer)
    write(norm_bias=torch.tensor([0.0, float("inf"), 0.0]))
    with pytest.raises(ModelFilesError, match=r"norm\.bias holds NaN or infinity"):
        read_layer_weights(folder, layer)
