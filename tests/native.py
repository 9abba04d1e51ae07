"""A small random model in ModelScope's own format, with what ModelScope's pipeline makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from families import make_bert
from models import edit_json

if TYPE_CHECKING:
    import numpy.typing as npt

TASK = "sentence-embedding"
_ST_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "README.md")


def make_native(folder: Path) -> Path:
    """Write a BERT with a configuration.json that leaves all to the defaults, without files of others."""
    make_bert(folder, max_seq_length=None)
    for name in _ST_FILES:
        (folder / name).unlink(missing_ok=True)
    for module in folder.glob("[0-9]_*"):
        shutil.rmtree(module)
    configuration = {
        "framework": "pytorch",
        "task": TASK,
        "pipeline": {"type": TASK},
        "model": {"type": "bert"},
        "preprocessor": {"type": TASK},
    }
    edit_json(folder / "configuration.json", lambda _: configuration)
    return folder


def change(folder: Path, part: str, **values: Any) -> None:
    """Set keys of a part of configuration.json."""
    edit_json(folder / "configuration.json", lambda content: content[part].update(values))


def pipeline_vectors(
    folder: Path, texts: Sequence[str], *, pooling: str, length: int, normalize: bool = False
) -> npt.NDArray[Any]:
    """What ModelScope's pipeline computes, straight with transformers: it does not run with version 5."""
    import torch
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = BertModel.from_pretrained(folder, dtype=torch.float32)  # evaluates, does not train
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    vectors = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
    if normalize:
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return vectors.numpy()  # type: ignore[no-any-return]
