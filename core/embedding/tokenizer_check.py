"""Refuses tokenizer files that are too large to be one, or that would blow a short text up."""

import base64
import math
from collections.abc import Iterator, Mapping
from typing import Any

from emb_model_provider.core.embedding.folder import MAX_TOKENIZER_BYTES, ModelFolder, join
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

# What a tokenizer is made of, besides its settings.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "tiktoken.model",
    "tekken.json",
    "added_tokens.json",
    "special_tokens_map.json",
)

# Growth of a text through all normalizers. Unicode's own at most: NFKC makes 18 characters of U+FDFA
# (https://www.unicode.org/faq/normalization.html#12).
_MAX_GROWTH = 1000
_UNICODE_GROWTH = 18

# Special tokens around a text. Known tokenizers add up to 3.
_MAX_ADDED = 64


def check_tokenizer_sizes(folder: ModelFolder, path: str = "") -> None:
    """Check the size of each file in the sub-folder `path`; none is read.

    Raises:
        ModelFilesError: A file is too large, or a link out of the folder.
    """
    for name in (*TOKENIZER_FILES, "chat_template.jinja"):
        folder.check_size(join(path, name), MAX_TOKENIZER_BYTES)


def check_tokenizer_files(folder: ModelFolder, path: str = "") -> None:
    """Check the files in the sub-folder `path`, before a library reads them.

    Raises:
        ModelFilesError: A file is too large, or tokenizer.json is not a tokenizer.
        UnsupportedModelError: The tokenizer makes long texts of short ones.
    """
    check_tokenizer_sizes(folder, path)
    file = join(path, "tokenizer.json")
    content = folder.json(file, max_bytes=MAX_TOKENIZER_BYTES)
    try:
        growth = math.prod(map(_growth, _steps(content.get("normalizer"))))
        growth *= math.prod(map(_copies, _steps(content.get("post_processor"))))
        added = sum(map(_added, _steps(content.get("post_processor"))))
        dropout = _check_model(content.get("model") or {}).get("dropout")
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelFilesError(
            f"{folder.path / file} is not a tokenizer ({error}). Download the model again."
        ) from error
    if dropout:
        raise UnsupportedModelError(
            f"{folder.path / file} splits words at random (dropout {dropout!r}), so that a text has no fixed "
            "vector; refused. Use another copy of the model."
        )
    if growth > _MAX_GROWTH or added > _MAX_ADDED:
        raise UnsupportedModelError(
            f"{folder.path / file} can make a text {growth:.3g} times longer and adds up to {added} tokens, "
            "which no real tokenizer does; refused. Use another copy of the model."
        )


def _check_model(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model of whole words or pieces of words has a token for what is not among them."""
    if model.get("type") in ("WordPiece", "WordLevel") and model["unk_token"] not in model["vocab"]:
        raise ValueError(f"its vocabulary lacks {model['unk_token']!r}")
    return model


def _steps(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer or post-processor, with those of its sequences."""
    if part is not None:
        yield part
        for key in ("normalizers", "processors"):
            for step in part.get(key) or ():
                yield from _steps(step)


def _growth(step: Mapping[str, Any]) -> float:
    """How many times longer a normalizer can make a text."""
    kind = step.get("type")
    if kind == "Replace":
        pattern = step["pattern"].get("String") or " "  # a regular expression may match a single character
        return max(1.0, len(step["content"]) / len(pattern))
    if kind == "Prepend":
        return 1.0 + len(step["prepend"])
    if kind == "Precompiled":
        return _charsmap_growth(step.get("precompiled_charsmap") or "")
    return _UNICODE_GROWTH if kind in ("NFKC", "NFKD") else 3.0 if kind in ("NFC", "NFD") else 1.0


def _charsmap_growth(charsmap: str) -> float:
    """Length of the longest replacement in SentencePiece's table: a size, a trie, then the texts.

    The layout: sentencepiece's normalizer.cc, Normalizer::DecodePrecompiledCharsMap.
    """
    table = base64.b64decode(charsmap)
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(1.0, *(float(len(text.decode(errors="replace"))) for text in texts.split(b"\0")))


def _copies(step: Mapping[str, Any]) -> int:
    """How often a post-processor puts a text in."""
    return max(1, sum("Sequence" in part for part in step.get("single") or ()))


def _added(step: Mapping[str, Any]) -> int:
    """Special tokens that a post-processor puts around a text."""
    tokens = step.get("special_tokens") or {}
    parts = [part["SpecialToken"]["id"] for part in step.get("single") or () if "SpecialToken" in part]
    return sum(len(tokens[part]["ids"]) for part in parts)
