"""From texts to token ids, with a tokenizer of our own whose settings never change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emb_model_provider.core.embedding.pooling import Integers
from emb_model_provider.core.errors import ConfigError, ModelFilesError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Texts that are tokenised together: enough for all cores, and few enough that what the tokenizers library
# makes of them takes little memory until only the ids are kept.
_TOGETHER = 64


@dataclass(frozen=True)
class Batch:
    """Token ids of a batch, padded to its longest text: three (rows, tokens) arrays.

    Attributes:
        ids: Token ids.
        mask: 1 for a token, 0 for padding.
        type_ids: Segment ids; None for a model that is given none.
    """

    ids: Integers
    mask: Integers
    type_ids: Integers | None

    def padded(self, width: int) -> "Batch":
        """The same with more padding, up to `width` tokens."""
        more = ((0, 0), (0, width - self.ids.shape[1]))
        type_ids = None if self.type_ids is None else np.pad(self.type_ids, more)
        return Batch(np.pad(self.ids, more, mode="edge"), np.pad(self.mask, more), type_ids)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text. An `Encoding` takes 35 times the memory: 145 bytes for each token.

    Attributes:
        ids: Token ids, (tokens,), special tokens included, cut to the tokenizer's `max_length`.
        type_ids: Segment ids; None where all are zero.
        full_length: Tokens of the text before it was cut, special tokens included.
    """

    ids: npt.NDArray[np.int32]
    type_ids: npt.NDArray[np.int32] | None
    full_length: int

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """A private `tokenizers.Tokenizer` that truncates at `max_length` and does not pad.

    Sharing a tokenizer whose truncation others may change gives wrong lengths in silence, so nobody
    else sees this one. Thread-safe.

    Attributes:
        max_length: Tokens kept of a text, special tokens included; None when there is no limit.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        *,
        max_length: int | None,
        pad_id: int,
        truncate_left: bool = False,
        special_tokens: bool = True,
        type_ids: bool = True,
    ) -> None:
        """Takes the tokenizer over.

        Args:
            tokenizer: The tokenizer.
            max_length: Tokens kept of a text, special tokens included; None for no limit.
            pad_id: Token id of padding.
            truncate_left: Whether a text that is too long loses its beginning.
            special_tokens: Whether the model's own tokens, such as [CLS], are added.
            type_ids: Whether the model is given segment ids.

        Raises:
            ConfigError: `max_length` leaves no room for text.
        """
        self._added = tokenizer.num_special_tokens_to_add(False) if special_tokens else 0
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if max_length is not None:
            check_room(max_length, self._added)  # the library would not truncate at all
            tokenizer.enable_truncation(max_length, direction="left" if truncate_left else "right")
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._options: dict[str, Any] = {
            "pad_id": pad_id,
            "truncate_left": truncate_left,
            "special_tokens": special_tokens,
            "type_ids": type_ids,
        }

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], max_context_length: int | None) -> "TextTokenizer":
        """The tokenizer that `saved` was made from, cut at `max_context_length` where that is less."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(saved["tokenizer"])
        tokenizer.encode_special_tokens = saved["encode_special_tokens"]
        max_length = smallest(saved["max_length"], max_context_length)
        return cls(tokenizer, max_length=max_length, **saved["options"])

    def saved(self) -> dict[str, Any]:
        """What `from_saved` needs, as JSON values."""
        return {
            "tokenizer": self._tokenizer.to_str(),
            "encode_special_tokens": self._tokenizer.encode_special_tokens,
            "max_length": self.max_length,
            "options": self._options,
        }

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text."""
        parts = (texts[start : start + _TOGETHER] for start in range(0, len(texts), _TOGETHER))
        return [self._tokens(encoding) for part in parts for encoding in self._encodings(part)]

    def _encodings(self, texts: Sequence[str]) -> "list[Encoding]":
        special = self._options["special_tokens"]
        try:
            if len(texts) == 1:  # without waking the library's threads, which then get in the engine's way
                return [self._tokenizer.encode(texts[0], add_special_tokens=special)]
            return self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        except Exception as error:  # the tokenizers library raises bare Exception
            raise ModelFilesError(
                f"The model's tokenizer cannot read the texts ({error}): tokenizer.json is damaged. Download "
                "the model again."
            ) from error

    def _tokens(self, encoding: "Encoding") -> Tokens:
        length = len(encoding)
        if length == self.max_length:  # what was cut off is kept in parts, each with its special tokens
            length += sum(len(part) - self._added for part in encoding.overflowing)
        type_ids = encoding.type_ids if self._options["type_ids"] else ()
        return Tokens(
            np.array(encoding.ids, dtype=np.int32),
            np.array(type_ids, dtype=np.int32) if any(type_ids) else None,
            length,
        )

    def prompt_length(self, prompt: str) -> int:
        """Leading tokens that belong to a prompt; a closing special token does not."""
        (encoding,) = self._encodings([prompt])
        return len(encoding) - (encoding.special_tokens_mask[-1] if encoding.ids else 0)

    def pad(self, texts: Sequence[Tokens], width: int = 1) -> Batch:
        """One batch of texts, padded to its longest, or to `width` where that is more.

        On the right, also where the tokenizer says left: a model masks padding wherever it is, but one that
        counts positions from the first column must find the text there.
        """
        shape = len(texts), max(width, *map(len, texts))
        ids = np.full(shape, self._options["pad_id"], dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        type_ids = np.zeros(shape, dtype=np.int64) if self._options["type_ids"] else None
        for i, text in enumerate(texts):
            ids[i, : len(text)] = text.ids
            mask[i, : len(text)] = 1
            if type_ids is not None and text.type_ids is not None:
                type_ids[i, : len(text)] = text.type_ids
        return Batch(ids, mask, type_ids)


def check_room(max_length: int, added: int) -> None:
    """Refuse a limit that the special tokens alone, `added` of them, reach.

    Raises:
        ConfigError: It leaves no room for text.
    """
    if max_length <= added:
        raise ConfigError(
            f"A limit of {max_length} tokens leaves no room for text: the model adds {added} of its own. "
            "Raise max_context_length (EMB_PROVIDER_MAX_CONTEXT_LENGTH)."
        )


def smallest(*limits: int | None) -> int | None:
    """The smallest of the limits that are set; None when none is."""
    return min((limit for limit in limits if limit is not None), default=None)
