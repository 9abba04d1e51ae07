"""Two local model hubs for tests: the HTTP answers of Hugging Face and ModelScope on 127.0.0.1.

    with HuggingFaceHub() as hub:
        hub.add_model("org/name", folder)
        hub.fault("500", match="model.safetensors", times=1)
        ...  # the real client, endpoint=hub.url
        assert hub.count("/resolve/", "GET") == 3

`FAULTS` of each hub lists the faults it knows. `Request.path`, and with it `match` and `count`, is
the decoded path with its query: `a/b.json`, not `a%2Fb.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from socket import SHUT_RDWR, socket
from socketserver import BaseRequestHandler
from threading import Condition, Event, Thread
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".onnx")
INFO: dict[str, Any] = {
    **{"_id": "0" * 24, "disabled": False, "downloads": 0, "likes": 0, "tags": []},
    **{"pipeline_tag": "sentence-similarity", "library_name": "sentence-transformers"},
    **dict.fromkeys(["createdAt", "lastModified"], "2025-01-01T00:00:00.000Z"),
}
ANSWER_FAULTS = {  # kind -> HTTP status, Hugging Face's X-Error-Code
    "404": (404, "RepoNotFound"),
    "unknown-revision": (404, "RevisionNotFound"),
    "401": (401, "RepoNotFound"),
    "401-nocode": (401, ""),
    "403": (403, ""),
    "gated": (403, "GatedRepo"),
    "429": (429, ""),
    "500": (500, ""),
    "503": (503, ""),
    "html": (200, ""),
}
LIST_FAULTS = {"empty-list", "no-sha256", "wrong-sha256", "success-false"}
FILE_FAULTS = {"no-entry", "no-etag", "no-commit"}
BODY_FAULTS = {"cut", "short", "wrong-bytes", "stall", "slow"}


@dataclass(frozen=True)
class Request:
    """One request as received: `path` decoded, `target` as sent, header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    target: str = field(repr=False)

    @property
    def token(self) -> str | None:
        """The bearer token, None for an anonymous request."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None


@dataclass(frozen=True)
class Answer:
    """One answer before body faults and `Range` are applied."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Fault:
    """A fault that is switched on; `left` is None for one that never ends."""

    kind: str
    match: str
    method: str | None
    left: int | None
    retry_after: int
    seconds: float


@dataclass(frozen=True)
class File:
    """A file as listed when it was added; its bytes are read from `source` at each request."""

    path: str
    source: Path | bytes
    size: int
    sha256: str
    git_sha1: str

    @classmethod
    def of(cls, path: str, source: Path | bytes) -> File:
        """Measure and hash `source`."""
        data = source if isinstance(source, bytes) else source.read_bytes()
        sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        return cls(path, source, len(data), hashlib.sha256(data).hexdigest(), sha1)

    @property
    def lfs(self) -> bool:
        return self.path.endswith(LFS_SUFFIXES)

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True)
class Snapshot:
    """The files of one revision."""

    branch: str
    sha: str
    files: dict[str, File]

    def entries(self, folder: str, *, recursive: bool) -> Iterator[tuple[str, File | None]]:
        """The folders (None) and files below `folder`, folders first."""
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        below = {path: file for path, file in self.files.items() if path.startswith(prefix)}
        parents = {parent.as_posix() for path in below for parent in PurePosixPath(path).parents}
        entries: dict[str, File | None] = dict.fromkeys(sorted(parents - {"."})) | below
        for path, file in entries.items():
            rest = path.removeprefix(prefix)
            if path.startswith(prefix) and (recursive or "/" not in rest):
                yield path, file


@dataclass
class Model:
    """A repository. `snapshots` has every revision under its branch name and under its sha."""

    token: str | None = None
    gated: bool = False
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    extra_entries: list[dict[str, Any]] = field(default_factory=list)
    extra_files: dict[str, File] = field(default_factory=dict)
    lies: set[str] = field(default_factory=set)
    unhashed: set[str] = field(default_factory=set)

    def sha256(self, file: File, fault: Fault | None) -> str | None:
        """The sha256 that the list states for `file`."""
        if file.path in self.unhashed or (fault and fault.kind == "no-sha256"):
            return None
        if file.path in self.lies or (fault and fault.kind == "wrong-sha256"):
            return hashlib.sha256(file.sha256.encode()).hexdigest()
        return file.sha256


class _LocalServer(ThreadingHTTPServer):
    """Serves on a free port of 127.0.0.1; leaving its `with` ends it at once, whatever it does."""

    daemon_threads = True
    request_queue_size = 128  # a full queue costs a client a second

    def __init__(self, handler: type[BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.closing = Event()
        self.connections = 0
        self._open: set[socket] = set()
        self._changed = Condition()
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def wait_until(self, happened: Callable[[], object], timeout: float = 30) -> None:
        """Block until `happened()`, asked again after each connection and request."""
        with self._changed:
            if not self._changed.wait_for(happened, timeout):
                raise TimeoutError

    def __exit__(self, *exc_info: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._open:  # else a kept-alive connection would still be answered
                with suppress(OSError):  # the client may have hung up already
                    connection.shutdown(SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self.connections += 1
            self._open.add(request)
            self._changed.notify_all()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report everything but clients that hang up: tests do that on purpose."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _SilentHandler(BaseRequestHandler):
    server: SilentServer

    def handle(self) -> None:
        self.server.closing.wait()


class SilentServer(_LocalServer):
    """Accepts TCP connections and never answers; `connections` counts them."""

    def __init__(self) -> None:
        super().__init__(_SilentHandler)


def refused_url() -> str:
    """An address on which nothing listens."""
    return "http://127.0.0.1:1"  # never handed out as a free port, unlike one that was just closed


class _RefusedError(Exception):
    """What the hub says instead of an answer."""

    def __init__(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, code)
        self.status, self.code, self.headers = status, code, dict(headers or {})


class _HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two writes: else 40 ms for each answer
    server: _Hub

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(self.path), headers, self.path)
        self.server.record(request)
        if self.server.take_fault(request, {"silent"}):
            self._wait_for_the_end()
            return
        answer = self.server.answer(request)
        fault = self.server.take_fault(request, BODY_FAULTS) if self.command == "GET" else None
        if fault and fault.kind == "short":
            answer = replace(answer, body=answer.body[: len(answer.body) // 2])
        elif fault and fault.kind == "wrong-bytes":  # weights stay loadable: only a tensor changes
            last = bytes(byte ^ 1 for byte in answer.body[-1:])
            answer = replace(answer, body=answer.body[:-1] + last)
        self._send(_select_range(answer, headers.get("range", "")), fault)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        body = b"" if self.command == "HEAD" else answer.body
        if fault and fault.kind in ("cut", "stall"):
            self.wfile.write(body[: len(body) // 2])
            if fault.kind == "stall":
                self._wait_for_the_end()
            self.close_connection = True
        elif fault and fault.kind == "slow":
            step = max(1, len(body) // 20)
            for start in range(0, len(body), step):
                if self.server.closing.wait(fault.seconds / 20):
                    return
                self.wfile.write(body[start : start + step])
        else:
            self.wfile.write(body)

    def _wait_for_the_end(self) -> None:
        self.server.closing.wait()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """`requests` is the log."""


def _select_range(answer: Answer, wanted: str) -> Answer:
    """Cut the answer to a `bytes=first-[last]` request."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
    if not match or "Accept-Ranges" not in answer.headers:
        return answer
    size, first = len(answer.body), int(match[1])
    if first >= size:
        return Answer(416, {"Content-Range": f"bytes */{size}"}, b"")
    last = min(int(match[2] or size), size - 1)
    headers = answer.headers | {"Content-Range": f"bytes {first}-{last}/{size}"}
    return Answer(206, headers, answer.body[first : last + 1])


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    headers = {"Content-Type": "application/json", **(headers or {})}
    return Answer(status, headers, json.dumps(content).encode())


class _Hub(_LocalServer):
    """What both hubs share: repositories, faults and the list of requests."""

    DEFAULT_REVISION: ClassVar[str]
    FAULTS: ClassVar[frozenset[str]] = frozenset(
        {"silent", "no-entry", "empty-list", "no-sha256", "wrong-sha256", *ANSWER_FAULTS, *BODY_FAULTS}
    )
    ANONYMOUS_STATUS: ClassVar[dict[str, int]]  # error code -> status for requests without a token

    def __init__(self) -> None:
        super().__init__(_HubHandler)
        self.requests: list[Request] = []
        self._models: dict[str, Model] = {}
        self._faults: list[Fault] = []

    def add_model(
        self,
        repo_id: str,
        folder: Path,
        revision: str | None = None,
        private_token: str | None = None,
        gated: bool = False,
        exclude: Iterable[str] = (),
    ) -> str:
        """Serve the files of `folder`; again for the same id, add or move one revision.

        Args:
            repo_id: The id, `owner/name`.
            folder: The files. Lists are made now, bytes are read at each request.
            revision: The branch, by default the hub's own default branch.
            private_token: The one token that sees the repository; with `gated`, the one token
                whose owner has accepted the licence.
            gated: Whether everybody sees the list but not the files.
            exclude: Patterns of files to leave out, as in `fnmatch`.

        Returns:
            The commit, a 40-hex sha that depends on the content alone.
        """
        patterns = list(exclude)
        paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        kept = [path for path in paths if not any(fnmatch(path, p) for p in patterns)]
        files = {path: File.of(path, folder / path) for path in kept}
        listing = "".join(f"{file.git_sha1} {path}\n" for path, file in files.items())
        sha = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
        branch = revision or self.DEFAULT_REVISION
        model = self._models.setdefault(repo_id, Model())
        model.token, model.gated = private_token, gated
        model.snapshots[branch] = model.snapshots[sha] = Snapshot(branch, sha, files)
        return sha

    def listed_extra(self, repo_id: str, entries: Iterable[dict[str, Any]], content: bytes = b"") -> None:
        """Append raw `entries` to the file list; asked for, each of them has `content`.

        Args:
            repo_id: A model that was added.
            entries: `{"rfilename": ...}` on Hugging Face, `{"Path": ...}` on ModelScope, and more.
            content: The bytes of those files.
        """
        model = self._models[repo_id]
        for entry in entries:
            path = entry["Path"] if "Path" in entry else entry["rfilename"]
            model.extra_entries.append(entry)
            model.extra_files[path] = File.of(path, content)

    def lie_about_sha256(self, repo_id: str, path: str) -> None:
        """List another sha256 than the bytes of the file have."""
        self._models[repo_id].lies.add(path)

    def drop_sha256(self, repo_id: str, path: str) -> None:
        """List the file without its sha256."""
        self._models[repo_id].unhashed.add(path)

    def fault(
        self,
        kind: str,
        match: str = "",
        method: str | None = None,
        times: int | None = None,
        *,
        retry_after: int = 1,
        seconds: float = 1.0,
    ) -> None:
        """Switch a fault on. A request meets the oldest live fault that fits it.

        Args:
            kind: One of `FAULTS`.
            match: Only requests whose path contains this.
            method: Only requests with this method.
            times: Only the first n such requests.
            retry_after: The header of `429`.
            seconds: How long a `slow` body takes.
        """
        if kind not in self.FAULTS:
            raise ValueError(f"no fault {kind!r}: one of {', '.join(sorted(self.FAULTS))}")
        self._faults.append(Fault(kind, match, method, times, retry_after, seconds))

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._faults.clear()

    def count(self, substring: str, method: str | None = None) -> int:
        """The number of requests whose path contains `substring`."""
        return sum(
            substring in request.path and method in (None, request.method) for request in list(self.requests)
        )

    def record(self, request: Request) -> None:
        """Append to `requests`."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def take_fault(self, request: Request, kinds: Iterable[str]) -> Fault | None:
        """The fault of one of these kinds that the request meets, counted as met."""
        with self._changed:
            for fault in self._faults:
                if (
                    fault.kind in kinds
                    and fault.match in request.path
                    and fault.method in (None, request.method)
                    and fault.left != 0
                ):
                    fault.left = fault.left and fault.left - 1
                    return fault
        return None

    def answer(self, request: Request) -> Answer:
        """The answer to `request`, or the error of a fault in its place."""
        fault = self.take_fault(request, ANSWER_FAULTS)
        if fault and fault.kind == "html":
            page = b"<!doctype html><html><body>Please log in to this network.</body></html>"
            return Answer(200, {"Content-Type": "text/html; charset=utf-8"}, page)
        try:
            if fault is None:
                return self._route(request, urlsplit(request.target))
            status, code = ANSWER_FAULTS[fault.kind]
            if fault.kind == "gated":
                raise self._refusal(request, status, code)
            waiting = {"Retry-After": str(fault.retry_after)} if status == 429 else None
            raise _RefusedError(status, code, waiting)
        except _RefusedError as error:
            return self._error(error)

    def _refusal(self, request: Request, status: int, code: str) -> _RefusedError:
        if request.token is None:
            status = self.ANONYMOUS_STATUS.get(code, status)
        return _RefusedError(status, code)

    def _find(self, request: Request, repo_id: str, revision: str) -> tuple[Model, Snapshot]:
        model = self._models.get(repo_id)
        hidden = model and model.token and not model.gated and request.token != model.token
        if model is None or hidden:
            raise self._refusal(request, 404, "RepoNotFound")
        if revision not in model.snapshots:
            raise _RefusedError(404, "RevisionNotFound")
        return model, model.snapshots[revision]

    def _file(self, request: Request, repo_id: str, revision: str, path: str) -> Answer:
        model, snapshot = self._find(request, repo_id, revision)
        if model.gated and (model.token is None or request.token != model.token):
            raise self._refusal(request, 403, "GatedRepo")
        fault = self.take_fault(request, FILE_FAULTS)
        file = snapshot.files.get(path) or model.extra_files.get(path)
        if file is None or (fault and fault.kind == "no-entry"):
            raise _RefusedError(404, "EntryNotFound", {"X-Repo-Commit": snapshot.sha})
        headers = {"Accept-Ranges": "bytes", **self._file_headers(snapshot, file)}
        if fault:
            lost = {"X-Repo-Commit"} if fault.kind == "no-commit" else {"ETag", "X-Linked-Etag"}
            headers = {name: headers[name] for name in headers.keys() - lost}
        return Answer(200, headers, file.read())

    def _route(self, request: Request, url: SplitResult) -> Answer:
        raise NotImplementedError

    def _error(self, error: _RefusedError) -> Answer:
        raise NotImplementedError

    def _file_headers(self, snapshot: Snapshot, file: File) -> dict[str, str]:
        raise NotImplementedError


class HuggingFaceHub(_Hub):
    """Hugging Face: the model API, the tree API and file downloads without xet."""

    DEFAULT_REVISION = "main"
    FAULTS = _Hub.FAULTS | {"no-etag", "no-commit"}
    ANONYMOUS_STATUS: ClassVar[dict[str, int]] = {"RepoNotFound": 401, "GatedRepo": 401}
    FILE_ROUTE = re.compile(r"/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
    API_ROUTE = re.compile(r"/api/models/([^/]+(?:/[^/]+)?)(?:/(revision|tree)/([^/]+)(/.*)?)?")

    def _route(self, request: Request, url: SplitResult) -> Answer:
        query = parse_qs(url.query)
        if url.path == "/api/agent-harnesses":
            return _json({"standardEnvVars": [], "harnesses": {}})
        if match := self.FILE_ROUTE.fullmatch(url.path):
            return self._file(request, *map(unquote, match.groups()))
        if not (match := self.API_ROUTE.fullmatch(url.path)):
            raise _RefusedError(404, "")
        repo_id, api, revision, folder = (unquote(part or "") for part in match.groups())
        model, snapshot = self._find(request, repo_id, revision or self.DEFAULT_REVISION)
        fault = self.take_fault(request, LIST_FAULTS)
        if api == "tree":
            recursive = query.get("recursive", [""])[0].lower() == "true"
            return _json(self._tree(model, snapshot, folder, recursive, fault))
        siblings = [self._sibling(model, file, fault) for file in snapshot.files.values()]
        siblings += model.extra_entries
        if query.get("blobs", [""])[0].lower() != "true":
            siblings = [{"rfilename": sibling["rfilename"]} for sibling in siblings]
        info = INFO | {"id": repo_id, "modelId": repo_id, "sha": snapshot.sha}
        info["private"] = bool(model.token) and not model.gated
        info["gated"] = "auto" if model.gated else False
        info["siblings"] = [] if fault and fault.kind == "empty-list" else siblings
        return _json(info)

    @staticmethod
    def _sibling(model: Model, file: File, fault: Fault | None) -> dict[str, Any]:
        entry = {"rfilename": file.path, "size": file.size, "blobId": file.git_sha1}
        sha256 = model.sha256(file, fault) if file.lfs else None
        lfs = {"sha256": sha256, "size": file.size, "pointerSize": 134}
        return entry | ({"lfs": lfs} if sha256 else {})

    def _tree(
        self, model: Model, snapshot: Snapshot, folder: str, recursive: bool, fault: Fault | None
    ) -> list[dict[str, Any]]:
        if fault and fault.kind == "empty-list":
            return []
        tree: list[dict[str, Any]] = []
        siblings: list[dict[str, Any]] = []
        for path, file in snapshot.entries(folder, recursive=recursive):
            if file:
                siblings.append(self._sibling(model, file, fault))
            else:
                tree.append({"type": "directory", "path": path, "size": 0, "oid": snapshot.sha})
        if folder.strip("/") and not tree + siblings:
            raise _RefusedError(404, "EntryNotFound", {"X-Repo-Commit": snapshot.sha})
        for entry in siblings + model.extra_entries:
            size, oid = entry.get("size", 0), entry.get("blobId", "0" * 40)
            tree.append({"type": "file", "path": entry["rfilename"], "size": size, "oid": oid})
            if lfs := entry.get("lfs"):
                tree[-1]["lfs"] = {"oid": lfs["sha256"], "size": size, "pointerSize": 134}
        return tree

    def _file_headers(self, snapshot: Snapshot, file: File) -> dict[str, str]:
        headers = {"X-Repo-Commit": snapshot.sha}
        if not file.lfs:
            return headers | {"ETag": f'"{file.git_sha1}"'}
        etag = f'"{file.sha256}"'
        return headers | {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(file.size)}

    def _error(self, error: _RefusedError) -> Answer:
        message = error.code or f"Error {error.status}"
        headers = error.headers | {"X-Error-Message": message}
        if error.code:
            headers["X-Error-Code"] = error.code
        return _json({"error": message}, error.status, headers)


class ModelScopeHub(_Hub):
    """ModelScope: the repository API, file lists and file downloads."""

    DEFAULT_REVISION = "master"
    FAULTS = _Hub.FAULTS | {"success-false"}
    ANONYMOUS_STATUS: ClassVar[dict[str, int]] = {}
    ROUTE = re.compile(r"/(openapi|api)/v1/models/([^/]+)/([^/]+)(/repo/files|/repo|/revisions)?")

    def _route(self, request: Request, url: SplitResult) -> Answer:
        if url.path == "/api/v1/repos/internalAccelerationInfo":
            return self._success({"InternalRegionQueryAddress": ""})
        if not (match := self.ROUTE.fullmatch(url.path)):
            raise _RefusedError(404, "")
        site, owner, name, part = (unquote(group or "") for group in match.groups())
        repo_id, query = f"{owner}/{name}", parse_qs(url.query)
        revision = query.get("Revision", [self.DEFAULT_REVISION])[0]
        if part == "/repo":
            return self._file(request, repo_id, revision, query.get("FilePath", [""])[0])
        model, snapshot = self._find(request, repo_id, revision)
        visibility = "private" if model.token and not model.gated else "public"
        if part == "/repo/files":
            recursive = query.get("Recursive", [""])[0].lower() == "true"
            folder = query.get("Root", [""])[0]
            fault = self.take_fault(request, LIST_FAULTS)
            return self._list(model, snapshot, folder, recursive, fault)
        if part == "/revisions":
            names = dict.fromkeys(found.branch for found in model.snapshots.values())
            branches = [{"Revision": branch, "CreatedAt": 0} for branch in names]
            return self._success({"RevisionMap": {"Branches": branches, "Tags": []}})
        if site == "openapi":
            card = {"id": repo_id, "name": name, "owner": owner, "visibility": visibility}
            card["default_branch"] = self.DEFAULT_REVISION
            return _json({"success": True, "request_id": "0", "data": card})
        card = {"Id": "1", "Name": name, "Path": owner, "Owner": owner, "Visibility": visibility}
        return self._success(card)

    def _list(
        self, model: Model, snapshot: Snapshot, folder: str, recursive: bool, fault: Fault | None
    ) -> Answer:
        if fault and fault.kind == "success-false":
            return _json({"Code": 200, "Success": False, "Message": "", "Data": None})
        files: list[dict[str, Any]] = []
        for path, file in snapshot.entries(folder, recursive=recursive):
            entry: dict[str, Any] = {
                "Name": path.rpartition("/")[2],
                "Path": path,
                "Type": "blob" if file else "tree",
                "Size": file.size if file else 0,
                "IsLFS": bool(file and file.lfs),
                "Revision": snapshot.sha,
                "CommittedDate": 0,
                "Mode": "33188" if file else "16384",
            }
            if file and (sha256 := model.sha256(file, fault)):
                entry["Sha256"] = sha256
            files.append(entry)
        files = [] if fault and fault.kind == "empty-list" else files + model.extra_entries
        return self._success({"Files": files, "LatestCommitter": {"Revision": snapshot.sha}})

    @staticmethod
    def _success(data: dict[str, Any]) -> Answer:
        body = {"Code": 200, "Success": True, "Message": "success", "RequestId": "0", "Data": data}
        return _json(body)

    def _file_headers(self, snapshot: Snapshot, file: File) -> dict[str, str]:
        return {"Content-Type": "application/octet-stream"}

    def _error(self, error: _RefusedError) -> Answer:
        message = error.code or f"Error {error.status}"
        body = {"Code": error.status, "Message": message, "RequestId": "0", "Success": False}
        return _json(body, error.status, error.headers)
