"""Token ids to hidden states with OpenVINO on the CPU; the only file that knows it."""

import ctypes
import functools
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emb_model_provider.core.embedding.engine import (
    BUILDING,
    CPU_START_COST,
    CPU_TOKEN_BUDGET,
    Engine,
    Precision,
)
from emb_model_provider.core.embedding.mapped_files import release
from emb_model_provider.core.embedding.pooling import Floats, Integers
from emb_model_provider.core.embedding.tokenization import Batch
from emb_model_provider.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from emb_model_provider.core.embedding.torch_engine import TorchEngine

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
        """
        blob = self._compiled.export_model()
        (folder / _COMPILED).write_bytes(blob if isinstance(blob, bytes) else blob.getvalue())


def version() -> str:
    """Version of the installed OpenVINO.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return str(_openvino().__version__).partition("-")[0]


@contextmanager
def _traceable(model: Any) -> Iterator[None]:
    """Masks that can be traced, while a model is: what comes of it is verified by its vectors.

    Eager attention adds a large negative number to what is masked, so that a padding token that may see no
    other one (in a sliding window) does not become NaN. A mask function made for single indices takes arrays
    of them as well, and needs no torch.vmap, which cannot be traced (transformers' masking_utils.py).
    """
    from transformers import masking_utils

    def broadcast(mask_function: Any) -> Any:
        return lambda *indices: mask_function(*masking_utils._non_vmap_expansion_sdpa(*indices))

    replaced = {"_vmap_expansion_sdpa": broadcast, "TransformGetItemToIndex": nullcontext}
    known = all(hasattr(masking_utils, name) for name in (*replaced, "_non_vmap_expansion_sdpa"))
    before = {name: getattr(masking_utils, name) for name in replaced if known}
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        for name in before:
            setattr(masking_utils, name, replaced[name])
        yield
    finally:
        for name, value in before.items():
            setattr(masking_utils, name, value)
        model.set_attn_implementation(attention)


def native_precisions() -> frozenset[str]:
    """The precisions that this CPU computes in by itself, without emulation.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    found = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return frozenset(name.lower() for name in found) & {"bf16", "fp16", "int8"} | {"fp32"}


def model_inputs(batch: Batch, *, with_type_ids: bool) -> dict[str, Integers]:
    """A batch by the names of a converted model's inputs."""
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
    if with_type_ids:
        inputs["token_type_ids"] = np.zeros_like(batch.ids) if batch.type_ids is None else batch.type_ids
    return inputs


def convert(engine: "TorchEngine") -> Any:
    """The transformer of a torch engine as an `openvino.Model`; shares its weights in memory.

    Raises:
        Exception: OpenVINO cannot trace it; of many types.
    """
    import torch

    names = ["input_ids", "attention_mask", *(n for n in ("token_type_ids",) if n in engine.takes)]

    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = engine.model

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.model(**dict(zip(names, inputs, strict=True))).last_hidden_state

    # One row is padded: a mask of ones may be dropped while tracing.
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    examples = {"input_ids": mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    with BUILDING, _quiet("transformers"), _traceable(engine.model), torch.inference_mode(False):
        model = _openvino().convert_model(
            LastHiddenState().eval(), example_input=tuple(examples[name] for name in names)
        )
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(_openvino().PartialShape([-1, -1]))
    model.validate_nodes_and_infer_types()
    return model


def quantize(model: Any, samples: Sequence[Batch]) -> Any:
    """A converted model with int8 matrix products, their ranges set by what the samples make of them.

    Args:
        model: An `openvino.Model`.
        samples: Batches of typical texts.

    Raises:
        MissingDependencyError: NNCF is not installed.
        Exception: NNCF cannot do it; of many types.
    """
    nncf = _nncf()
    with_type_ids = any(port.get_any_name() == "token_type_ids" for port in model.inputs)
    inputs = [model_inputs(sample, with_type_ids=with_type_ids) for sample in samples]
    # Its progress bars belong on stderr, where they do not mix with a program's output.
    with BUILDING, _quiet("nncf"), redirect_stdout(sys.stderr):
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,  # activations lie on both sides of zero, unevenly
            subset_size=len(inputs),
        )


def save(model: Any, folder: Path) -> None:
    """Write a converted model, weights as they are, into `folder`."""
    _openvino().save_model(model, folder / _MODEL, compress_to_fp16=False)


def compile_model(
    model: Any, *, precision: Precision, threads: int, head_width: int | None = None
) -> OpenVinoEngine:
    """Make a converted model ready to run.

    Args:
        model: An `openvino.Model`, or the folder that `save` wrote.
        precision: One of `native_precisions`.
        threads: Threads per forward pass.
        head_width: Width of an attention head, where it is known.
    """
    options = _options(precision, threads)
    if isinstance(model, Path):
        # Not mapped into memory: the folder is about to be renamed, which Windows forbids for mapped files.
        model, options = model / _MODEL, {**options, "ENABLE_MMAP": False}
    return OpenVinoEngine(_core().compile_model(model, "CPU", options), precision, head_width)


def load(
    folder: Path, *, precision: Precision, threads: int, head_width: int | None = None
) -> OpenVinoEngine:
    """Load what `save` and `export` wrote: compiled for this kind of CPU, else compiled again."""
    options, weights = _options(precision, threads), (folder / _MODEL).with_suffix(".bin")
    try:
        blob = (folder / _COMPILED).read_bytes()
        compiled = _core().import_model(blob, "CPU", {**options, "WEIGHTS_PATH": str(weights)})
    except (OSError, RuntimeError):  # made on another kind of CPU
        compiled = _core().compile_model(folder / _MODEL, "CPU", options)
    release(weights)  # most of them were copied into the order that the CPU likes
    return OpenVinoEngine(compiled, precision, head_width, weights)


def _options(precision: Precision, threads: int) -> dict[str, Any]:
    names = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
    # What int8 leaves alone is computed in bf16, where the CPU has it.
    names["int8"] = names["bf16" if "bf16" in native_precisions() else "fp32"]
    return {
        "INFERENCE_PRECISION_HINT": names[precision],
        "PERFORMANCE_HINT": "LATENCY",  # one forward pass at a time, on all threads
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # the workers of a server would all be pinned to the same cores
        "CACHE_MODE": "OPTIMIZE_SIZE",  # an export leaves out the weights, which lie in the .bin
    }


@functools.cache
def _openvino() -> Any:
    try:
        return _without_telemetry("openvino")
    except ImportError as error:
        raise MissingDependencyError(
            "The engine openvino is not installed. Install it with "
            '`pip install "emb-model-provider[openvino]"`, or set engine (EMB_PROVIDER_ENGINE) to torch.'
        ) from error


@functools.cache
def _nncf() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _without_telemetry("nncf")
    except ImportError as error:
        raise MissingDependencyError(
            'The precision int8 needs NNCF. Install it with `pip install "emb-model-provider[int8]"`, or set '
            "precision (EMB_PROVIDER_PRECISION) to bf16 or fp32."
        ) from error


def _without_telemetry(name: str) -> Any:
    """Import a package of OpenVINO's, without what it reports.

    Importing it posts an event to Google Analytics and writes into the home folder, from 2024.2 on,
    unless `openvino_telemetry` is missing (openvino/tools/ovc/telemetry_utils.py). Nothing of ours may
    wait for a network or report on users, so it is missing during the import.
    """
    hide = {} if name in sys.modules else {"openvino_telemetry": None}
    before = {hidden: sys.modules[hidden] for hidden in hide if hidden in sys.modules}
    sys.modules.update(hide)  # type: ignore[arg-type]  # None makes the import fail
    try:
        return importlib.import_module(name)
    finally:
        for hidden in hide:
            del sys.modules[hidden]
        sys.modules.update(before)


@functools.cache
def _core() -> Any:
    """The process's one Core, never destroyed in a forked child: it would wait there for lost threads."""
    core = _openvino().Core()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: ctypes.pythonapi.Py_IncRef(ctypes.py_object(core)))
    return core


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Tracing warns of every branch of the model's code, and quantisation draws bars.

    What comes of them is verified by its vectors. `name` is that of the library's logger. OpenVINO changes
    the root logger meanwhile, and leaves it so when a conversion fails.
    """
    logger, root = logging.getLogger(name), logging.getLogger()
    before = logger.level
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers
