"""The texts that are embedded: passages and queries, in an order that does not depend on the machine."""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

NOT_DOCUMENTED = {"test", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "site-packages"}
SHORT, LONG = 40, 400  # characters; of the default corpus, nine in ten passages are LONG: about 165 tokens
QUERY_WORDS = 8


def read_passages(corpus: Path | None, count: int) -> list[str]:
    """`count` different passages.

    Args:
        corpus: A JSONL file whose lines have a "text", or a folder of .txt and .md files, cut into
            paragraphs; None for the docstrings of Python's standard library.
        count: How many.

    Raises:
        SystemExit: There are not as many.
    """
    if corpus is None:
        found = _library_passages(count)
    elif corpus.is_dir():
        found = _shuffled(_paragraphs(corpus))
    else:
        lines = corpus.read_text("utf-8").splitlines()
        found = _shuffled(json.loads(line)["text"] for line in lines if line.strip())
    if len(found) < count:
        raise SystemExit(f"{corpus or 'the standard library'} has {len(found)} passages, {count} are needed")
    return found[:count]


def make_queries(passages: list[str], count: int) -> list[str]:
    """`count` pieces of the passages, a short question long; no two start at the same word."""
    words = " ".join(passages).split()
    step = max(1, (len(words) - QUERY_WORDS) // count)
    return [" ".join(words[i * step :][:QUERY_WORDS]) for i in range(count)]


def _library_passages(count: int) -> list[str]:
    """One short docstring for nine long ones; read without importing the modules."""
    found = _shuffled(_docstrings())
    long = [text for text in found if len(text) >= LONG]
    short = [text for text in found if SHORT <= len(text) < LONG]
    return _shuffled(long[: count - count // 10] + short[: count // 10])


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in [*library.glob("*.py"), *library.glob("*/*.py")]:
        if path.relative_to(library).parts[0] not in NOT_DOCUMENTED:
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield ast.get_docstring(node) or ""


def _paragraphs(folder: Path) -> Iterator[str]:
    for path in [*folder.rglob("*.txt"), *folder.rglob("*.md")]:
        for text in path.read_text("utf-8", errors="replace").split("\n\n"):
            if len(text.strip()) >= SHORT:
                yield text.strip()


def _shuffled(texts: Iterator[str] | list[str]) -> list[str]:
    """Every text once, by its hash: mixed, and always the same."""
    return sorted({text for text in texts if text}, key=lambda text: hashlib.sha1(text.encode()).digest())
