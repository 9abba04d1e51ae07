"""What a model computes in, where the hardware has it; and the texts that set the ranges of int8."""

import hashlib
import json
from collections.abc import Collection
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from emb_model_provider.core.embedding.engine import Precision
from emb_model_provider.core.errors import ConfigError

# What NNCF takes by default (https://docs.openvino.ai, "Basic Quantization Flow": subset_size).
CALIBRATION_TEXTS = 300

# Sentences that one built-in text is joined from: one to a long passage.
_SENTENCES = (1, 1, 2, 1, 3, 5, 2, 8, 1, 13)


def choose_precision(asked: str, native: Collection[str], where: str) -> Precision:
    """The precision to compute in.

    Args:
        asked: The setting; `auto` takes bf16 where it is native, else fp32. int8 is never chosen for the
            user: it moves vectors visibly.
        native: What the engine computes in without emulation on this device.
        where: Names engine and device in the error.

    Raises:
        ConfigError: It would be emulated slowly, or is not there at all.
    """
    chosen: Precision = asked if asked != "auto" else "bf16" if "bf16" in native else "fp32"  # type: ignore[assignment]
    if chosen not in native:
        raise ConfigError(
            f"precision (EMB_PROVIDER_PRECISION) is {asked}, which {where} does not have: it would be "
            f"emulated slowly, or not at all. Choose {', '.join(sorted(native))} or auto."
        )
    return chosen


def read_calibration_texts(path: str | None) -> tuple[str, ...]:
    """The texts by which the ranges of int8 are set: the user's, at most 300, else the built-in ones.

    Args:
        path: A file with one text per line; in a .jsonl file each line is a text, or an object with a
            `text`. None for the built-in texts.

    Raises:
        ConfigError: The file cannot be read, or holds no text; names file and line.
    """
    if path is None:
        return _built_in_texts()
    file = Path(path)
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"calibration_texts (EMB_PROVIDER_CALIBRATION_TEXTS): {file} cannot be read ({error})."
        ) from error
    texts = (
        [_from_json(file, number, line) for number, line in enumerate(lines, 1)]
        if (file.suffix == ".jsonl")
        else lines
    )
    if not texts:
        raise ConfigError(f"calibration_texts (EMB_PROVIDER_CALIBRATION_TEXTS): {file} holds no text.")
    step = max(1, len(texts) // CALIBRATION_TEXTS)  # spread over the file
    return tuple(texts[::step][:CALIBRATION_TEXTS])


def calibration_id(precision: Precision, path: str | None) -> str | None:
    """64 hexadecimal digits over the texts that set the ranges of int8; None for other precisions."""
    if precision != "int8":
        return None
    return hashlib.sha256(json.dumps(read_calibration_texts(path)).encode()).hexdigest()


def _from_json(file: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{file}, text {number}: not JSON ({error}).") from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ConfigError(f'{file}, text {number}: neither a text nor an object with a "text".')
    return text


@lru_cache(maxsize=1)
def _built_in_texts() -> tuple[str, ...]:
    """Short and long texts in many languages, the same on every machine."""
    data = files("emb_model_provider.core").joinpath("calibration_sentences.txt").read_text(encoding="utf-8")
    sentences = data.splitlines()
    return tuple(
        " ".join(
            sentences[(7 * number + 11 * place) % len(sentences)]
            for place in range(_SENTENCES[number % len(_SENTENCES)])
        )
        for number in range(CALIBRATION_TEXTS)
    )
