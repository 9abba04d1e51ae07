"""LangChain embeddings from a Hugging Face or ModelScope model."""

from langchain_embprov.embeddings import EmbProviderEmbeddings

__all__ = ["EmbProviderEmbeddings"]
