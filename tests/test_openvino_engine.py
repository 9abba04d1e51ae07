"""Every architecture in OpenVINO against sentence-transformers; and processes that are forked."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from families import FAMILIES, TEXTS, Family, make_model
from models import embed_in_openvino, load_oracle
from models import load as load_in
from process_memory import resident
from sentence_transformers import SentenceTransformer

from emb_model_provider.core.embedding.engine import Precision
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.openvino_engine import OpenVinoEngine
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.embedding.tokenization import Batch


def load(folder: Path, **settings: object) -> EmbeddingModel:
    return load_in(folder, engine="openvino", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_vectors_are_those_of_sentence_transformers(family: Family, tmp_path: Path) -> None:
    """Converted in a process of its own, as most models are, and read back here."""
    folder = make_model(family, tmp_path / "model")
    assert run("print(type(model._forward.engines[0]).__name__)", str(folder)).strip() == "OpenVinoEngine"
    model = load(folder)
    assert isinstance(model._forward.engines[0], OpenVinoEngine)
    prompt = model.prompt("document")  # sentence-transformers does not look for "passage"
    expected = load_oracle(folder).encode(TEXTS, prompt=prompt)
    tolerance = 1e-5 * max(1, np.linalg.norm(expected, axis=1).max())
    np.testing.assert_allclose(model.embed(TEXTS), expected, rtol=0, atol=tolerance)
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=tolerance)


def test_real_texts_give_the_oracles_vectors(
    minilm: Path, oracle: SentenceTransformer, real_texts: list[str]
) -> None:
    found = load(minilm).embed(real_texts)
    assert np.abs(found - oracle.encode(real_texts)).max() <= 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_batches_have_few_shapes(toy_model: Path, precision: Precision) -> None:
    """What is prepared for each shape stays in memory."""
    (engine,) = load(toy_model)._forward.engines
    assert isinstance(engine, OpenVinoEngine)
    engine = OpenVinoEngine(engine._compiled, precision)
    rows, widths = [engine.rows(n) for n in range(1, 65)], [engine.width(n) for n in range(1, 8193)]
    assert all(n / 1.5 < found <= n for n, found in enumerate(rows, 1))
    assert all(n <= found < max(n + 16, 1.25 * n) for n, found in enumerate(widths, 1))
    assert len(set(rows)) == 12
    assert len(set(widths[:512])) <= 50
    assert len(set(widths)) <= 120
    shapes = {(engine.rows(engine.token_budget // width), width) for width in widths[:512]}
    assert all(rows * width >= engine.token_budget / 2 for rows, width in shapes)


@pytest.mark.skipif(sys.platform != "linux", reason="mapped memory as Linux tells it")
def test_weights_stay_out_of_memory_once_they_are_copied(minilm: Path, tmp_path: Path) -> None:
    load(minilm, cache_dir=str(tmp_path))
    model = load(minilm, cache_dir=str(tmp_path))  # from the cache
    (weights,) = tmp_path.glob("converted/*/model.bin")
    for texts in (["one text"], ["a few words", "some more of them"] * 8, ["a text of many words " * 40]):
        model.embed(texts)
        assert resident(weights) == 0
        model.embed(texts)
        assert 0 < resident(weights) < 30_000


def test_whatever_texts_come_the_shapes_are_few(
    minilm: Path, real_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(minilm)
    (engine,) = model._forward.engines
    shapes: list[tuple[int, ...]] = []

    def noted(batch: Batch) -> Floats:
        shapes.append(batch.ids.shape)
        return np.zeros((*batch.ids.shape, engine.hidden_size), dtype=np.float32)

    monkeypatch.setattr(engine, "hidden_states", noted)
    random = Random(0)
    for _ in range(300):
        texts = random.choices(real_texts, k=random.choice([1, 2, 5, 10, 30]))
        model.embed([text[: random.randint(1, 1500)] for text in texts])
    assert len(shapes) > 900
    assert len(set(shapes)) < 150


PROGRAM = """
import os, sys
from emb_model_provider.core.config import Config
from emb_model_provider.core.model_manager import ModelManager
manager = ModelManager(Config(engine="openvino", model_path=sys.argv[1]))
model = manager.load_model()
"""


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_embeds_and_ends(toy_model: Path) -> None:
    program = """
texts = ["one text", "another text that is a little longer"] * 20
expected = model.embed(texts).tobytes()
child = os.fork()
if not child:
    sys.exit(0 if model.embed(texts).tobytes() == expected else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert model.embed(texts).tobytes() == expected
"""
    assert run(program, str(toy_model)).strip() == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_can_load_a_model_of_its_own(toy_model: Path) -> None:
    program = """
expected = model.embed(["a text"]).tobytes()
child = os.fork()
if not child:
    again = ModelManager(Config(engine="openvino", model_path=sys.argv[1], max_batch_size=3)).load_model()
    assert again is not model
    sys.exit(0 if again.embed(["a text"]).tobytes() == expected else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(program, str(toy_model)).strip() == "0"


def test_a_spawned_pool_embeds(toy_model: Path) -> None:
    expected = load(toy_model).embed(["a text"])[0].tolist()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(embed_in_openvino, [str(toy_model)] * 2) == [expected] * 2


def test_nothing_reports_on_the_user(toy_model: Path, tmp_path: Path) -> None:
    program = "model.embed(['a text']); print('openvino_telemetry' in sys.modules, 'openvino' in sys.modules)"
    assert run(program, str(toy_model)).split() == ["False", "True"]
