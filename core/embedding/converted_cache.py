"""Folders of files that took long to make, kept for the next start: written at once, checked when read."""

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from emb_model_provider.core.embedding.file_hashes import FileHashes, sha256_of
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import ModelFilesError

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_MAKING = ".making-"
_ABANDONED = 24 * 3600  # seconds after which a folder in the making belongs to nobody any more


class ConvertedCache:
    """One entry of the cache: a folder `converted/<key>`, whole or not there.

    Safe with many processes: an entry is made in a folder of its own and renamed into place, and what is
    in place never changes. When two make the same one, one of the two stays.
    """

    def __init__(self, cache_dir: Path, key: str) -> None:
        """`key` names everything that the files depend on; it must be a valid file name."""
        self._cache_dir = cache_dir
        self.folder = cache_dir / "converted" / key

    def is_there(self) -> bool:
        """Whether the entry is there and every file is as it was written; a damaged entry is discarded."""
        try:
            manifest = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))
            FileHashes(ModelFolder(self.folder, "cache"), self._cache_dir).check(manifest)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, ModelFilesError) as error:
            logger.warning("The converted model in %s is damaged (%s) and made again.", self.folder, error)
            self.discard()
            return False
        return True

    def write(self, fill: Callable[[Path], object]) -> bool:
        """Make the entry.

        Args:
            fill: Writes the files into the empty folder it is given, without sub-folders.

        Returns:
            Whether it could be written; a warning is logged when not.
        """
        staging = None
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            staging = self.folder.parent / f"{_MAKING}{uuid.uuid4().hex}"
            staging.mkdir()
            fill(staging)
            hashes = {path.name: sha256_of(path) for path in sorted(staging.iterdir())}
            (staging / _MANIFEST).write_text(json.dumps(hashes), encoding="utf-8")
            self._put_in_place(staging)
        except OSError as error:
            logger.warning(
                "The converted model cannot be kept in %s (%s), so the next start converts it again. "
                "Set cache_dir (EMB_PROVIDER_CACHE_DIR) to a folder that can be written.",
                self._cache_dir,
                error,
            )
            return False
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)
        return True

    def discard(self) -> None:
        """Remove the entry, if it is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _put_in_place(self, staging: Path) -> None:
        try:
            os.rename(staging, self.folder)
        except OSError:
            if (self.folder / _MANIFEST).is_file():
                return  # another process was faster
            self.discard()  # a folder that lost its manifest
            os.rename(staging, self.folder)

    def _remove_abandoned(self) -> None:
        """What a process left that was killed while it made an entry."""
        for folder in self.folder.parent.glob(f"{_MAKING}*"):
            with suppress(FileNotFoundError):  # its maker has just put it in place
                if time.time() - folder.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(folder, ignore_errors=True)
