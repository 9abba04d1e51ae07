"""Whether a text's vector is its own, whatever is beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import TEXTS, Family, _small, make_model
from models import load, load_oracle

from emb_model_provider.core.errors import UnsupportedModelError

# MobileBERT's trigrams see the padding after a text; FNet has no mask.
DEPEND_ON_PADDING = [
    Family("fnet", "FNetModel", "bert", "mean", _small(), max_seq_length=None),
    Family(
        "mobilebert",
        "MobileBertModel",
        "bert",
        "mean",
        _small(embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
        max_seq_length=None,
    ),
]


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("family", DEPEND_ON_PADDING, ids=lambda family: family.name)
def test_a_model_whose_vectors_depend_on_the_padding_is_refused(
    family: Family, engine: Any, tmp_path: Path
) -> None:
    folder = make_model(family, tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=f"{family.name} depend on the padding .*max_batch_size"):
        load(folder, engine=engine)


def test_its_refusal_names_a_way_that_works(tmp_path: Path) -> None:
    folder = make_model(DEPEND_ON_PADDING[0], tmp_path / "model")
    model, oracle = load(folder, engine="sentence-transformers", max_batch_size=1), load_oracle(folder)
    expected = np.concatenate([oracle.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(model.embed(TEXTS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_segment_ids_are_given_although_all_are_zero(engine: Any, tmp_path: Path) -> None:
    """GPT-2 adds an embedding for them, which is not that of no segment."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    folder = make_model(
        Family("gpt2", "GPT2Model", "bert", "mean", sizes, max_seq_length=None), tmp_path / "m"
    )
    model = load(folder, engine=engine)
    np.testing.assert_allclose(model.embed(TEXTS), load_oracle(folder).encode(TEXTS), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "model_class"),
    [
        ("roberta-prelayernorm", "RobertaPreLayerNormModel"),
        ("xlm-roberta-xl", "XLMRobertaXLModel"),
        ("data2vec-text", "Data2VecTextModel"),
        ("ibert", "IBertModel"),
    ],
)
def test_texts_are_cut_to_the_positions_that_are_left_behind_padding(
    name: str, model_class: str, tmp_path: Path
) -> None:
    config = _small(max_position_embeddings=130, type_vocab_size=1)
    folder = make_model(
        Family(name, model_class, "roberta", "mean", config, max_seq_length=None), tmp_path / "model"
    )
    model = load(folder, engine="torch")
    assert model.max_length == 128
    assert np.isfinite(model.embed(["a long text " * 100])).all()
