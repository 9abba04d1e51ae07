"""Batches of a call: every text once, the longest first, within the limits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emb_model_provider.core.embedding.batching import batches


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 600), max_size=200),
    limit=st.integers(1, 70),
    budget=st.integers(1, 5000),
    cost=st.integers(0, 300),
)
def test_every_text_comes_once_the_longest_first_and_no_batch_is_over_a_limit(
    lengths: list[int], limit: int, budget: int, cost: int
) -> None:
    found = [[int(i) for i in batch] for batch in batches(lengths, limit, budget, start_cost=cost)]
    order = [i for batch in found for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in found:
        assert 1 <= len(batch) <= limit
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [
        ([], 8, []),
        ([7], 8, [[0]]),
        ([1, 3, 2], 1, [[1], [2], [0]]),
        ([5, 5, 5, 5, 5], 2, [[0, 1], [2, 3], [4]]),
        ([0, 0, 0], 2, [[0, 1], [2]]),
    ],
)
def test_texts_of_equal_length_keep_their_order(
    lengths: list[int], limit: int, expected: list[list[int]]
) -> None:
    assert [batch.tolist() for batch in batches(lengths, limit, 4096)] == expected


def test_short_texts_fill_a_batch_to_its_limit() -> None:
    assert [len(batch) for batch in batches([2] * 130, 64, 4096)] == [64, 64, 2]


@pytest.mark.parametrize(
    ("lengths", "start_cost", "expected"),
    [
        ([74, 14, 14, 14, 14], 64, [1, 4]),  # one long text would pad four short ones by 60 tokens each
        ([74, 14, 14, 14, 14], 240, [5]),
        ([20, 20, 19, 18], 64, [4]),
        ([90, 60, 60, 5, 5], 30, [1, 2, 2]),
    ],
)
def test_a_batch_ends_where_another_costs_less_than_its_padding(
    lengths: list[int], start_cost: int, expected: list[int]
) -> None:
    found = batches(lengths, 64, 4096, start_cost=start_cost)
    assert [len(batch) for batch in found] == expected


def test_what_is_padded_to_the_same_width_stays_together() -> None:
    found = batches([31, 30, 3, 2], 64, 4096, width=lambda tokens: 32, start_cost=1)
    assert [len(batch) for batch in found] == [4]


def test_only_so_many_texts_are_made_into_a_batch_as_the_engine_likes() -> None:
    found = [
        batch.tolist()
        for batch in batches([5] * 13, 64, 4096, rows=lambda texts: min(texts, 8) // 4 * 4 or 1)
    ]
    assert [len(batch) for batch in found] == [8, 4, 1]
    assert [i for batch in found for i in batch] == list(range(13))
