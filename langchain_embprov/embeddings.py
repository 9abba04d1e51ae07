"""LangChain's `Embeddings` over the core."""

from collections.abc import Mapping
from typing import ClassVar

from langchain_core.embeddings import Embeddings

from emb_model_provider.core.lazy_model import LazyModel


class EmbProviderEmbeddings(LazyModel, Embeddings):
    """Embeddings of the model that the settings name, from Hugging Face or ModelScope.

    Takes every setting of `Config` as a keyword argument and reads the rest from the environment when it
    is made. The model is loaded at first use; instances with equal settings share it. A pickle holds the
    settings only.

    Example:
        ```python
        from langchain_core.vectorstores import InMemoryVectorStore
        from langchain_embprov import EmbProviderEmbeddings

        store = InMemoryVectorStore(EmbProviderEmbeddings())
        store.add_texts(["Cats purr.", "Dogs bark."])
        store.similarity_search("Which animal purrs?", k=1)
        ```

    Raises:
        ConfigError: A setting is unknown or impossible.
    """

    _elsewhere: ClassVar[Mapping[str, str]] = {
        "cache_folder": "models are kept in the hubs' own caches (HF_HOME, MODELSCOPE_CACHE_DIR)",
        "model_kwargs": "give its entries as settings: device=..., trust_remote_code=...",
        "encode_kwargs": "use max_batch_size=...; the model's files decide whether vectors are normalised",
        "query_encode_kwargs": "the model's own query prompt is used",
        "multi_process": "one process embeds",
    }

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts with the model's document prompt.

        Returns:
            One list of `dimension` floats for each text, in order; [] for [].

        Raises:
            EmbeddingInputError: Something among the texts cannot be embedded; names its index.
            ModelLoadError: The model cannot be loaded; the subclass says why.
        """
        return self.embed(texts, "document")

    def embed_query(self, text: str) -> list[float]:
        """Embed one text with the model's query prompt; raises like `embed_documents`."""
        return self.embed([text], "query")[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Like `embed_documents`, off the event loop."""
        return await self.aembed(texts, "document")

    async def aembed_query(self, text: str) -> list[float]:
        """Like `embed_query`, off the event loop; concurrent calls share batches."""
        return (await self.aembed([text], "query"))[0]
