"""sha256 of a model's files, each computed once and remembered while size and times stay the same."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import ModelFilesError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20


class FileHashes:
    """The hashes of one model folder's files, kept in our own cache folder.

    Two kinds are kept: what a file's bytes were found to be, with the size and times they were found at;
    and what the hub announced, which the bytes must be for ever.
    """

    def __init__(self, folder: ModelFolder, cache_dir: Path) -> None:
        self._folder = folder
        key = hashlib.sha256(str(folder.path.absolute()).encode()).hexdigest()[:32]
        self._record = cache_dir / "files" / f"{key}.json"
        self._content = self._read()

    def sha256(self, name: str) -> str:
        """Hash of a file's bytes, 64 hexadecimal digits.

        Raises:
            ModelFilesError: The file is missing or cannot be read.
        """
        path = self._folder.present(name)
        state = _state(path)
        known = self._content["found"].get(name, [])
        if known[:-1] == state:
            return str(known[-1])
        found = sha256_of(path)
        self._content["found"][name] = [*state, found]
        self._write()
        return found

    @property
    def announced(self) -> Mapping[str, str]:
        """sha256 of each file as the hub announced it when it was downloaded; {} for other copies."""
        return dict(self._content["announced"])

    def announce(self, hashes: Mapping[str, str]) -> None:
        """Remember a download: every file it brought, with the hash its bytes were checked against."""
        found = {name: [*_state(self._folder.present(name)), digest] for name, digest in hashes.items()}
        self._content = {"folder": str(self._folder.path), "announced": dict(hashes), "found": found}
        self._write()

    def check(self, announced: Mapping[str, str]) -> None:
        """Check files against announced hashes; a file that has not changed since is not read again.

        Raises:
            ModelFilesError: A file is missing or has other bytes; the message names it.
        """
        for name, digest in announced.items():
            if self.sha256(name) != digest:
                raise ModelFilesError(
                    f"{self._folder.file(name)} is not the file that was published: its sha256 is "
                    f"{self.sha256(name)}, announced was {digest}. Delete it to download it again."
                )

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._record.read_text(encoding="utf-8"))
            lists = all(isinstance(known, list) for known in content["found"].values())
            if lists and isinstance(content["announced"], dict):
                return dict(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # no record, or not ours: hashes are computed again
        return {"folder": str(self._folder.path), "announced": {}, "found": {}}

    def _write(self) -> None:
        try:
            write_atomically(self._record, lambda path: path.write_text(json.dumps(self._content)))
        except OSError as error:
            logger.warning(
                "Hashes cannot be kept in %s (%s) and will be computed again.", self._record, error
            )


def _state(path: Path) -> list[int]:
    """What changes with a file's bytes; and when it came here, as images give all files one mtime."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def sha256_of(path: Path, report: Callable[[], object] = lambda: None) -> str:
    """sha256 of a file's bytes; `report` is called after each mebibyte."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                report()
    except OSError as error:
        raise ModelFilesError(f"{path} cannot be read ({error}).") from error
    return digest.hexdigest()


def git_sha1_of(path: Path) -> str:
    """The hash that git, and a hub's list of small files, gives a file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFilesError(f"{path} cannot be read ({error}).") from error
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file and put it in place: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        write(Path(name))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
