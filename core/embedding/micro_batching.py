"""Single texts that arrive while the engine is busy run as one batch next; an idle engine starts at once."""

import atexit
import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from emb_model_provider.core.embedding.texts import ROLES, check_role, check_texts
from emb_model_provider.core.errors import ConfigError, ModelLoadError

if TYPE_CHECKING:
    from emb_model_provider.core.embedding.description import Role
    from emb_model_provider.core.embedding.pooling import Floats

_LAST_BATCH = 30.0  # seconds that the end of a program waits for a batch, or for a model that is loading

Embed = Callable[[Sequence[str], "Role"], "Floats"]


class _Request(NamedTuple):
    text: str
    role: "Role"
    future: "Future[Floats]"
    embed: Embed


_Requests = queue.SimpleQueue[_Request | None]  # None: no more will come


class MicroBatcher:
    """One thread that embeds the single texts of many callers; it ends when this object is let go.

    Nothing waits for a batch to fill: what has come in while the last batch ran is the next one.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._guard = threading.Lock()
        self._waiting: _Requests | None = None

    def submit(self, text: str, role: "Role") -> "Future[Floats]":
        """Ask for one text's vector: float32 (dimension,). Cancelling is safe at any time.

        Raises:
            EmbeddingInputError: The text or the role cannot be; at once, so that it spoils no one's batch.
        """
        check_texts([text])
        check_role(role)
        future: Future[Floats] = Future()
        with self._guard:
            if self._waiting is None:
                self._waiting = self._start()
            self._waiting.put(_Request(text, role, future, self._embed))
        return future

    def _start(self) -> _Requests:
        waiting: _Requests = queue.SimpleQueue()
        # The thread knows only the queue, so that it keeps neither this object nor a model alive.
        thread = threading.Thread(target=_run, args=(waiting,), name="embedding-queries", daemon=True)
        thread.start()
        weakref.finalize(self, waiting.put, None)
        _watch_the_end()
        _at_work[thread] = waiting
        return waiting


_at_work: WeakKeyDictionary[threading.Thread, _Requests] = WeakKeyDictionary()


@functools.cache
def _watch_the_end() -> None:
    """Python aborts when it ends while a daemon thread is in an engine: have each finish its batch."""
    atexit.register(_end_all)


def _end_all() -> None:
    threads = dict(_at_work)
    for waiting in threads.values():
        waiting.put(None)
    end = time.monotonic() + _LAST_BATCH
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _run(waiting: _Requests) -> None:
    while _answer_next(waiting):
        pass


def _answer_next(waiting: _Requests) -> bool:
    """Wait for requests and answer all there are; whether more may come."""
    requests = [waiting.get()]
    while not waiting.empty():
        requests.append(waiting.get())
    for role in ROLES:
        live = [r for r in requests if r and r.role == role and r.future.set_running_or_notify_cancel()]
        if live:
            _answer(live, role)
    return None not in requests


def _answer(requests: list[_Request], role: "Role") -> None:
    try:
        vectors = requests[0].embed([request.text for request in requests], role)
    except BaseException as error:  # noqa: BLE001 - handed to the callers that wait for it
        if len(requests) == 1 or isinstance(error, ModelLoadError | ConfigError):
            for request in requests:
                request.future.set_exception(error)
            return
        for request in requests:  # one text's failure is not its neighbours'
            _answer([request], role)
        return
    for request, vector in zip(requests, vectors, strict=True):
        request.future.set_result(vector)
