"""Finds a model's weight files, and reads what their headers announce, before anything is loaded."""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emb_model_provider.core.embedding.folder import ModelFolder, join, unique
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

# The library's own limit: MAX_HEADER_SIZE in huggingface/safetensors, safetensors/src/tensor.rs.
_MAX_HEADER_BYTES = 100_000_000

# Bits of an element; the names are safetensors' (its Dtype in tensor.rs).
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32}
_BITS |= {"F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_BITS |= dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_QUANTISED = ("I8", "F4", "F6", "F8")
_MAX_DIMENSIONS = 64  # torch's own limit


@dataclass(frozen=True)
class Tensor:
    """One tensor as its file announces it.

    Attributes:
        name: Its name.
        dtype: As safetensors names it, such as `F32`.
        shape: Its shape.
        offset: Where its bytes begin in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def transformer_files(folder: ModelFolder, *, allow_pickle_weights: bool = False) -> tuple[str, ...]:
    """Names of the transformer's weight files: one, or every shard that the index names.

    Raises:
        ModelFilesError: There are none, or a shard is missing.
        UnsupportedModelError: There are only pickles, and they are not allowed, or only other formats.
    """
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        files = _one_or_shards(folder, f"{stem}{suffix}")
        if files and (suffix == ".safetensors" or allow_pickle_weights):
            return files
        if files:
            raise _pickled(folder, files[0])
    if any(folder.path.glob("*.gguf")):
        raise UnsupportedModelError(
            f"{folder} has its weights only in the GGUF format, which is not read here. "
            "Use a copy of the model with model.safetensors."
        )
    raise _missing(folder.path / "model.safetensors")


def layer_file(folder: ModelFolder, path: str, allow_pickle_weights: bool) -> str:
    """Name of the weight file of a module in the sub-folder `path`.

    Raises:
        ModelFilesError: There is none.
        UnsupportedModelError: There is only a pickle, and it is not allowed.
    """
    safe, pickled = join(path, "model.safetensors"), join(path, "pytorch_model.bin")
    if folder.file(safe).is_file():
        return safe
    if not folder.file(pickled).is_file():
        raise _missing(folder.path / safe)
    if not allow_pickle_weights:
        raise _pickled(folder, pickled)
    return pickled


def read_tensors(folder: ModelFolder, file: str) -> tuple[Tensor, ...]:
    """What a safetensors file announces, checked against the file's size; no tensor is read.

    The format: https://github.com/huggingface/safetensors#format

    Raises:
        ModelFilesError: The header is damaged, or announces what the file does not hold.
    """
    path = folder.require(file)
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length), object_pairs_hook=unique)
        header.pop("__metadata__", None)
        end = path.stat().st_size - 8 - length
        tensors = tuple(_tensor(name, entry, 8 + length, end) for name, entry in header.items())
        _check_places(tensors, 8 + length, 8 + length + end)
        return tensors
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise ModelFilesError(
            f"{path} is damaged ({error}). Delete it and download the model again."
        ) from error


def check_transformer_files(folder: ModelFolder, files: Iterable[str]) -> None:
    """Check the headers of safetensors files.

    Raises:
        ModelFilesError: A file is damaged or cut off.
        UnsupportedModelError: The weights are quantised.
    """
    for file in files:
        if file.endswith(".safetensors"):
            for tensor in read_tensors(folder, file):
                integers = tensor.dtype not in _FLOATS and tensor.name.endswith((".weight", ".bias"))
                if integers or tensor.dtype.startswith(_QUANTISED):
                    raise UnsupportedModelError(
                        f"{folder.path / file} holds quantised weights ({tensor.name} is {tensor.dtype}); "
                        "refused. Use a copy of the model in float32, float16 or bfloat16."
                    )


def count_parameters(folder: ModelFolder, files: Iterable[str]) -> tuple[int | None, str | None]:
    """Number of parameters, and the floating-point type of most; None for pickles, which are not read."""
    sizes: dict[str, int] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            return None, None
        for tensor in read_tensors(folder, file):
            if tensor.dtype in _FLOATS:
                sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return sum(sizes.values()), _FLOATS[max(sizes, key=lambda name: sizes[name])] if sizes else None


def _one_or_shards(folder: ModelFolder, name: str) -> tuple[str, ...]:
    if folder.file(name).is_file():
        folder.require(name)
        return (name,)
    index = folder.json(f"{name}.index.json").get("weight_map") or {}
    if not isinstance(index, dict):
        raise ModelFilesError(f"{folder.path / name}.index.json: weight_map must be an object.")
    shards = sorted({str(shard) for shard in index.values()})
    for shard in shards:
        if not shard.endswith(name[name.index(".") :]):
            raise ModelFilesError(
                f"{folder.path / name}.index.json names {shard}, a file of another format; refused. "
                "Use another copy of the model."
            )
        folder.require(shard)
    return tuple(shards)


def _tensor(name: str, entry: dict[str, object], start: int, end: int) -> Tensor:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape)
    ):
        raise ValueError(f"{name} has the shape {str(shape)[:100]}")
    if dtype not in _BITS:
        raise ValueError(f"{name} has the unknown type {dtype!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise ValueError(f"{name} has the offsets {offsets!r}")
    tensor = Tensor(name, str(dtype), tuple(shape), start + offsets[0])
    if not 0 <= offsets[0] <= offsets[1] <= end:
        raise ValueError(f"{name} lies outside the file: it announces bytes {offsets} of {end}")
    if offsets[1] - offsets[0] != tensor.size * _BITS[tensor.dtype] // 8:
        raise ValueError(f"{name} has {offsets[1] - offsets[0]} bytes for the shape {shape} of {dtype}")
    return tensor


def _check_places(tensors: Iterable[Tensor], start: int, end: int) -> None:
    """The tensors lie one after the other, without gaps: no byte is read twice, none is left over."""
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.size)):
        if tensor.offset != start:
            raise ValueError(f"{tensor.name} does not begin where the tensor before it ends")
        start += tensor.size * _BITS[tensor.dtype] // 8
    if start != end:
        raise ValueError(f"it holds {end - start} bytes that belong to no tensor")


def _missing(path: Path) -> ModelFilesError:
    return ModelFilesError(
        f"{path} is missing: the model has no weights. "
        "Download the model again, or point model_path at a complete copy."
    )


def _pickled(folder: ModelFolder, file: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{folder.path / file} is the only form of these weights: a pickle, which can run code when it is "
        "read; refused. Use a copy of the model with model.safetensors, or, if you trust its publisher, set "
        "allow_pickle_weights=True (EMB_PROVIDER_ALLOW_PICKLE_WEIGHTS)."
    )
