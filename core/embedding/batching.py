"""Cuts a call's texts into batches of similar length."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from emb_model_provider.core.embedding.pooling import Integers


def batches(
    lengths: Sequence[int],
    max_batch_size: int,
    budget: int,
    width: Callable[[int], int] = lambda tokens: tokens,
    rows: Callable[[int], int] = lambda texts: texts,
    start_cost: int = 0,
) -> Iterator[Integers]:
    """Indices of the texts of each batch, every text once, the longest first.

    Sorting by token count keeps padding small; the longest first finds a lack of memory at once. A batch
    holds at most `budget` tokens, padding included, but at least one text. It ends earlier where another
    batch costs less than the padding that it spares.

    Args:
        lengths: Tokens of each text.
        max_batch_size: Texts per batch at most.
        budget: Tokens per batch at most.
        width: How wide a batch is made whose longest text has so many tokens.
        rows: How many of so many texts are made into a batch.
        start_cost: Tokens that can be computed in the time that a batch takes to start.
    """
    if len(lengths) == 1:  # a query: nothing to sort
        yield np.zeros(1, dtype=np.int64)
        return
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    made = {length: max(1, width(length)) for length in set(lengths)}
    widths = np.array([made[lengths[i]] for i in order], dtype=np.int64)
    start = 0
    while start < len(order):
        size = min(max_batch_size, max(1, budget // int(widths[start])))
        size = rows(_together(widths[start : start + size], start_cost))
        yield order[start : start + size]
        start += size


def _together(widths: Integers, start_cost: int) -> int:
    """How many of a batch's texts, the longest first, are to be computed together."""
    spared = np.arange(len(widths), 0, -1) * (widths[0] - widths)  # tokens, by ending before each text
    cut = int(spared.argmax())
    return _together(widths[:cut], start_cost) if spared[cut] > start_cost else len(widths)
