"""`modelscope_hub`, in the child process of a download; the only file that imports it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelscope_hub import HubApi, HubConfig, ProgressCallback

from emb_model_provider.core.errors import ModelLoadError
from emb_model_provider.core.loaders.file_list import FileList, HubFile
from emb_model_provider.core.loaders.hub_errors import (
    Convert,
    by_status,
    cannot_write,
    converted,
    damaged,
    denied,
    missing,
    not_a_hub,
    overloaded,
    unreachable,
)
from emb_model_provider.core.loaders.hub_process import Request


def _by_first_file(error: BaseException, request: Request) -> ModelLoadError:
    """Several files failed; the first tells why."""
    failed: Mapping[str, BaseException] = getattr(error, "failed_files", {})
    for path, cause in failed.items():
        try:
            with converted(ERRORS, request):
                raise cause
        except ModelLoadError as ours:
            ours.args = (f"{path}: {ours}",)
            return ours
        except Exception:  # noqa: BLE001 - not a class of the table: the outer error tells more
            break
    return damaged(error, request)


def _by_response(error: BaseException, request: Request) -> ModelLoadError:
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    return by_status(status, error, request)


def _by_wait(error: BaseException, request: Request) -> ModelLoadError:
    wait = getattr(error, "retry_after", None)
    return overloaded(error, request, retry_after=float(wait) if wait else 0.5)


def _by_cause(error: BaseException, request: Request) -> ModelLoadError:
    """What the system says is reported as a lost connection, whether it concerns the line or the disk."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno is not None:
        return cannot_write(cause, request)
    return unreachable(error, request)


ERRORS: Mapping[str, Convert] = {
    "modelscope_hub.NotExistError": missing,
    "modelscope_hub.InvalidParameter": missing,
    "modelscope_hub.AuthenticationError": denied,
    "modelscope_hub.PermissionDeniedError": denied,
    "modelscope_hub.QuotaExceededError": denied,
    "modelscope_hub.RateLimitError": _by_wait,
    "modelscope_hub.ServerError": _by_wait,
    "modelscope_hub.APIError": _by_response,
    "modelscope_hub.NetworkError": _by_cause,
    "modelscope_hub.RequestTimeoutError": unreachable,
    "modelscope_hub.FileDownloadError": _by_first_file,
    "modelscope_hub.FileIntegrityError": damaged,
    "modelscope_hub.FileSizeMismatchError": damaged,
    "modelscope_hub.StorageError": cannot_write,
    "modelscope_hub.CacheError": damaged,
    "modelscope_hub.CacheNotFound": damaged,
    "modelscope_hub.CorruptedCacheException": damaged,
    "modelscope_hub.HubError": not_a_hub,
    "requests.InvalidJSONError": not_a_hub,
    "requests.RequestException": unreachable,
    "json.JSONDecodeError": not_a_hub,
    "builtins.ConnectionError": unreachable,
    "builtins.OSError": cannot_write,
}


class ModelScopeClient:
    """Lists and fetches files of one repository."""

    def __init__(self, request: Request) -> None:
        self._request = request
        config = HubConfig(endpoint=request.endpoint, token=request.token)
        self.token: str | None = config.token
        self._api = HubApi(config)

    def list_files(self) -> FileList:
        """One request; `download.py` bounds it through the client's environment."""
        with converted(ERRORS, self._request):
            listed = self._api.list_repo_files(
                self._request.repo_id, "model", revision=self._request.revision
            )
        files = [HubFile(f.path, f.size or 0, f.sha256) for f in listed if f.type != "tree"]
        return FileList(self._request.revision, tuple(files))

    def fetch(self, listed: FileList, files: Sequence[HubFile], received: Callable[[int], None]) -> Path:
        """The checked files, and no others: the client makes no list of its own."""
        with converted(ERRORS, self._request):
            return self._api.download_repo(
                self._request.repo_id,
                "model",
                revision=self._request.revision,
                cache_dir=Path(self._request.cache_dir),
                file_list=[
                    {"Path": f.path, "Size": f.size, "Sha256": f.sha256, "Type": "blob"} for f in files
                ],
                progress_callbacks=[_reporting(received)],
            )

    def discard(self, folder: Path, file: HubFile) -> None:
        """Remove the file."""
        (folder / file.path).unlink(missing_ok=True)

    def finish(self, folder: Path, listed: FileList) -> None:
        """The folder is named after the revision already."""


def _reporting(received: Callable[[int], None]) -> type[Any]:
    """A progress callback that passes on what it is told."""

    class Reporting(ProgressCallback):
        def update(self, size: int) -> None:
            received(size)

    return Reporting
