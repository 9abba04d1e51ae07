"""What runs in the child process of a download: list, check the list, fetch, verify.

The hubs' clients read their time-outs at import, keep one client for the whole process and cannot be
interrupted. In a process of its own all of that is scoped: `download.py` gives it its environment,
watches it and ends it. It is told what to do in JSON on stdin, and tells what happens in lines of JSON.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from emb_model_provider.core.embedding.file_hashes import git_sha1_of, sha256_of
from emb_model_provider.core.errors import HubConnectionError, ModelFilesError, ModelLoadError
from emb_model_provider.core.loaders.file_list import FileList, HubFile, needed_files

TRIES = 3  # of a list that the hub answers with "try again"


@dataclass(frozen=True)
class Request:
    """What to download.

    Attributes:
        source: `huggingface` or `modelscope`.
        repo_id: `owner/name`.
        revision: A branch, tag or commit.
        endpoint: The hub's address.
        token: For private repositories; None for what the client finds itself.
        cache_dir: The client's cache folder.
        connect_timeout: Seconds until the list must be there.
        allow_pickle_weights: Whether pickled weights will do where there are no others.
    """

    source: str
    repo_id: str
    revision: str
    endpoint: str
    token: str | None = field(repr=False)
    cache_dir: str
    connect_timeout: float
    allow_pickle_weights: bool

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision} on {self.endpoint}"


class HubClient(Protocol):
    """A hub's own client, with its errors turned into ours.

    Attributes:
        token: The token in use: the Request's, else what the client found; None for none.
    """

    token: str | None

    def list_files(self) -> FileList:
        """The files of the repository."""
        ...

    def fetch(self, listed: FileList, files: Sequence[HubFile], received: Callable[[int], None]) -> Path:
        """The folder that holds the files; `received` is told of bytes as they come."""
        ...

    def discard(self, folder: Path, file: HubFile) -> None:
        """Remove a damaged file, so that the next fetch gets it again."""
        ...

    def finish(self, folder: Path, listed: FileList) -> None:
        """Mark the verified folder as the revision's."""
        ...


class Events:
    """Lines of JSON to the parent.

    Attributes:
        secrets: The tokens that no message may hold.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.secrets: set[str] = set()

    def send(self, **event: Any) -> None:
        """Tell the parent."""
        with self._lock:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()

    def fail(self, kind: type[ModelLoadError], message: str) -> None:
        """Tell the parent which error to raise."""
        self.send(failed=kind.__name__, message=redacted(message, self.secrets))

    def received(self, size: int) -> None:
        """Tell that bytes have come, or with 0 that work goes on."""
        self.send(received=size)


def main() -> None:
    """Read a Request from stdin and carry it out; end when the parent does, which closes stdin."""
    events = Events(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # what a client prints must not end up among the events
    request = Request(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    events.secrets.update(known_secrets(request))
    try:
        client = _client(request)
        events.secrets.update({client.token} if client.token else ())
        events.send(started=True)
        run(request, client, events)
    except ModelLoadError as error:
        events.fail(type(error), str(error))
    except Exception:  # noqa: BLE001 - a bug: told in full, but without the token
        events.fail(ModelLoadError, f"The download of {request} failed:\n{traceback.format_exc()}")


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def known_secrets(request: Request) -> set[str]:
    """The tokens that a message may hold: hubs and clients repeat what was sent."""
    found = (request.token, os.getenv("HF_TOKEN"), os.getenv("MODELSCOPE_API_TOKEN"))
    return {token.strip() for token in found if token and token.strip()}


def redacted(text: str, secrets: Iterable[str]) -> str:
    """A text with `[token]` in place of each secret."""
    for secret in secrets:
        text = text.replace(secret, "[token]")
    return text


def run(request: Request, client: HubClient, events: Events) -> None:
    """List, check, fetch and verify; a file with wrong bytes is fetched once more.

    Raises:
        ModelLoadError: What failed, on what.
    """
    listed = _list_patiently(request, client)
    files = needed_files(listed.files, str(request), allow_pickle_weights=request.allow_pickle_weights)
    events.send(listed=[asdict(f) for f in files], revision=listed.revision)
    for last in (False, True):
        folder = client.fetch(listed, files, events.received)
        damaged = [f for f in files if not _is_announced(folder / f.path, f, events)]
        if not damaged:
            break
        for file in damaged:
            client.discard(folder, file)
        if last:
            raise ModelFilesError(
                f"{damaged[0].path} of {request} came twice with other bytes than the hub announced. "
                "Something between here and the hub changes files, or the hub's copy is damaged: try again "
                "later, or the other hub."
            )
    client.finish(folder, listed)
    hashes = {f.path: f.sha256 or sha256_of(folder / f.path) for f in files}
    events.send(folder=str(folder), hashes=hashes)


def _client(request: Request) -> HubClient:
    if request.source == "huggingface":
        from emb_model_provider.core.loaders.huggingface_client import HuggingFaceClient

        return HuggingFaceClient(request)
    from emb_model_provider.core.loaders.modelscope_client import ModelScopeClient

    return ModelScopeClient(request)


def _list_patiently(request: Request, client: HubClient) -> FileList:
    """Ask again where the hub says so, while there is time."""
    end = time.monotonic() + request.connect_timeout
    for attempt in range(1, TRIES + 1):
        try:
            return client.list_files()
        except HubConnectionError as error:
            wait = error.retry_after
            if wait is None or attempt == TRIES or time.monotonic() + wait >= end:
                raise
            time.sleep(wait)
    raise AssertionError("unreachable")


def _is_announced(path: Path, file: HubFile, events: Events) -> bool:
    if not path.is_file():
        return False
    if file.sha256 is not None:
        return sha256_of(path, lambda: events.received(0)) == file.sha256
    if file.git_sha1 is not None:
        return git_sha1_of(path) == file.git_sha1
    return path.stat().st_size == file.size
