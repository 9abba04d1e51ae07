"""Token ids to sentence vectors: batches through the engine and the layers after it."""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from emb_model_provider.core.embedding.batching import batches
from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.engine import Engine
from emb_model_provider.core.embedding.layers import Dense, LayerNorm, Pooling
from emb_model_provider.core.embedding.pooling import (
    Array,
    Floats,
    Integers,
    dense,
    layer_norm,
    normalize,
    pool,
)
from emb_model_provider.core.embedding.tokenization import Batch, TextTokenizer, Tokens
from emb_model_provider.core.embedding.turns import Turns
from emb_model_provider.core.embedding.weights import read_layer_weights
from emb_model_provider.core.errors import ConfigError, ModelFilesError

_Compute = Callable[[Engine, Batch], Array]


class Forward:
    """The model without its texts. Thread-safe: each engine runs one forward pass at a time.

    Attributes:
        hidden_size: Width of the token vectors.
        dimension: Width of the sentence vectors.
        forward_passes: How many forward passes were made so far.
        computed_tokens: Tokens of all forward passes so far, padding included.
        needed_tokens: The same without padding.
    """

    def __init__(
        self,
        description: ModelDescription,
        tokenizer: TextTokenizer,
        *engines: Engine,
        truncate_dim: int | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            description: The model.
            tokenizer: Its tokenizer.
            engines: Copies of its transformer, each on a device.
            truncate_dim: Leading components kept of a vector; None for what the model's files say.

        Raises:
            ConfigError: The vectors have fewer than `truncate_dim` components.
            ModelFilesError: The weights of a layer are damaged, or do not fit the layer before it.
        """
        self._description = description
        self._tokenizer = tokenizer
        self.engines = engines
        self.hidden_size = engines[0].hidden_size
        _check_widths(description, self.hidden_size)
        self._full = description.dimension(self.hidden_size)
        check_components(description, truncate_dim, self._full)
        self.dimension = min(self._full, truncate_dim or description.truncate_dim or self._full)
        read = {
            layer: read_layer_weights(description.folder, layer)
            for layer in description.layers
            if isinstance(layer, Dense | LayerNorm)
        }
        self._weights = {id(engine): _placed(read, engine) for engine in engines}
        self._turns = {id(engine): Turns() for engine in engines}
        self.forward_passes = self.computed_tokens = self.needed_tokens = 0

    def vectors(
        self,
        texts: Sequence[Tokens],
        prompt: str,
        max_batch_size: int,
        report: Callable[[int], object] = lambda done: None,
        *,
        urgent: bool = False,
    ) -> Floats:
        """float32 (len(texts), dimension); row i belongs to texts[i].

        Args:
            texts: The tokens of each text.
            prompt: The prompt in them, which some models do not pool.
            max_batch_size: Texts per forward pass at most.
            report: Told of each batch how many texts are done.
            urgent: Whether each forward pass goes before those of calls that are not.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        lengths = [len(text) for text in texts]
        budget = max(engine.token_budget for engine in self.engines)
        first = self.engines[0]
        todo = batches(
            lengths, max_batch_size, budget, lambda n: self._width(first, n), first.rows, first.start_cost
        )
        compute = functools.partial(self._compute, prompt=prompt, urgent=urgent)
        if len(self.engines) == 1 or len(texts) == 1:
            self._work(first, todo, texts, compute, vectors, report)
            return vectors
        shared = _Shared(todo)
        with ThreadPoolExecutor(len(self.engines), thread_name_prefix="embedding-device") as pool:
            work = [
                pool.submit(self._work, engine, shared, texts, compute, vectors, report)
                for engine in self.engines
            ]
        for done in work:
            done.result()
        return vectors

    def _work(
        self,
        engine: Engine,
        todo: Iterator[Integers],
        texts: Sequence[Tokens],
        compute: _Compute,
        vectors: Floats,
        report: Callable[[int], object],
    ) -> None:
        """Compute batches until there are no more; what lies on a device is copied once, at the end."""
        rows: list[Integers] = []
        parts: list[Array] = []
        for indices in todo:
            for part_of, part in self._fitting(engine, indices, texts, compute):
                if isinstance(part, np.ndarray):
                    vectors[part_of] = part
                else:
                    rows.append(part_of)
                    parts.append(part)
            report(len(indices))
        if parts:
            vectors[np.concatenate(rows)] = engine.to_host(parts)

    def _fitting(
        self, engine: Engine, indices: Integers, texts: Sequence[Tokens], compute: _Compute
    ) -> Iterator[tuple[Integers, Array]]:
        """One batch; in halves where the device lacks memory, and from then on with half the budget."""
        chosen = [texts[i] for i in indices]
        batch = self._tokenizer.pad(chosen, self._width(engine, max(map(len, chosen))))
        if batch.ids.size <= engine.token_budget or len(indices) == 1:
            try:
                yield indices, compute(engine, batch)
                return
            except MemoryError:
                if len(indices) == 1:
                    raise
                engine.token_budget = max(1, min(engine.token_budget, batch.ids.size) // 2)
        half = len(indices) // 2
        yield from self._fitting(engine, indices[:half], texts, compute)
        yield from self._fitting(engine, indices[half:], texts, compute)

    def _width(self, engine: Engine, tokens: int) -> int:
        """As the engine likes it, but no wider than the model takes."""
        width = engine.width(max(1, tokens))
        limit = self._tokenizer.max_length
        return width if limit is None else min(width, limit)

    def _compute(self, engine: Engine, batch: Batch, prompt: str, urgent: bool) -> Array:
        self._check_ids(batch)
        with self._turns[id(engine)].turn(urgent=urgent):
            self.forward_passes += 1
            self.computed_tokens += batch.ids.size
            self.needed_tokens += int(batch.mask.sum())
            return self._after_transformer(engine, engine.hidden_states(batch), batch, prompt)

    def _check_ids(self, batch: Batch) -> None:
        """An id without a vector stops the process on a GPU, and may pass for another one elsewhere."""
        size = self._description.config.get("vocab_size")
        if isinstance(size, int) and batch.ids.max() >= size:
            raise ModelFilesError(
                f"{self._description.folder}: the tokenizer gives the token id {batch.ids.max()}, but the "
                f"model has only {size} (config.json: vocab_size). The files are of different models: use a "
                "complete copy."
            )

    def _after_transformer(self, engine: Engine, hidden: Array, batch: Batch, prompt: str) -> Array:
        weights = self._weights[id(engine)]
        x = hidden
        for layer in self._description.layers:
            if isinstance(layer, Pooling):
                skip = 0 if layer.include_prompt or not prompt else self._tokenizer.prompt_length(prompt)
                x = pool(x, batch.mask, layer.modes, skip)
            elif isinstance(layer, Dense):
                x = dense(x, layer, weights[layer])
            elif isinstance(layer, LayerNorm):
                x = layer_norm(x, weights[layer])
            else:
                x = normalize(x)
        if self.dimension < self._full:
            x = x[:, : self.dimension]
            x = normalize(x) if self._description.normalized else x
        return x


class _Shared(Iterator[Integers]):
    """An iterator that several threads take from."""

    def __init__(self, items: Iterator[Integers]) -> None:
        self._items = items
        self._guard = threading.Lock()

    def __next__(self) -> Integers:
        with self._guard:
            return next(self._items)


def check_components(description: ModelDescription, truncate_dim: int | None, full: int) -> None:
    """Refuse a `truncate_dim` that is more than the `full` vectors have.

    Raises:
        ConfigError: It is.
    """
    if truncate_dim is not None and truncate_dim > full:
        raise ConfigError(
            f"truncate_dim (EMB_PROVIDER_TRUNCATE_DIM) is {truncate_dim}, but the model in "
            f"{description.folder} has vectors of {full} components. Choose {full} or less."
        )


def _placed(weights: Mapping[Any, Mapping[str, Floats]], engine: Engine) -> dict[Any, dict[str, Array]]:
    return {layer: {n: engine.on_device(w) for n, w in read.items()} for layer, read in weights.items()}


def _check_widths(description: ModelDescription, hidden_size: int) -> None:
    width = hidden_size * len(description.pooling.modes)
    for layer in description.layers:
        needed = {Dense: "in_features", LayerNorm: "dimension"}.get(type(layer))
        if needed and getattr(layer, needed) != width:
            raise ModelFilesError(
                f"{description.folder}: the config.json beside {layer.weights} says {needed} is "  # type: ignore[union-attr]
                f"{getattr(layer, needed)}, but the layer before gives {width}. Download the model again."
            )
        width = layer.out_features if isinstance(layer, Dense) else width
