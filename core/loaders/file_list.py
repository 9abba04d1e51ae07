"""What a hub says a repository holds, checked, and the part of it that a model needs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from emb_model_provider.core.embedding.folder import safe_relative_path
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

# Other forms of the same weights, and folders of other runtimes.
_SKIPPED_FOLDERS = frozenset({"onnx", "openvino", "original", "coreml", "gguf", "assets", "images"})
_SMALL_FILES = re.compile(r".*\.(json|txt|model)|README\.md")
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLES = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")


@dataclass(frozen=True)
class HubFile:
    """One file of a repository, as its hub lists it.

    Attributes:
        path: Relative path, `/` between its parts.
        size: Bytes.
        sha256: Of its content; None when the hub does not say.
        git_sha1: Of its content as git counts it; None when the hub does not say.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class FileList:
    """A repository's files at one revision: the commit where the hub tells it, else the name asked for."""

    revision: str
    files: tuple[HubFile, ...]


def needed_files(listed: Iterable[HubFile], where: str, *, allow_pickle_weights: bool) -> list[HubFile]:
    """The files to download, smallest first, after every name in the list was checked.

    Args:
        listed: The hub's list.
        where: Names the repository in errors.
        allow_pickle_weights: Whether pickled weights will do where there are no others.

    Raises:
        ModelFilesError: The list is empty or names a file outside the model's folder, or the hub does
            not announce a hash to check weights against.
        UnsupportedModelError: The list shows that the model cannot be used here.
    """
    files = list(listed)
    for file in files:
        safe_relative_path(file.path)
    names = {file.path for file in files}
    if not names:
        raise ModelFilesError(f"{where} lists no files. Check the name, or try the other hub.")
    if not names & {"modules.json", "configuration.json"}:
        raise UnsupportedModelError(
            f"{where} has no modules.json, so nothing says how its token vectors become one vector per text. "
            "Choose a model made for sentence embeddings."
        )
    safetensors = [f for f in files if _SAFETENSORS.fullmatch(PurePosixPath(f.path).name)]
    pickles = [f for f in files if _PICKLES.fullmatch(PurePosixPath(f.path).name)]
    if not any("/" not in f.path for f in safetensors) and pickles and not allow_pickle_weights:
        raise UnsupportedModelError(
            f"{where} has its weights only as {pickles[0].path}, a pickle; refused. Choose a copy with "
            "model.safetensors, or set allow_pickle_weights=True (EMB_PROVIDER_ALLOW_PICKLE_WEIGHTS)."
        )
    folders_with_safetensors = {PurePosixPath(f.path).parent for f in safetensors}
    weights = safetensors + [
        f
        for f in pickles
        if allow_pickle_weights and PurePosixPath(f.path).parent not in folders_with_safetensors
    ]
    small = [f for f in files if _SMALL_FILES.fullmatch(PurePosixPath(f.path).name)]
    chosen = [f for f in small + weights if may_be_needed(f.path)]
    unannounced = [f.path for f in weights if f in chosen and f.sha256 is None]
    if unannounced:
        raise ModelFilesError(
            f"{where} announces no sha256 for {unannounced[0]}, so a damaged download could not be told. "
            "Try the other hub, or download the model yourself and set model_path."
        )
    return sorted(chosen, key=lambda f: (f.size, f.path))


def may_be_needed(path: str) -> bool:
    """Whether a file may be one of those that a model is made of, by its name alone."""
    *folders, name = PurePosixPath(path).parts
    if len(folders) > 1 or (folders and folders[0] in _SKIPPED_FOLDERS):
        return False
    return any(pattern.fullmatch(name) for pattern in (_SMALL_FILES, _SAFETENSORS, _PICKLES))
