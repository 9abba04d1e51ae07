"""Turns: one at a time, urgent ones first, none lost, and none cut in two by a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emb_model_provider.core.embedding.turns import Turns


def wait_until(turns: Turns, holds: Callable[[], bool]) -> None:
    with turns._changed:
        while not holds():
            turns._changed.wait(0.01)  # lets go of the lock, so that others can come in


def test_an_interrupted_caller_passes_its_waking_on() -> None:
    turns, listed = Turns(), threading.Event()
    turns.take(urgent=False)

    def list_batch() -> None:
        turns.take(urgent=False)
        listed.set()

    waiting = threading.Thread(target=list_batch, daemon=True)
    waiting.start()
    wait = turns._changed.wait_for

    def interrupted(predicate: Callable[[], bool]) -> Any:
        wait(predicate)
        raise TimeoutError

    def query() -> None:
        with pytest.raises(TimeoutError):
            turns.take(urgent=True)

    wait_until(turns, lambda: bool(turns._changed._waiters))  # type: ignore[attr-defined]
    turns._changed.wait_for = interrupted  # type: ignore[assignment, method-assign]
    hurried = threading.Thread(target=query)
    hurried.start()
    wait_until(turns, lambda: bool(turns._urgent))
    turns.give_back()
    hurried.join(60)
    assert listed.wait(60)


def run(program: str, *arguments: str) -> list[str]:
    """What a program prints; it must end by itself."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


CHILD = """
import faulthandler, os, sys, threading
from emb_model_provider.core.lazy_model import LazyModel

def fork(lazy):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(60, exit=True)
        lazy.embed(["in", "the child"], "document")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

lazy = LazyModel(model_path=sys.argv[1], engine=sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("engine", ["openvino", "torch"])
class TestFork:
    def test_while_another_thread_embeds(self, toy_model: Path, engine: str) -> None:
        program = f"""{CHILD}
lazy.embed(["loaded"], "document")
ended = threading.Event()

def work():
    while not ended.is_set():
        lazy.embed([f"text {{n}} of some length" for n in range(50)], "document")

worker = threading.Thread(target=work)
worker.start()
for _ in range(8):
    fork(lazy)
ended.set()
worker.join()
"""
        assert run(program, str(toy_model), engine) == ["0"] * 8

    def test_while_another_thread_loads(self, toy_model: Path, engine: str) -> None:
        program = f"""{CHILD}
from emb_model_provider.core.embedding import loading

describe, started, go_on = loading._describe, threading.Event(), threading.Event()

def held(*arguments):
    started.set()
    go_on.wait()
    return describe(*arguments)

loading._describe = held
loader = threading.Thread(target=lazy.embed, args=(["loaded"], "document"))
loader.start()
started.wait()
os.register_at_fork(before=go_on.set)  # the last that is registered is the first that is called
fork(lazy)
loader.join()
"""
        assert run(program, str(toy_model), engine) == ["0"]

    def test_after_the_only_model_was_let_go(self, toy_model: Path, engine: str) -> None:
        program = f"""{CHILD}
for _ in range(2):
    LazyModel(model_path=sys.argv[1], engine=sys.argv[2]).embed(["loaded"], "document")
    fork(lazy)
"""
        assert run(program, str(toy_model), engine) == ["0", "0"]

    def test_in_a_turn_of_its_own_thread(self, toy_model: Path, engine: str) -> None:
        program = f"""{CHILD}
from emb_model_provider.core.embedding.turns import Turns

with Turns().turn():
    fork(lazy)
lazy.embed(["in the parent"], "document")
"""
        assert run(program, str(toy_model), engine) == ["0"]
