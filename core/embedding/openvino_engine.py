"""Token ids to hidden states with OpenVINO on the CPU; models of it written and read."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from emb_model_provider.core.embedding import openvino_library
from emb_model_provider.core.embedding.engine import (
    CPU_START_COST,
    CPU_TOKEN_BUDGET,
    Engine,
    Precision,
)
from emb_model_provider.core.embedding.mapped_files import release
from emb_model_provider.core.embedding.pooling import Floats, Integers
from emb_model_provider.core.embedding.tokenization import Batch

_MODEL, _COMPILED = "model.xml", "model.blob"

# Where another number than the usual one was measured to be faster; benchmarks/NOTES.md has the figures.
_TOKEN_BUDGET: Mapping[Precision, int] = {"fp32": 1024}
_START_COST: Mapping[Precision, int] = {"int8": 256}

# The least step between two widths, and how many widths there are from one power of two to the next.
_WIDTHS: Mapping[Precision, tuple[int, int]] = {
    "fp32": (8, 16),
    "bf16": (16, 8),
    "fp16": (16, 8),
    "int8": (16, 4),
}


class OpenVinoEngine(Engine):
    """A converted transformer on the CPU."""

    def __init__(
        self, compiled: Any, precision: Precision, head_width: int | None = None, weights: Path | None = None
    ) -> None:
        """Takes the compiled model over.

        Args:
            compiled: An `openvino.CompiledModel`.
            precision: What it computes in.
            head_width: Width of an attention head; int8 keeps off batches of just so many tokens.
            weights: The file of its weights, where that is mapped into memory.
        """
        self.precision = precision
        self._kept_off = head_width if precision == "int8" else None
        self.token_budget = _TOKEN_BUDGET.get(precision, CPU_TOKEN_BUDGET)
        self.start_cost = _START_COST.get(precision, CPU_START_COST)
        # The request before its model: attributes go in this order, and a model must not end inside a part
        # of itself that is just going.
        self._request: Any = None
        self._pid = 0  # of the process the request belongs to: a fork may copy one that is at work
        self._compiled = compiled
        self._weights = weights
        self._prepared: set[tuple[int, ...]] = set()
        self._inputs = {port.get_any_name() for port in compiled.inputs}
        self.hidden_size = int(compiled.output(0).partial_shape[2].get_length())

    def hidden_states(self, batch: Batch) -> Floats:
        """See `Engine`."""
        if self._pid != os.getpid():
            self._request, self._pid = self._compiled.create_infer_request(), os.getpid()
        tokens = batch.ids.shape[1]
        if tokens == self._kept_off:
            batch = batch.padded(tokens + 1)
        inputs = model_inputs(batch, with_type_ids="token_type_ids" in self._inputs)
        hidden: Floats = self._request.infer(inputs, share_inputs=True, share_outputs=True)[0]
        if self._weights and batch.ids.shape not in self._prepared:
            release(self._weights)  # some were read to be copied into the order that is best for this shape
            self._prepared.add(batch.ids.shape)
        return hidden[:, :tokens]

    def width(self, tokens: int) -> int:
        """Of few widths: OpenVINO keeps what it prepared for each shape it was ever given.

        That takes time, and up to 7 MB each (openvinotoolkit/openvino#20633; benchmarks/NOTES.md).
        """
        least, per_doubling = _WIDTHS[self.precision]
        step = max(least, (1 << (tokens - 1).bit_length()) // (2 * per_doubling))
        return -(-tokens // step) * step

    def rows(self, texts: int) -> int:
        """1, 2, 3, 4, 6, 8, 12, 16, ...: see `width`."""
        return texts & (-1 << max(0, texts.bit_length() - 2))

    def export(self, folder: Path) -> None:
        """Write the compiled model beside what `save` wrote there, without its weights.

        It loads in a third of the time that compiling takes, on the same kind of CPU.

        Raises:
            OSError: It cannot be written.
        """
        with _writing(folder):
            blob = self._compiled.export_model()
        (folder / _COMPILED).write_bytes(blob if isinstance(blob, bytes) else blob.getvalue())


def model_inputs(batch: Batch, *, with_type_ids: bool) -> dict[str, Integers]:
    """A batch by the names of a converted model's inputs."""
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
    if with_type_ids:
        inputs["token_type_ids"] = np.zeros_like(batch.ids) if batch.type_ids is None else batch.type_ids
    return inputs


def save(model: Any, folder: Path) -> None:
    """Write a converted model, weights as they are, into `folder`.

    Raises:
        OSError: It cannot be written.
    """
    with _writing(folder):
        openvino_library.openvino().save_model(model, folder / _MODEL, compress_to_fp16=False)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """OpenVINO says RuntimeError when a disk is full."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"OpenVINO cannot write into {folder} ({error})") from error


def compile_model(
    model: Any, *, precision: Precision, threads: int, head_width: int | None = None
) -> OpenVinoEngine:
    """Make a converted model ready to run.

    Args:
        model: An `openvino.Model`, or the folder that `save` wrote.
        precision: One of `openvino_library.native_precisions()`.
        threads: Threads per forward pass.
        head_width: Width of an attention head, where it is known.
    """
    options = _options(precision, threads)
    if isinstance(model, Path):
        # Not mapped into memory: the folder is about to be renamed, which Windows forbids for mapped files.
        model, options = model / _MODEL, {**options, "ENABLE_MMAP": False}
    compiled = openvino_library.core().compile_model(model, "CPU", options)
    openvino_library.watch(compiled, options)
    return OpenVinoEngine(compiled, precision, head_width)


def load(
    folder: Path, *, precision: Precision, threads: int, head_width: int | None = None
) -> OpenVinoEngine:
    """Load what `save` and `export` wrote: compiled for this kind of CPU, else compiled again."""
    options, weights = _options(precision, threads), (folder / _MODEL).with_suffix(".bin")
    try:
        blob = (folder / _COMPILED).read_bytes()
        compiled = openvino_library.core().import_model(
            blob, "CPU", {**options, "WEIGHTS_PATH": str(weights)}
        )
    except (OSError, RuntimeError):  # made on another kind of CPU
        compiled = openvino_library.core().compile_model(folder / _MODEL, "CPU", options)
    openvino_library.watch(compiled, options)
    release(weights)  # most of them were copied into the order that the CPU likes
    return OpenVinoEngine(compiled, precision, head_width, weights)


def _options(precision: Precision, threads: int) -> dict[str, Any]:
    names = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
    # What int8 leaves alone is computed in bf16, where the CPU has it.
    names["int8"] = names["bf16" if "bf16" in openvino_library.native_precisions() else "fp32"]
    return {
        "INFERENCE_PRECISION_HINT": names[precision],
        "PERFORMANCE_HINT": "LATENCY",  # one forward pass at a time, on all threads
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # the workers of a server would all be pinned to the same cores
        "CACHE_MODE": "OPTIMIZE_SIZE",  # an export leaves out the weights, which lie in the .bin
    }
