"""Every architecture of families.py, from which the README's table is made, against sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from families import BY_NAME, FAMILIES, TEXTS, Family, make_bert, make_model
from models import assert_equal, edit_json, load, load_oracle
from models import one_thread as one_thread

from emb_model_provider.core.embedding.model import EmbeddingModel, Role

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Floats = npt.NDArray[np.float32]
ROLES: tuple[Role, ...] = ("query", "document")


def in_role(oracle: SentenceTransformer, texts: list[str], role: Role) -> Floats:
    if role == "query":
        return oracle.encode_query(texts)
    if not oracle.prompts["document"] and oracle.prompts.get("passage"):
        # encode_document documents that it takes "passage" too, but stops at the empty "document".
        return oracle.encode(texts, prompt_name="passage")
    return oracle.encode_document(texts)


pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Pair:
    """One model, loaded here and in sentence-transformers, and its vectors there."""

    family: Family
    ours: EmbeddingModel
    oracle: SentenceTransformer
    expected: dict[Role, Floats]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def pair(one_thread: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family: Family = request.param
    root = tmp_path_factory.mktemp(family.name)
    folder = make_model(family, root / "model")
    oracle = load_oracle(folder)
    expected: dict[Role, Floats] = {role: in_role(oracle, TEXTS, role) for role in ROLES}
    return Pair(family, load(folder, cache_dir=str(root / "cache")), oracle, expected)


def test_the_texts_reach_from_one_token_to_far_too_long(pair: Pair) -> None:
    lengths = pair.ours.count_tokens(TEXTS)
    limit = pair.ours.max_length
    assert limit == (pair.family.max_seq_length or 128)
    own = pair.ours.count_tokens([""])[0]  # special tokens and the prompt
    assert own + 1 in lengths
    assert max(lengths) > 10 * limit or pair.family.max_seq_length is None
    assert sum(length > limit for length in lengths) >= 3


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("role", ROLES)
def test_vectors_are_those_of_sentence_transformers(pair: Pair, role: Role, batch_size: int) -> None:
    assert_equal(pair.ours.embed(TEXTS, role, batch_size=batch_size), pair.expected[role])


def test_each_role_has_the_saved_prompt(pair: Pair) -> None:
    saved = dict(pair.family.prompts)
    assert pair.ours.prompt("query") == saved.get("query", "")
    assert pair.ours.prompt("document") == (saved.get("document") or saved.get("passage", ""))
    differ = np.abs(pair.expected["query"] - pair.expected["document"]).max() > 1e-3
    assert differ == (pair.ours.prompt("query") != pair.ours.prompt("document"))


def test_tokens_are_counted_as_the_oracles_tokenizer_does(pair: Pair) -> None:
    for role in ROLES:
        prompt = pair.ours.prompt(role)
        encoded = pair.oracle.tokenizer([prompt + text for text in TEXTS], truncation=False, verbose=False)
        assert pair.ours.count_tokens(TEXTS, role) == [len(ids) for ids in encoded["input_ids"]]


def test_the_description_names_the_family(pair: Pair) -> None:
    family, description = pair.family, pair.ours.description
    assert description.architecture == family.name
    modes = (family.pooling,) if isinstance(family.pooling, str) else family.pooling
    assert description.pooling.modes == modes
    assert description.normalized == family.normalize
    assert pair.ours.dimension == pair.oracle.get_embedding_dimension()
    assert description.dtype == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["bert", "t5", "qwen3", "gemma3_text"])
def test_a_checkpoint_of_half_precision_computes_in_float32(tmp_path: Path, dtype: str, name: str) -> None:
    folder = make_model(BY_NAME[name], tmp_path / "model", dtype=dtype)
    ours = load(folder)
    assert ours.description.dtype == dtype
    assert_equal(ours.embed(TEXTS), in_role(load_oracle(folder), TEXTS, "document"))


def other_side(folder: Path, side: str) -> Path:
    edit_json(folder / "tokenizer_config.json", lambda config: config.update(padding_side=side))
    return folder


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        *(("qwen3", pooling) for pooling in ("lasttoken", "cls", "mean", "weightedmean", "max")),
        ("llama", "mean"),
        ("mistral", "lasttoken"),
        ("gemma3_text", "mean"),
        ("roberta", "cls"),
        ("modernbert", "weightedmean"),
        ("t5", "lasttoken"),
        ("bert", "mean"),
        ("albert", "cls"),
    ],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_padding_changes_nothing(tmp_path: Path, name: str, pooling: str, side: str) -> None:
    family = replace(BY_NAME[name], pooling=pooling)
    folder = other_side(make_model(family, tmp_path / "model"), side)
    ours, oracle = load(folder), load_oracle(folder)
    assert oracle.tokenizer.padding_side == side
    # Alone, because a model with a table of positions (bert) moves with its padding there.
    expected = oracle.encode(TEXTS, batch_size=1, prompt=ours.prompt("document"))
    for batch_size in (1, 64):
        assert_equal(ours.embed(TEXTS, batch_size=batch_size), expected)


@pytest.mark.parametrize("settings", [{}, {"max_seq_length": None}, {"legacy": True}], ids=str)
def test_the_same_model_in_an_older_layout_is_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = make_bert(tmp_path / "model", **settings)
    assert_equal(load(folder).embed(TEXTS), load_oracle(folder).encode(TEXTS))
