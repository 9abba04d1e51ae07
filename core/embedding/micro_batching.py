"""Single texts that arrive while the engine is busy run as one batch next; an idle engine starts at once."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from emb_model_provider.core.embedding.model import Role, check_texts
from emb_model_provider.core.embedding.pooling import Floats

Embed = Callable[[Sequence[str], Role], Floats]
_Request = tuple[str, Role, "Future[Floats]"]


class MicroBatcher:
    """One thread that embeds the single texts of many callers.

    Nothing waits for a batch to fill: what has come in while the last batch ran is the next one.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._guard = threading.Lock()
        self._pid = 0  # of the process the thread runs in: a fork does not take it along
        self._waiting: queue.SimpleQueue[_Request] = queue.SimpleQueue()

    def submit(self, text: str, role: Role) -> "Future[Floats]":
        """Ask for one text's vector: float32 (dimension,). Cancelling is safe at any time.

        Raises:
            EmbeddingInputError: The text cannot be embedded; at once, so that it spoils no one's batch.
        """
        check_texts([text])
        future: Future[Floats] = Future()
        with self._guard:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._waiting = queue.SimpleQueue()
                threading.Thread(
                    target=self._run, args=(self._waiting,), name="embedding-queries", daemon=True
                ).start()
            self._waiting.put((text, role, future))
        return future

    def _run(self, waiting: "queue.SimpleQueue[_Request]") -> None:
        while True:
            requests = [waiting.get()]
            while not waiting.empty():
                requests.append(waiting.get())
            for role in ("query", "document"):
                live = [r for r in requests if r[1] == role and r[2].set_running_or_notify_cancel()]
                if live:
                    self._answer(live, role)

    def _answer(self, requests: list[_Request], role: Role) -> None:
        try:
            vectors = self._embed([text for text, _, _ in requests], role)
        except BaseException as error:  # noqa: BLE001 - handed to the caller that waits for it
            if len(requests) == 1:
                requests[0][2].set_exception(error)
                return
            for request in requests:  # one text's failure is not its neighbours'
                self._answer([request], role)
            return
        for (_, _, future), vector in zip(requests, vectors, strict=True):
            future.set_result(vector)
