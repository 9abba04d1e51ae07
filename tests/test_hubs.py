"""The test hubs, driven by the real clients."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hubs import HuggingFaceHub, ModelScopeHub, SilentServer, refused_url
from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

ID = "org/tiny"
WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "modules.json": b"[]",
    "1_Pooling/config.json": b'{"pooling_mode": "mean"}',
    WEIGHTS: bytes(range(256)) * 16,
    "README.md": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a file in a sub-folder and an empty one."""
    for name, content in FILES.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "source"


def contents(folder: Path) -> dict[str, bytes]:
    """All files below `folder`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request without a client library between test and hub."""
    request = Request(url, method=method, headers=headers)
    try:
        with urlopen(request) as response:
            return response.status, dict(response.headers), response.read()
    except HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


class TestHuggingFaceHub:
    """huggingface_hub against `HuggingFaceHub`."""

    @pytest.fixture(autouse=True)
    def _own_home(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        registry = tmp_path / "harnesses.json"  # one that is fresh is not asked for at the real hub
        registry.write_text('{"standardEnvVars": [], "harnesses": {}}')
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(registry))

    @pytest.fixture
    def hub(self, folder: Path) -> Iterator[HuggingFaceHub]:
        with HuggingFaceHub() as hub:
            hub.add_model(ID, folder)
            yield hub

    def info(self, hub: HuggingFaceHub, token: str | bool = False, **kwargs: Any) -> Any:
        api = HfApi(endpoint=hub.url, token=token)
        return api.model_info(ID, files_metadata=True, timeout=5, **kwargs)

    def file(self, hub: HuggingFaceHub, name: str, cache: Path, **kwargs: Any) -> Path:
        options = {"token": False, "endpoint": hub.url, "cache_dir": cache, **kwargs}
        return Path(hf_hub_download(ID, name, **options))

    def snapshot(self, hub: HuggingFaceHub, cache: Path, **kwargs: Any) -> Path:
        options = {"token": False, "endpoint": hub.url, "cache_dir": cache, **kwargs}
        return Path(snapshot_download(ID, **options))

    def test_lists_sizes_and_hashes(self, hub: HuggingFaceHub) -> None:
        info = self.info(hub)
        assert {file.rfilename: file.size for file in info.siblings} == {
            name: len(content) for name, content in FILES.items()
        }
        hashes = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs}
        assert hashes == {WEIGHTS: hashlib.sha256(FILES[WEIGHTS]).hexdigest()}
        assert len(info.sha) == 40

    def test_snapshot_has_the_bytes(self, hub: HuggingFaceHub, tmp_path: Path) -> None:
        path = self.snapshot(hub, tmp_path / "cache")
        assert contents(path) == FILES
        assert hub.count("/resolve/", "HEAD") == len(FILES)
        assert hub.count("/resolve/", "GET") == len([name for name in FILES if FILES[name]])
        asked = len(hub.requests)
        weights = (path / WEIGHTS).resolve()
        assert weights.name == hashlib.sha256(FILES[WEIGHTS]).hexdigest()
        assert hub.requests[0].headers["host"] == hub.url.removeprefix("http://")

        assert self.snapshot(hub, tmp_path / "cache", revision=path.name) == path
        assert len(hub.requests) == asked

    def test_revisions_are_separate(self, hub: HuggingFaceHub, folder: Path, tmp_path: Path) -> None:
        old = self.info(hub).sha
        (folder / "config.json").write_bytes(b"{}")
        new = hub.add_model(ID, folder, revision="refs/pr/1", exclude=["*.md"])
        assert self.info(hub).sha == old != new
        assert self.info(hub, revision="refs/pr/1").sha == new
        path = self.snapshot(hub, tmp_path / "cache", revision="refs/pr/1")
        assert set(contents(path)) == set(FILES) - {"README.md"}

    def test_tree_lists_folders(self, hub: HuggingFaceHub) -> None:
        api = HfApi(endpoint=hub.url, token=False)
        flat = {entry.path for entry in api.list_repo_tree(ID)}
        assert flat == set(FILES) - {"1_Pooling/config.json"} | {"1_Pooling"}
        deep = {entry.path for entry in api.list_repo_tree(ID, recursive=True)}
        assert deep == set(FILES) | {"1_Pooling"}
        below = [entry.path for entry in api.list_repo_tree(ID, "1_Pooling")]
        assert below == ["1_Pooling/config.json"]
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(ID, "2_Normalize"))

    def test_absent_file_is_remembered(self, hub: HuggingFaceHub, tmp_path: Path) -> None:
        with pytest.raises(EntryNotFoundError):
            self.file(hub, "absent.json", tmp_path)
        sha = self.info(hub).sha
        absent = try_to_load_from_cache(ID, "absent.json", cache_dir=tmp_path, revision=sha)
        assert absent is not None
        assert not isinstance(absent, str)

    def test_private_model_needs_its_token(self, hub: HuggingFaceHub, folder: Path, tmp_path: Path) -> None:
        hub.add_model(ID, folder, private_token="secret")
        for token in (False, "wrong"):
            with pytest.raises(RepositoryNotFoundError):
                self.info(hub, token=token)
        assert self.info(hub, token="secret").private
        path = self.snapshot(hub, tmp_path / "cache", token="secret")
        assert contents(path) == FILES

    def test_gated_model_shows_only_its_list(self, hub: HuggingFaceHub, folder: Path, tmp_path: Path) -> None:
        hub.add_model(ID, folder, private_token="accepted", gated=True)
        assert self.info(hub).gated == "auto"
        for token, status in ((False, 401), ("other", 403)):
            with pytest.raises(GatedRepoError) as caught:
                self.file(hub, WEIGHTS, tmp_path, token=token)
            assert caught.value.response.status_code == status
        path = self.file(hub, WEIGHTS, tmp_path, token="accepted")
        assert path.read_bytes() == FILES[WEIGHTS]

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            ("404", "RepositoryNotFoundError"),
            ("401", "RepositoryNotFoundError"),
            ("401-nocode", "HfHubHTTPError"),
            ("gated", "GatedRepoError"),
            ("403", "HfHubHTTPError"),
            ("unknown-revision", "RevisionNotFoundError"),
            ("429", "HfHubHTTPError"),
            ("500", "HfHubHTTPError"),
            ("503", "HfHubHTTPError"),
            ("html", "JSONDecodeError"),
        ],
    )
    def test_fault_on_the_list(self, hub: HuggingFaceHub, kind: str, error: str) -> None:
        hub.fault(kind, match="/api/models/", times=1)
        with pytest.raises(Exception) as caught:  # noqa: PT011  the name is compared below
            self.info(hub)
        assert type(caught.value).__name__ == error
        assert self.info(hub).id == ID

    @pytest.mark.parametrize("kind", ["no-etag", "no-commit", "html", "403"])
    def test_fault_on_the_head_of_a_file(self, hub: HuggingFaceHub, tmp_path: Path, kind: str) -> None:
        hub.fault(kind, match=WEIGHTS, method="HEAD")
        with pytest.raises(LocalEntryNotFoundError):
            self.file(hub, WEIGHTS, tmp_path)
        hub.clear_faults()
        assert self.file(hub, WEIGHTS, tmp_path).read_bytes() == FILES[WEIGHTS]

    def test_listed_file_that_is_absent(self, hub: HuggingFaceHub, tmp_path: Path) -> None:
        hub.fault("no-entry", match=WEIGHTS)
        with pytest.raises(EntryNotFoundError):
            self.file(hub, WEIGHTS, tmp_path)

    def test_cut_is_resumed(
        self, hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # it resumes whole chunks
        hub.fault("cut", match=WEIGHTS, times=1)
        assert self.file(hub, WEIGHTS, tmp_path).read_bytes() == FILES[WEIGHTS]
        ranges = [r.headers.get("range") for r in hub.requests if r.method == "GET"]
        assert ranges[-1] == f"bytes={len(FILES[WEIGHTS]) // 2}-"

    def test_stall_is_resumed(
        self, hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        hub.fault("stall", match=WEIGHTS, times=1)
        assert self.file(hub, WEIGHTS, tmp_path).read_bytes() == FILES[WEIGHTS]
        assert hub.count(WEIGHTS, "GET") == 2

    def test_short_body_fails(self, hub: HuggingFaceHub, tmp_path: Path) -> None:
        hub.fault("short", match=WEIGHTS)
        with pytest.raises(OSError, match="Consistency check failed"):
            self.file(hub, WEIGHTS, tmp_path)

    def test_wrong_bytes_have_the_right_length(self, hub: HuggingFaceHub, tmp_path: Path) -> None:
        hub.fault("wrong-bytes", match=WEIGHTS)
        content = self.file(hub, WEIGHTS, tmp_path).read_bytes()
        assert content != FILES[WEIGHTS]
        assert len(content) == len(FILES[WEIGHTS])

    def test_slow_body_arrives(self, hub: HuggingFaceHub, tmp_path: Path) -> None:
        hub.fault("slow", match=WEIGHTS, seconds=0.05)
        assert self.file(hub, WEIGHTS, tmp_path).read_bytes() == FILES[WEIGHTS]

    def test_silent_list_times_out(self, hub: HuggingFaceHub) -> None:
        hub.fault("silent")
        with pytest.raises(httpx.ReadTimeout):
            HfApi(endpoint=hub.url, token=False).model_info(ID, timeout=0.2)

    def test_lists_that_lie(self, hub: HuggingFaceHub) -> None:
        true = hashlib.sha256(FILES[WEIGHTS]).hexdigest()

        def listed() -> str | None:
            lfs = {file.rfilename: file.lfs for file in self.info(hub).siblings}[WEIGHTS]
            return lfs.sha256 if lfs else None

        hub.fault("wrong-sha256", times=1)
        assert listed() not in (None, true)
        hub.fault("no-sha256", times=1)
        assert listed() is None
        hub.fault("empty-list", times=1)
        assert self.info(hub).siblings == []
        assert listed() == true
        hub.lie_about_sha256(ID, WEIGHTS)
        assert listed() not in (None, true)
        hub.drop_sha256(ID, WEIGHTS)
        assert listed() is None

    def test_extra_entries(self, hub: HuggingFaceHub) -> None:
        names = ["../x", "/tmp/x", "C:\\x", "a\\b"]
        hub.listed_extra(ID, [{"rfilename": name, "size": 1} for name in names], content=b"x")
        assert {file.rfilename for file in self.info(hub).siblings} == {*FILES, *names}
        api = HfApi(endpoint=hub.url, token=False)
        assert set(api.list_repo_files(ID)) >= {*FILES, *names}
        tree = {entry.path for entry in api.list_repo_tree(ID)}
        assert tree >= set(names)
        assert get(f"{hub.url}/{ID}/resolve/main/C%3A%5Cx")[2] == b"x"


class TestModelScopeHub:
    """modelscope_hub against `ModelScopeHub`."""

    @pytest.fixture(autouse=True)
    def _one_attempt(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        pytest.importorskip("modelscope_hub")
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
        monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
        monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_RETRY_TIMES", 1)
        monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0)

    @pytest.fixture
    def hub(self, folder: Path) -> Iterator[ModelScopeHub]:
        with ModelScopeHub() as hub:
            hub.add_model(ID, folder)
            yield hub

    def api(self, hub: ModelScopeHub, token: str | None = None) -> Any:
        from modelscope_hub import HubApi

        return HubApi(endpoint=hub.url, token=token)

    def sizes(self, hub: ModelScopeHub, token: str | None = None) -> dict[str, int]:
        files = self.api(hub, token).list_repo_files(ID, "model")
        return {file.path: file.size for file in files if file.type != "tree"}

    def download(self, hub: ModelScopeHub, cache: Path, **kwargs: Any) -> Path:
        token = kwargs.pop("token", None)
        path = self.api(hub, token).download_repo(ID, "model", cache_dir=cache, **kwargs)
        return Path(path)

    def test_lists_sizes_and_hashes(self, hub: ModelScopeHub) -> None:
        files = self.api(hub).list_repo_files(ID, "model")
        listed = {file.path: (file.size, file.sha256) for file in files if file.sha256}
        assert listed == {
            name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
        }
        assert "1_Pooling" in {file.path for file in files}

    def test_download_has_the_bytes(self, hub: ModelScopeHub, tmp_path: Path) -> None:
        path = self.download(hub, tmp_path / "cache")
        assert contents(path) == FILES
        assert path.name == "master"
        assert hub.count("/repo?") == len(FILES)
        assert hub.count("/repo/files?") == hub.count("internalAccelerationInfo") == 1
        assert hub.count("FilePath=1_Pooling/config.json") == 1

        self.download(hub, tmp_path / "cache")
        assert hub.count("/repo?") == len(FILES)

    def test_download_of_one_file(self, hub: ModelScopeHub, tmp_path: Path) -> None:
        name = "1_Pooling/config.json"
        path = self.api(hub).download_file(ID, "model", name, cache_dir=tmp_path)
        assert path.read_bytes() == FILES[name]

    def test_revisions_are_separate(self, hub: ModelScopeHub, folder: Path, tmp_path: Path) -> None:
        (folder / "config.json").write_bytes(b"{}")
        sha = hub.add_model(ID, folder, revision="v1.0", exclude=["*.md"])
        path = self.download(hub, tmp_path / "cache", revision="v1.0")
        assert set(contents(path)) == set(FILES) - {"README.md"}
        assert contents(self.download(hub, tmp_path / "cache", revision=sha)) == contents(path)
        assert set(self.sizes(hub)) == set(FILES)

    def test_repository_routes(self, hub: ModelScopeHub) -> None:
        assert self.api(hub).repo_exists(ID, "model")
        assert not self.api(hub).repo_exists("org/absent", "model")
        body = get(f"{hub.url}/api/v1/models/{ID}")[2]
        assert json.loads(body)["Data"]["Name"] == "tiny"
        body = get(f"{hub.url}/api/v1/models/{ID}/revisions")[2]
        assert json.loads(body)["Data"]["RevisionMap"]["Branches"][0]["Revision"] == "master"

    def test_folder_lists(self, hub: ModelScopeHub) -> None:
        files = self.api(hub).list_repo_files(ID, "model", recursive=False)
        flat = {file.path for file in files}
        assert flat == set(FILES) - {"1_Pooling/config.json"} | {"1_Pooling"}

    def test_private_model_needs_its_token(self, hub: ModelScopeHub, folder: Path, tmp_path: Path) -> None:
        from modelscope_hub.errors import NotExistError

        hub.add_model(ID, folder, private_token="secret")
        for token in (None, "wrong"):
            with pytest.raises(NotExistError):
                self.sizes(hub, token)
        assert contents(self.download(hub, tmp_path, token="secret")) == FILES

    def test_gated_model_shows_only_its_list(self, hub: ModelScopeHub, folder: Path, tmp_path: Path) -> None:
        from modelscope_hub.errors import PermissionDeniedError

        hub.add_model(ID, folder, private_token="accepted", gated=True)
        assert set(self.sizes(hub)) == set(FILES)
        with pytest.raises(PermissionDeniedError):
            self.api(hub, "other").download_file(ID, "model", WEIGHTS, cache_dir=tmp_path)
        path = self.api(hub, "accepted").download_file(ID, "model", WEIGHTS, cache_dir=tmp_path)
        assert path.read_bytes() == FILES[WEIGHTS]

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            ("404", "NotExistError"),
            ("unknown-revision", "NotExistError"),
            ("401", "AuthenticationError"),
            ("403", "PermissionDeniedError"),
            ("gated", "PermissionDeniedError"),
            ("429", "RateLimitError"),
            ("500", "ServerError"),
            ("503", "ServerError"),
            ("html", "JSONDecodeError"),
        ],
    )
    def test_fault_on_the_list(self, hub: ModelScopeHub, tmp_path: Path, kind: str, error: str) -> None:
        hub.fault(kind, match="/repo/files", times=1, retry_after=0)
        with pytest.raises(Exception) as caught:  # noqa: PT011  the name is compared below
            self.download(hub, tmp_path)
        assert type(caught.value).__name__ == error
        assert set(self.sizes(hub)) == set(FILES)

    @pytest.mark.parametrize("kind", ["success-false", "empty-list"])
    def test_list_without_files(self, hub: ModelScopeHub, kind: str) -> None:
        hub.fault(kind)
        assert self.sizes(hub) == {}

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            ("404", "NotExistError"),
            ("no-entry", "NotExistError"),
            ("403", "PermissionDeniedError"),
            ("short", "FileSizeMismatchError"),
            ("wrong-bytes", "FileIntegrityError"),
        ],
    )
    def test_fault_on_a_file(self, hub: ModelScopeHub, tmp_path: Path, kind: str, error: str) -> None:
        from modelscope_hub.errors import FileDownloadError

        hub.fault(kind, match=WEIGHTS)
        with pytest.raises(FileDownloadError) as caught:
            self.download(hub, tmp_path)
        failed = caught.value.failed_files
        assert {name: type(exc).__name__ for name, exc in failed.items()} == {WEIGHTS: error}

    def test_cut_is_resumed(self, hub: ModelScopeHub, tmp_path: Path) -> None:
        hub.fault("cut", match=WEIGHTS, times=1)
        assert contents(self.download(hub, tmp_path)) == FILES
        ranges = [r.headers.get("range") for r in hub.requests if WEIGHTS in r.path]
        assert ranges == [None, f"bytes={len(FILES[WEIGHTS]) // 2}-"]

    def test_slow_body_arrives(self, hub: ModelScopeHub, tmp_path: Path) -> None:
        hub.fault("slow", match=WEIGHTS, seconds=0.05)
        assert contents(self.download(hub, tmp_path)) == FILES

    def test_silent_list_times_out(self, hub: ModelScopeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        from modelscope_hub.errors import RequestTimeoutError

        monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_TIMEOUT_SECONDS", 0.2)
        hub.fault("silent", match="/repo/files")
        with pytest.raises(RequestTimeoutError):
            self.sizes(hub)

    def test_lists_that_lie(self, hub: ModelScopeHub) -> None:
        true = hashlib.sha256(FILES[WEIGHTS]).hexdigest()

        def listed() -> str | None:
            files = self.api(hub).list_repo_files(ID, "model")
            return {file.path: file.sha256 for file in files}[WEIGHTS] or None

        hub.fault("wrong-sha256", times=1)
        assert listed() not in (None, true)
        hub.fault("no-sha256", times=1)
        assert listed() is None
        assert listed() == true
        hub.lie_about_sha256(ID, WEIGHTS)
        assert listed() not in (None, true)
        hub.drop_sha256(ID, WEIGHTS)
        assert listed() is None

    def test_extra_entries(self, hub: ModelScopeHub) -> None:
        names = ["../x", "/tmp/x", "C:\\x", "a\\b"]
        entries = [{"Path": name, "Type": "blob", "Size": 1} for name in names]
        hub.listed_extra(ID, entries, content=b"x")
        assert set(self.sizes(hub)) == {*FILES, *names}
        assert get(f"{hub.url}/api/v1/models/{ID}/repo?FilePath=..%2Fx")[2] == b"x"


@pytest.fixture(params=[HuggingFaceHub, ModelScopeHub])
def either(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Any, str]]:
    """Each hub in turn, with the address of the weights on it."""
    with request.param() as hub:
        hub.add_model(ID, folder)
        path = {
            "HuggingFaceHub": f"/{ID}/resolve/main/{WEIGHTS}",
            "ModelScopeHub": f"/api/v1/models/{ID}/repo?Revision=master&FilePath={WEIGHTS}",
        }[type(hub).__name__]
        yield hub, hub.url + path


def test_ranges(either: tuple[Any, str]) -> None:
    weights, (_, url) = FILES[WEIGHTS], either
    status, headers, body = get(url, Range="bytes=10-19")
    assert (status, headers["Content-Range"]) == (206, f"bytes 10-19/{len(weights)}")
    assert body == weights[10:20]
    assert get(url, Range="bytes=4000-")[2] == weights[4000:]
    status, headers, _ = get(url, Range=f"bytes={len(weights)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(weights)}")


def test_rate_limit_says_when(either: tuple[Any, str]) -> None:
    hub, url = either
    hub.fault("429", times=1)
    hub.fault("429", times=1, retry_after=7)
    assert [get(url)[1].get("Retry-After") for _ in range(3)] == ["1", "7", None]


def test_bytes_are_read_when_asked_for(either: tuple[Any, str], folder: Path) -> None:
    _, url = either
    (folder / WEIGHTS).write_bytes(b"new")
    assert get(url)[2] == b"new"


def test_unknown_fault(either: tuple[Any, str]) -> None:
    hub, _ = either
    with pytest.raises(ValueError, match="no fault 'sientl'"):
        hub.fault("sientl")


@pytest.mark.parametrize("kind", ["silent", "stall", "slow"])
def test_closing_ends_what_waits(either: tuple[Any, str], kind: str) -> None:
    hub, url = either
    hub.fault(kind, seconds=3600)
    with socket.create_connection(hub.server_address) as client:
        client.sendall(f"GET {url.removeprefix(hub.url)} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        hub.wait_until(lambda: hub.requests)
        if kind != "silent":
            assert client.recv(12) == b"HTTP/1.1 200"
        hub.__exit__()
        while client.recv(65536):
            pass


def test_closing_ends_idle_connections(either: tuple[Any, str]) -> None:
    hub, url = either
    ask = f"HEAD {url.removeprefix(hub.url)} HTTP/1.1\r\nHost: hub\r\n\r\n".encode()
    with socket.create_connection(hub.server_address) as client:
        for _ in range(2):  # the second answer proves that the connection is kept
            client.sendall(ask)
            received = b""
            while b"\r\n\r\n" not in received:
                received += client.recv(65536)
            assert received.startswith(b"HTTP/1.1 200")
        hub.__exit__()
        assert client.recv(1) == b""


def test_silent_server_accepts() -> None:
    with SilentServer() as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=0.1) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(TimeoutError):
                client.recv(1)
        server.wait_until(lambda: server.connections == 1)


def test_refused_url_refuses() -> None:
    port = int(refused_url().rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
