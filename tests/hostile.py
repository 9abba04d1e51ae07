"""Spoils the folder of a model, and checks that it is refused without a trace."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import edit_json, load, load_oracle

from emb_model_provider.core.errors import ModelLoadError

TEXTS = ["hello world", "the vector of a sentence", ""]
Change = Callable[[Path], Any]
LAYER = "encoder.layer.1.output.dense.weight"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def code(marker: Path) -> str:
    """Python that creates a file when it is imported."""
    return f"open({str(marker)!r}, 'w').close()\n"


def state() -> dict[str, Any]:
    """What is common to the whole process."""
    import torch
    import transformers

    return {
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "folder": os.getcwd(),
        "path": list(sys.path),
        "alarm": signal.getsignal(signal.SIGALRM),
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "dtype": torch.get_default_dtype(),
        "verbosity": transformers.logging.get_verbosity(),
        "code": [name for name in sys.modules if name.startswith("transformers_modules")],
    }


class Silence:
    """A stdin that notes when it is asked."""

    asked = False

    def __getattr__(self, name: str) -> Any:
        Silence.asked = True
        raise EOFError(name)


def watch(marker: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For a fixture: afterwards, nothing ran that creates `marker`, nothing was asked, nothing is changed."""
    before = state()
    monkeypatch.setattr(sys, "stdin", Silence())
    monkeypatch.setattr(Silence, "asked", False)
    yield marker
    assert not marker.exists(), "code from the folder was run"
    assert not Silence.asked, "a question was asked on stdin"
    assert state() == before


def refused(folder: Path, error: type[ModelLoadError], *said: str, **settings: Any) -> None:
    """Check that the folder does not load, and that the message names it and says all of `said`."""
    with pytest.raises(error) as caught:
        load(folder, **settings)
    for part in (str(folder), *said):
        assert part in str(caught.value)
    assert any(way in str(caught.value) for way in ("Use ", "use ", "hoose ", "ownload ", "Copy ")), (
        "no way out"
    )


def same_as_oracle(folder: Path, **settings: Any) -> bool:
    return bool(
        np.abs(load(folder, **settings).embed(TEXTS) - load_oracle(folder).encode(TEXTS)).max() <= 1e-5
    )


def set_key(file: str, **values: Any) -> Change:
    return lambda folder: edit_json(folder / file, lambda content: {**content, **values})


def edit_tensors(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = dict(load_file(file))
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def announce(folder: Path, change: Callable[[dict[str, Any]], Any], text: str | None = None) -> None:
    """Rewrite the header of model.safetensors, and leave the tensors' bytes."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    change(header)
    said = (text or json.dumps(header)).encode()
    file.write_bytes(struct.pack("<Q", len(said)) + said + content[8 + length :])


def one_tensor(header: dict[str, Any], *, dtype: str, bits: int) -> None:
    """A header of the same length of bytes with a single tensor."""
    size = max(entry["data_offsets"][1] for entry in header.values())
    header.clear()
    header["x.weight"] = {"dtype": dtype, "shape": [size * 8 // bits], "data_offsets": [0, size]}
