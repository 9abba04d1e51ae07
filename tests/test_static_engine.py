"""Models that are a table of token vectors, in both layouts, against sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import TEXTS, make_static
from models import assert_equal, edit_json, load, load_oracle
from safetensors.numpy import load_file, save_file

from emb_model_provider.core.embedding.static_engine import StaticEngine
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

LAYOUTS: list[dict[str, Any]] = [
    {"layout": "st"},
    {"layout": "st", "normalize": False},
    *({"layout": "model2vec", "mapping": m, "weights": w} for m in (False, True) for w in (False, True)),
    {"layout": "model2vec", "normalize": False},
]
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(k for k, v in layout.items() if v))
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_vectors_are_those_of_sentence_transformers(
    tmp_path: Path, layout: dict[str, Any], batch_size: int
) -> None:
    folder = make_static(tmp_path / "model", **layout)
    ours = load(folder)
    # Texts without any token known have no vector of unit length.
    expected = load_oracle(folder).encode(TEXTS)
    assert_equal(ours.embed(TEXTS, batch_size=batch_size), expected)
    assert ours.dimension == expected.shape[1]


def test_the_description_says_what_it_is(tmp_path: Path) -> None:
    ours = load(make_static(tmp_path / "model", layout="model2vec", weights=True))
    description = ours.description
    assert (description.architecture, description.pooling_name) == ("static", "mean")
    assert (ours.max_length, ours.device, description.normalized) == (None, "cpu", True)


def test_no_length_is_too_long_unless_the_user_says_so(tmp_path: Path) -> None:
    folder = make_static(tmp_path / "model", layout="st")
    long = "meaning of a sentence " * 300
    assert_equal(load(folder, on_truncation="error").embed([long]), load_oracle(folder).encode([long]))
    cut = load(folder, max_context_length=3)
    assert cut.max_length == 3
    assert_equal(cut.embed(["the vector of a sentence"]), load(folder).embed(["the vector of"]))
    assert cut.truncated == 1


def test_an_empty_text_has_the_oracles_vector_alone_and_among_others(tmp_path: Path) -> None:
    folder = make_static(tmp_path / "model", layout="st")
    ours, oracle = load(folder), load_oracle(folder)
    assert_equal(ours.embed([""]), oracle.encode([""]))
    assert_equal(ours.embed(["", "hello", " "]), oracle.encode(["", "hello", " "]))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_tables_of_other_precision_become_float32(tmp_path: Path, dtype: str) -> None:
    folder = make_static(tmp_path / "model", layout="model2vec", normalize=False)
    file = folder / "model.safetensors"
    save_file({name: values.astype(dtype) for name, values in load_file(file).items()}, file)
    expected = load_file(file)["embeddings"].astype(np.float32)
    ours = load(folder)
    module: Any = load_oracle(folder)[0]
    ids = module.tokenizer.encode("hello world", add_special_tokens=False).ids
    assert_equal(ours.embed(["hello world"]), expected[ids].mean(axis=0)[None])


def change(arrays: Arrays, **changes: Any) -> Arrays:
    return {name: values for name, values in {**arrays, **changes}.items() if values is not None}


# what is changed among the tensors, what the error says
DAMAGED: list[tuple[Callable[[Arrays], Arrays], str]] = [
    (lambda a: change(a, embeddings=None, other=a["embeddings"]), "not a table of token vectors"),
    (lambda a: change(a, embeddings=a["embeddings"][0]), "not a table of token vectors"),
    (lambda a: change(a, embeddings=a["embeddings"] * np.float32(np.inf)), "not a matrix of finite numbers"),
    (lambda a: change(a, mapping=a["mapping"] * 0 - 1), "a negative index in mapping"),
    (lambda a: change(a, mapping=a["mapping"] + 10**6), "not a table of token vectors"),
    (lambda a: change(a, weights=a["weights"][:5]), "not a table of token vectors"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGED)
def test_tensors_that_are_no_table_are_an_error(
    tmp_path: Path, damage: Callable[[Arrays], Arrays], said: str
) -> None:
    folder = make_static(tmp_path / "model", layout="model2vec", mapping=True, weights=True)
    file = folder / "model.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in damage(load_file(file)).items()}, file)
    with pytest.raises(ModelFilesError, match=said) as caught:
        load(folder)
    assert str(file) in str(caught.value)


def test_a_table_shorter_than_the_vocabulary_is_an_error(tmp_path: Path) -> None:
    folder = make_static(tmp_path / "model", layout="model2vec")
    file = folder / "model.safetensors"
    save_file({"embeddings": load_file(file)["embeddings"][:4]}, file)
    with pytest.raises(ModelFilesError, match=r"the token id \d+, but its weights have only 4 vectors"):
        load(folder).embed(["hello"])


def test_a_table_of_integers_is_refused(tmp_path: Path) -> None:
    folder = make_static(tmp_path / "model", layout="model2vec")
    file = folder / "model.safetensors"
    save_file({"embeddings": np.ones((9, 4), dtype=np.uint8)}, file)
    with pytest.raises(UnsupportedModelError, match="weights of the type U8"):
        load(folder)


def test_a_pooling_after_the_table_is_refused(tmp_path: Path) -> None:
    folder = make_static(tmp_path / "model", layout="st")

    def insert(modules: Any) -> None:
        kind = "sentence_transformers.models.Pooling"
        modules.insert(1, {"idx": 1, "name": "1", "path": "1_Pooling", "type": kind})

    edit_json(folder / "modules.json", insert)
    edit_json(folder / "1_Pooling/config.json", lambda config: config.update(embedding_dimension=32))
    with pytest.raises(UnsupportedModelError, match="no Pooling can follow the StaticEmbedding"):
        load(folder)


def test_each_token_gets_its_row() -> None:
    from emb_model_provider.core.embedding.tokenization import Batch

    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    ids = np.array([[3, 0], [1, 1]])
    engine = StaticEngine(table)
    assert engine.hidden_size == 3
    found = engine.hidden_states(Batch(ids, np.ones_like(ids), None))
    np.testing.assert_array_equal(found, table[ids])
