"""Token ids to hidden states with torch, on the CPU or a GPU."""

import functools
import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from emb_model_provider.core.embedding.engine import Engine, Precision
from emb_model_provider.core.embedding.packing import (
    FLASH_ATTENTION,
    can_pack,
    first_position,
    pack,
    unpack,
)
from emb_model_provider.core.embedding.pooling import Array, Floats
from emb_model_provider.core.embedding.tokenization import Batch
from emb_model_provider.core.embedding.verification import TOLERANCE, difference
from emb_model_provider.core.errors import ConfigError

logger = logging.getLogger(__name__)

# Tokens per forward pass on a GPU, to begin with: a lack of memory halves it.
_DEVICE_TOKEN_BUDGET = 65536


class TorchEngine(Engine):
    """A transformer on one device.

    Attributes:
        model: The transformer.
        takes: Names of its arguments.
        packs: Whether texts of different lengths are packed in one row, without padding.
    """

    def __init__(self, model: Any, device: str, precision: Precision, threads: int) -> None:
        self.model = model
        self.device = device
        self.precision = precision
        if device != "cpu":
            self.token_budget = _DEVICE_TOKEN_BUDGET
            # No batch ends early: the cost is not measured, and packing pads nothing.
            self.start_cost = _DEVICE_TOKEN_BUDGET
        self.hidden_size = int(model.config.hidden_size)
        self.takes = inspect.signature(model.forward).parameters
        self._threads = threads
        _home_process()
        self.packs = False

    def hidden_states(self, batch: Batch) -> Array:
        """See `Engine`. Texts of equal length need neither mask nor packing."""
        import torch

        padded = not batch.mask.all()
        packed = padded and self.packs
        inputs = pack(batch, self._first_position) if packed else {"input_ids": batch.ids}
        if padded and not packed:
            inputs["attention_mask"] = batch.mask
        if batch.type_ids is not None and not packed:
            inputs["token_type_ids"] = batch.type_ids
        if "token_type_ids" not in self.takes:
            inputs.pop("token_type_ids", None)
        with torch.inference_mode(), self._limited_threads():
            try:
                hidden = self.model(**{name: self._place(value) for name, value in inputs.items()})
                hidden = hidden.last_hidden_state.float()
                hidden = unpack(hidden, batch) if packed else hidden
            except torch.OutOfMemoryError as error:
                rows, tokens = batch.ids.shape
                raise MemoryError(
                    f"{self.device} has no room for {rows} texts of {tokens} tokens."
                ) from error
        if self.device != "cpu":
            return hidden  # type: ignore[no-any-return]
        on_host: Floats = hidden.numpy()
        return on_host

    def on_device(self, weights: Floats) -> Array:
        """See `Engine`."""
        if self.device == "cpu":
            return weights
        placed: Array = self._place(weights)
        return placed

    def to_host(self, parts: Sequence[Any]) -> Floats:
        """See `Engine`. The host's memory is pinned, so that the device copies by itself."""
        import torch

        together = torch.cat(list(parts))
        host = torch.empty(together.shape, dtype=together.dtype, pin_memory=self._pins)
        vectors: Floats = host.copy_(together).numpy()
        return vectors

    def pack_if_same(self, probe: Callable[[], Floats]) -> None:
        """Take the kernels that need no padding, if the model gives the same vectors with them.

        Args:
            probe: Vectors of some texts of different lengths, by this engine.
        """
        before, expected = self.model.config._attn_implementation, probe()
        try:
            self.model.set_attn_implementation(FLASH_ATTENTION)
            self.packs = can_pack(self.model)
            differs = difference(probe(), expected)
            reason = f"its vectors differ by {differs:.1e}"
        except (ImportError, ValueError, TypeError, RuntimeError) as error:
            differs, reason = math.nan, str(error)
        if not (self.packs and differs <= TOLERANCE[self.precision]):
            logger.info("Texts are padded, not packed: %s.", reason)
            self.packs = False
            self.model.set_attn_implementation(before)

    @functools.cached_property
    def _first_position(self) -> int:
        return first_position(self.model)

    @property
    def _pins(self) -> bool:
        return self.device.startswith("cuda")

    def _place(self, values: Any) -> Any:
        """An array as a tensor on the device; a number as it is."""
        if not isinstance(values, np.ndarray):
            return values
        import torch

        tensor = torch.from_numpy(values)
        if self.device == "cpu":
            return tensor
        return (tensor.pin_memory() if self._pins else tensor).to(self.device, non_blocking=self._pins)

    @contextmanager
    def _limited_threads(self) -> Iterator[None]:
        """Torch keeps the number for the whole process: it is what others set before and after.

        OpenMP's threads do not come along into a forked child, which would wait for them for ever; there
        the child has one thread.
        """
        import torch

        threads = self._threads if _home_process() == os.getpid() else 1
        before = torch.get_num_threads()
        if self.device != "cpu" or threads == before:
            yield
            return
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@functools.cache
def _home_process() -> int:
    """The process in which torch's threads were started: a forked child inherits the answer."""
    return os.getpid()


def choose_device(device: str) -> str:
    """The device that a setting stands for; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: It is not there.
    """
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


def native_precisions(device: str) -> frozenset[str]:
    """The precisions that a device computes in by itself, without emulation."""
    import torch

    if device.startswith("cuda"):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return frozenset({"fp32", "fp16"} | ({"bf16"} if bf16 else set()))
    if device == "mps":
        return frozenset({"fp32", "fp16"})
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    bf16 = any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return frozenset({"fp32"} | ({"bf16"} if bf16 else set()))
