"""Token ids to hidden states with torch and transformers; the only file that knows them."""

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.embedding.tokenization import Batch
from emb_model_provider.core.embedding.weights import weight_files
from emb_model_provider.core.errors import ConfigError, ModelFilesError, UnsupportedModelError

# transformers builds models on torch's meta device, which is process-wide state: loads at the same time
# fail with "Cannot copy out of meta tensor" (huggingface/transformers#41782).
_LOADING = threading.Lock()

# Weights that the last hidden state does not depend on, so that a checkpoint may lack them.
_UNUSED = ("pooler.",)


class TorchEngine:
    """A transformer on one device, in float32.

    Attributes:
        device: Where it runs, such as `cpu` or `cuda:0`.
        hidden_size: Width of the token vectors.
    """

    def __init__(self, model: Any, device: str) -> None:
        self._model = model
        self.device = device
        self.hidden_size = int(model.config.hidden_size)
        self._takes = inspect.signature(model.forward).parameters

    def hidden_states(self, batch: Batch) -> Floats:
        """Last hidden state: (rows, tokens, hidden_size)."""
        import torch

        inputs = {"input_ids": torch.from_numpy(batch.ids)}
        if not batch.mask.all():
            inputs["attention_mask"] = torch.from_numpy(batch.mask)
        if batch.type_ids is not None and "token_type_ids" in self._takes:
            inputs["token_type_ids"] = torch.from_numpy(batch.type_ids)
        with torch.inference_mode():
            on_device = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            hidden: Floats = self._model(**on_device).last_hidden_state.cpu().numpy()
        return hidden


def load_torch_engine(description: ModelDescription, device: str, *, trust_remote_code: bool) -> TorchEngine:
    """Load the transformer of a folder.

    Args:
        description: The model.
        device: `auto` takes CUDA, then MPS, then the CPU.
        trust_remote_code: Whether Python code in the folder may run.

    Raises:
        ConfigError: The device is not there.
        ModelFilesError: The weights are missing, damaged or do not fit the architecture.
        UnsupportedModelError: The folder asks for code, adapters or quantisation.
    """
    folder = description.folder
    files = weight_files(folder)
    _check_config(description, trust_remote_code)
    with _LOADING:
        chosen = _choose_device(device)
        import torch
        from transformers import AutoModel

        with _quiet_loading():
            try:
                model, report = AutoModel.from_pretrained(
                    folder.path,
                    local_files_only=True,
                    trust_remote_code=trust_remote_code,
                    use_safetensors=True,
                    weights_only=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
            except Exception as error:  # safetensors and transformers raise many unrelated types
                raise ModelFilesError(
                    f"The model in {folder.path} ({', '.join(files)}) cannot be loaded: {error}. "
                    "If the file is damaged, delete it and download the model again."
                ) from error
    _check_report(description, report)
    model.eval().requires_grad_(False)
    model.config.use_cache = False  # a decoder would keep keys and values that nobody reads
    return TorchEngine(model.to(chosen), chosen)


def _choose_device(device: str) -> str:
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = device.partition(":")
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}.get(kind)
    if count is None:
        count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise ConfigError(
            f"The device {device} is not there (found {count} of {kind}). "
            "device (EMB_PROVIDER_DEVICE) takes auto, cpu, cuda, cuda:N or mps."
        )
    return device


def _check_config(description: ModelDescription, trust_remote_code: bool) -> None:
    """Refuse what would load without an error and give other vectors than the model's own."""
    folder, config = description.folder, description.config
    if folder.file("adapter_config.json").is_file():
        raise UnsupportedModelError(
            f"{folder} is an adapter (adapter_config.json) for another model; refused."
        )
    if "quantization_config" in config:
        raise UnsupportedModelError(f"{folder} is quantised (config.json: quantization_config); refused.")
    if "auto_map" in config and not trust_remote_code:
        raise UnsupportedModelError(
            f"{folder} brings its own Python code (config.json: auto_map). Without it transformers may load "
            "the weights into a different model. Read that code, then set trust_remote_code=True "
            "(EMB_PROVIDER_TRUST_REMOTE_CODE), or choose another model."
        )


def _check_report(description: ModelDescription, report: dict[str, Any]) -> None:
    """Missing weights would be random numbers."""
    missing = [k for k in report["missing_keys"] if not k.startswith(_UNUSED)]
    mismatched = [str(k) for k in report["mismatched_keys"]]
    if missing or mismatched:
        raise ModelFilesError(
            f"The weights in {description.folder} do not fit its config.json: "
            f"{len(missing)} missing, {len(mismatched)} of another shape, such as "
            f"{sorted(missing + mismatched)[0]}. Use a complete copy of the model."
        )


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No progress bar for reading a file from disk. Only while a model loads, under the load lock."""
    from transformers.utils import logging

    silent: Any = logging.EmptyTqdm
    before = logging.set_tqdm_hook(lambda _, args, kwargs: silent(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
