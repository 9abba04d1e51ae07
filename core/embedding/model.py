"""The loaded model: texts in, sentence vectors out."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.description import Role as Role
from emb_model_provider.core.embedding.engine import Engine
from emb_model_provider.core.embedding.forward import Forward
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.embedding.prompts import Prompts
from emb_model_provider.core.embedding.texts import check_texts, checked
from emb_model_provider.core.embedding.tokenization import TextTokenizer, Tokens
from emb_model_provider.core.embedding.truncation import Policy, TruncationWatch
from emb_model_provider.core.errors import NonFiniteEmbeddingError, TextValueError

# What is tokenised, sorted and cut into batches together: enough that hardly any padding is left, and little
# enough that its tokens take a few megabytes, however long a list or a text is.
WINDOW_TEXTS = 4096
WINDOW_CHARACTERS = 4_000_000


def _silent(done: int) -> None:
    """No progress bar: making one takes longer than finding a single text's tokens."""


class EmbeddingModel:
    """A model ready to embed. Thread-safe; on each device forward passes run one at a time.

    Attributes:
        description: What the folder says of the model.
        dimension: Width of the vectors.
        device: Where the transformer runs; several are joined by commas.
        precision: What it computes in.
        prompts: What is put before a text in each role.
        fingerprint: The identity of the vectors, 64 hexadecimal digits; see fingerprint.py.
    """

    def __init__(
        self,
        description: ModelDescription,
        tokenizer: TextTokenizer,
        *engines: Engine,
        max_batch_size: int,
        prompts: Prompts | None = None,
        truncate_dim: int | None = None,
        on_truncation: Policy = "warn",
        fingerprint: str | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            description: What the folder says of the model.
            tokenizer: The model's tokenizer.
            engines: Each runs the transformer on a device.
            max_batch_size: Texts per forward pass at most.
            prompts: The prompts in force; None for those saved with the model.
            truncate_dim: Leading components kept of a vector; None for what the model's files say.
            on_truncation: What to do about texts that are longer than `max_length`.
            fingerprint: The identity of the vectors; None when nobody asks.

        Raises:
            ConfigError: The vectors have fewer than `truncate_dim` components.
            ModelFilesError: The weights of a layer are damaged, or do not fit the layer before it.
        """
        self.description = description
        self.fingerprint = fingerprint
        self.device = ",".join(engine.device for engine in engines)
        self.precision = engines[0].precision
        self.prompts = prompts or Prompts(
            description.saved_prompt("query"), description.saved_prompt("document")
        )
        self._tokenizer = tokenizer
        self._forward = Forward(description, tokenizer, *engines, truncate_dim=truncate_dim)
        self.dimension = self._forward.dimension
        self._max_batch_size = max_batch_size
        self._watch = TruncationWatch(on_truncation)

    @property
    def max_length(self) -> int | None:
        """Tokens kept of a text, special tokens included; None when there is no limit."""
        return self._tokenizer.max_length

    @property
    def truncated(self) -> int:
        """How many texts were cut to `max_length` so far; not counted when `on_truncation` is `ignore`."""
        return self._watch.truncated

    def prompt(self, role: Role) -> str:
        """What is put before a text in this role; "" for nothing.

        Raises:
            TextValueError: The role is neither `query` nor `document`.
        """
        return self.prompts[role]

    def count_tokens(self, texts: Sequence[str], role: Role = "document") -> list[int]:
        """Tokens of each text before it is cut, with the role's prompt and the special tokens.

        A text that has more than `max_length` loses its end when it is embedded.

        Raises:
            EmbeddingInputError: Something among the texts is not a text; names its index.
        """
        check_texts(texts)
        prompt = self.prompt(role)
        return [tokens.full_length for tokens in self._tokenizer.encode([prompt + text for text in texts])]

    def embed(
        self,
        texts: Sequence[str],
        role: Role = "document",
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
        stop: threading.Event | None = None,
    ) -> Floats:
        """Embed texts.

        The vectors are sentence-transformers' for the same files, with one exception: where `truncate_dim`
        cuts the vectors of a model that normalises, they are scaled to unit length again, so that a dot
        product stays a cosine. sentence-transformers leaves them shorter.

        Args:
            texts: The texts, used as they are: newlines and case are the model's own affair.
            role: `query` or `document`: chooses the prompt put before each text. Queries go before the next
                batch of documents.
            batch_size: Texts per forward pass at most; None for the Config's `max_batch_size`.
            show_progress: Whether to draw a progress bar on stderr.
            stop: Set by another thread, it ends the call after the forward pass that runs.

        Returns:
            float32 (len(texts), dimension); row i belongs to texts[i].

        Raises:
            TextTypeError: `texts` is a bare string, or one of them is not a string; names its index.
            TextValueError: A text holds a lone surrogate, or is too long and `on_truncation` is `error`; the
                role is not known, or `batch_size` not a whole number from 1 on.
            NonFiniteEmbeddingError: The model answered NaN or infinity.
            CancelledError: `stop` was set.
        """
        check_texts(texts)
        size = self._batch_size(batch_size)
        # Equal texts have equal vectors: each is computed once.
        place = _places(texts)
        distinct = list(place)
        vectors = np.empty((len(distinct), self.dimension), dtype=np.float32)
        lengths: list[int] = []

        def note(found: list[int]) -> None:
            lengths.extend(found)
            if self._watch.policy == "error":
                self._report(texts, place, lengths)

        with _bar(len(distinct)) if show_progress else nullcontext(_silent) as draw:

            def report(done: int) -> None:
                draw(done)
                if stop is not None and stop.is_set():
                    raise CancelledError

            done = 0
            for part in self._compute(in_windows(distinct), role, size, note, report):
                vectors[done : done + len(part)] = part
                done += len(part)
        if self._watch.policy == "warn":
            self._report(texts, place, lengths)
        rows = vectors if len(place) == len(texts) else vectors[[place[text] for text in texts]]
        self._refuse_non_finite(rows)
        return rows

    def embed_stream(
        self, texts: Iterable[str], role: Role = "document", *, batch_size: int | None = None
    ) -> Iterator[Floats]:
        """Embed any number of texts, such as the lines of a file, in memory that does not grow with them.

        Args:
            texts: The texts. Some thousands, or some million characters, are taken ahead of the vectors.
            role: As for `embed`.
            batch_size: As for `embed`.

        Yields:
            float32 (up to 4096, dimension): the vectors of the next texts, in their order.

        Raises:
            EmbeddingInputError: As for `embed`; the index counts from the first text of all.
            NonFiniteEmbeddingError: The model answered NaN or infinity.
        """
        size = self._batch_size(batch_size)
        taken: deque[list[str]] = deque()  # the windows that are tokenised and not yet computed
        done = 0

        def windows() -> Iterator[list[str]]:
            for window in in_windows(checked(texts)):
                taken.append(window)
                yield list(dict.fromkeys(window))

        def note(found: list[int]) -> None:
            self._report(taken[0], _places(taken[0]), found, done)

        for part in self._compute(windows(), role, size, note):
            window = taken.popleft()
            place = _places(window)
            rows = part if len(place) == len(window) else part[[place[text] for text in window]]
            self._refuse_non_finite(rows, done)
            done += len(window)
            yield rows

    def _compute(
        self,
        windows: Iterator[list[str]],
        role: Role,
        batch_size: int,
        note: Callable[[list[int]], None],
        report: Callable[[int], object] = _silent,
    ) -> Iterator[Floats]:
        """The vectors of each window of distinct texts; `note` is told their lengths beforehand."""
        prompt = self.prompt(role)
        for tokens in self._tokenize_ahead(windows, prompt):
            if self.max_length is not None and self._watch.policy != "ignore":
                note([text.full_length for text in tokens])
            yield self._forward.vectors(tokens, prompt, batch_size, report, urgent=role == "query")

    def _tokenize_ahead(self, windows: Iterator[list[str]], prompt: str) -> Iterator[list[Tokens]]:
        """The tokens of each window; those of the next are made while the vectors of the last are."""

        def encode(window: list[str]) -> list[Tokens]:
            return self._tokenizer.encode([prompt + text for text in window])

        found = _failing_last(windows)
        window, upcoming = next(found, None), next(found, None)
        if window is None:
            return
        if isinstance(window, Exception):
            raise window
        tokens = encode(window)
        if isinstance(upcoming, list):
            with ThreadPoolExecutor(1, thread_name_prefix="embedding-tokenizer") as ahead:
                while isinstance(upcoming, list):
                    next_tokens = ahead.submit(encode, upcoming)
                    yield tokens
                    tokens = next_tokens.result()
                    upcoming = next(found, None)
        yield tokens
        if upcoming is not None:
            raise upcoming

    def _batch_size(self, batch_size: int | None) -> int:
        if batch_size is None:
            return self._max_batch_size
        if not isinstance(batch_size, int) or batch_size < 1:
            raise TextValueError(f"batch_size must be a whole number, 1 or more; got {batch_size!r}.")
        return batch_size

    def _report(
        self, texts: Sequence[str], place: Mapping[str, int], lengths: Sequence[int], first: int = 0
    ) -> None:
        """Tell of texts that are too long; `lengths` may be those of the first distinct texts only."""
        limit = self.max_length
        if limit is not None and max(lengths, default=0) > limit:
            seen = [(first + i, lengths[place[t]]) for i, t in enumerate(texts) if place[t] < len(lengths)]
            self._watch.report({i: n for i, n in seen if n > limit}, limit, first + len(texts))

    def _refuse_non_finite(self, vectors: Floats, first: int = 0) -> None:
        if not np.isfinite(vectors).all():
            bad = first + int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise NonFiniteEmbeddingError(
                f"The model in {self.description.folder} gave NaN or infinity for text {bad}. "
                f"Its weights are damaged, or it does not work in {self.precision} on this device."
            )


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm  # not needed for the first vector

    with tqdm(total=total, unit="text", desc="Embedding") as bar:
        yield bar.update


def in_windows(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists of up to 4096 texts, or some 4 million characters."""
    window: list[str] = []
    characters = 0
    try:
        for text in texts:
            window.append(text)
            characters += len(text)
            if len(window) == WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
                yield window
                window, characters = [], 0
    except Exception:
        if window:  # what came before the texts' source failed
            yield window
        raise
    if window:
        yield window


def _failing_last(windows: Iterator[list[str]]) -> Iterator[list[str] | Exception]:
    """The windows; where there are no more for a failure, that, so that it waits for those before it."""
    try:
        yield from windows
    except Exception as error:  # noqa: BLE001 - raised by who takes the windows
        yield error


def _places(texts: Sequence[str]) -> dict[str, int]:
    """Each distinct text with its place among them."""
    return {text: i for i, text in enumerate(dict.fromkeys(texts))}
