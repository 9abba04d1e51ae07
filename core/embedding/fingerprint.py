"""The identity of an embedding space: equal for equal vectors, wherever the files came from."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.file_hashes import FileHashes
from emb_model_provider.core.embedding.prompts import Prompts
from emb_model_provider.core.embedding.tokenizer_check import TOKENIZER_FILES

_VERSION = 1  # of the recipe below

# What transformers reads of a model besides its weights.
_FILES = ("config.json", "tokenizer_config.json", *TOKENIZER_FILES)


def fingerprint(
    description: ModelDescription,
    hashes: FileHashes,
    *,
    prompts: Prompts,
    precision: str,
    max_context_length: int | None = None,
    truncate_dim: int | None = None,
    calibration: str | None = None,
) -> str:
    """64 hexadecimal digits over everything that changes vectors.

    That is: the bytes of weights, tokenizer and architecture; the layers after the transformer; the
    prompts in force; the length texts and vectors are cut to; the precision. The engine, the device and
    batch sizes are not in it: they change vectors by rounding only.

    Args:
        description: The model.
        hashes: The hashes of its files.
        prompts: The prompts in force.
        precision: `fp32`, `bf16`, `fp16` or `int8`.
        max_context_length: Tokens kept of a text at most; None leaves the model's own limit.
        truncate_dim: Components kept of a vector; None leaves the model's own.
        calibration: Names the texts that set the ranges of int8; None for other precisions.

    Raises:
        ModelFilesError: A file is missing or cannot be read.
    """
    folder = description.folder
    root = f"{description.tokenizer_path}/" if description.tokenizer_path else ""
    files = [*description.weight_files, *(root + n for n in _FILES if folder.file(root + n).is_file())]
    if "auto_map" in description.config:  # only read at all when its code may run
        files += sorted(path.name for path in folder.path.glob("*.py"))
    # What the tokenizer's files say of the length is in their hashes.
    lengths = [n for n in (description.max_seq_length, max_context_length) if n is not None]
    identity: dict[str, Any] = {
        "version": _VERSION,
        "files": {name: hashes.sha256(name) for name in files},
        "layers": [[type(layer).__name__, asdict(layer)] for layer in description.layers],
        "max_length": min(lengths, default=None),
        "do_lower_case": description.do_lower_case,
        "prompts": [prompts["query"], prompts["document"]],
        "truncate_dim": truncate_dim or description.truncate_dim,
        "precision": precision,
    }
    if calibration is not None:
        identity["calibration"] = calibration
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
