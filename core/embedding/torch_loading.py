"""Loads the transformer of a folder with torch and transformers."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.engine import BUILDING, Precision
from emb_model_provider.core.embedding.layers import refusal
from emb_model_provider.core.embedding.torch_engine import TorchEngine
from emb_model_provider.core.embedding.weight_files import read_tensors
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

# Models in two halves, of which sentence-transformers uses the first (its transformer.py).
_ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
}

_DTYPES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

# Layers of a model that stores one for all (ALBERT has up to 24).
_SHARED_LAYERS = 64

# Weights that the last hidden state does not depend on, so that a checkpoint may lack them.
_UNUSED = ("pooler.",)


def load_torch_engine(
    description: ModelDescription,
    device: str,
    *,
    precision: Precision = "fp32",
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> TorchEngine:
    """Load the transformer of a folder.

    Args:
        description: The model.
        device: As `choose_device` gives it.
        precision: One of `native_precisions`.
        threads: Threads per forward pass on the CPU; None for torch's own choice.
        trust_remote_code: Whether Python code in the folder may run.

    Raises:
        ModelFilesError: The weights are missing, damaged or do not fit the architecture.
        UnsupportedModelError: The folder asks for code, adapters or quantisation.
    """
    folder = description.folder
    files = description.weights
    with BUILDING:
        import torch

        model_class = _model_class(description)
        with _quiet_loading():
            try:
                if not trust_remote_code:
                    _check_size(description, model_class)
                with torch.random.fork_rng(devices=[]):  # missing tensors are drawn, before they are refused
                    model, report = model_class.from_pretrained(
                        folder.path,
                        local_files_only=True,
                        trust_remote_code=trust_remote_code,
                        use_safetensors=files[0].endswith(".safetensors"),
                        weights_only=True,
                        dtype=getattr(torch, _DTYPES[precision]),
                        output_loading_info=True,
                        ignore_mismatched_sizes=True,  # _check_report refuses them, and says which
                    )
            except ModelFilesError:
                raise
            except Exception as error:  # safetensors and transformers raise many unrelated types
                raise ModelFilesError(
                    f"The model in {folder.path} (config.json, {', '.join(files)}) cannot be loaded: "
                    f"{error}. If a file is damaged, delete it and download the model again."
                ) from error
    _check_report(description, report)
    model.eval().requires_grad_(False)
    model.config.use_cache = False  # a decoder would keep keys and values that nobody reads
    return TorchEngine(model.to(device), device, precision, threads or torch.get_num_threads())


def _model_class(description: ModelDescription) -> Any:
    """The class that gives the hidden states of a text: of a model in two halves, the encoder's alone."""
    import transformers
    from transformers.utils.versions import require_version

    if description.requires_transformers:
        try:
            require_version(f"transformers{description.requires_transformers}")
        except (ImportError, ValueError) as error:
            raise UnsupportedModelError(
                f"{description.folder} asks for another version of transformers "
                f"(config_sentence_transformers.json: requirements): {error}"
            ) from error
    if description.architecture in _ENCODERS:
        return getattr(transformers, _ENCODERS[description.architecture])
    if description.config.get("is_encoder_decoder"):
        raise refusal(
            description.folder, "config.json", f"{description.architecture} has an encoder and a decoder"
        )
    return transformers.AutoModel


def _check_size(description: ModelDescription, model_class: Any) -> None:
    """Refuse a config.json whose model is far larger than its weights, before memory is taken for it."""
    import torch
    from transformers import AutoConfig

    folder = description.folder
    stored = description.parameters
    if stored is None:
        return  # pickles: the user trusts the folder
    tensors = sum(len(read_tensors(folder, file)) for file in description.weights)
    config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    layers = int(getattr(config, "num_hidden_layers", 0))
    wanted = 0
    if layers <= max(tensors, _SHARED_LAYERS):
        with torch.device("meta"):  # shapes without memory
            model = (
                model_class.from_config(config, trust_remote_code=False)
                if hasattr(model_class, "from_config")
                else model_class(config)
            )
        wanted = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(_UNUSED))
        wanted += sum(table.numel() for table in model.buffers())  # computed, not stored
    # Tied weights are stored once and may be counted twice.
    if layers > max(tensors, _SHARED_LAYERS) or wanted > 2 * stored:
        raise ModelFilesError(
            f"{folder.path / 'config.json'} describes a model of {layers} layers and {wanted or 'far more'} "
            f"parameters, but the weights hold {tensors} tensors with {stored}. Use a complete copy."
        )


def _check_report(description: ModelDescription, report: dict[str, Any]) -> None:
    """Missing weights would be random numbers."""
    missing = [k for k in report["missing_keys"] if not k.startswith(_UNUSED)]
    mismatched = [str(key[0]) for key in report["mismatched_keys"]]
    if missing or mismatched:
        raise ModelFilesError(
            f"The weights in {description.folder} do not fit its config.json: "
            f"{len(missing)} missing, {len(mismatched)} of another shape, such as "
            f"{sorted(missing + mismatched)[0]}. Use a complete copy of the model."
        )


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No progress bar for reading a file, and no table of weights: `_check_report` reads it.

    Only while a model loads, under the load lock.
    """
    from transformers.utils import logging as transformers_logging

    silent: Any = transformers_logging.EmptyTqdm
    hook = transformers_logging.set_tqdm_hook(lambda _, args, kwargs: silent(*args, **kwargs))
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.set_tqdm_hook(hook)
