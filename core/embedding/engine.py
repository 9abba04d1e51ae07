"""The one interface of all engines: token ids in, hidden states out."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from emb_model_provider.core.embedding.pooling import Array, Floats
from emb_model_provider.core.embedding.tokenization import Batch

Precision = Literal["fp32", "bf16", "fp16", "int8"]

# Held while a model is built or converted: meanwhile transformers and OpenVINO change what belongs to the
# whole process (torch's default type and device, the root logger's level). Loads at the same time would fail,
# too, with "Cannot copy out of meta tensor" (huggingface/transformers#41782).
BUILDING = threading.Lock()

# For forward passes on a CPU; benchmarks/NOTES.md has the measurements.
CPU_TOKEN_BUDGET = 2048
CPU_START_COST = 64


class Engine(ABC):
    """Runs a transformer on one device. The defaults are those of an engine on the CPU.

    Attributes:
        device: Where, such as `cpu` or `cuda:0`.
        hidden_size: Width of the token vectors.
        precision: What it computes in.
        token_budget: Tokens per forward pass at most, padding included; halved by a lack of memory.
        start_cost: Tokens that it computes in the time that a forward pass takes to start.
    """

    device = "cpu"
    precision: Precision = "fp32"
    token_budget = CPU_TOKEN_BUDGET
    start_cost = CPU_START_COST
    hidden_size: int

    @abstractmethod
    def hidden_states(self, batch: Batch) -> Array:
        """Last hidden state of a batch: float32 (rows, tokens, hidden_size), on the engine's device.

        The next call may overwrite it.

        Raises:
            MemoryError: The device has no room for the batch.
        """

    def width(self, tokens: int) -> int:
        """How wide a batch is made whose longest text has so many tokens."""
        return tokens

    def rows(self, texts: int) -> int:
        """How many of so many texts are made into a batch."""
        return texts

    def on_device(self, weights: Floats) -> Array:
        """A layer's weights on the engine's device."""
        return weights

    def to_host(self, parts: Sequence[Array]) -> Floats:
        """Vectors of several batches, one below the other, in one copy from the device."""
        raise AssertionError("an engine on the CPU gives arrays in the host's memory")
