"""Sentence embeddings with a model from Hugging Face or ModelScope.

    name --model_names--> candidates --loader--> folder --description--> ModelDescription
                 --engine--> EmbeddingModel
    texts + role --tokenization--> token ids --batching--> batches --engine--> hidden states
                 --pooling, dense, normalise--> float32 (n, dimension)

Imports go one way: errors <- config <- model_names <- embedding <- loaders <- model_manager <- adapters.
The names below are resolved at first use, so importing this package imports no torch and no hub client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "emb_model_provider.core":
    # `import core` from the repository root would load every class a second time under another name.
    raise ImportError("core/ is installed as emb_model_provider.core; import that name")

if TYPE_CHECKING:
    from emb_model_provider.core.config import Config
    from emb_model_provider.core.embedding.model import EmbeddingModel
    from emb_model_provider.core.errors import EmbeddingProviderError
    from emb_model_provider.core.loaders.base import BaseModelLoader
    from emb_model_provider.core.loaders.huggingface import HuggingFaceModelLoader
    from emb_model_provider.core.loaders.modelscope import ModelScopeModelLoader
    from emb_model_provider.core.model_manager import ModelManager
    from emb_model_provider.core.model_registry import list_models

__all__ = [
    "BaseModelLoader",
    "Config",
    "EmbeddingModel",
    "EmbeddingProviderError",
    "HuggingFaceModelLoader",
    "ModelManager",
    "ModelScopeModelLoader",
    "list_models",
]

_HOME = {
    "BaseModelLoader": "loaders.base",
    "Config": "config",
    "EmbeddingModel": "embedding.model",
    "EmbeddingProviderError": "errors",
    "HuggingFaceModelLoader": "loaders.huggingface",
    "ModelManager": "model_manager",
    "ModelScopeModelLoader": "loaders.modelscope",
    "list_models": "model_registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
