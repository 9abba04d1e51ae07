"""Single texts of many callers share batches."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError

import numpy as np
import pytest

from emb_model_provider.core.embedding.micro_batching import MicroBatcher
from emb_model_provider.core.embedding.model import Role
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.errors import (
    HubConnectionError,
    NonFiniteEmbeddingError,
    TextTypeError,
    TextValueError,
)


class LengthModel:
    """A vector is the length of its text. The first batch is held until `open` is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], Role]] = []
        self.entered = threading.Event()
        self._opened = threading.Event()

    def __call__(self, texts: Sequence[str], role: Role) -> Floats:
        self.calls.append((list(texts), role))
        self.entered.set()
        assert self._opened.wait(60)
        if "unreachable" in texts:
            raise HubConnectionError("no answer")
        if "nan" in texts:
            raise NonFiniteEmbeddingError("not a number")
        return np.array([[len(text)] for text in texts], dtype=np.float32)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def model() -> Iterator[LengthModel]:
    model = LengthModel()
    yield model
    model.open()


def held(batcher: MicroBatcher, model: LengthModel) -> None:
    """Have the engine busy with one text, so that what comes next has to wait."""
    batcher.submit("busy", "query")
    assert model.entered.wait(60)


def test_an_idle_engine_starts_at_once(model: LengthModel) -> None:
    model.open()
    assert MicroBatcher(model).submit("four", "query").result(60).tolist() == [4.0]
    assert model.calls == [(["four"], "query")]


def test_texts_that_arrive_while_it_is_busy_are_the_next_batch_in_order(model: LengthModel) -> None:
    batcher = MicroBatcher(model)
    held(batcher, model)
    futures = [batcher.submit("x" * n, "query") for n in range(50)]
    model.open()
    assert [future.result(60).tolist() for future in futures] == [[float(n)] for n in range(50)]
    assert model.calls[1:] == [(["x" * n for n in range(50)], "query")]


def test_queries_and_documents_do_not_share_a_batch(model: LengthModel) -> None:
    batcher = MicroBatcher(model)
    held(batcher, model)
    document, query = batcher.submit("text", "document"), batcher.submit("question", "query")
    model.open()
    assert (document.result(60).tolist(), query.result(60).tolist()) == ([4.0], [8.0])
    assert model.calls[1:] == [(["question"], "query"), (["text"], "document")]


@pytest.mark.parametrize(("bad", "error"), [(None, TextTypeError), ("\ud800", TextValueError)])
def test_a_bad_text_is_refused_before_it_waits(model: LengthModel, bad: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="Text 0"):
        MicroBatcher(model).submit(bad, "query")
    assert model.calls == []


def test_an_unknown_role_is_refused_before_it_waits(model: LengthModel) -> None:
    with pytest.raises(TextValueError, match="Unknown role 'querys'"):
        MicroBatcher(model).submit("text", "querys")  # type: ignore[arg-type]
    assert model.calls == []


def test_one_text_that_fails_spoils_no_other(model: LengthModel) -> None:
    batcher = MicroBatcher(model)
    held(batcher, model)
    futures = [batcher.submit(text, "query") for text in ("good", "nan", "better")]
    model.open()
    assert futures[0].result(60).tolist() == [4.0]
    assert futures[2].result(60).tolist() == [6.0]
    with pytest.raises(NonFiniteEmbeddingError):
        futures[1].result(60)


def test_a_model_that_cannot_be_loaded_is_tried_once_for_the_whole_batch(model: LengthModel) -> None:
    batcher = MicroBatcher(model)
    held(batcher, model)
    futures = [batcher.submit(text, "query") for text in ("one", "unreachable", "three")]
    model.open()
    for future in futures:
        with pytest.raises(HubConnectionError):
            future.result(60)
    assert len(model.calls) == 2


def test_it_goes_on_after_a_failure(model: LengthModel) -> None:
    batcher = MicroBatcher(model)
    model.open()
    with pytest.raises(HubConnectionError):
        batcher.submit("unreachable", "query").result(60)
    assert batcher.submit("again", "query").result(60).tolist() == [5.0]


def test_a_cancelled_text_is_not_embedded_and_its_neighbours_are(model: LengthModel) -> None:
    batcher = MicroBatcher(model)
    held(batcher, model)
    cancelled, kept = batcher.submit("cancelled", "query"), batcher.submit("kept", "query")
    assert cancelled.cancel()
    model.open()
    assert kept.result(60).tolist() == [4.0]
    with pytest.raises(CancelledError):
        cancelled.result(60)
    assert model.calls[1:] == [(["kept"], "query")]


def test_a_text_being_embedded_cannot_be_cancelled(model: LengthModel) -> None:
    batcher = MicroBatcher(model)
    future = batcher.submit("busy", "query")
    assert model.entered.wait(60)
    assert not future.cancel()
    model.open()
    assert future.result(60).tolist() == [4.0]


def test_its_thread_ends_with_it_and_keeps_nothing_alive(model: LengthModel) -> None:
    model.open()
    before = set(threading.enumerate())
    batcher = MicroBatcher(model)
    batcher.submit("text", "query").result(60)
    (thread,) = set(threading.enumerate()) - before
    remembered = weakref.ref(batcher)
    del batcher
    gc.collect()
    assert remembered() is None
    thread.join(60)
    assert not thread.is_alive()


def test_a_pending_text_is_answered_though_the_batcher_is_gone(model: LengthModel) -> None:
    batcher = MicroBatcher(model)
    held(batcher, model)
    future = batcher.submit("pending", "query")
    del batcher
    model.open()
    assert future.result(60).tolist() == [7.0]


def test_the_end_of_a_program_waits_for_the_batch_that_runs() -> None:
    """Python would abort where a thread comes back from an engine too late."""
    program = """
import atexit, threading
import numpy as np
from emb_model_provider.core.embedding.micro_batching import MicroBatcher
running, proceed = threading.Event(), threading.Event()

def embed(texts, role):
    running.set()
    proceed.wait()
    print("computed", flush=True)
    return np.zeros((len(texts), 1), np.float32)

batcher = MicroBatcher(embed)
batcher.submit("text", "query")
running.wait()
atexit.register(proceed.set)  # the last that is registered is the first that is called
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "computed\n", "")


def test_a_program_ends_though_a_batcher_waits() -> None:
    program = """
import numpy as np
from emb_model_provider.core.embedding.micro_batching import MicroBatcher
batcher = MicroBatcher(lambda texts, role: np.zeros((len(texts), 1), np.float32))
print(batcher.submit("text", "query").result(60))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "[0.]\n", "")
