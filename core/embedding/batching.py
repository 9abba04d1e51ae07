"""Cuts a call's texts into batches of similar length."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from emb_model_provider.core.embedding.pooling import Integers


def batches(
    lengths: Sequence[int],
    max_batch_size: int,
    budget: int,
    padded: Callable[[int], int] = lambda length: length,
) -> Iterator[Integers]:
    """Indices of the texts of each batch, every text once, the longest first.

    Sorting by token count keeps padding small; the longest first finds a lack of memory at once. A batch
    holds at most `budget` tokens, padding included, but at least one text.

    Args:
        lengths: Tokens of each text.
        max_batch_size: Texts per batch at most.
        budget: Tokens per batch at most.
        padded: How long a batch is made whose longest text is so long.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        width = max(1, padded(lengths[order[start]]))
        size = min(max_batch_size, max(1, budget // width))
        yield order[start : start + size]
        start += size
