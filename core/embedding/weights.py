"""Reads the small weight files, those of the layers after the transformer, as float32 arrays."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import Dense, LayerNorm
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.embedding.weight_files import Tensor, read_tensors
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


def read_layer_weights(folder: ModelFolder, layer: Dense | LayerNorm) -> Mapping[str, Floats]:
    """The tensors of a layer, exactly those that its configuration asks for.

    Raises:
        ModelFilesError: The file is missing or damaged, or its tensors are not those of the layer.
    """
    shapes = _shapes(folder, layer.weights)
    if shapes != layer.tensors:
        raise ModelFilesError(
            f"{folder.path / layer.weights} does not fit the config.json beside it: it holds {shapes}, "
            f"needed are {dict(layer.tensors)}. Download the model again."
        )
    weights = read_weights(folder, layer.weights)
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise ModelFilesError(
                f"{folder.path / layer.weights}: {name} holds NaN or infinity. Download the model again."
            )
    return weights


def read_weights(folder: ModelFolder, file: str) -> Mapping[str, Floats]:
    """The tensors of one file as float32.

    Raises:
        ModelFilesError: The file is missing or damaged.
        UnsupportedModelError: A tensor is not of floating-point numbers.
    """
    if file.endswith(".bin"):
        return _read_pickle(folder, file)
    tensors = read_tensors(folder, file)
    for tensor in tensors:
        if tensor.dtype not in ("F64", "F32", "F16", "BF16"):
            raise UnsupportedModelError(
                f"{folder.path / file}: weights of the type {tensor.dtype} are not known here; refused."
            )
    return {t.name: read_array(folder, file, t).astype(np.float32, copy=False) for t in tensors}


def read_array(folder: ModelFolder, file: str, tensor: Tensor) -> npt.NDArray[np.generic]:
    """One tensor of a safetensors file, in its own type; bfloat16 as float32."""
    dtype = np.uint16 if tensor.dtype == "BF16" else _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise UnsupportedModelError(
            f"{folder.path / file}: weights of the type {tensor.dtype} are not known here; refused."
        )
    values: npt.NDArray[np.generic] = np.fromfile(
        folder.require(file), dtype, count=tensor.size, offset=tensor.offset
    )
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.reshape(tensor.shape)


def _shapes(folder: ModelFolder, file: str) -> dict[str, tuple[int, ...]]:
    if file.endswith(".bin"):
        return {name: values.shape for name, values in _read_pickle(folder, file).items()}
    return {tensor.name: tensor.shape for tensor in read_tensors(folder, file)}


def _read_pickle(folder: ModelFolder, file: str) -> Mapping[str, Floats]:
    """A pickle, by torch's reader that builds tensors only; its name is given only where it is allowed."""
    import torch

    path = folder.require(file)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except Exception as error:  # the reader raises many unrelated types
        raise ModelFilesError(
            f"{path} cannot be read as plain weights ({error}). Use a copy with model.safetensors."
        ) from error
