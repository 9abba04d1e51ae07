"""What the two hubs' loaders share: verified copies on disk first, then one bounded download."""

import logging
import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.file_hashes import FileHashes
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import HubConnectionError, ModelFilesError, ModelLoadError
from emb_model_provider.core.loaders.base import BaseModelLoader
from emb_model_provider.core.loaders.hub_errors import HUBS
from emb_model_provider.core.loaders.hub_process import Request
from emb_model_provider.core.loaders.snapshot_check import check_complete

logger = logging.getLogger(__name__)


class HubModelLoader(BaseModelLoader):
    """A loader that knows where its hub's client keeps copies, and how to ask for one."""

    default_revision: ClassVar[str]

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._offered: dict[str, ModelFolder | None] = {}  # what find_local answered

    @property
    def revision(self) -> str:
        """The Config's, else the hub's default branch."""
        return self.config.revision or self.default_revision

    @abstractmethod
    def copies(self, repo_id: str) -> Iterator[ModelFolder]:
        """The folders on disk that may hold the repository at the revision."""

    @abstractmethod
    def known_absent(self, folder: ModelFolder, name: str) -> bool:
        """Whether the repository is known to have no file of that name."""

    @abstractmethod
    def check_bytes(self, folder: ModelFolder) -> None:
        """Check the files of a copy against what the hub announced, as far as that is known.

        Raises:
            ModelFilesError: A file is not what was announced; names it.
        """

    @abstractmethod
    def request(self, repo_id: str) -> Request:
        """The download to make.

        Raises:
            ModelLoadError: None can be made: the client is not installed, or requests are forbidden.
        """

    def find_local(self, repo_id: str) -> ModelFolder | None:
        """The first complete and unharmed copy on disk; no request is made."""
        self._offered[repo_id] = self._examine(repo_id)[0]
        return self._offered[repo_id]

    def download(self, repo_id: str) -> ModelFolder:
        """Fetch and verify the model's files, unless another process has just done so.

        A copy that `find_local` has offered before was of no use: it is compared with the hub's list.

        Raises:
            ModelLoadError: The subclass says what failed.
        """
        from emb_model_provider.core.loaders.download import download, one_download_at_a_time

        _, harmed = self._examine(repo_id)
        try:
            if self.config.offline:
                raise HubConnectionError(
                    f"Model {repo_id!r} has no complete copy on disk and offline (EMB_PROVIDER_OFFLINE) "
                    f"forbids requests to {HUBS[self.source].name}. Unset it to download the model, or point "
                    "model_path at a copy."
                )
            request = self.request(repo_id)
            with one_download_at_a_time(request, self.config):
                copy, _ = self._examine(repo_id)
                if copy is not None and copy != self._offered.get(repo_id):
                    return copy
                return download(request, self.config)
        except ModelLoadError as error:
            if harmed:
                error.args = (f"{error} On disk: {harmed[0]}",)
            raise

    def make_request(
        self, repo_id: str, *, endpoint: str, token: SecretStr | None, cache_dir: Path
    ) -> Request:
        """A Request with what the Config says of all hubs."""
        return Request(
            source=self.source,
            repo_id=repo_id,
            revision=self.revision,
            endpoint=endpoint.rstrip("/"),
            token=token.get_secret_value() if token else None,
            cache_dir=str(cache_dir),
            connect_timeout=self.config.connect_timeout,
            allow_pickle_weights=self.config.allow_pickle_weights,
        )

    def file_hashes(self, folder: ModelFolder) -> FileHashes:
        """The hashes kept of a folder's files."""
        return FileHashes(folder, Path(self.config.cache_dir))

    def _examine(self, repo_id: str) -> tuple[ModelFolder | None, list[ModelFilesError]]:
        harmed = []
        for folder in self.copies(repo_id):
            try:
                check_complete(folder, lambda name, folder=folder: self.known_absent(folder, name))  # type: ignore[misc]
                self.check_bytes(folder)
            except ModelFilesError as error:
                logger.info("The copy of %s in %s is not used: %s", repo_id, folder.path, error)
                harmed.append(error)
            else:
                return folder, harmed
        return None, harmed


def offline_by(source: str, *variables: str) -> None:
    """Honour a hub's own offline variables.

    Raises:
        HubConnectionError: One of them is set.
    """
    for variable in variables:
        if os.getenv(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise HubConnectionError(
                f"The model has no complete copy on disk and {variable} forbids requests to "
                f"{HUBS[source].name}. Unset it to download the model, or point model_path at a copy."
            )
