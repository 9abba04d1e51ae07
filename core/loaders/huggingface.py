"""Models from the Hugging Face Hub."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import ModelFilesError
from emb_model_provider.core.loaders.base import BaseModelLoader
from emb_model_provider.core.loaders.snapshot_check import check_complete

logger = logging.getLogger(__name__)

DEFAULT_REVISION = "main"


def cache_dir() -> Path:
    """The hub's cache folder, by the hub's own variables, read now and not at import."""
    home = os.getenv("HF_HOME") or os.path.join(
        os.getenv("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
    )
    chosen = os.getenv("HF_HUB_CACHE") or os.getenv("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(chosen)))


class HuggingFaceModelLoader(BaseModelLoader):
    """Loads models from the Hugging Face Hub and its cache."""

    source = "huggingface"

    def find_local(self, repo_id: str) -> ModelFolder | None:
        """The complete copy in the hub's cache, by the cache's documented layout, without its client."""
        repository = cache_dir() / f"models--{repo_id.replace('/', '--')}"
        reference = repository / "refs" / DEFAULT_REVISION
        if not reference.is_file():
            return None
        commit = reference.read_text(encoding="utf-8").strip()
        folder = ModelFolder(repository / "snapshots" / commit, self.source, repo_id, commit)
        try:
            check_complete(folder, lambda name: _known_absent(repository, commit, name))
        except ModelFilesError as error:
            logger.info("The copy in %s is not complete: %s", folder.path, error)
            return None
        return folder

    def download(self, repo_id: str) -> ModelFolder:
        """The model's files, through `huggingface_hub`."""
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(repo_id, cache_dir=cache_dir()))
        return ModelFolder(path, self.source, repo_id, path.name)


def _known_absent(repository: Path, commit: str, name: str) -> bool:
    """Whether the hub said that the commit has no such file.

    Its client keeps the answer in `.no_exist`, or the whole list of files in `trees`.
    """
    if (repository / ".no_exist" / commit / name).exists():
        return True
    try:
        tree: dict[str, Any] = json.loads((repository / "trees" / f"{commit}.json").read_text())
        return name not in tree["files"]
    except (OSError, ValueError, KeyError):
        return False
