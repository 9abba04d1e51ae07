"""Loads a test's model here and in sentence-transformers, which has the last word on vectors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.loading import load_embedding_model
from emb_model_provider.core.embedding.model import EmbeddingModel

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: models this small take many times as long when threads wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(folder: Path, **settings: Any) -> EmbeddingModel:
    """Our model, in torch on the CPU."""
    config = Config(model_path=str(folder), **({"engine": "torch", "device": "cpu"} | settings))
    return load_embedding_model(ModelFolder(folder, "path"), config)


def embed_in_openvino(folder: str) -> list[float]:
    """The vector of a text; here, where a spawned process can import it from."""
    vector: list[float] = load(Path(folder), engine="openvino").embed(["a text"])[0].tolist()
    return vector


def load_oracle(folder: Path) -> SentenceTransformer:
    """The reference, computing in float32 as we do."""
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own old names in old folders
        return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})


def edit_json(file: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file; `change` edits what is in it in place, or returns something else."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    changed = change(content)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content if changed is None else changed), encoding="utf-8")


def assert_equal(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    """Equal to 1e-5; times the longest vector's length, where vectors are not scaled to 1."""
    assert found.dtype == np.float32
    scale = max(1.0, float(np.linalg.norm(expected, axis=1).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
