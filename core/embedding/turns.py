"""Turns at an engine: one forward pass at a time, and a single query before the next batch of a list."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that lets urgent callers in first. A batch that runs is never interrupted."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._busy = False
        self._urgent = 0  # callers in a hurry that wait

    @contextmanager
    def turn(self, *, urgent: bool) -> Iterator[None]:
        """Wait for a turn, and hold it."""
        with self._changed:
            self._urgent += urgent
            try:
                self._changed.wait_for(lambda: not self._busy and (urgent or not self._urgent))
            finally:
                self._urgent -= urgent
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
