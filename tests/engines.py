"""Engines for tests: they count what they are asked for, and can be made to lack memory or to wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emb_model_provider.core.embedding.engine import Engine
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.model_format import read_description
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.embedding.tokenization import Batch
from emb_model_provider.core.embedding.tokenizer_loading import load_tokenizer
from emb_model_provider.core.embedding.torch_loading import load_torch_engine


class CountingEngine(Engine):
    """Another engine's hidden states.

    Attributes:
        shapes: (rows, tokens) of each forward pass.
        room: Tokens, padding included, that it has memory for.
    """

    def __init__(self, inner: Engine, *, room: float = float("inf"), device: str = "cpu") -> None:
        self.device = device
        self.hidden_size = inner.hidden_size
        self.shapes: list[tuple[int, int]] = []
        self.room = room
        self._inner = inner

    def hidden_states(self, batch: Batch) -> Any:
        rows, tokens = batch.ids.shape
        if rows * tokens > self.room:
            raise MemoryError("no room")
        self.shapes.append((rows, tokens))
        return self._inner.hidden_states(batch)


class GpuLikeEngine(CountingEngine):
    """Leaves hidden states and layer weights in torch, as an engine on a GPU does.

    Attributes:
        copied: Shape of what each copy to the host brought.
    """

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner, device="cuda")
        self.copied: list[tuple[int, ...]] = []

    def hidden_states(self, batch: Batch) -> Any:
        import torch

        return torch.from_numpy(super().hidden_states(batch))

    def on_device(self, weights: Floats) -> Any:
        import torch

        return torch.from_numpy(weights)

    def to_host(self, parts: Sequence[Any]) -> Floats:
        together: Floats = np.concatenate([part.numpy() for part in parts])
        self.copied.append(together.shape)
        return together


class WaitingEngine(CountingEngine):
    """Holds each forward pass until it is let go.

    Attributes:
        entered: Released once for each forward pass that is being held.
        proceed: Releases one.
    """

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner)
        self.entered = threading.Semaphore(0)
        self.proceed = threading.Semaphore(0)

    def hidden_states(self, batch: Batch) -> Any:
        self.entered.release()
        assert self.proceed.acquire(timeout=60)
        return super().hidden_states(batch)


def torch_engine(folder: Path) -> Engine:
    """The transformer of a folder in torch, in fp32 on the CPU."""
    return load_torch_engine(read_description(ModelFolder(folder, "path")), "cpu")


def model_of(folder: Path, *engines: Engine, **settings: Any) -> EmbeddingModel:
    """The model of a folder on these engines."""
    description = read_description(ModelFolder(folder, "path"))
    options: dict[str, Any] = {"max_batch_size": 64, "on_truncation": "ignore"} | settings
    return EmbeddingModel(description, load_tokenizer(description), *engines, **options)
