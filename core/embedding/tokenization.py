"""From texts to token ids, with a tokenizer of our own whose settings never change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.pooling import Integers
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True)
class Batch:
    """Token ids of a batch, padded to its longest text: three (rows, tokens) arrays.

    Attributes:
        ids: Token ids.
        mask: 1 for a token, 0 for padding.
        type_ids: Segment ids; None where all are zero.
    """

    ids: Integers
    mask: Integers
    type_ids: Integers | None


class TextTokenizer:
    """A private `tokenizers.Tokenizer` that truncates at `max_length` and does not pad.

    Sharing a tokenizer whose truncation others may change gives wrong lengths in silence, so nobody
    else sees this one. Thread-safe.

    Attributes:
        max_length: Tokens kept of a text, special tokens included; None when there is no limit.
    """

    def __init__(
        self, tokenizer: "Tokenizer", *, max_length: int | None, pad_id: int, pad_left: bool
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if max_length is not None:
            tokenizer.enable_truncation(max_length)
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._pad_id = pad_id
        self._pad_left = pad_left

    def encode(self, texts: Sequence[str]) -> "list[Encoding]":
        """Token ids of each text, special tokens included."""
        return self._tokenizer.encode_batch_fast(list(texts))

    def count(self, text: str) -> int:
        """Tokens of one text, cut to `max_length`."""
        return len(self._tokenizer.encode(text).ids)

    def prompt_length(self, prompt: str) -> int:
        """Leading tokens that belong to a prompt; a closing special token does not."""
        encoding = self._tokenizer.encode(prompt)
        return len(encoding.ids) - (encoding.special_tokens_mask[-1] if encoding.ids else 0)

    def pad(self, encodings: "Sequence[Encoding]") -> Batch:
        """One batch of encodings, padded to its longest."""
        rows = [encoding.ids for encoding in encodings]
        width = max(1, max(len(row) for row in rows))
        ids = np.full((len(rows), width), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        type_ids = np.zeros((len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if self._pad_left else slice(0, len(row))
            ids[i, place] = row
            mask[i, place] = 1
            type_ids[i, place] = encodings[i].type_ids
        return Batch(ids, mask, type_ids if type_ids.any() else None)


def load_tokenizer(
    description: ModelDescription, *, max_context_length: int | None, trust_remote_code: bool
) -> TextTokenizer:
    """The model's tokenizer, as transformers builds it from the folder.

    Its classes may add to what `tokenizer.json` says, so the finished tokenizer is copied from there.

    Args:
        description: The model.
        max_context_length: Tokens kept of a text at most; None leaves the model's own limit.
        trust_remote_code: Whether Python code in the folder may run.

    Raises:
        ModelFilesError: The tokenizer's files are missing or damaged.
        UnsupportedModelError: The tokenizer has no fast form.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = description.folder
    try:
        loaded = AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=trust_remote_code
        )
        if not loaded.is_fast:
            raise UnsupportedModelError(f"{folder} has no fast tokenizer (tokenizer.json); refused.")
        tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except UnsupportedModelError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelFilesError(
            f"The tokenizer in {folder.path} (tokenizer.json and the files beside it) cannot be read: "
            f"{error}. Download the model again."
        ) from error
    if description.do_lower_case:
        _lowercase_first(tokenizer)
    limits = [_model_limit(description, loaded.model_max_length), max_context_length]
    return TextTokenizer(
        tokenizer,
        max_length=min((limit for limit in limits if limit is not None), default=None),
        pad_id=loaded.pad_token_id or 0,
        pad_left=loaded.padding_side == "left",
    )


def _model_limit(description: ModelDescription, tokenizer_limit: int) -> int | None:
    """Tokens the model takes: its own saying, else the smaller of tokenizer's and positions'.

    The rule is sentence-transformers' (its transformer.py); a tokenizer without a limit says about 1e30.
    """
    if description.max_seq_length is not None:
        return description.max_seq_length
    positions = description.config.get("max_position_embeddings")
    limits = [tokenizer_limit]
    if isinstance(positions, int) and positions != -1:
        limits.append(positions)
    limit = min(limits)
    return limit if limit < 10**9 else None


def _lowercase_first(tokenizer: Any) -> None:
    from tokenizers.normalizers import Lowercase, Sequence

    own = tokenizer.normalizer
    if own is None:
        tokenizer.normalizer = Lowercase()
    else:  # lowercasing twice changes nothing
        tokenizer.normalizer = Sequence([Lowercase(), own])
