"""Token ids of a text: where they are cut, what is counted, and that nothing outside changes them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import BY_NAME, FAMILIES, TEXTS, make_model, make_static
from hypothesis import given, settings
from hypothesis import strategies as st
from models import edit_json, load, load_oracle
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model_format import read_description
from emb_model_provider.core.embedding.tokenization import TextTokenizer, smallest
from emb_model_provider.core.embedding.tokenizer_loading import load_tokenizer
from emb_model_provider.core.errors import ConfigError, ModelFilesError

ADDED = 2  # [CLS] and [SEP]


def tokenizer_of(folder: Path, **settings: Any) -> TextTokenizer:
    return load_tokenizer(read_description(ModelFolder(folder, "path")), **settings)


def ids(tokenizer: TextTokenizer, texts: list[str]) -> list[list[int]]:
    return [tokens.ids.tolist() for tokens in tokenizer.encode(texts)]


@pytest.fixture(scope="module")
def toy_tokenizer(toy_model: Path) -> TextTokenizer:
    return tokenizer_of(toy_model)


@pytest.fixture(scope="module")
def reference(toy_model: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(toy_model)
    return loaded


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(request.param, tmp_path_factory.mktemp("family") / "model")


def test_ids_are_those_of_transformers_in_every_family(family_folder: Path) -> None:
    ours = tokenizer_of(family_folder)
    theirs = AutoTokenizer.from_pretrained(family_folder)
    expected = theirs(TEXTS, truncation=True, max_length=ours.max_length)["input_ids"]
    assert ids(ours, TEXTS) == expected
    full = theirs(TEXTS, verbose=False)["input_ids"]
    assert [tokens.full_length for tokens in ours.encode(TEXTS)] == [len(row) for row in full]


@pytest.mark.parametrize("words", [29, 30, 31, 32, 60, 61])
def test_a_text_is_cut_at_exactly_the_limit(toy_tokenizer: TextTokenizer, words: int) -> None:
    text = " ".join(["hello"] * words)
    (tokens,) = toy_tokenizer.encode([text])
    assert toy_tokenizer.max_length == 32
    assert len(tokens) == min(words + ADDED, 32)
    assert tokens.full_length == words + ADDED
    start, end = ids(toy_tokenizer, [""])[0]
    hello = tokens.ids[1]
    assert tokens.ids.tolist() == [start, *[hello] * (len(tokens) - ADDED), end]


@pytest.mark.parametrize("limit", [ADDED + 1, 5, 32, 33, 1000])
def test_max_context_length_only_shortens(toy_model: Path, limit: int) -> None:
    ours = tokenizer_of(toy_model, max_context_length=limit)
    assert ours.max_length == min(limit, 32)
    expected = AutoTokenizer.from_pretrained(toy_model)(TEXTS, truncation=True, max_length=min(limit, 32))
    assert ids(ours, TEXTS) == expected["input_ids"]


@pytest.mark.parametrize("limit", [1, ADDED])
def test_a_limit_without_room_for_text_is_refused(toy_model: Path, limit: int) -> None:
    with pytest.raises(ConfigError, match=rf"limit of {limit} tokens leaves no room.*adds {ADDED}"):
        load(toy_model, max_context_length=limit)


def test_a_model_without_room_for_text_is_refused(toy_model: Path, tmp_path: Path) -> None:
    folder = make_model(BY_NAME["bert"], tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", lambda config: config.update(model_max_length=ADDED))
    with pytest.raises(ModelFilesError, match=f"texts may have {ADDED} tokens"):
        load(folder)


def test_the_beginning_is_lost_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    folder = make_model(BY_NAME["bert"], tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", lambda config: config.update(truncation_side="left"))
    ours, theirs = tokenizer_of(folder), AutoTokenizer.from_pretrained(folder)
    assert theirs.truncation_side == "left"
    expected = theirs(TEXTS, truncation=True, max_length=ours.max_length)["input_ids"]
    assert ids(ours, TEXTS) == expected
    full = [len(row) for row in theirs(TEXTS, verbose=False)["input_ids"]]
    assert [tokens.full_length for tokens in ours.encode(TEXTS)] == full


def test_padding_and_truncation_in_the_file_do_not_count(toy_model: Path, minilm: Path) -> None:
    saved = json.loads((minilm / "tokenizer.json").read_text("utf-8"))
    assert saved["padding"]
    assert saved["truncation"]
    ours = tokenizer_of(minilm)
    assert ours.max_length == 256
    assert [len(row) for row in ids(ours, ["hello", "hello " * 500])] == [1 + ADDED, 256]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_any_text_is_tokenised_and_counted_as_transformers_does(
    toy_tokenizer: TextTokenizer, reference: PreTrainedTokenizerBase, texts: list[str]
) -> None:
    full = reference(texts, verbose=False)["input_ids"]
    found = toy_tokenizer.encode(texts)
    assert [tokens.full_length for tokens in found] == [len(row) for row in full]
    cut = reference(texts, truncation=True, max_length=32)["input_ids"]
    assert [tokens.ids.tolist() for tokens in found] == cut


def test_more_texts_than_are_tokenised_together_keep_their_order(
    toy_tokenizer: TextTokenizer, reference: PreTrainedTokenizerBase
) -> None:
    texts = [f"hello number {i} " + "world " * (i % 7) for i in range(200)]
    assert ids(toy_tokenizer, texts) == reference(texts, truncation=True, max_length=32)["input_ids"]


class TestSaved:
    def test_gives_the_same_tokenizer_after_a_journey_through_json(self, family_folder: Path) -> None:
        ours = tokenizer_of(family_folder)
        again = TextTokenizer.from_saved(json.loads(json.dumps(ours.saved())), None)
        assert ids(again, TEXTS) == ids(ours, TEXTS)
        assert again.max_length == ours.max_length
        batch, second = (t.pad(t.encode(["hello", "hello world, hello"])) for t in (ours, again))
        np.testing.assert_array_equal(batch.ids, second.ids)
        np.testing.assert_array_equal(batch.mask, second.mask)
        assert again.saved() == ours.saved()

    @pytest.mark.parametrize(("limit", "expected"), [(5, 5), (32, 32), (1000, 32), (None, 32)])
    def test_can_be_cut_shorter(self, toy_model: Path, limit: int | None, expected: int) -> None:
        shorter = TextTokenizer.from_saved(tokenizer_of(toy_model).saved(), limit)
        assert shorter.max_length == expected
        assert ids(shorter, TEXTS) == ids(tokenizer_of(toy_model, max_context_length=limit), TEXTS)

    def test_of_a_static_model_adds_no_special_tokens(self, tmp_path: Path) -> None:
        ours = tokenizer_of(make_static(tmp_path / "model", layout="st"))
        again = TextTokenizer.from_saved(ours.saved(), None)
        assert ids(again, ["", "hello"]) == ids(ours, ["", "hello"])
        assert ids(ours, [""]) == [[]]
        assert ours.max_length is None


def test_a_batch_is_padded_to_its_longest(toy_tokenizer: TextTokenizer) -> None:
    texts = ["hello world", "", "hello"]
    batch = toy_tokenizer.pad(toy_tokenizer.encode(texts))
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.type_ids is not None
    assert not batch.type_ids.any()
    rows = ids(toy_tokenizer, texts)
    assert [row[:n].tolist() for row, n in zip(batch.ids, map(len, rows), strict=True)] == rows
    assert set(batch.ids[batch.mask == 0].tolist()) == {0}


def test_a_prompts_length_leaves_out_the_closing_token(toy_model: Path, toy_tokenizer: TextTokenizer) -> None:
    prompt = "query: "
    transformer: Any = load_oracle(toy_model)[0]
    expected = transformer.preprocess(["query: hello"], prompt=prompt)["prompt_length"]
    assert toy_tokenizer.prompt_length(prompt) == expected
    assert toy_tokenizer.prompt_length("") == 1


def test_many_threads_with_different_limits_get_their_own_ids(toy_model: Path) -> None:
    limits = (4, 7, 20, 32)
    tokenizers = {limit: tokenizer_of(toy_model, max_context_length=limit) for limit in limits}
    expected = {limit: ids(tokenizer, TEXTS) for limit, tokenizer in tokenizers.items()}
    assert {limit: max(map(len, rows)) for limit, rows in expected.items()} == {n: n for n in limits}

    def run(job: int) -> bool:
        limit = limits[job % len(limits)]
        return ids(tokenizers[limit], TEXTS) == expected[limit]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(run, range(400)))


def test_special_tokens_in_a_text_are_the_oracles(toy_model: Path) -> None:
    texts = ["[CLS] [SEP] [PAD] [MASK] [UNK]", "a[SEP]b"]
    assert ids(tokenizer_of(toy_model), texts) == AutoTokenizer.from_pretrained(toy_model)(texts)["input_ids"]


def test_the_smallest_limit_that_is_set_counts() -> None:
    assert smallest(None, 7, 3, None) == 3
    assert smallest(None, None) is None
