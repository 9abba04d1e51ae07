"""The library OpenVINO and its NNCF: imported when needed, without what they report on users."""

import ctypes
import functools
import importlib
import os
import sys
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

from emb_model_provider.core.errors import MissingDependencyError


@functools.cache
def openvino() -> Any:
    """The module `openvino`.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        module = _without_telemetry("openvino")
        if not hasattr(module, "Core"):
            raise ImportError(f"{module} is a folder of that name, not the library")
        return module
    except ImportError as error:
        raise MissingDependencyError(
            "The engine openvino is not installed. Install it with "
            '`pip install "emb-model-provider[openvino]"`, or set engine (EMB_PROVIDER_ENGINE) to torch.'
        ) from error


@functools.cache
def nncf() -> Any:
    """The module `nncf`, which makes int8 of a model.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _without_telemetry("nncf")
    except ImportError as error:
        raise MissingDependencyError(
            'The precision int8 needs NNCF. Install it with `pip install "emb-model-provider[int8]"`, or set '
            "precision (EMB_PROVIDER_PRECISION) to bf16 or fp32."
        ) from error


@functools.cache
def core() -> Any:
    """The process's one Core, never destroyed in a forked child: it would wait there for lost threads."""
    made = openvino().Core()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_occupy_threads,
            after_in_child=lambda: ctypes.pythonapi.Py_IncRef(ctypes.py_object(made)),
        )
    return made


_let_go: list[Mapping[str, Any]] = []  # options of the compiled models that are gone
_occupied: list[Any] = []


def watch(compiled: Any, options: Mapping[str, Any]) -> None:
    """Have what is known of a compiled model outlive it: see `_occupy_threads`."""
    weakref.finalize(compiled, _let_go.append, options)


def _occupy_threads() -> None:
    """Before a fork, give the threads of models that are gone to a tiny one, for good.

    OpenVINO keeps them for the next model with the same options. A child would wait for ever for threads that
    it does not have; the parent's next model gets new ones.
    """
    while _let_go:
        ops = openvino().opset13
        only = ops.parameter([1])
        tiny = openvino().Model([ops.relu(only)], [only])
        _occupied.append(core().compile_model(tiny, "CPU", _let_go.pop()))


def version() -> str:
    """Version of the installed OpenVINO.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return str(openvino().__version__).partition("-")[0]


def native_precisions() -> frozenset[str]:
    """The precisions that this CPU computes in by itself, without emulation.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    found = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return frozenset(name.lower() for name in found) & {"bf16", "fp16", "int8"} | {"fp32"}


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
