"""Downloads in a child process, watched: bounded waits, one download at a time, nothing left half done."""

import hashlib
import json
import logging
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from tqdm import tqdm

from emb_model_provider.core import errors
from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.file_hashes import FileHashes, write_atomically
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import HubConnectionError, ModelLoadError
from emb_model_provider.core.loaders.hub_errors import HUBS
from emb_model_provider.core.loaders.hub_process import Request, known_secrets, redacted

logger = logging.getLogger(__name__)

_START_TIMEOUT = 60.0  # seconds for a Python with the client imported, on a very busy machine

# Isolated (-I), so that nothing in the working folder is imported; then with this process's own path.
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from emb_model_provider.core.loaders.hub_process import main; main()"
)


def download(request: Request, config: Config) -> ModelFolder:
    """Fetch and verify a model's files, and remember their hashes.

    Waits at most `connect_timeout` seconds for the list of files, and `download_stall_timeout` without a
    byte. What has arrived stays, and the next call goes on from there as far as the hub's client can.

    Raises:
        ModelLoadError: The subclass says what failed; see hub_errors.py.
    """
    with _child(request, config) as child:
        result = _watch(child, request, config)
    folder = ModelFolder(
        Path(result["folder"]), request.source, request.repo_id, result.get("revision") or request.revision
    )
    FileHashes(folder, Path(config.cache_dir)).announce(result["hashes"])
    return folder


@contextmanager
def one_download_at_a_time(request: Request, config: Config) -> Iterator[None]:
    """Hold the lock of a repository among all processes and threads of the machine's user.

    Raises:
        ModelLoadError: The same download was under way and failed while this call waited for its lock. The
            last of many callers would otherwise wait for a silent hub as often as there are callers.
    """
    name = f"{request.source}--{request.repo_id.replace('/', '--')}"
    folder = Path(config.cache_dir) / "locks"
    failure = folder / f"{name}-{hashlib.sha256(json.dumps(asdict(request)).encode()).hexdigest()[:16]}.json"
    began = time.time()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        lock.acquire()
    except OSError as error:  # a read-only cache folder: the hubs' clients lock single files themselves
        logger.warning("No lock in %s (%s): several processes may download at once.", folder, error)
        yield
        return
    try:
        _raise_if_failed(failure, since=began)
        with _kept_for_others(failure):
            yield
    finally:
        lock.release()


def _raise_if_failed(failure: Path, since: float) -> None:
    try:
        record = json.loads(failure.read_text(encoding="utf-8"))
        error, late = getattr(errors, record["failed"])(record["message"]), record["time"] >= since
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # none, or one that cannot be read: this call finds out by itself
    if late:
        raise error


@contextmanager
def _kept_for_others(failure: Path) -> Iterator[None]:
    try:
        yield
    except ModelLoadError as error:
        record = {"failed": type(error).__name__, "message": str(error), "time": time.time()}
        with suppress(OSError):  # a full disk: those who wait find out by themselves
            write_atomically(failure, lambda path: path.write_text(json.dumps(record), encoding="utf-8"))
        raise
    with suppress(OSError):
        failure.unlink(missing_ok=True)


class _Child:
    """The download process: its events, and what it says when it ends without one."""

    def __init__(self, process: subprocess.Popen[str], stderr: IO[str], request: Request) -> None:
        self._process = process
        self._stderr = stderr
        self._request = request
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self, timeout: float, too_late: str, wanted: str | None = None) -> dict[str, Any]:
        """The next event.

        Args:
            timeout: Seconds to wait for it.
            too_late: The message of the HubConnectionError when it does not come in time.
            wanted: A key it must have.

        Raises:
            ModelLoadError: The event tells of a failure, or the process has ended.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            raise HubConnectionError(too_late) from None
        if event is None:
            code = self._process.wait()
            self._stderr.seek(0)
            said = redacted(self._stderr.read().strip()[-2000:], known_secrets(self._request))
            raise ModelLoadError(f"The download process of {self._request} ended with code {code}:\n{said}")
        if "failed" in event:
            raise getattr(errors, event["failed"])(event["message"])
        if wanted is not None and wanted not in event:
            raise ModelLoadError(f"The download process answered {event} where {wanted} was expected.")
        return event

    def _read(self) -> None:
        try:
            for line in self._process.stdout or ():
                self._events.put(json.loads(line))
        finally:
            self._events.put(None)


@contextmanager
def _child(request: Request, config: Config) -> Iterator[_Child]:
    path = json.dumps([entry for entry in sys.path if entry])
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _COMMAND, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(config),
            encoding="utf-8",
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it has ended already, and `next` says how
                process.stdin.write(json.dumps(asdict(request)) + "\n")
                process.stdin.flush()
            yield _Child(process, stderr, request)
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()  # not before: the child takes it for the end of this process
            process.stdout.close()


def _environment(config: Config) -> dict[str, str]:
    """The hubs' clients read these at import: here they hold for the child only."""
    connect = str(math.ceil(config.connect_timeout))
    # A third, so that a client can take up a lost connection before the download counts as stalled.
    read = str(max(1, math.ceil(config.download_stall_timeout / 3)))
    return {
        **os.environ,
        "HF_HUB_ETAG_TIMEOUT": connect,
        "HF_HUB_DOWNLOAD_TIMEOUT": read,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
        "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": connect,
        "MODELSCOPE_API_CONNECT_TIMEOUT": connect,
        "MODELSCOPE_DOWNLOAD_TIMEOUT": read,
        "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "2",
        "TQDM_DISABLE": "1",
    }


def _watch(child: _Child, request: Request, config: Config) -> dict[str, Any]:
    """Follow the child's events to the last; raise when the next is late."""
    hub = HUBS[request.source]
    what = f"Failed to download model {request.repo_id!r} from {hub.name}"
    child.next(_START_TIMEOUT, f"{what}: the download process did not start.", wanted="started")
    listed = child.next(
        config.connect_timeout + 0.5,  # the client's own time-out comes first and tells more
        f"{what}: {request.endpoint} did not answer within {config.connect_timeout:g} s. Check the network "
        f"and proxy, name a mirror in {hub.endpoint_variable}, raise connect_timeout "
        "(EMB_PROVIDER_CONNECT_TIMEOUT), or try the other hub.",
        wanted="listed",
    )
    stalled = (
        f"{what}: no byte came from {request.endpoint} for {config.download_stall_timeout:g} s. Try again to "
        "go on, raise download_stall_timeout (EMB_PROVIDER_DOWNLOAD_STALL_TIMEOUT), or try the other hub."
    )
    total = sum(file["size"] for file in listed["listed"])
    logger.info("Downloading %s: %d files, %.1f MB.", request, len(listed["listed"]), total / 1e6)
    last_byte = time.monotonic()
    with tqdm(total=total, unit="B", unit_scale=True, desc=request.repo_id, disable=None) as bar:
        while True:
            left = last_byte + config.download_stall_timeout - time.monotonic()
            event = child.next(max(0.0, left), stalled)
            if "folder" in event:
                return {**event, "revision": listed["revision"]}
            last_byte = time.monotonic()
            bar.update(event["received"])
