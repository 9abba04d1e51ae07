import re
from pathlib import Path
from typing import Any

import pytest
from readme_tables import README, with_tables

from emb_model_provider.core import errors

TEXT = README.read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_tables_say_what_the_code_says() -> None:
    assert with_tables(TEXT) == TEXT, "run `make readme`"


def test_every_error_is_explained() -> None:
    names = [n for n, e in vars(errors).items() if isinstance(e, type) and issubclass(e, Exception)]
    concrete = {n for n in names if not any(getattr(errors, m).__base__ is getattr(errors, n) for m in names)}
    missing = {n for n in concrete if f"`{n}`" not in TEXT}
    assert missing <= {"ModelNotLoadedError"}


@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_the_example_of_each_framework_finds_the_passage(
    framework: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example = next(e for e in EXAMPLES if f"from {framework}" in e)
    exec(compile(example, str(README), "exec"), {})
    printed = capsys.readouterr().out
    assert "Cats purr." in printed
    assert "Dogs bark." not in printed


def test_the_cached_embeddings_come_from_the_store_the_second_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(next(e for e in EXAMPLES if "CacheBacked" in e), str(README), "exec"), names)
    assert capsys.readouterr().out.startswith("2 vectors, kept under ")
    vectors = names["embeddings"].embed_documents(["Cats purr.", "Dogs bark."])
    monkeypatch.setattr(type(names["embeddings"]), "embed_documents", lambda *_: pytest.fail("not kept"))
    assert names["cached"].embed_documents(["Cats purr.", "Dogs bark."]) == vectors


def test_the_seeds_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(next(e for e in EXAMPLES if "ModelManager(" in e), str(README), "exec"), {})
    assert "'dimension': 384" in capsys.readouterr().out
