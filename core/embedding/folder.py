"""A model's folder: where it came from, and its files, each checked before it is read."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from emb_model_provider.core.errors import ModelFilesError

# A configuration has kilobytes; parsed JSON takes up to fifty times its size in memory.
MAX_JSON_BYTES = 5_000_000
# Gemma's tokenizer.json, the largest in wide use, has 33 MB
# (https://huggingface.co/google/embeddinggemma-300m/tree/main).
MAX_TOKENIZER_BYTES = 100_000_000
_FRONT_MATTER_CHARACTERS = 100_000


@dataclass(frozen=True)
class ModelFolder:
    """A complete folder of model files.

    Attributes:
        path: The folder.
        source: Where it came from: `path` (the user gave it), `huggingface`, `modelscope` or `package`.
        repo_id: `owner/name` on the source, or the package's name; None for a folder the user gave.
        revision: The revision asked of the source; the commit where the source tells it.
    """

    path: Path
    source: str
    repo_id: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        where = f"{self.repo_id}@{self.revision} of {self.source}, " if self.repo_id else ""
        return f"{where}{self.path}"

    def file(self, name: str) -> Path:
        """Path of a file of the model, whether or not it exists.

        Raises:
            ModelFilesError: `name` leads out of the folder, by itself or through a link.
        """
        path = self.path / safe_relative_path(name)
        try:
            os.fsencode(path)
            inside = not path.exists() or any(path.resolve().is_relative_to(r) for r in self._roots())
        except (OSError, ValueError) as error:  # a name that no file can have
            raise ModelFilesError(
                f"The model names a file {name[:100]!r} that cannot be there ({str(error)[:60]}); "
                "refused. Use another copy of the model."
            ) from error
        if not inside:
            raise ModelFilesError(
                f"{path} is a link to {path.resolve()}, outside the model's folder. "
                "Copy the file into the folder to use it."
            )
        return path

    def present(self, name: str) -> Path:
        """Like `file`, for a file that must be there."""
        path = self.file(name)
        if not path.is_file():
            raise ModelFilesError(
                f"{path} is missing. Download the model again, or point model_path at a complete copy."
            )
        return path

    def require(self, name: str) -> Path:
        """Like `present`, for a file that must not be empty."""
        path = self.present(name)
        if path.stat().st_size == 0:
            raise ModelFilesError(f"{path} is empty. Download the model again.")
        return path

    def check_size(self, name: str, max_bytes: int) -> Path:
        """Like `file`, for one that must not be larger than `max_bytes` if it is there."""
        path = self.file(name)
        if path.is_file() and path.stat().st_size > max_bytes:
            raise ModelFilesError(
                f"{path} has {path.stat().st_size} bytes, more than such a file can need ({max_bytes}). "
                "Refused: use another copy of the model."
            )
        return path

    def json(self, name: str, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
        """The object in a JSON file; {} when there is no such file."""
        return self._read_json(name, dict, max_bytes) if self.file(name).is_file() else {}

    def any_json(self, name: str) -> Any:
        """Whatever is in a JSON file that must be there."""
        self.require(name)
        return self._read_json(name, object, MAX_JSON_BYTES)

    def json_list(self, name: str) -> list[dict[str, Any]]:
        """The list of objects in a JSON file that must be there."""
        self.require(name)
        items: list[dict[str, Any]] = self._read_json(name, list, MAX_JSON_BYTES)
        if not all(isinstance(item, dict) for item in items):
            raise ModelFilesError(f"{self.file(name)} must hold a list of objects. Download the model again.")
        return items

    def read_licence(self) -> str | None:
        """`license` in the front matter of README.md, between its first two lines of `---`."""
        path = self.file("README.md")
        if not path.is_file():
            return None
        with path.open(encoding="utf-8", errors="replace") as file:
            card = file.read(_FRONT_MATTER_CHARACTERS)
        card = card[4:] if card.startswith("---\n") else ""
        found = re.search(r"^license(?:_name)?: *[\"']?([^\"'\n]+)", card.partition("\n---")[0], re.MULTILINE)
        return found[1].strip() if found else None

    def _read_json(self, name: str, kind: type, max_bytes: int) -> Any:
        path = self.check_size(name, max_bytes)
        try:
            content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
        except (OSError, ValueError, RecursionError) as error:
            raise ModelFilesError(
                f"{path} cannot be read as JSON ({error}). Download the model again."
            ) from error
        if not isinstance(content, kind):
            raise ModelFilesError(f"{path} must hold a JSON {kind.__name__}. Download the model again.")
        return content

    def _roots(self) -> list[Path]:
        """Where the model's files may really lie.

        A snapshot in the Hugging Face cache holds links into the repository's `blobs`, or into the
        cache's own (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
        """
        path = self.path.absolute()
        roots = [path.resolve()]
        if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
            repository = path.parent.parent.resolve()
            roots += [repository / "blobs", repository.parent / "blobs"]
        return roots


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of equal keys, readers differ in which one counts.

    Raises:
        ValueError: A key is there twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"a key is there twice, among {list(content)[:10]}")
    return content


def join(path: str, name: str) -> str:
    """The name of a file in a sub-folder as modules.json gives it; "" and "." are the folder itself."""
    return name if path in ("", ".") else f"{path.rstrip('/')}/{name}"


def safe_relative_path(name: str) -> PurePosixPath:
    """A name from a model's files or from a hub's list as a path that stays inside a folder.

    Raises:
        ModelFilesError: The name is absolute, has a drive, a backslash or a `..`.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or PureWindowsPath(name).drive:
        raise ModelFilesError(
            f"The model names a file {name!r} outside its own folder; refused. "
            "A model that does this is damaged or hostile: use another copy."
        )
    return path
