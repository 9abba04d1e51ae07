"""`huggingface_hub`, in the child process of a download; the only file that imports it."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from tqdm import tqdm

from emb_model_provider.core.embedding.file_hashes import write_atomically
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
    unreachable,
)
from emb_model_provider.core.loaders.hub_process import Request

_WORKERS = 4  # files at a time
_CHUNK = 1 << 16
_COMMIT = re.compile(r"[0-9a-f]{40}")


def _by_response(error: BaseException, request: Request) -> ModelLoadError:
    response: Any = getattr(error, "response", None)
    return by_status(getattr(response, "status_code", None), error, request)


def _by_cause(error: BaseException, request: Request) -> ModelLoadError:
    """The client reports any failure of a request as a file that is not in its cache."""
    cause = error.__cause__ or error.__context__
    if cause is None or isinstance(cause, type(error)):
        return unreachable(error, request)
    try:
        with converted(ERRORS, request):
            raise cause
    except ModelLoadError as ours:
        return ours
    except Exception:  # noqa: BLE001 - not a class of the table: the outer error tells more
        return unreachable(error, request)


def _by_errno(error: BaseException, request: Request) -> ModelLoadError:
    """Without an errno it is the client's own error: a file did not come in full."""
    own = getattr(error, "errno", None) is None
    return damaged(error, request) if own else cannot_write(error, request)


# By the most specific class. httpx is httpx2 in huggingface_hub 2.
ERRORS: Mapping[str, Convert] = {
    "huggingface_hub.GatedRepoError": denied,
    "huggingface_hub.DisabledRepoError": denied,
    "huggingface_hub.LocalTokenNotFoundError": denied,
    "huggingface_hub.RepositoryNotFoundError": missing,
    "huggingface_hub.RevisionNotFoundError": missing,
    "huggingface_hub.RevisionResolutionError": _by_cause,
    "huggingface_hub.HFValidationError": missing,
    "huggingface_hub.BadRequestError": not_a_hub,
    "huggingface_hub.HfHubHTTPError": _by_response,
    "huggingface_hub.LocalEntryNotFoundError": _by_cause,
    "huggingface_hub.EntryNotFoundError": damaged,
    "huggingface_hub.RemoteEntryNotFoundError": damaged,
    "huggingface_hub.FileMetadataError": not_a_hub,
    "huggingface_hub.OfflineModeIsEnabled": unreachable,
    "huggingface_hub.XetDownloadError": damaged,
    "httpx.HTTPError": unreachable,
    "httpx.InvalidURL": unreachable,
    "httpx2.HTTPError": unreachable,
    "httpx2.InvalidURL": unreachable,
    "json.JSONDecodeError": not_a_hub,
    "builtins.ConnectionError": unreachable,
    "builtins.TimeoutError": unreachable,
    "builtins.OSError": _by_errno,
}


class HuggingFaceClient:
    """Lists and fetches files of one repository."""

    def __init__(self, request: Request) -> None:
        # Bytes are told in pieces of this size: a slow line needs minutes for the client's own 10 MB. This
        # process is ours alone.
        constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
        self.token = request.token or get_token()
        self._request = request
        self._repository = Path(request.cache_dir) / f"models--{request.repo_id.replace('/', '--')}"

    def list_files(self) -> FileList:
        """One request, bounded by the connect time-out."""
        request = self._request
        with converted(ERRORS, request):
            api = HfApi(endpoint=request.endpoint, token=request.token)
            info = api.model_info(
                request.repo_id,
                revision=request.revision,
                timeout=request.connect_timeout,
                files_metadata=True,
            )
        files = [
            HubFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None, None if s.lfs else s.blob_id)
            for s in info.siblings or []
        ]
        if not _COMMIT.fullmatch(str(info.sha)):
            raise not_a_hub(ValueError(f"the commit {str(info.sha)[:50]!r} is none"), request)
        return FileList(str(info.sha), tuple(files))

    def fetch(self, listed: FileList, files: Sequence[HubFile], received: Callable[[int], None]) -> Path:
        """The files of the listed commit, in the hub's own cache."""
        folder = self._repository / "snapshots" / listed.revision

        def fetch_one(file: HubFile) -> None:
            hf_hub_download(
                self._request.repo_id,
                file.path,
                revision=listed.revision,
                cache_dir=self._request.cache_dir,
                endpoint=self._request.endpoint,
                token=self._request.token,
                etag_timeout=self._request.connect_timeout,
                tqdm_class=_reporting(received),
            )
            received(0)

        with converted(ERRORS, self._request), ThreadPoolExecutor(_WORKERS) as pool:
            list(pool.map(fetch_one, files))
        return folder

    def discard(self, folder: Path, file: HubFile) -> None:
        """Remove the link and the blob behind it."""
        link = folder / file.path
        blob = link.resolve()
        link.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)

    def finish(self, folder: Path, listed: FileList) -> None:
        """Write the branch's reference, as the client does; last, so that it tells of a complete copy."""
        if listed.revision != self._request.revision:
            reference = self._repository / "refs" / self._request.revision
            with converted(ERRORS, self._request):
                write_atomically(reference, lambda path: path.write_text(listed.revision))


def _reporting(received: Callable[[int], None]) -> type[Any]:
    """A progress bar that draws nothing and passes on what it is told."""

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            received(int(n or 0))

    return Reporting
