"""LlamaIndex's `BaseEmbedding` over the core."""

from collections.abc import Mapping
from typing import Any, ClassVar

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from emb_model_provider.core.embedding.texts import check_texts
from emb_model_provider.core.lazy_model import LazyModel


class EmbProviderEmbedding(LazyModel, BaseEmbedding):
    """Embeddings of the model that the settings name, from Hugging Face or ModelScope.

    Takes every setting of `Config` and every field of `BaseEmbedding` as a keyword argument and reads the
    rest from the environment when it is made. The model is loaded at first use; instances with equal
    settings share it. `to_dict` and pickles hold the settings only.

    Attributes:
        embed_batch_size: Texts that LlamaIndex hands over at a time. Each such slice is sorted by length
            and cut into forward passes of at most `max_batch_size` texts.

    Example:
        ```python
        from llama_index.core import Document, Settings, VectorStoreIndex
        from llamaindex_embprov import EmbProviderEmbedding

        Settings.embed_model = EmbProviderEmbedding()
        index = VectorStoreIndex.from_documents([Document(text="Cats purr."), Document(text="Dogs bark.")])
        index.as_retriever(similarity_top_k=1).retrieve("Which animal purrs?")
        ```

    Raises:
        ConfigError: A setting is unknown or impossible.
    """

    model_config = SettingsConfigDict(frozen=False)  # LlamaIndex assigns callback_manager

    embed_batch_size: int = Field(
        default=512, gt=0, le=2048, description="a whole number of texts per slice, 1 to 2048"
    )

    _elsewhere: ClassVar[Mapping[str, str]] = {
        "cache_folder": "models are kept in the hubs' own caches (HF_HOME, MODELSCOPE_CACHE_DIR)",
        "max_length": "use max_context_length=...",
        "normalize": "the model's files decide whether vectors are normalised",
        "query_instruction": "the model's own query prompt is used",
        "text_instruction": "the model's own document prompt is used",
        "parallel_process": "one process embeds",
        "target_devices": "use device=...",
        "show_progress_bar": "use show_progress=...",
    }

    @field_validator("embeddings_cache")
    @classmethod
    def _refuse_shared_cache(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError(
                "LlamaIndex keeps query and document vectors of every model under the text alone, and so "
                "would answer with the wrong one; use an IngestionPipeline with a cache instead"
            )
        return value

    @classmethod
    def class_name(cls) -> str:
        """The name in `to_dict`."""
        return "EmbProviderEmbedding"

    def to_payload(self) -> dict[str, Any]:
        """What LlamaIndex's events tell of the model; no path and no secret."""
        return {**super().to_payload(), "model_source": self.model_source, "device": self.device}

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """Embed texts, `embed_batch_size` at a time; none when one of them cannot be embedded."""
        check_texts(texts)  # the base class takes a string for a list, and we see slices only
        return super().get_text_embedding_batch(texts, show_progress, **kwargs)

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """Like `get_text_embedding_batch`, off the event loop."""
        check_texts(texts)
        return await super().aget_text_embedding_batch(texts, show_progress, **kwargs)

    def _get_query_embedding(self, query: str) -> Embedding:
        return self.embed([query], "query")[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await self.aembed([query], "query"))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self.embed([text], "document")[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self.aembed([text], "document"))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self.embed(texts, "document")

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await self.aembed(texts, "document")
