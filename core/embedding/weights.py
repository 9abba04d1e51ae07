"""Finds a model's weight files and reads the small ones, without running anything from them."""

from collections.abc import Mapping

import numpy as np

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def weight_files(folder: ModelFolder) -> list[str]:
    """Names of the transformer's weight files: one, or every shard the index names.

    Raises:
        ModelFilesError: There are none, or a shard is missing.
        UnsupportedModelError: There are only pickled weights.
    """
    if folder.file("model.safetensors").is_file():
        return ["model.safetensors"]
    index = folder.json("model.safetensors.index.json").get("weight_map")
    if index:
        shards = sorted(set(index.values()))
        for shard in shards:
            folder.require(shard)
        return shards
    if any(folder.path.glob("pytorch_model*.bin")):
        raise UnsupportedModelError(
            f"{folder} has its weights only as pytorch_model.bin, a pickle that can run code when it is "
            "read; refused. Use a copy of the model with model.safetensors."
        )
    raise ModelFilesError(
        f"{folder.path / 'model.safetensors'} is missing: the folder has no weights. "
        "Download the model again, or point model_path at a complete copy."
    )


def read_weights(folder: ModelFolder, file: str) -> Mapping[str, Floats]:
    """The tensors of one small safetensors file as float32.

    Raises:
        ModelFilesError: The file is missing or damaged.
    """
    from safetensors import SafetensorError, deserialize

    path = folder.require(file)
    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ModelFilesError(
            f"{path} is damaged ({error}). Delete it and download the model again."
        ) from error
    return {name: _array(t["data"], t["dtype"]).reshape(t["shape"]) for name, t in tensors}


def _array(data: bytes, dtype: str) -> Floats:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype not in _FLOATS:
        raise UnsupportedModelError(f"Weights of the type {dtype} are not known here; refused.")
    return np.frombuffer(data, _FLOATS[dtype]).astype(np.float32)
