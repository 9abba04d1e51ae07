"""The plug-in point: what a source of models must do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import ModelNotLoadedError
from emb_model_provider.core.loaders.fallback import load_first
from emb_model_provider.core.model_names import Source


class BaseModelLoader(ABC):
    """Loads models from one source. A source says where a complete copy lies, and how to get one.

    Attributes:
        source: The name of the source, as in `model_source`.
        config: The settings.
        model: The model loaded last; None before.
    """

    source: ClassVar[Source]

    def __init__(self, config: Config) -> None:
        self.config = config
        self.model: EmbeddingModel | None = None

    @abstractmethod
    def find_local(self, repo_id: str) -> ModelFolder | None:
        """A complete copy in the source's cache, without any request; None when there is none."""

    @abstractmethod
    def download(self, repo_id: str) -> ModelFolder:
        """A complete copy from the source.

        Raises:
            ModelLoadError: The subclass says what kind of failure.
        """

    def load_model(self, model_name: str | None = None) -> EmbeddingModel:
        """Load a model from this source: a given folder, the cache, a model package, then a download.

        Args:
            model_name: `owner/name`, or a folder; None for the Config's.

        Raises:
            ModelLoadError: The subclass says what kind of failure.
        """
        config = self.config.model_copy(update={"model_source": self.source})
        loaded = load_first(model_name or config.model_name, config, {self.source: self})
        self.use(loaded.model)
        return loaded.model

    def use(self, model: EmbeddingModel) -> None:
        """Embed with this model from now on."""
        self.model = model

    def generate_embeddings(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed texts as documents: one list of `dimension` floats for each text, in order.

        Raises:
            ModelNotLoadedError: No model is loaded yet.
            EmbeddingInputError: Something among the texts cannot be embedded.
        """
        if self.model is None:
            raise ModelNotLoadedError("Model not loaded. Call load_model(name) first.")
        vectors: list[list[float]] = self.model.embed(texts).tolist()
        return vectors
