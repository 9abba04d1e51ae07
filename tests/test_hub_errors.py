"""What the hubs' clients raise: every class is turned into one of our errors, or let through on purpose."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import huggingface_hub.errors
import huggingface_hub.utils
import modelscope_hub
import modelscope_hub.errors
import pytest
import requests
from both_hubs import ID

from emb_model_provider.core.errors import (
    AccessDeniedError,
    HubConnectionError,
    ModelFilesError,
    ModelLoadError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from emb_model_provider.core.loaders import huggingface_client, modelscope_client
from emb_model_provider.core.loaders.hub_errors import HUBS, converted
from emb_model_provider.core.loaders.hub_process import Request

httpx: Any = huggingface_hub.utils.httpx  # type: ignore[attr-defined]  # httpx2 in huggingface_hub 2
TABLES = {"huggingface": huggingface_client.ERRORS, "modelscope": modelscope_client.ERRORS}
HTTPX = httpx.__name__
MODULES = {"huggingface_hub": huggingface_hub.errors, "requests": requests.exceptions, HTTPX: httpx}

# Classes without a place in a table, and why. Those that inherit from one in it are no trouble either.
_HUGGINGFACE_LET_THROUGH = {
    "only scans and listings of the cache raise it, and the cache is read without the client": (
        "CacheNotFound CorruptedCacheException CachedRepoTreeNotFoundError"
    ),
    "only snapshot_download raises it, and files are fetched one by one": (
        "DryRunError IncompleteSnapshotError"
    ),
    "belongs to the command line": "CLIError CLIExtensionInstallError ConfirmationError",
    "belongs to logging in": "DeviceCodeError OIDCError",
    "belongs to files of another kind": (
        "DDUFError DDUFCorruptedFileError DDUFExportError DDUFInvalidEntryNameError "
        "NotASafetensorsRepoError SafetensorsParsingError HfUriError"
    ),
    "belongs to other services of the hub": (
        "BucketBatchError BucketNotFoundError JobNotFoundError SandboxError SandboxCommandError "
        "InferenceEndpointError InferenceEndpointTimeoutError InferenceTimeoutError "
        "TextGenerationError GenerationError IncompleteGenerationError OverloadedError UnknownError "
        "ValidationError FileDuplicationError"
    ),
    "tells of a mistake in the program": (
        "StrictDataclassError StrictDataclassClassValidationError StrictDataclassDefinitionError "
        "StrictDataclassFieldValidationError"
    ),
}
_MODELSCOPE_LET_THROUGH = {
    "only creating a repository raises it": "AlreadyExistsError",
    "belongs to agents and other services of the hub": "NotSupportedError",
}
_TRANSPORT_LET_THROUGH = {
    "tells of a mistake in the program": (
        "CookieConflict StreamError StreamConsumed StreamClosed RequestNotRead ResponseNotRead"
    ),
}


def names(reasons: Mapping[str, str]) -> set[str]:
    return set(" ".join(reasons.values()).split())


def exceptions(module: ModuleType) -> Iterator[type[Exception]]:
    """The exception classes of a package that its module shows."""
    package = module.__name__.partition(".")[0]
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if issubclass(cls, Exception) and not issubclass(cls, Warning) and cls.__module__.startswith(package):
            yield cls


def key(cls: type[BaseException]) -> str:
    return f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


@pytest.mark.parametrize(
    ("source", "module", "let_through"),
    [
        ("huggingface", huggingface_hub.errors, _HUGGINGFACE_LET_THROUGH),
        ("modelscope", modelscope_hub.errors, _MODELSCOPE_LET_THROUGH),
    ],
)
def test_every_exception_of_a_client_is_in_its_table_or_let_through_on_purpose(
    source: str, module: ModuleType, let_through: Mapping[str, str]
) -> None:
    found = {cls.__name__ for cls in exceptions(module)}
    in_table = {cls.__name__ for cls in exceptions(module) if key(cls) in TABLES[source]}
    assert len(found) > 15
    assert found - in_table - names(let_through) == set()
    assert not in_table & names(let_through)


@pytest.mark.parametrize(
    ("source", "module"),
    [("huggingface", httpx), ("modelscope", requests.exceptions)],
)
def test_every_exception_of_a_clients_transport_has_a_base_in_its_table_or_is_let_through(
    source: str, module: ModuleType
) -> None:
    package = module.__name__.partition(".")[0]
    left = {
        cls.__name__
        for cls in exceptions(module)
        if not any(key(c) in TABLES[source] for c in cls.__mro__ if c.__module__.startswith(package))
    }
    assert left - names(_TRANSPORT_LET_THROUGH) == set()


def classes(source: str) -> Iterator[tuple[str, type[BaseException]]]:
    for name in TABLES[source]:
        package, _, cls = name.partition(".")
        if package.startswith("httpx") and package != HTTPX:
            continue  # of the client's other major version
        yield name, getattr(MODULES.get(package) or importlib.import_module(package), cls)


ENTRIES = [(source, *entry) for source in TABLES for entry in classes(source)]


@pytest.mark.parametrize("source", TABLES)
def test_a_table_names_classes_as_they_are_called(source: str) -> None:
    assert {name: key(cls) for name, cls in classes(source)} == {name: name for name, _ in classes(source)}


def request(source: str) -> Request:
    return Request(
        source=source,
        repo_id=ID,
        revision="r1",
        endpoint="http://hub.test",
        token=None,
        cache_dir="/the/cache",
        connect_timeout=1.0,
        allow_pickle_weights=False,
    )


def ours(source: str, error: BaseException) -> ModelLoadError:
    """What becomes of an error."""
    with pytest.raises(ModelLoadError) as raised, converted(TABLES[source], request(source)):
        raise error
    assert raised.value.__cause__ is error
    return raised.value


@pytest.mark.parametrize(("source", "name", "cls"), ENTRIES, ids=[f"{s}:{n}" for s, n, _ in ENTRIES])
def test_an_error_of_ours_says_what_failed_on_what_and_what_to_do(
    source: str, name: str, cls: type[BaseException]
) -> None:
    if issubclass(cls, HF.HfHubHTTPError):
        error: BaseException = http_error(500, cls.__name__)
    else:
        error = cls(*(("said", "", 0) if issubclass(cls, json.JSONDecodeError) else ("said",)))
    found = ours(source, error)
    assert type(found) is not ModelLoadError
    for part in (ID, HUBS[source].name, "http://hub.test"):
        assert part in str(found)
    steps = ("Check ", "Try again", "Accept ", "Free ", "name a mirror", "may be wrong")
    assert any(step in str(found) for step in steps)


def http_error(status: int, cls: str = "HfHubHTTPError", **headers: str) -> Any:
    asked = httpx.Request("GET", "http://hub.test")
    response = httpx.Response(status, headers=headers, request=asked)
    return getattr(huggingface_hub.errors, cls)("said", response=response)


def because(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


HF = huggingface_hub.errors
HUGGINGFACE_CASES = [
    (lambda: http_error(401, "GatedRepoError"), AccessDeniedError),
    (lambda: http_error(401, "RepositoryNotFoundError"), ModelNotFoundError),
    (lambda: http_error(404, "RevisionNotFoundError"), ModelNotFoundError),
    (lambda: http_error(404, "RemoteEntryNotFoundError"), ModelFilesError),
    (lambda: http_error(403, "DisabledRepoError"), AccessDeniedError),
    (lambda: http_error(400, "BadRequestError"), HubConnectionError),
    (lambda: http_error(401), AccessDeniedError),
    (lambda: http_error(403), AccessDeniedError),
    (lambda: http_error(404), ModelNotFoundError),
    (lambda: http_error(418), HubConnectionError),
    (lambda: http_error(500), HubConnectionError),
    (lambda: because(HF.LocalEntryNotFoundError("not in the cache"), http_error(403)), AccessDeniedError),
    (
        lambda: because(HF.LocalEntryNotFoundError("not in the cache"), http_error(401, "GatedRepoError")),
        AccessDeniedError,
    ),
    (
        lambda: because(HF.LocalEntryNotFoundError("not in the cache"), HF.FileMetadataError("no ETag")),
        HubConnectionError,
    ),
    (lambda: because(HF.LocalEntryNotFoundError("not in the cache"), no_space()), ModelFilesError),
    (
        lambda: because(HF.LocalEntryNotFoundError("not in the cache"), KeyError("not in the table")),
        HubConnectionError,
    ),
    (
        lambda: because(HF.LocalEntryNotFoundError("not in the cache"), HF.LocalEntryNotFoundError("again")),
        HubConnectionError,
    ),
    (
        lambda: because(
            HF.RevisionResolutionError("not in the cache"), http_error(404, "RepositoryNotFoundError")
        ),
        ModelNotFoundError,
    ),
    (lambda: HF.HFValidationError("a name with blanks"), ModelNotFoundError),
    (lambda: HF.OfflineModeIsEnabled("offline"), HubConnectionError),
    (lambda: httpx.ReadTimeout("late"), HubConnectionError),
    (lambda: httpx.RemoteProtocolError("cut"), HubConnectionError),
    (lambda: httpx.InvalidURL("no address"), HubConnectionError),
    (lambda: json.JSONDecodeError("a login page", "<html>", 0), HubConnectionError),
    (no_space, ModelFilesError),
    (lambda: OSError(errno.EROFS, "Read-only file system"), ModelFilesError),
    (lambda: PermissionError(errno.EACCES, "Permission denied"), ModelFilesError),
    (lambda: OSError(errno.ENETUNREACH, "Network is unreachable"), HubConnectionError),
    (lambda: OSError("Consistency check failed"), ModelFilesError),
    (lambda: TimeoutError("late"), HubConnectionError),
]


@pytest.mark.parametrize(("make", "expected"), HUGGINGFACE_CASES)
def test_an_error_of_hugging_faces_client(make: Any, expected: type[ModelLoadError]) -> None:
    assert type(ours("huggingface", make())) is expected


def api_error(status: int) -> BaseException:
    error: BaseException = modelscope_hub.errors.APIError("said", status_code=status)
    return error


def files_failed(**failed: BaseException) -> BaseException:
    error: BaseException = modelscope_hub.errors.FileDownloadError("some failed", failed_files=failed)
    return error


MS = modelscope_hub.errors
MODELSCOPE_CASES = [
    (lambda: MS.NotExistError("said"), ModelNotFoundError),
    (lambda: MS.AuthenticationError("said"), AccessDeniedError),
    (lambda: MS.PermissionDeniedError("said"), AccessDeniedError),
    (lambda: MS.ServerError("said"), HubConnectionError),
    (lambda: because(MS.NetworkError("lost"), OSError(errno.EDQUOT, "Quota exceeded")), ModelFilesError),
    (lambda: because(MS.NetworkError("lost"), OSError(errno.EPIPE, "Broken pipe")), HubConnectionError),
    (lambda: because(MS.NetworkError("lost"), requests.ConnectionError("said")), HubConnectionError),
    (lambda: MS.RequestTimeoutError("said"), HubConnectionError),
    (lambda: MS.FileSizeMismatchError("said"), ModelFilesError),
    (lambda: MS.FileIntegrityError("said"), ModelFilesError),
    (lambda: MS.HubError("said"), HubConnectionError),
    (lambda: api_error(403), AccessDeniedError),
    (lambda: api_error(404), ModelNotFoundError),
    (lambda: api_error(502), HubConnectionError),
    (lambda: files_failed(a=MS.FileIntegrityError("said")), ModelFilesError),
    (lambda: files_failed(a=MS.NetworkError("said"), b=MS.NotExistError("said")), HubConnectionError),
    (lambda: files_failed(a=KeyError("not in the table")), ModelFilesError),
    (lambda: files_failed(), ModelFilesError),
    (lambda: requests.exceptions.JSONDecodeError("a login page", "<html>", 0), HubConnectionError),
    (lambda: requests.exceptions.ProxyError("said"), HubConnectionError),
    (lambda: requests.exceptions.MissingSchema("said"), HubConnectionError),
    (no_space, ModelFilesError),
]


@pytest.mark.parametrize(("make", "expected"), MODELSCOPE_CASES)
def test_an_error_of_modelscopes_client(make: Any, expected: type[ModelLoadError]) -> None:
    assert type(ours("modelscope", make())) is expected


def test_the_file_that_failed_first_is_named() -> None:
    error = files_failed(**{"1_Pooling/config.json": MS.NotExistError("said")})
    assert str(ours("modelscope", error)).startswith("1_Pooling/config.json: Model")


@pytest.mark.parametrize(
    ("source", "error", "seconds"),
    [
        ("huggingface", lambda: http_error(429, **{"Retry-After": "7"}), 7),
        ("huggingface", lambda: http_error(429), 0.5),
        ("huggingface", lambda: http_error(503, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 0.5),
        ("huggingface", lambda: http_error(403), None),
        ("huggingface", lambda: httpx.ConnectError("refused"), None),
        ("modelscope", lambda: MS.RateLimitError("said", retry_after=7), 7),
        ("modelscope", lambda: MS.ServerError("said"), 0.5),
        ("modelscope", lambda: MS.NetworkError("refused"), None),
    ],
)
def test_a_hub_says_when_to_ask_again(source: str, error: Any, seconds: float | None) -> None:
    assert getattr(ours(source, error()), "retry_after", None) == seconds


def test_a_full_disk_names_the_cache_and_its_variable() -> None:
    for source in TABLES:
        said = str(ours(source, no_space()))
        assert "/the/cache" in said
        assert HUBS[source].cache_variable in said


def test_only_the_first_line_of_what_a_client_says_is_repeated() -> None:
    said = str(ours("modelscope", MS.NetworkError(f"first line\n{'<html>' * 1000}")))
    assert "first line" in said
    assert "<html>" not in said
    assert len(str(ours("modelscope", MS.NetworkError("word " * 1000)))) < 800


@pytest.mark.parametrize("source", TABLES)
@pytest.mark.parametrize("bug", [TypeError("a bug"), KeyError("a bug"), ValueError("a bug"), StopIteration()])
def test_a_bug_is_not_renamed(source: str, bug: Exception) -> None:
    with pytest.raises(type(bug)) as raised, converted(TABLES[source], request(source)):
        raise bug
    assert raised.value is bug


def test_an_error_of_ours_passes() -> None:
    with (
        pytest.raises(UnsupportedModelError, match="ours"),
        converted(TABLES["modelscope"], request("modelscope")),
    ):
        raise UnsupportedModelError("ours")
