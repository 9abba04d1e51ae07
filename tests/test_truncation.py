"""Texts that are too long: counted, told of once, or refused before anything is embedded."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import make_static
from models import load

from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.truncation import TruncationWatch
from emb_model_provider.core.errors import TextValueError

LIMIT = 10
HELLO = "hello "  # one token


def short(toy_model: Path, **settings: Any) -> EmbeddingModel:
    """The toy model without prompts, which takes 10 tokens: 8 of a text, and two of its own."""
    return load(toy_model, max_context_length=LIMIT, query_prompt="", document_prompt="", **settings)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_there_is_one_warning_per_model_with_the_numbers(
    toy_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = short(toy_model)
    texts = [HELLO * 8, HELLO * 9, HELLO * 30, "short"]
    model.embed(texts)
    (said,) = warnings_in(caplog)
    assert "2 of 4 texts were cut to the limit of 10 tokens; the longest has 32" in said
    assert "EMB_PROVIDER_ON_TRUNCATION=error" in said
    model.embed(texts)
    model.embed([HELLO * 99], "query")
    assert len(warnings_in(caplog)) == 1
    short(toy_model).embed(texts)
    assert len(warnings_in(caplog)) == 2


def test_every_text_that_is_cut_is_counted(toy_model: Path) -> None:
    model = short(toy_model)
    assert model.truncated == 0
    model.embed([HELLO * 8])
    assert model.truncated == 0
    model.embed([HELLO * 9])
    assert model.truncated == 1
    model.embed([HELLO * 9, "short", HELLO * 9, HELLO * 20])  # equal texts are two texts
    assert model.truncated == 4


def test_a_text_that_just_fits_is_no_reason_to_warn(
    toy_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = short(toy_model)
    assert model.count_tokens([HELLO * 8]) == [LIMIT]
    model.embed([HELLO * 8])
    assert warnings_in(caplog) == []


def test_the_prompt_counts(toy_model: Path) -> None:
    prompts = {"query_prompt": "one two ", "document_prompt": ""}
    model = load(toy_model, max_context_length=LIMIT, on_truncation="error", **prompts)
    text = HELLO * 8
    assert model.embed([text]).shape == (1, model.dimension)
    (tokens,) = model.count_tokens([text], "query")
    with pytest.raises(TextValueError, match=f"Text 0 has {tokens} tokens, more than the limit of 10"):
        model.embed([text], "query")


def test_cut_vectors_are_those_of_the_beginning(toy_model: Path) -> None:
    model = short(toy_model)
    np.testing.assert_array_equal(model.embed([HELLO * 8 + "and an end"]), model.embed([HELLO * 8]))


class TestError:
    def test_names_the_first_text_its_tokens_and_how_many(self, toy_model: Path) -> None:
        model = short(toy_model, on_truncation="error")
        with pytest.raises(TextValueError) as caught:
            model.embed(["short", HELLO * 9, "short", HELLO * 20, HELLO * 9])
        said = str(caught.value)
        assert "Text 1 has 11 tokens, more than the limit of 10; 3 of 5 texts are too long" in said
        assert "EMB_PROVIDER_ON_TRUNCATION" in said

    def test_comes_before_anything_is_embedded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from emb_model_provider.core.embedding.static_engine import StaticEngine

        folder = make_static(tmp_path / "model", layout="st")
        model = load(folder, max_context_length=3, on_truncation="error")
        computed: list[object] = []
        monkeypatch.setattr(StaticEngine, "hidden_states", lambda _, batch: computed.append(batch))
        with pytest.raises(TextValueError, match="Text 900 has 4 tokens"):
            model.embed(["a b", "a"] * 450 + ["a b c d"])
        assert computed == []

    def test_leaves_texts_that_fit_alone(self, toy_model: Path, caplog: pytest.LogCaptureFixture) -> None:
        strict = short(toy_model, on_truncation="error")
        np.testing.assert_array_equal(strict.embed([HELLO * 8]), short(toy_model).embed([HELLO * 8]))
        assert (strict.truncated, warnings_in(caplog)) == (0, [])


def test_ignore_neither_counts_nor_warns(toy_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = short(toy_model, on_truncation="ignore")
    vectors = model.embed([HELLO * 99, HELLO * 9])
    assert (model.truncated, warnings_in(caplog)) == (0, [])
    np.testing.assert_array_equal(vectors, short(toy_model).embed([HELLO * 99, HELLO * 9]))


class TestCount:
    def test_is_the_oracles_tokenizers_for_either_role(
        self, toy: EmbeddingModel, toy_model: Path, real_texts: list[str]
    ) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(toy_model)
        for role, prompt in (("document", "passage: "), ("query", "query: ")):
            encoded = tokenizer([prompt + text for text in real_texts], verbose=False)["input_ids"]
            found = toy.count_tokens(real_texts, role)  # type: ignore[arg-type]
            assert found == [len(ids) for ids in encoded]
        assert max(found) > 3000

    def test_embeds_nothing_and_warns_of_nothing(
        self, toy: EmbeddingModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = toy.truncated
        toy.count_tokens([HELLO * 500])
        assert (toy.truncated, warnings_in(caplog)) == (before, [])

    def test_of_nothing_is_nothing(self, toy: EmbeddingModel) -> None:
        assert toy.count_tokens([]) == []

    def test_refuses_what_is_no_list_of_texts(self, toy: EmbeddingModel) -> None:
        with pytest.raises(TypeError, match="Text 1 is not a str but int"):
            toy.count_tokens(["good", 7])  # type: ignore[list-item]


def test_many_threads_count_every_text_and_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = TruncationWatch("warn")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: watch.report({n: 20, n + 1: 30}, LIMIT, 5), range(500)))
    assert watch.truncated == 1000
    assert len(warnings_in(caplog)) == 1
