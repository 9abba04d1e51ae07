"""Models from ModelScope. The hub is a place to get files from: its pipelines are not used."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.errors import MissingDependencyError, TextTypeError
from emb_model_provider.core.loaders.hub_loader import HubModelLoader
from emb_model_provider.core.loaders.hub_process import Request
from emb_model_provider.core.model_names import Source

_OLDEST_CLIENT = (0, 5)  # older ones report success for damaged downloads


class SentenceEmbeddingPipeline:
    """The contract of ModelScope's own pipeline for the task sentence-embedding, over a loaded model."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model

    def __call__(self, input: Mapping[str, Sequence[str]]) -> dict[str, Floats]:  # noqa: A002 - its name there
        """Embed the texts under `source_sentence`.

        Returns:
            `{"text_embedding": float32 (n, dimension)}`, row i for text i.

        Raises:
            TextTypeError: There is no list of texts under `source_sentence`.
        """
        if not isinstance(input, Mapping) or "source_sentence" not in input:
            raise TextTypeError('Expected {"source_sentence": [texts]}.')
        return {"text_embedding": np.asarray(self._model.embed(input["source_sentence"]))}


class ModelScopeModelLoader(HubModelLoader):
    """Loads models from ModelScope and its caches.

    Honours MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN, MODELSCOPE_CACHE and MODELSCOPE_CACHE_DIR.

    Attributes:
        embed_pipeline: Embeds `{"source_sentence": texts}` like ModelScope's own pipeline; None before
            a model is loaded.
    """

    source: ClassVar[Source] = "modelscope"
    default_revision: ClassVar[str] = "master"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.embed_pipeline: SentenceEmbeddingPipeline | None = None

    def use(self, model: EmbeddingModel) -> None:
        """Embed with this model from now on, through `embed_pipeline` too."""
        super().use(model)
        self.embed_pipeline = SentenceEmbeddingPipeline(model)

    def copies(self, repo_id: str) -> Iterator[ModelFolder]:
        """Every place where the clients, new and old, have kept a repository, without its client.

        Since 1.38 `models/OWNER--NAME/snapshots/REVISION`; before, `models/OWNER/NAME` or `OWNER/NAME`
        with `___` for a dot and no revision in the path, so that these serve the default branch only.
        """
        owner, _, name = repo_id.partition("/")
        for cache in self._caches():
            layouts = [cache / "models" / f"{owner}--{name}" / "snapshots" / self.revision]
            if self.revision == self.default_revision:
                dotless = name.replace(".", "___")
                layouts += [cache / "models" / owner / dotless, cache / owner / dotless]
            for path in layouts:
                if os.path.isdir(path):  # False also where this process may not look
                    yield ModelFolder(path, self.source, repo_id, self.revision)

    def known_absent(self, folder: ModelFolder, name: str) -> bool:
        """Known of our own downloads; the client keeps no list of its files."""
        return bool(self.file_hashes(folder).announced)

    def check_bytes(self, folder: ModelFolder) -> None:
        """Against the hashes kept at our download; of other copies nothing is announced on disk."""
        hashes = self.file_hashes(folder)
        hashes.check(hashes.announced)

    def request(self, repo_id: str) -> Request:
        """A download from MODELSCOPE_ENDPOINT into `modelscope_cache_dir`.

        Raises:
            MissingDependencyError: The client is not installed, or too old to tell damaged downloads.
        """
        if find_spec("modelscope_hub") is None:
            raise MissingDependencyError("ModelScope not installed. Install with: pip install modelscope")
        try:
            found = version("modelscope-hub")
        except PackageNotFoundError:  # a source tree on the path: its version is not known
            found = ""
        if found and tuple(int(part) for part in found.split(".")[:2]) < _OLDEST_CLIENT:
            raise MissingDependencyError(
                f"modelscope-hub {found} is too old. Upgrade with: pip install 'modelscope-hub>=0.5.1'"
            )
        endpoint = os.getenv("MODELSCOPE_ENDPOINT") or "https://modelscope.cn"
        return self.make_request(
            repo_id,
            endpoint=endpoint if "://" in endpoint else f"https://{endpoint}",
            token=self.config.modelscope_token,
            cache_dir=Path(self.config.modelscope_cache_dir).absolute(),
        )

    def _caches(self) -> Iterator[Path]:
        """Each root, and the `hub` folder that old clients put below it."""
        roots = [Path(self.config.modelscope_cache_dir)]
        if os.getenv("MODELSCOPE_CACHE"):
            roots.append(Path(os.environ["MODELSCOPE_CACHE"]).expanduser())
        if roots[0].name == "hub":
            roots.append(roots[0].parent)
        yield from dict.fromkeys(path for root in roots for path in (root, root / "hub"))
