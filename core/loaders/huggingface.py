"""Models from the Hugging Face Hub."""

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from emb_model_provider.core.embedding.file_hashes import git_sha1_of
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import ModelFilesError
from emb_model_provider.core.loaders.file_list import may_be_needed
from emb_model_provider.core.loaders.hub_loader import HubModelLoader, offline_by
from emb_model_provider.core.loaders.hub_process import Request
from emb_model_provider.core.model_names import Source

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_dir() -> Path:
    """The hub's cache folder, by the hub's own variables, read now and not at import."""
    home = os.getenv("HF_HOME") or os.path.join(
        os.getenv("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
    )
    chosen = os.getenv("HF_HUB_CACHE") or os.getenv("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(chosen))).absolute()


class HuggingFaceModelLoader(HubModelLoader):
    """Loads models from the Hugging Face Hub and its cache.

    Honours HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE. The
    cache is read by its documented layout, without the client:
    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """

    source: ClassVar[Source] = "huggingface"
    default_revision: ClassVar[str] = "main"

    def copies(self, repo_id: str) -> Iterator[ModelFolder]:
        """The snapshot that the revision names in the hub's cache."""
        repository = cache_dir() / f"models--{repo_id.replace('/', '--')}"
        commit = self.revision
        if not _COMMIT.fullmatch(commit):
            commit = _commit_of(repository / "refs" / commit)
        path = repository / "snapshots" / commit
        if _COMMIT.fullmatch(commit) and os.path.isdir(path):
            yield ModelFolder(path, self.source, repo_id, commit)

    def known_absent(self, folder: ModelFolder, name: str) -> bool:
        """The client keeps the hub's answer in `.no_exist`, or the whole list of files in `trees`."""
        repository, commit = folder.path.parent.parent, folder.path.name
        if (repository / ".no_exist" / commit / name).exists():
            return True
        if self.file_hashes(folder).announced:  # our own download, of all that the list had
            return True
        try:
            tree: dict[str, Any] = json.loads((repository / "trees" / f"{commit}.json").read_text())
            return name not in tree["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return False  # no list, or none that can be read: not known

    def check_bytes(self, folder: ModelFolder) -> None:
        """Blobs are named after their content's hash: sha256 for large files, git's sha1 for small ones."""
        announced = {}
        for path in sorted(folder.path.rglob("*")):
            name = path.relative_to(folder.path).as_posix()
            if not may_be_needed(name) or not path.is_file():
                continue
            blob = folder.file(name).resolve()
            if _SHA256.fullmatch(blob.name):
                announced[name] = blob.name
            elif _COMMIT.fullmatch(blob.name) and git_sha1_of(blob) != blob.name:
                raise ModelFilesError(
                    f"{path} is not the file that was published (its hash is not {blob.name}). "
                    "Delete it to download it again."
                )
        hashes = self.file_hashes(folder)
        hashes.check(hashes.announced or announced)

    def request(self, repo_id: str) -> Request:
        """A download from HF_ENDPOINT, with `hf_token` or what the client finds itself (HF_TOKEN)."""
        offline_by(self.source, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        return self.make_request(
            repo_id,
            endpoint=os.getenv("HF_ENDPOINT") or "https://huggingface.co",
            token=self.config.hf_token,
            cache_dir=cache_dir(),
        )


def _commit_of(reference: Path) -> str:
    """The commit that a branch or tag names in the cache; "" when there is none, or none that can be read."""
    if not os.path.isfile(reference):  # or this process may not look
        return ""
    try:
        return reference.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s), and no copy in this cache is used.", reference, error)
        return ""
