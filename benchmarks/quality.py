"""How good a model's vectors are, measured on plain files as leaderboards do; one row of a table per FILE.

    python benchmarks/quality.py FILE... [--model NAME_OR_FOLDER] [--engine openvino] [--precision int8] ...

A FILE holds one of two things:

Semantic textual similarity: a file of text pairs, each with the score that people gave it, higher is closer.

    pairs.tsv       score <tab> text1 <tab> text2, nothing quoted
    pairs.csv       score,text1,text2, quoted where needed
    pairs.jsonl     {"score": 2.5, "sentence1": "...", "sentence2": "..."} a line; other keys are ignored

  The metric is Spearman's rank correlation of the scores with the similarity of the vectors. Both texts are
  embedded as queries; where a leaderboard used another prompt for this task, --query-prompt sets it.
  `cut -f5-7 sts-test.csv > sts-test.tsv` makes such a file of the STS Benchmark's own.

Retrieval: a folder in the layout of BEIR.

    corpus.jsonl    {"_id": "d1", "title": "...", "text": "..."}; the title may be missing
    queries.jsonl   {"_id": "q1", "text": "..."}
    qrels/test.tsv  query-id <tab> corpus-id <tab> relevance

  The metric is the mean nDCG@10 of the queries in qrels/test.tsv, over all documents. Queries are embedded as
  queries, documents as documents: title, space, text. As in BEIR, a document never answers the query that has
  its own id, and a relevance below 0 counts as 0.

Tables may start with a line of column names, if the score's, or the relevance's, is `score`. Files are UTF-8.
The seconds leave out loading the model. Settings without an option here come from the environment.
"""

import argparse
import csv
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sklearn.metrics import ndcg_score  # type: ignore[import-untyped]

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import EmbeddingProviderError
from emb_model_provider.core.model_manager import ModelManager

SETTINGS = ("device", "engine", "precision", "prompts", "query_prompt", "document_prompt", "truncate_dim")

Result = tuple[int, str, float]  # pairs or queries, metric, value

Floats = NDArray[np.float32]
Similarity = Callable[[Floats, Floats], Floats]

# Of the vectors in the last axis, higher is closer; by the names that models save.
SIMILARITIES: dict[str, Similarity] = {
    "cosine": lambda a, b: (unit(a) * unit(b)).sum(axis=-1),
    "dot": lambda a, b: (a * b).sum(axis=-1),
    "euclidean": lambda a, b: -np.linalg.norm(a - b, axis=-1),
    "manhattan": lambda a, b: -np.abs(a - b).sum(axis=-1),
}


def unit(vectors: Floats) -> Floats:
    """The vectors scaled to unit length."""
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled


def fail(path: Path, line: int, reason: str) -> NoReturn:
    """End the program with what is wrong in a file, and where."""
    raise SystemExit(f"{path}:{line}: {reason}")


def read_lines(path: Path) -> Iterator[str]:
    """Every line, with its end."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig")
                except UnicodeDecodeError as error:
                    fail(path, number, f"not UTF-8 ({error.reason})")
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}") from error


def read_objects(path: Path, *texts: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line of a .jsonl file; the values under the keys `texts` are texts."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            fail(path, number, f"not JSON ({error.msg}, column {error.colno})")
        for key in texts:
            if not isinstance(item, dict) or not isinstance(item.get(key), str):
                fail(path, number, f"expected an object with a text as {key!r}")
        yield number, item


def read_table(path: Path, score: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of each line of a .tsv or .csv file, without a first line of column names."""
    tabs = path.suffix == ".tsv"
    lines = csv.reader(
        read_lines(path),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        for columns in lines:
            if columns and len(columns) != 3:
                fail(path, lines.line_num, f"expected 3 columns, got {len(columns)}")
            if columns and (lines.line_num > 1 or columns[score].strip() != "score"):
                yield lines.line_num, columns
    except csv.Error as error:
        fail(path, lines.line_num, str(error))


def to_number(path: Path, line: int, value: Any) -> float:
    """The score in a line."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        fail(path, line, f"expected a number as score, got {value!r}")
    return number


def read_pairs(path: Path) -> Iterator[tuple[float, str, str]]:
    """(score, text, text) of each pair."""
    if path.suffix == ".jsonl":
        for line, item in read_objects(path, "sentence1", "sentence2"):
            yield to_number(path, line, item.get("score")), item["sentence1"], item["sentence2"]
    elif path.suffix in (".tsv", ".csv"):
        for line, (score, first, second) in read_table(path, score=0):
            yield to_number(path, line, score), first, second
    else:
        raise SystemExit(f"{path}: expected a .tsv, .csv or .jsonl file, or a folder")


def read_texts(path: Path) -> dict[str, str]:
    """The texts of a corpus or of queries, by id."""
    texts: dict[str, str] = {}
    for line, item in read_objects(path, "_id", "text"):
        if item["_id"] in texts:
            fail(path, line, f"the id {item['_id']!r} was there before")
        texts[item["_id"]] = f"{item.get('title') or ''} {item['text']}".strip()
    return texts


def measure_pairs(model: EmbeddingModel, path: Path, similarity: Similarity) -> Result:
    """Spearman's rank correlation of people's scores and the similarity of the vectors."""
    pairs = list(read_pairs(path))
    scores = [score for score, _, _ in pairs]
    if len(set(scores)) < 2:
        raise SystemExit(f"{path}: a rank correlation needs pairs with different scores")
    texts = [first for _, first, _ in pairs] + [second for _, _, second in pairs]
    vectors = model.embed(texts, "query", show_progress=sys.stderr.isatty())
    correlation = spearmanr(scores, similarity(vectors[: len(pairs)], vectors[len(pairs) :]))
    return len(pairs), "Spearman", 100 * correlation.statistic


def measure_retrieval(model: EmbeddingModel, folder: Path, similarity: Similarity) -> Result:
    """Mean nDCG@10 of the judged queries."""
    documents, queries = (read_texts(folder / name) for name in ("corpus.jsonl", "queries.jsonl"))
    judged: dict[str, dict[str, float]] = defaultdict(dict)
    judgements = folder / "qrels" / "test.tsv"
    for line, (query, document, relevance) in read_table(judgements, score=2):
        for key, texts, name in ((query, queries, "queries"), (document, documents, "corpus")):
            if key not in texts:
                fail(judgements, line, f"{name}.jsonl has no {key!r}")
        judged[query][document] = max(0.0, to_number(judgements, line, relevance))
    if len(documents) < 2 or not judged:
        raise SystemExit(f"{folder}: ranking needs two documents and a line in qrels/test.tsv")
    vectors = model.embed(list(documents.values()), "document", show_progress=sys.stderr.isatty())
    asked_vectors = model.embed(
        [queries[query] for query in judged], "query", show_progress=sys.stderr.isatty()
    )
    values = []
    for query, asked in zip(judged, asked_vectors, strict=True):
        scores = similarity(asked, vectors)
        if query in documents:
            scores[list(documents).index(query)] = scores.min() - 1
        gains = [judged[query].get(document, 0.0) for document in documents]
        values.append(ndcg_score([gains], [scores], k=10))
    return len(values), "nDCG@10", 100 * float(np.mean(values))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each file."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=usage)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--model", metavar="NAME_OR_FOLDER", help="instead of the one in the environment")
    parser.add_argument("--similarity", choices=SIMILARITIES, help="default: what the model's files say")
    for name in SETTINGS:
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, metavar="VALUE", help=Config.model_fields[name].description)
    options = parser.parse_args(arguments)

    settings = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    if options.model:
        settings |= {"model_name": options.model, "model_path": None}
    manager = ModelManager(Config(**settings))
    model = manager.load_model()
    info = manager.get_model_info()
    similarity = options.similarity or info["similarity"] or "cosine"
    if similarity not in SIMILARITIES:
        raise SystemExit(
            f"The model was made for the similarity {similarity!r}: choose one with --similarity."
        )

    config = manager.config
    # A package is named by what it was asked for.
    name = config.model_name if info["source"] == "package" else info["repo_id"] or Path(info["folder"]).name
    setup = f"{name} | {info['fingerprint'][:12]} | {config.engine} | {config.precision}"
    print("| data | model | fingerprint | engine | precision | n | metric | x 100 | seconds |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for path in options.files:
        start = time.perf_counter()
        measure = measure_retrieval if path.is_dir() else measure_pairs
        count, metric, value = measure(model, path, SIMILARITIES[similarity])
        seconds = time.perf_counter() - start
        print(f"| {path.name} | {setup} | {count} | {metric} | {value:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except EmbeddingProviderError as error:
        sys.exit(str(error))
