"""From a Config to a loaded model: the front door of the core."""

import os
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from emb_model_provider.core.config import Config, check_name
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import ModelNotLoadedError
from emb_model_provider.core.loaders.base import BaseModelLoader
from emb_model_provider.core.loaders.fallback import LoadedModel, load_first
from emb_model_provider.core.loaders.huggingface import HuggingFaceModelLoader
from emb_model_provider.core.loaders.modelscope import ModelScopeModelLoader

__all__ = ["BaseModelLoader", "HuggingFaceModelLoader", "ModelManager", "ModelScopeModelLoader"]


class _SharedModels:
    """The loaded models of this process, each kept while somebody holds it and loaded once.

    Loads of different models do not wait for each other: one may be waiting for a hub.
    """

    def __init__(self) -> None:
        self._models: WeakValueDictionary[tuple[Config, str], LoadedModel] = WeakValueDictionary()
        self._locks: dict[tuple[Config, str], threading.Lock] = {}
        self._guard = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_locks)

    def _renew_locks(self) -> None:
        """A load may have been under way: its thread did not come along, and would hold its lock for ever."""
        self._locks = {}
        self._guard = threading.Lock()

    def load(self, config: Config, model_name: str, loaders: dict[str, BaseModelLoader]) -> LoadedModel:
        key = (config, model_name)
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            loaded = self._models.get(key)
            if loaded is None:
                loaded = load_first(model_name, config, loaders)
                self._models[key] = loaded
            return loaded


_shared = _SharedModels()


class ModelManager:
    """Loads the model a Config asks for, and embeds with it. Thread-safe.

    Managers of equal Configs share one loaded model; it is released when the last of them is.

    Attributes:
        config: The settings.
        loader: The loader the model came from; before that the first that will be tried.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self._loaders: dict[str, BaseModelLoader] = {
            loader.source: loader(self.config) for loader in (HuggingFaceModelLoader, ModelScopeModelLoader)
        }
        self.loader = self._loaders[
            "huggingface" if self.config.model_source == "huggingface" else "modelscope"
        ]
        self._loaded: LoadedModel | None = None

    @property
    def loaded(self) -> bool:
        """Whether `load_model` has succeeded."""
        return self._loaded is not None

    @property
    def model(self) -> EmbeddingModel:
        """The loaded model.

        Raises:
            ModelNotLoadedError: `load_model` was not called yet.
        """
        return self._require().model

    def load_model(self, model_name: str | None = None) -> EmbeddingModel:
        """Load a model, trying the candidates of its name in order; a model in use is not loaded again.

        Args:
            model_name: `owner/name`, or a folder; None for the Config's. A `model_path` in the Config
                takes the place of any name.

        Raises:
            NoModelError: Several candidates failed; lists each with its reason.
            ModelLoadError: The only candidate failed; the subclass says how.
            ConfigError: The name is none, or the device is not there.
        """
        name = self.config.model_name if model_name is None else check_name(model_name)
        self._loaded = _shared.load(self.config.core(), name, self._loaders)
        model = self._loaded.model
        # A folder the user gave, or a package, comes from neither hub: the configured loader has it.
        self.loader = self._loaders.get(model.description.folder.source, self.loader)
        self.loader.use(model)
        return model

    def generate_embeddings(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed texts as documents.

        Returns:
            One list of `dimension` floats for each text, in order.

        Raises:
            ModelNotLoadedError: `load_model` was not called yet.
            EmbeddingInputError: Something among the texts cannot be embedded; names its index.
        """
        return self.generate_batch_embeddings(texts)

    def generate_batch_embeddings(
        self, texts: Sequence[str], batch_size: int | None = None
    ) -> list[list[float]]:
        """Like `generate_embeddings`, with at most `batch_size` texts per forward pass."""
        vectors: list[list[float]] = self.model.embed(texts, batch_size=batch_size).tolist()
        return vectors

    def get_model_info(self) -> dict[str, Any]:
        """What is loaded and where it came from.

        Returns:
            `source` (path, huggingface, modelscope or package), `repo_id`, `revision`, `folder`,
            `fingerprint` (the identity of the vectors), `architecture`, `parameters`, `dtype` (of the stored
            weights), `size_on_disk` (bytes), `licence`, `dimension`, `max_length` (tokens),
            `truncated_texts` (so far), `pooling`, `normalized`, `prompts` (in force, by role),
            `prompt_advice` (what to set when the model is known to expect other prompts, else None),
            `similarity`, `device`, `precision` (what it computes in), `substitute_for` (the name asked for
            when this is a different model, else None) and `failures` (candidate: reason, of those tried
            before).

        Raises:
            ModelNotLoadedError: `load_model` was not called yet.
        """
        loaded = self._require()
        description = loaded.model.description
        folder = description.folder
        return {
            "source": folder.source,
            "repo_id": folder.repo_id,
            "revision": folder.revision,
            "folder": str(folder.path),
            "fingerprint": loaded.model.fingerprint,
            "architecture": description.architecture,
            "parameters": description.parameters,
            "dtype": description.dtype,
            "size_on_disk": description.size_on_disk,
            "licence": description.licence,
            "dimension": loaded.model.dimension,
            "max_length": loaded.model.max_length,
            "truncated_texts": loaded.model.truncated,
            "pooling": description.pooling_name,
            "normalized": description.normalized,
            "prompts": {role: loaded.model.prompt(role) for role in ("query", "document")},
            "prompt_advice": loaded.model.prompts.advice,
            "similarity": description.similarity,
            "device": loaded.model.device,
            "precision": loaded.model.precision,
            "substitute_for": loaded.substitute_for,
            "failures": {str(candidate): str(error) for candidate, error in loaded.failures},
        }

    def _require(self) -> LoadedModel:
        if self._loaded is None:
            raise ModelNotLoadedError("Model not loaded. Call load_model(name) first.")
        return self._loaded
