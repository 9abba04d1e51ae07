"""From a model's folder and the settings to a model ready to embed: chooses the engine."""

import functools
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.conversion import ConversionError, load_converted
from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.engine import Engine, Precision
from emb_model_provider.core.embedding.file_hashes import FileHashes
from emb_model_provider.core.embedding.fingerprint import fingerprint
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.model_format import read_description
from emb_model_provider.core.embedding.precision import calibration_id, choose_precision
from emb_model_provider.core.embedding.prompts import Prompts, choose_prompts
from emb_model_provider.core.embedding.threads import allowed_threads
from emb_model_provider.core.embedding.tokenization import TextTokenizer
from emb_model_provider.core.embedding.tokenizer_loading import load_tokenizer
from emb_model_provider.core.embedding.turns import Turns
from emb_model_provider.core.embedding.verification import check_padding, probe
from emb_model_provider.core.errors import ConfigError, FingerprintMismatchError, MissingDependencyError

if TYPE_CHECKING:
    from emb_model_provider.core.embedding.torch_engine import TorchEngine

logger = logging.getLogger(__name__)

# What a driver for CUDA or ROCm puts there on Linux, WSL included.
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


def load_embedding_model(folder: ModelFolder, config: Config) -> EmbeddingModel:
    """Load the model in a folder.

    Raises:
        ModelFilesError: A file is missing or damaged.
        UnsupportedModelError: The files ask for something not known here.
        MissingDependencyError: What the engine or the precision needs is not installed.
        ConfigError: The device is not there, the engine does not run on it, or it has not the precision.
        FingerprintMismatchError: It is not the model that `expected_fingerprint` names.
    """
    with Turns().turn():  # a fork waits: half an import, or a library's lock, would stop the child for ever
        return _load_embedding_model(folder, config)


def _load_embedding_model(folder: ModelFolder, config: Config) -> EmbeddingModel:
    description = _describe(folder, config)
    prompts = choose_prompts(
        description,
        # A folder the user gave has no name on a hub, unless model_name says which model it holds.
        folder.repo_id or (config.model_name if config.model_path else None),
        query_prompt=config.query_prompt,
        document_prompt=config.document_prompt,
        policy=config.prompts,
    )
    if config.engine == "sentence-transformers":
        from emb_model_provider.core.embedding.sentence_transformers_model import load_sentence_transformers

        identity = _identify(description, config, prompts, _sentence_transformers_precision(config))
        return load_sentence_transformers(description, config, prompts=prompts, fingerprint=identity)
    plan = _plan(description, config)
    identity = _identify(description, config, prompts, plan.precision)
    tokenizer, engines = _load(description, config, plan)
    if engines[0].precision != plan.precision:  # OpenVINO could not do it
        identity = _identify(description, config, prompts, engines[0].precision)
    return EmbeddingModel(
        description,
        tokenizer,
        *engines,
        max_batch_size=config.max_batch_size,
        prompts=prompts,
        truncate_dim=config.truncate_dim,
        on_truncation=config.on_truncation,
        fingerprint=identity,
    )


def _identify(description: ModelDescription, config: Config, prompts: Prompts, precision: Precision) -> str:
    """The fingerprint; refused when another one is expected."""
    identity = fingerprint(
        description,
        FileHashes(description.folder, Path(config.cache_dir)),
        prompts=prompts,
        precision=precision,
        max_context_length=config.max_context_length,
        truncate_dim=config.truncate_dim,
        calibration=calibration_id(precision, config.calibration_texts),
    )
    if config.expected_fingerprint not in (None, identity):
        raise FingerprintMismatchError(
            f"{description.folder} has the fingerprint {identity}, expected was "
            f"{config.expected_fingerprint}. It is another model, or its prompts, lengths or precision "
            "differ: its vectors do not belong in the same index."
        )
    return identity


def _describe(folder: ModelFolder, config: Config) -> ModelDescription:
    if config.engine == "sentence-transformers":
        from emb_model_provider.core.embedding.sentence_transformers_model import (
            describe_for_sentence_transformers,
        )

        return describe_for_sentence_transformers(folder, config)
    return read_description(
        folder,
        trust_remote_code=config.trust_remote_code,
        allow_pickle_weights=config.allow_pickle_weights,
    )


@dataclass(frozen=True)
class _Plan:
    """How a model is to run: the runtime, the devices, and what they compute in."""

    runtime: Literal["static", "torch", "openvino"]
    devices: tuple[str, ...]
    precision: Precision


def _plan(description: ModelDescription, config: Config) -> _Plan:
    """Torch takes seconds to import: it is asked only where the answer cannot be known without it."""
    asked = config.devices or (config.device,)
    if description.is_static:
        return _Plan("static", ("cpu",), choose_precision(config.precision, {"fp32"}, "a static model"))
    native = _openvino_precisions(config) if _chooses_openvino(config, asked) else None
    if native is not None:
        return _Plan(
            "openvino",
            ("cpu",),
            choose_precision(config.precision, native, "the engine openvino on this CPU"),
        )
    return _plan_torch(config, asked)


def _openvino_precisions(config: Config) -> frozenset[str] | None:
    """None when OpenVINO does not work and was not asked for by name."""
    from emb_model_provider.core.embedding import openvino_library

    try:
        return openvino_library.native_precisions()
    except MissingDependencyError as error:
        if config.engine == "openvino":
            raise
        logger.warning("%s Using torch, which is slower.", error)
        return None


def _plan_torch(config: Config, asked: tuple[str, ...]) -> _Plan:
    from emb_model_provider.core.embedding.torch_engine import choose_device, native_precisions

    devices = tuple(choose_device(device) for device in asked)
    native = frozenset.intersection(*(native_precisions(device) for device in devices))
    where = f"the engine torch on {', '.join(devices)}"
    return _Plan("torch", devices, choose_precision(config.precision, native, where))


def _load(
    description: ModelDescription, config: Config, plan: _Plan
) -> tuple[TextTokenizer, Sequence[Engine]]:
    if plan.runtime == "static":
        from emb_model_provider.core.embedding.static_engine import load_static_engine

        static = load_static_engine(description)
        return load_tokenizer(description, max_context_length=config.max_context_length), [static]
    if plan.runtime == "openvino":
        tokenizer, engines = _load_openvino(description, config, plan.precision)
    else:
        tokenizer, engines = _load_torch(description, config, plan)
    if config.max_context_length is not None:
        tokenizer = TextTokenizer.from_saved(tokenizer.saved(), config.max_context_length)
    return tokenizer, engines


def _load_openvino(
    description: ModelDescription, config: Config, precision: Precision
) -> tuple[TextTokenizer, Sequence[Engine]]:
    """With torch in its place where it cannot do it; only the model's own limit cuts texts."""
    fp32 = _Plan("torch", ("cpu",), "fp32")
    load_fp32 = functools.cache(lambda: _load_torch(description, config, fp32))

    def load_torch() -> "tuple[TextTokenizer, TorchEngine]":
        tokenizer, engines = load_fp32()
        return tokenizer, engines[0]

    try:
        tokenizer, engine = load_converted(description, config, precision, load_torch)
        return tokenizer, [engine]
    except ConversionError as error:
        logger.warning(
            "%s: %s. Using torch in fp32, which is slower%s.",
            description.folder,
            str(error).partition("\n")[0],  # a whole graph may follow
            "" if precision == "fp32" else f" and has another fingerprint than {precision}",
        )
        return load_fp32()


def _load_torch(
    description: ModelDescription, config: Config, plan: _Plan
) -> "tuple[TextTokenizer, Sequence[TorchEngine]]":
    from emb_model_provider.core.embedding.packing import flash_attention_installed
    from emb_model_provider.core.embedding.torch_loading import load_torch_engine

    engines = [
        load_torch_engine(
            description,
            device,
            precision=plan.precision,
            threads=allowed_threads(config.num_threads),
            trust_remote_code=config.trust_remote_code,
        )
        for device in plan.devices
    ]
    tokenizer = load_tokenizer(description, trust_remote_code=config.trust_remote_code)
    check_padding(description, tokenizer, engines[0])
    for engine in engines:
        if engine.device.startswith("cuda") and plan.precision != "fp32" and flash_attention_installed():
            engine.pack_if_same(functools.partial(probe, description, tokenizer, engine))
    return tokenizer, engines


def _sentence_transformers_precision(config: Config) -> Precision:
    if config.precision not in ("fp32", "auto"):
        raise ConfigError(
            f"The engine sentence-transformers computes in fp32 here, not in {config.precision}. "
            "Set precision (EMB_PROVIDER_PRECISION) to fp32, or choose another engine."
        )
    return "fp32"


def _chooses_openvino(config: Config, devices: tuple[str, ...]) -> bool:
    """Whether OpenVINO is to be used; that it can convert the model is not known yet."""
    if config.engine == "torch":
        return False
    if config.engine == "openvino":
        if not set(devices) <= {"auto", "cpu"}:
            raise ConfigError(
                f"The engine openvino runs on the CPU, not on {', '.join(devices)}. "
                "Set engine (EMB_PROVIDER_ENGINE) to torch or auto, or device (EMB_PROVIDER_DEVICE) to cpu."
            )
        return True
    return find_spec("openvino") is not None and len(devices) == 1 and _is_cpu(devices[0])


def _is_cpu(device: str) -> bool:
    """Whether the model will run on the CPU. Torch takes seconds to import: asked only where it may not."""
    if device != "auto":
        return device == "cpu"
    if sys.platform == "linux" and not any(map(os.path.exists, _GPU_DRIVERS)):
        return True
    from emb_model_provider.core.embedding.torch_engine import choose_device

    return choose_device("auto") == "cpu"
