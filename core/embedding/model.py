"""The loaded model: texts in, sentence vectors out."""

import threading
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from tqdm import tqdm

from emb_model_provider.core.embedding.batching import batches
from emb_model_provider.core.embedding.description import (
    Dense,
    LayerNorm,
    ModelDescription,
    Pooling,
)
from emb_model_provider.core.embedding.pooling import Floats, dense, layer_norm, normalize, pool
from emb_model_provider.core.embedding.tokenization import Batch, TextTokenizer
from emb_model_provider.core.embedding.weights import read_weights
from emb_model_provider.core.errors import NonFiniteEmbeddingError, TextTypeError, TextValueError

Role = Literal["query", "document"]

# The names a model may have saved its prompt for a role under, the first that is there counts.
_PROMPT_NAMES: Mapping[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


class Engine(Protocol):
    """Runs a transformer."""

    device: str
    hidden_size: int

    def hidden_states(self, batch: Batch) -> Floats:
        """Last hidden state of a batch: float32 (rows, tokens, hidden_size)."""
        ...


class EmbeddingModel:
    """A model ready to embed. Thread-safe; forward passes run one at a time.

    Attributes:
        description: What the folder says of the model.
        dimension: Width of the vectors.
        device: Where the transformer runs.
    """

    def __init__(
        self,
        description: ModelDescription,
        tokenizer: TextTokenizer,
        engine: Engine,
        *,
        max_batch_size: int,
    ) -> None:
        self.description = description
        self.dimension = description.dimension(engine.hidden_size)
        self.device = engine.device
        self._tokenizer = tokenizer
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._computing = threading.Lock()  # one forward pass uses every core
        self._weights = {
            layer: read_weights(description.folder, layer.weights)
            for layer in description.layers
            if isinstance(layer, Dense | LayerNorm)
        }

    @property
    def max_length(self) -> int | None:
        """Tokens kept of a text, special tokens included; None when there is no limit."""
        return self._tokenizer.max_length

    def prompt(self, role: Role) -> str:
        """What is put before a text in this role; "" for nothing."""
        saved = self.description.prompts
        return next((saved[name] for name in _PROMPT_NAMES[role] if name in saved), "")

    def embed(
        self,
        texts: Sequence[str],
        role: Role = "document",
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Floats:
        """Embed texts.

        Args:
            texts: The texts, used as they are: newlines and case are the model's own affair.
            role: Chooses the prompt saved with the model, where there is one.
            batch_size: Texts per forward pass at most; None for the Config's `max_batch_size`.
            show_progress: Whether to draw a progress bar on stderr.

        Returns:
            float32 (len(texts), dimension); row i belongs to texts[i].

        Raises:
            TextTypeError: `texts` is a bare string, or one of them is not a string; names its index.
            TextValueError: A text holds a lone surrogate, or `batch_size` is less than 1.
            NonFiniteEmbeddingError: The model answered NaN or infinity.
        """
        check_texts(texts)
        if batch_size is not None and batch_size < 1:
            raise TextValueError(f"batch_size must be 1 or more, got {batch_size}.")
        # Equal texts have equal vectors: each is computed once.
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        vectors = self._embed_unique(
            list(place), self.prompt(role), batch_size or self._max_batch_size, show_progress
        )
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            index = list(texts).index(list(place)[bad[0]])
            raise NonFiniteEmbeddingError(
                f"The model in {self.description.folder} gave NaN or infinity for text {index}. "
                "Its weights are damaged, or it does not work in float32 on this device."
            )
        return vectors if len(place) == len(texts) else vectors[[place[text] for text in texts]]

    def _embed_unique(self, texts: list[str], prompt: str, batch_size: int, progress: bool) -> Floats:
        encodings = self._tokenizer.encode([prompt + text for text in texts])
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        with tqdm(total=len(texts), unit="text", desc="Embedding", disable=not progress) as bar:
            for indices in batches([len(e) for e in encodings], batch_size):
                batch = self._tokenizer.pad([encodings[i] for i in indices])
                with self._computing:
                    hidden = self._engine.hidden_states(batch)
                vectors[indices] = self._after_transformer(hidden, batch, prompt)
                bar.update(len(indices))
        return vectors

    def _after_transformer(self, hidden: Floats, batch: Batch, prompt: str) -> Floats:
        x = hidden
        for layer in self.description.layers:
            if isinstance(layer, Pooling):
                skip = 0 if layer.include_prompt or not prompt else self._tokenizer.prompt_length(prompt)
                x = pool(x, batch.mask, layer.modes, skip)
            elif isinstance(layer, Dense):
                x = dense(x, layer, self._weights[layer])
            elif isinstance(layer, LayerNorm):
                x = layer_norm(x, self._weights[layer])
            else:
                x = normalize(x)
        return x


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what is not a list of encodable texts, before any work is done.

    Raises:
        TextTypeError: A bare string or bytes, not a sequence, or a member that is not a string.
        TextValueError: A text holds a lone surrogate.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise TextTypeError(
            f"Expected a list of texts, got {type(texts).__name__}. Wrap a single text in a list."
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextTypeError(f"Text {index} is not a str but {type(text).__name__}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextValueError(
                f"Text {index} has a lone surrogate at position {error.start}, which is not valid Unicode. "
                "Decode its source with errors='replace'."
            ) from None
