"""benchmarks/quality.py measures what leaderboards do."""

from __future__ import annotations

import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from models import edit_json, load_oracle

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from emb_model_provider.core.embedding.model import EmbeddingModel

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "quality.py"

PAIRS = [
    (4.5, "A man plays the guitar.", "Somebody plays a guitar."),
    (0.5, "A man plays the guitar.", "The stock market fell again on Monday."),
    (5.0, 'She said "yes", twice.', 'She said "yes", twice.'),
    (2.0, "Berlin is in Germany", "Tokyo is in Japan"),
    (3.25, "今天天气很好", "the weather, today"),
    (1.0, "vectors of sentences", "rivers and old cities"),
]
DOCUMENTS = {
    "d1": ("Guitars", "A man plays the guitar."),
    "d2": ("", "The stock market fell again on Monday."),
    "d3": ("Germany", "Berlin is in Germany"),
    "d4": ("Japan", "Tokyo is in Japan"),
    **{f"more{n}": ("", f"number {n} of the many documents about music and physics") for n in range(12)},
}
QUERIES = {"q1": "who plays guitar", "q2": "capitals of countries", "q3": "music", "not judged": "old cities"}
JUDGEMENTS = {"q1": ["d1"], "q2": ["d4", "d3"], "q3": ["d1", "more3", "more7"]}


def write_jsonl(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def write_pairs(folder: Path, kind: str) -> Path:
    file = folder / f"pairs{kind}"
    if kind == ".jsonl":
        keys = ("score", "sentence1", "sentence2")
        return write_jsonl(file, [{"year": "2012", **dict(zip(keys, pair, strict=True))} for pair in PAIRS])
    if kind == ".tsv":
        lines = ["\t".join(map(str, pair)) for pair in PAIRS]
    else:
        quoted = [[f'"{text}"' for text in (a.replace('"', '""'), b.replace('"', '""'))] for _, a, b in PAIRS]
        lines = [
            "score,text1,text2",
            *(f"{pair[0]},{a},{b}" for pair, (a, b) in zip(PAIRS, quoted, strict=True)),
        ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def write_retrieval(
    folder: Path,
    documents: dict[str, tuple[str, str]],
    queries: dict[str, str],
    judgements: Sequence[tuple[str, str, float]],
) -> Path:
    (folder / "qrels").mkdir()
    corpus = [{"_id": key, "title": title, "text": text} for key, (title, text) in documents.items()]
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in queries.items()])
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judgements)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def retrieval(tmp_path: Path) -> Path:
    rows = [(query, document, 1.0) for query, found in JUDGEMENTS.items() for document in found]
    return write_retrieval(tmp_path, DOCUMENTS, QUERIES, rows)


@pytest.fixture(scope="module")
def oracle(toy_model: Path) -> SentenceTransformer:
    return load_oracle(toy_model)


def evaluate_pairs(model: SentenceTransformer, prompt: str = "") -> float:
    """What sentence-transformers gives for the pairs, each text after a prompt."""
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    first, second = [prompt + a for _, a, _ in PAIRS], [prompt + b for _, _, b in PAIRS]
    evaluate = EmbeddingSimilarityEvaluator(first, second, [score for score, _, _ in PAIRS])
    correlation: float = evaluate(model)["spearman_cosine"]
    return correlation


Measure = Callable[..., dict[str, str]]


@pytest.fixture
def measure(toy_model: Path, capsys: pytest.CaptureFixture[str]) -> Measure:
    """The row for one file, by column: `measure(file, "--similarity", "dot")`."""
    program = runpy.run_path(str(PROGRAM))

    def run(file: Path, *options: str, model: Path = toy_model) -> dict[str, str]:
        program["main"]([str(file), "--model", str(model), "--engine", "torch", "--device", "cpu", *options])
        names, _, row = capsys.readouterr().out.splitlines()
        cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (names, row))
        return dict(zip(*cells, strict=True))

    return run


class WrittenVectors:
    """A model whose vectors are written down, and which remembers what it was asked."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = vectors
        self.asked: list[tuple[str, list[str]]] = []

    def embed(self, texts: list[str], role: str, **_: object) -> Any:
        self.asked.append((role, texts))
        return np.array([self._vectors[text] for text in texts], dtype=np.float32)


class TestPairs:
    @pytest.mark.parametrize("kind", [".tsv", ".csv", ".jsonl"])
    def test_give_the_correlation_that_sentence_transformers_gives(
        self, measure: Measure, oracle: SentenceTransformer, tmp_path: Path, kind: str
    ) -> None:
        expected = evaluate_pairs(oracle, prompt="query: ")
        row = measure(write_pairs(tmp_path, kind))
        assert (row["metric"], row["n"], row["x 100"]) == ("Spearman", "6", f"{100 * expected:.2f}")

    def test_are_ranked_by_the_similarity_that_is_asked_for(
        self, measure: Measure, toy_model: Path, tmp_path: Path
    ) -> None:
        program = runpy.run_path(str(PROGRAM))
        (tmp_path / "pairs.tsv").write_text("1\ta\tb\n2\ta\tc\n3\ta\td\n")
        vectors = {"a": [1.0, 0.0], "b": [9.0, 9.0], "c": [3.0, 1.0], "d": [0.5, 0.1]}
        found = {
            name: program["measure_pairs"](WrittenVectors(vectors), tmp_path / "pairs.tsv", similarity)
            for name, similarity in program["SIMILARITIES"].items()
        }
        # By hand: cosines .71 < .95 < .98; dots 9 > 3 > .5; distances 12.0 > 2.2 > .51 and 17 > 3 > .6.
        right, reverse = (3, "Spearman", pytest.approx(100)), (3, "Spearman", pytest.approx(-100))
        assert found == {"cosine": right, "dot": reverse, "euclidean": right, "manhattan": right}

    def test_are_both_embedded_as_queries(self, tmp_path: Path) -> None:
        program = runpy.run_path(str(PROGRAM))
        (tmp_path / "pairs.tsv").write_text("1\ta\tb\n0\ta\tc\n")
        model = WrittenVectors({"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [0.0, 1.0]})
        program["measure_pairs"](model, tmp_path / "pairs.tsv", program["SIMILARITIES"]["cosine"])
        assert model.asked == [("query", ["a", "a", "b", "c"])]


class TestRetrieval:
    def test_gives_the_ndcg_that_sentence_transformers_gives(
        self, measure: Measure, oracle: SentenceTransformer, retrieval: Path
    ) -> None:
        from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

        evaluate = InformationRetrievalEvaluator(
            {key: QUERIES[key] for key in JUDGEMENTS},
            {key: f"{title} {text}".strip() for key, (title, text) in DOCUMENTS.items()},
            {query: set(found) for query, found in JUDGEMENTS.items()},
            query_prompt="query: ",
            corpus_prompt="passage: ",
        )
        row = measure(retrieval)
        expected = evaluate(oracle)["cosine_ndcg@10"]
        assert 0 < expected < 1
        assert (row["metric"], row["n"], row["x 100"]) == ("nDCG@10", "3", f"{100 * expected:.2f}")

    def test_counts_graded_relevance_but_no_query_as_its_own_answer(self, tmp_path: Path) -> None:
        program = runpy.run_path(str(PROGRAM))
        documents = {"best": ("A", "a"), "good": ("", "b"), "bad": ("", "c"), "q": ("", "itself")}
        judged = [("q", "best", 3), ("q", "good", 1), ("q", "bad", -2)]
        folder = write_retrieval(tmp_path, documents, {"q": "asked", "not judged": "other"}, judged)
        model = WrittenVectors(
            {"asked": [1, 0], "itself": [1, 0], "c": [0.9, 0.1], "A a": [0.5, 0.5], "b": [0, 1]}
        )
        found = program["measure_retrieval"](model, folder, program["SIMILARITIES"]["cosine"])
        # Ranked: bad (no gain), best (3), good (1); ideal: best, good.
        gained = 3 / math.log2(3) + 1 / math.log2(4)
        ideal = 3 / math.log2(2) + 1 / math.log2(3)
        assert found == (1, "nDCG@10", pytest.approx(100 * gained / ideal))
        assert model.asked == [("document", ["A a", "b", "c", "itself"]), ("query", ["asked"])]


class TestRow:
    def test_names_the_model_and_its_settings(
        self, measure: Measure, toy: EmbeddingModel, toy_model: Path, tmp_path: Path
    ) -> None:
        row = measure(write_pairs(tmp_path, ".tsv"), "--precision", "fp32")
        assert (row["data"], row["model"]) == ("pairs.tsv", toy_model.name)
        assert row["fingerprint"] == (toy.fingerprint or "")[:12] != ""
        assert (row["engine"], row["precision"]) == ("torch", "fp32")
        assert float(row["seconds"]) >= 0

    def test_is_of_the_prompts_that_were_given(
        self, measure: Measure, oracle: SentenceTransformer, tmp_path: Path
    ) -> None:
        expected = evaluate_pairs(oracle)
        file = write_pairs(tmp_path, ".tsv")
        row = measure(file, "--query-prompt", "")
        assert row["x 100"] == f"{100 * expected:.2f}"
        assert row["fingerprint"] != measure(file)["fingerprint"]

    def test_is_refused_for_a_similarity_that_is_not_known(
        self, measure: Measure, toy_model: Path, tmp_path: Path
    ) -> None:
        model = tmp_path / "model"
        shutil.copytree(toy_model, model)
        edit_json(model / "config_sentence_transformers.json", lambda c: c | {"similarity_fn_name": "warm"})
        with pytest.raises(SystemExit, match="'warm': choose one with --similarity"):
            measure(write_pairs(tmp_path, ".tsv"), model=model)


BAD_PAIRS = [
    ("a.tsv", b"1\tx\ty\n2\tx\n", ":2: expected 3 columns, got 2"),
    ("b.tsv", b"1\tx\ty\n\nhigh\tx\ty\n", ":3: expected a number as score, got 'high'"),
    ("c.tsv", b"nan\tx\ty\n", ":1: expected a number as score, got 'nan'"),
    ("d.tsv", b"1\tx\ty\n2\t\xff\ty\n", ":2: not UTF-8"),
    ("e.csv", b'1,x,y\n2,"x"z,y\n', ":2: "),
    ("f.csv", b'score,text1,text2\n1,"two\nlines",y\n2,x\n', ":4: expected 3 columns, got 2"),
    ("g.jsonl", b'{"score": 1, "sentence1": "x", "sentence2": "y"}\n{"score": 1,\n', ":2: not JSON"),
    ("h.jsonl", b'{"score": 1, "sentence1": "x"}\n', ":1: expected an object with a text as 'sentence2'"),
    ("i.jsonl", b'["x"]\n', ":1: expected an object with a text as 'sentence1'"),
    ("j.jsonl", b'{"sentence1": "x", "sentence2": "y"}\n', ":1: expected a number as score, got None"),
    ("k.tsv", b"1\tx\ty\n1\tx\tz\n", ": a rank correlation needs pairs with different scores"),
    ("l.txt", b"1\tx\ty\n", ": expected a .tsv, .csv or .jsonl file, or a folder"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_PAIRS, ids=[name for name, _, _ in BAD_PAIRS])
def test_a_bad_file_of_pairs_is_an_error_that_says_where(
    measure: Measure, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit, match=re.escape(f"{tmp_path / name}{message}")):
        measure(tmp_path / name)


BAD_RETRIEVAL = [
    ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n' * 2, ":2: the id 'd1' was there before"),
    ("corpus.jsonl", '{"text": "x"}\n', ":1: expected an object with a text as '_id'"),
    ("queries.jsonl", '\n{"_id": "q1"}\n', ":2: expected an object with a text as 'text'"),
    ("qrels/test.tsv", "q1\td1\t1\nq9\td1\t1\n", ":2: queries.jsonl has no 'q9'"),
    ("qrels/test.tsv", "q1\td9\t1\n", ":1: corpus.jsonl has no 'd9'"),
    (
        "qrels/test.tsv",
        "query-id\tcorpus-id\tscore\nq1\td1\tyes\n",
        ":2: expected a number as score, got 'yes'",
    ),
    ("qrels/test.tsv", None, ": No such file or directory"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_RETRIEVAL)
def test_a_bad_file_of_a_retrieval_folder_is_an_error_that_says_where(
    measure: Measure, retrieval: Path, name: str, content: str | None, message: str
) -> None:
    if content is None:
        (retrieval / name).unlink()
    else:
        (retrieval / name).write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=re.escape(f"{retrieval / name}{message}")):
        measure(retrieval)


def test_a_retrieval_folder_without_judgements_is_an_error(measure: Measure, retrieval: Path) -> None:
    (retrieval / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(SystemExit, match=re.escape("two documents and a line in qrels/test.tsv")):
        measure(retrieval)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "fp12"], "precision .* takes fp32, bf16"),
        (["--model", "nowhere/to/be/found"], "nowhere/to/be/found"),
    ],
)
def test_a_wrong_setting_ends_the_program_with_one_plain_message(
    tmp_path: Path, options: list[str], message: str
) -> None:
    command = [sys.executable, str(PROGRAM), str(write_pairs(tmp_path, ".tsv")), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 1
    assert re.search(message, run.stderr)
    assert "Traceback" not in run.stderr
