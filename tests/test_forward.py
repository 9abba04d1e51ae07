"""Batches through the engine: what is computed, in which order, and where; counted, not timed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import CountingEngine, GpuLikeEngine, WaitingEngine, model_of, torch_engine
from families import IDENTITY, POOLING_MODES, TEXTS, DenseSpec, make_bert
from models import load

from emb_model_provider.core.embedding.engine import Engine
from emb_model_provider.core.embedding.model import EmbeddingModel


@pytest.fixture(scope="module")
def inner(toy_model: Path) -> Engine:
    return torch_engine(toy_model)


class TestWork:
    def test_hardly_any_padding_is_computed(
        self, toy_model: Path, inner: Engine, real_texts: list[str]
    ) -> None:
        model = model_of(toy_model, CountingEngine(inner))
        model.embed(real_texts)
        forward = model._forward
        assert forward.needed_tokens == sum(model_lengths(model, real_texts))
        assert forward.computed_tokens <= 1.05 * forward.needed_tokens

    def test_no_more_forward_passes_are_made_than_the_limits_ask_for(
        self, toy_model: Path, inner: Engine, real_texts: list[str]
    ) -> None:
        engine = CountingEngine(inner)
        engine.token_budget = 512
        model = model_of(toy_model, engine)
        model.embed(real_texts)
        assert all(rows * tokens <= 512 and rows <= 64 for rows, tokens in engine.shapes)
        assert len(engine.shapes) <= 1.25 * sum(model_lengths(model, real_texts)) / 512 + len(real_texts) / 64

    def test_a_repeated_text_is_computed_once(self, toy_model: Path, inner: Engine) -> None:
        engine = CountingEngine(inner)
        vectors = model_of(toy_model, engine).embed(["one", "two", "one", "one"])
        assert sum(rows for rows, _ in engine.shapes) == 2
        assert np.array_equal(vectors[[0, 2, 3]], vectors[[0, 0, 0]])

    def test_a_single_text_takes_one_forward_pass_without_padding(
        self, toy_model: Path, inner: Engine
    ) -> None:
        engine = CountingEngine(inner)
        model = model_of(toy_model, engine)
        model.embed(["How do I read a file?"], "query")
        assert engine.shapes == [(1, model.count_tokens(["How do I read a file?"], "query")[0])]

    def test_the_longest_texts_come_first(self, toy_model: Path, inner: Engine) -> None:
        engine = CountingEngine(inner)
        model_of(toy_model, engine, max_batch_size=4).embed(TEXTS)
        widths = [tokens for _, tokens in engine.shapes]
        assert widths == sorted(widths, reverse=True)


def model_lengths(model: EmbeddingModel, texts: list[str]) -> list[int]:
    """Tokens of each distinct text, as they are computed."""
    limit = model.max_length or 10**9
    return [min(limit, n) for n in model.count_tokens(list(dict.fromkeys(texts)))]


class TestLackOfMemory:
    def test_halves_the_budget_and_goes_on(self, toy_model: Path, inner: Engine, toy: EmbeddingModel) -> None:
        engine = CountingEngine(inner, room=300)
        vectors = model_of(toy_model, engine).embed(TEXTS)
        assert np.abs(vectors - toy.embed(TEXTS)).max() <= 1e-6
        assert 75 <= engine.token_budget <= 300
        assert all(rows * tokens <= 300 for rows, tokens in engine.shapes)

    def test_is_remembered(self, toy_model: Path, inner: Engine) -> None:
        engine = CountingEngine(inner, room=300)
        model = model_of(toy_model, engine)
        model.embed(TEXTS)
        budget = engine.token_budget
        model.embed(TEXTS)
        assert engine.token_budget == budget

    def test_for_a_single_text_is_an_error(self, toy_model: Path, inner: Engine) -> None:
        engine = CountingEngine(inner, room=8)
        with pytest.raises(MemoryError):
            model_of(toy_model, engine).embed(
                ["a text of more than eight tokens, whichever way you look at it"]
            )


class TestSeveralDevices:
    def test_divide_a_list_and_give_the_same_vectors_in_order(
        self, toy_model: Path, inner: Engine, toy: EmbeddingModel
    ) -> None:
        first, second = WaitingEngine(inner), WaitingEngine(inner)
        model = model_of(toy_model, first, second, max_batch_size=8)
        with ThreadPoolExecutor(1) as pool:
            embedding = pool.submit(model.embed, TEXTS)
            for engine in (first, second):  # both are at work at the same time
                assert engine.entered.acquire(timeout=60)
            for engine in (first, second):
                engine.proceed.release(100)
            vectors = embedding.result(60)
        assert np.abs(vectors - toy.embed(TEXTS)).max() <= 1e-6
        assert sum(rows for rows, _ in first.shapes + second.shapes) == len(set(TEXTS))

    def test_one_that_fails_fails_the_call(self, toy_model: Path, inner: Engine) -> None:
        model = model_of(toy_model, CountingEngine(inner), CountingEngine(inner, room=1), max_batch_size=1)
        with pytest.raises(MemoryError):
            model.embed(TEXTS)

    def test_are_loaded_by_the_setting(self, toy_model: Path, toy: EmbeddingModel) -> None:
        model = load(toy_model, devices=("cpu", "cpu"))
        assert model.device == "cpu,cpu"
        assert np.abs(model.embed(TEXTS) - toy.embed(TEXTS)).max() <= 1e-6


class TestTurns:
    @pytest.mark.parametrize("queries", [["a query that waits"], ["one that waits", "and another"]])
    def test_queries_go_before_the_next_batch_of_documents(
        self, toy_model: Path, inner: Engine, queries: list[str]
    ) -> None:
        engine = WaitingEngine(inner)
        model = model_of(toy_model, engine, max_batch_size=8)
        with ThreadPoolExecutor(2) as pool:
            bulk = pool.submit(model.embed, TEXTS)
            assert engine.entered.acquire(timeout=60)
            query = pool.submit(model.embed, queries, "query")
            turns = model._forward._turns[id(engine)]
            with turns._changed:
                assert turns._changed.wait_for(lambda: turns._urgent or wake(turns), timeout=60)
            engine.proceed.release(2)
            query.result(60)
            assert not bulk.done()
            assert [rows for rows, _ in engine.shapes][1] == len(queries)
            engine.proceed.release(100)
            bulk.result(60)


def wake(turns: Any) -> bool:
    """Not yet: let go of the lock for a moment, so that the caller can come in."""
    turns._changed.wait(0.01)
    return bool(turns._urgent)


DENSE = (DenseSpec(24), DenseSpec(16, bias=False, activation=IDENTITY))


class TestVectorsOnADevice:
    """Pooling and the layers after it in torch, which a GPU has, against the same in numpy."""

    @pytest.mark.parametrize(
        "make",
        [
            *(lambda folder, mode=mode: make_bert(folder, pooling=mode) for mode in POOLING_MODES),
            lambda folder: make_bert(folder, pooling=("cls", "mean"), dense=DENSE, layer_norm=True),
            lambda folder: make_bert(folder, include_prompt=False, prompts={"document": "passage: "}),
            lambda folder: make_bert(folder, truncate_dim=8),
        ],
        ids=[*POOLING_MODES, "layers", "without prompt", "shorter"],
    )
    def test_are_those_of_the_host(self, make: Callable[[Path], Path], tmp_path: Path) -> None:
        folder = make(tmp_path / "model")
        inner = torch_engine(folder)
        on_host = model_of(folder, CountingEngine(inner)).embed(TEXTS)
        on_device = model_of(folder, GpuLikeEngine(inner)).embed(TEXTS)
        np.testing.assert_allclose(on_device, on_host, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("name", ["GELU", "SiLU", "Sigmoid", "ReLU", "Tanh"])
    def test_of_every_activation_are_those_of_the_host(self, name: str, tmp_path: Path) -> None:
        activation = f"torch.nn.modules.activation.{name}"
        folder = make_bert(
            tmp_path / "model", dense=(DenseSpec(24, activation=activation, use_residual=True),)
        )
        inner = torch_engine(folder)
        on_host = model_of(folder, CountingEngine(inner)).embed(TEXTS)
        on_device = model_of(folder, GpuLikeEngine(inner)).embed(TEXTS)
        np.testing.assert_allclose(on_device, on_host, rtol=0, atol=2e-6)

    def test_come_in_one_copy_of_nothing_but_the_vectors(self, toy_model: Path, inner: Engine) -> None:
        engine = GpuLikeEngine(inner)
        model = model_of(toy_model, engine, max_batch_size=4)
        model.embed(TEXTS)
        assert len(engine.shapes) > 5
        assert engine.copied == [(len(set(TEXTS)), model.dimension)]
