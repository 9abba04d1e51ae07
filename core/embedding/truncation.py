"""What happens to texts that are longer than the model takes: counted, told of once, or refused."""

import logging
import threading
from collections.abc import Mapping
from typing import Literal

from emb_model_provider.core.errors import TextValueError

logger = logging.getLogger(__name__)

Policy = Literal["warn", "error", "ignore"]


class TruncationWatch:
    """Counts the texts of one model that are cut. Thread-safe.

    Attributes:
        policy: `warn` logs one warning in all, `error` refuses, `ignore` does not even count.
        truncated: How many texts were cut so far.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.truncated = 0
        self._guard = threading.Lock()

    def report(self, lengths: Mapping[int, int], limit: int, texts: int) -> None:
        """Take note of the texts of one call that are too long, before any of them is computed.

        Args:
            lengths: Tokens of each text that is too long, by its index.
            limit: Tokens that are kept.
            texts: How many texts the call has.

        Raises:
            TextValueError: The policy is `error`.
        """
        if not lengths:
            return
        if self.policy == "error":
            index = min(lengths)
            raise TextValueError(
                f"Text {index} has {lengths[index]} tokens, more than the limit of {limit}; {len(lengths)} "
                f"of {texts} texts are too long. Split them, or set on_truncation "
                "(EMB_PROVIDER_ON_TRUNCATION) to warn or ignore."
            )
        with self._guard:
            is_first = not self.truncated
            self.truncated += len(lengths)
        if is_first:
            logger.warning(
                "%d of %d texts were cut to the limit of %d tokens; the longest has %d. Split long texts, or "
                "set EMB_PROVIDER_ON_TRUNCATION=error. Later cuts are counted without a warning.",
                len(lengths),
                texts,
                limit,
                max(lengths.values()),
            )
