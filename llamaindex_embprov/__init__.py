"""LlamaIndex embeddings from a Hugging Face or ModelScope model."""

from llamaindex_embprov.embedding import EmbProviderEmbedding

__all__ = ["EmbProviderEmbedding"]
