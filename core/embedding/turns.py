"""Turns at an engine: one at a time, queries before the next batch of documents, and none during a fork."""

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet


class Turns:
    """A lock that lets urgent callers in first. A batch that runs is never interrupted.

    A fork waits until every turn of the process is given back: what a turn is held for (an engine's memory,
    the locks of its library) would be cut in two, and never be whole again in the child.
    """

    _changed: threading.Condition
    _holder: int | None  # thread that has the turn
    _urgent: int  # callers in a hurry that wait

    def __init__(self) -> None:
        self.renew(held=False)
        _watch_forks()
        with _registry:
            _all.add(self)

    @contextmanager
    def turn(self, *, urgent: bool = False) -> Iterator[None]:
        """Wait for a turn, and hold it."""
        self.take(urgent=urgent)
        try:
            yield
        finally:
            self.give_back()

    def take(self, *, urgent: bool) -> None:
        """Wait for a turn; `give_back` must follow."""
        with self._changed:
            self._urgent += urgent
            try:
                self._changed.wait_for(lambda: not self._holder and (urgent or not self._urgent))
            except BaseException:  # of another thread's making, such as a time-out's
                self._changed.notify_all()  # perhaps it was woken in another's place
                raise
            finally:
                self._urgent -= urgent
            self._holder = threading.get_ident()

    def give_back(self) -> None:
        """End the turn."""
        with self._changed:
            self._holder = None
            self._changed.notify_all()

    def held_here(self) -> bool:
        """Whether this thread holds the turn."""
        return self._holder == threading.get_ident()

    def renew(self, *, held: bool) -> None:
        """Without any other thread: all of them are gone in a forked child."""
        self._changed = threading.Condition(threading.Lock())
        self._holder = threading.get_ident() if held else None
        self._urgent = 0


_all: WeakSet[Turns] = WeakSet()
_registry = threading.Lock()  # of _all; kept during a fork, so that no turn begins then
_forking = threading.Lock()  # one thread at a time
_taken: list[Turns] = []  # for the fork that is under way


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_take_all, after_in_parent=_go_on, after_in_child=_start_anew)


def _take_all() -> None:
    _forking.acquire()
    while True:
        _registry.acquire()
        others = [turns for turns in _all if turns not in _taken and not turns.held_here()]
        if not others:
            return
        _registry.release()  # what is waited for may need new ones
        for turns in others:
            turns.take(urgent=True)
            _taken.append(turns)


def _go_on() -> None:
    while _taken:
        _taken.pop().give_back()
    _registry.release()
    _forking.release()


def _start_anew() -> None:
    for turns in _all:
        turns.renew(held=turns.held_here() and turns not in _taken)
    _taken.clear()
    _registry.release()
    _forking.release()
