"""Turns what a hub's client raises into our errors: what failed, on what, what to do next."""

import errno
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emb_model_provider.core.errors import (
    AccessDeniedError,
    HubConnectionError,
    ModelFilesError,
    ModelLoadError,
    ModelNotFoundError,
)

if TYPE_CHECKING:
    from emb_model_provider.core.loaders.hub_process import Request

_CANNOT_WRITE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
)

Convert = Callable[[BaseException, "Request"], ModelLoadError]


@dataclass(frozen=True)
class Hub:
    """How a hub is named, and the variables that concern it."""

    name: str
    endpoint_variable: str
    token_variable: str
    cache_variable: str


HUBS: Mapping[str, Hub] = {
    "huggingface": Hub("Hugging Face", "HF_ENDPOINT", "HF_TOKEN", "HF_HOME"),
    "modelscope": Hub("ModelScope", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", "MODELSCOPE_CACHE_DIR"),
}


@contextmanager
def converted(table: Mapping[str, Convert], request: "Request") -> Iterator[None]:
    """Raise our error in place of a client's, by the most specific class that is in the table.

    Args:
        table: `package.Class` of the client, or of what it lets through, and what becomes of it. Anything
            else passes untouched, so that a bug is not renamed.
        request: What was asked for.
    """
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        for cls in type(error).__mro__:
            convert = table.get(f"{cls.__module__.partition('.')[0]}.{cls.__name__}")
            if convert is not None:
                raise convert(error, request) from error
        raise


def missing(error: BaseException, request: "Request") -> ModelLoadError:
    """No such repository or revision; hubs say the same of one that is private."""
    hub = HUBS[request.source]
    return ModelNotFoundError(
        f"Model {request.repo_id!r} not found on {hub.name} ({request.endpoint}, revision "
        f"{request.revision}). Check the name and the revision; a private model needs {hub.token_variable}."
    )


def denied(error: BaseException, request: "Request") -> ModelLoadError:
    """The hub knows the repository and does not give it to this user."""
    hub = HUBS[request.source]
    return AccessDeniedError(
        f"{hub.name} refuses access to {request.repo_id!r}: it is gated or private, or the token is wrong. "
        f"Accept its licence at {request.endpoint}/{request.repo_id}, and set {hub.token_variable}."
    )


def unreachable(error: BaseException, request: "Request") -> ModelLoadError:
    """No connection, or none that lasts."""
    hub = HUBS[request.source]
    return HubConnectionError(
        f"Failed to download model {request.repo_id!r} from {hub.name}: {request.endpoint} cannot be reached "
        f"({type(error).__name__}: {_first_line(error)}). Check the network and proxy, name a mirror in "
        f"{hub.endpoint_variable}, try the other hub, or point model_path at a copy on disk."
    )


def not_a_hub(error: BaseException, request: "Request") -> ModelLoadError:
    """Something answered, but not as the hub does."""
    hub = HUBS[request.source]
    return HubConnectionError(
        f"Failed to download model {request.repo_id!r} from {hub.name}: {request.endpoint} does not answer "
        f"as {hub.name} does ({_first_line(error)}). A login page of the network or a proxy may be in "
        f"between, or {hub.endpoint_variable} may be wrong."
    )


def overloaded(error: BaseException, request: "Request", retry_after: float = 0.5) -> ModelLoadError:
    """The hub asks to come back later, or fails by itself."""
    hub = HUBS[request.source]
    return HubConnectionError(
        f"Failed to download model {request.repo_id!r} from {hub.name}: {request.endpoint} is overloaded or "
        f"failing ({_first_line(error)}). Try again later, or the other hub.",
        retry_after=retry_after,
    )


def damaged(error: BaseException, request: "Request") -> ModelLoadError:
    """A file did not come as the list says."""
    hub = HUBS[request.source]
    return ModelFilesError(
        f"Failed to download model {request.repo_id!r} from {hub.name}: a file did not come as "
        f"{request.endpoint} announced it ({_first_line(error)}). Try again, or the other hub."
    )


def cannot_write(error: BaseException, request: "Request") -> ModelLoadError:
    """The cache folder is full or read-only. Other operating-system errors concern the connection."""
    hub = HUBS[request.source]
    if getattr(error, "errno", None) not in _CANNOT_WRITE:
        return unreachable(error, request)
    return ModelFilesError(
        f"Failed to download model {request.repo_id!r} from {hub.name}: {request.cache_dir} cannot be "
        f"written ({_first_line(error)}). Free some space, or name another folder in {hub.cache_variable}."
    )


def by_status(status: int | None, error: BaseException, request: "Request") -> ModelLoadError:
    """An HTTP status that the client has no class for."""
    if status in (401, 403):
        return denied(error, request)
    if status in (404, 410):
        return missing(error, request)
    if status == 429 or (status or 0) >= 500:
        return overloaded(error, request, retry_after=_retry_after(error))
    return not_a_hub(error, request)


def _retry_after(error: BaseException) -> float:
    """Seconds in the Retry-After header; half a second without one."""
    response: Any = getattr(error, "response", None)
    value = str(getattr(response, "headers", {}).get("Retry-After", ""))
    return float(value) if value.isdecimal() else 0.5


def _first_line(error: BaseException) -> str:
    # The hub's own words, where its client keeps them apart.
    said = str(getattr(error, "server_message", None) or error).strip()
    line = (said or type(error).__name__).splitlines()[0]
    return textwrap.shorten(line, 160, placeholder=" ...")
