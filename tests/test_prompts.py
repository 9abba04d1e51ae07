"""Which text is put before a query and a document, and what is said of prompts that are missing."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from models import assert_equal, edit_json, load, load_oracle

from emb_model_provider.core.config import Config
from emb_model_provider.core.model_manager import ModelManager

if TYPE_CHECKING:
    from conftest import HfCache

TEXTS = ["hello world", "a longer sentence about rivers and music", ""]
E5 = "intfloat/e5-base-v2"  # known to need "query: " and "passage: ", which its files do not carry
QWEN = "Qwen/Qwen3-Embedding-0.6B"  # known for prompts that its files carry


@pytest.fixture
def plain(toy_model: Path, tmp_path: Path) -> Path:
    """The toy model without saved prompts."""
    folder = tmp_path / "plain"
    shutil.copytree(toy_model, folder)
    save_prompts(folder, {})
    return folder


def save_prompts(folder: Path, prompts: dict[str, Any], default: str | None = None) -> None:
    edit_json(
        folder / "config_sentence_transformers.json",
        lambda config: config.update(prompts=prompts, default_prompt_name=default),
    )


def advice_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "expects prompts" in r.getMessage()]


def info(**settings: Any) -> dict[str, Any]:
    manager = ModelManager(Config(engine="torch", device="cpu", **settings))
    manager.load_model()
    return manager.get_model_info()


class TestSaved:
    @pytest.mark.parametrize(
        ("saved", "query", "document"),
        [
            ({}, "", ""),
            ({"query": "q: ", "document": "d: "}, "q: ", "d: "),
            ({"query": "q: "}, "q: ", ""),
            ({"document": "d: "}, "", "d: "),
            ({"query": "q: ", "passage": "p: "}, "q: ", "p: "),
            ({"corpus": "c: "}, "", "c: "),
            ({"corpus": "c: ", "passage": "p: "}, "", "p: "),
            ({"document": "", "passage": "p: "}, "", "p: "),
            ({"document": "d: ", "passage": "p: ", "corpus": "c: "}, "", "d: "),
            ({"query": None, "document": None}, "", ""),
            ({"STS": "s: ", "clustering": "c: "}, "", ""),
        ],
    )
    def test_goes_before_texts_in_its_role(
        self, plain: Path, saved: dict[str, Any], query: str, document: str
    ) -> None:
        save_prompts(plain, saved)
        ours, oracle = load(plain), load_oracle(plain)
        assert (ours.prompt("query"), ours.prompt("document")) == (query, document)
        assert_equal(ours.embed(TEXTS, "query"), oracle.encode(TEXTS, prompt=query))
        assert_equal(ours.embed(TEXTS), oracle.encode(TEXTS, prompt=document))
        assert_equal(ours.embed(TEXTS, "query"), oracle.encode_query(TEXTS))

    def test_passage_is_found_where_encode_document_does_not_look(self, plain: Path) -> None:
        """sentence-transformers documents document, passage, corpus, and stops at an empty document."""
        save_prompts(plain, {"passage": "p: "})
        ours, oracle = load(plain).embed(TEXTS), load_oracle(plain)
        assert_equal(ours, oracle.encode(TEXTS, prompt_name="passage"))
        assert_equal(oracle.encode_document(TEXTS), oracle.encode(TEXTS, prompt=""))

    def test_default_prompt_is_for_neither_role(self, plain: Path) -> None:
        save_prompts(plain, {"query": "q: ", "other": "o: "}, default="other")
        ours, oracle = load(plain), load_oracle(plain)
        assert_equal(ours.embed(TEXTS), oracle.encode_document(TEXTS))
        assert_equal(ours.embed(TEXTS, "query"), oracle.encode_query(TEXTS))


class TestOverride:
    def test_takes_the_place_of_the_saved_prompt(self, toy_model: Path) -> None:
        ours = load(toy_model, query_prompt="find: ", document_prompt="text: ")
        oracle = load_oracle(toy_model)
        assert_equal(ours.embed(TEXTS, "query"), oracle.encode(TEXTS, prompt="find: "))
        assert_equal(ours.embed(TEXTS), oracle.encode(TEXTS, prompt="text: "))

    def test_of_one_role_leaves_the_other(self, toy_model: Path) -> None:
        ours = load(toy_model, query_prompt="find: ")
        assert (ours.prompt("query"), ours.prompt("document")) == ("find: ", "passage: ")

    def test_empty_is_no_prompt(self, toy_model: Path, plain: Path) -> None:
        ours = load(toy_model, query_prompt="", document_prompt="")
        expected = load(plain).embed(TEXTS)
        np.testing.assert_array_equal(ours.embed(TEXTS), expected)
        np.testing.assert_array_equal(ours.embed(TEXTS, "query"), expected)

    def test_empty_variable_is_no_prompt_either(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMB_PROVIDER_QUERY_PROMPT", "")
        ours = load(toy_model)
        assert (ours.prompt("query"), ours.prompt("document")) == ("", "passage: ")


class TestAdvice:
    def test_is_one_log_line_and_in_the_info_with_the_variables_to_set(
        self, plain: Path, hf_cache: HfCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        hf_cache(plain, E5)
        found = info(model_name=E5)
        said = found["prompt_advice"]
        assert 'set EMB_PROVIDER_QUERY_PROMPT="query: " and EMB_PROVIDER_DOCUMENT_PROMPT="passage: "' in said
        assert "EMB_PROVIDER_PROMPTS=recommended" in said
        assert found["prompts"] == {"query": "", "document": ""}
        assert advice_in(caplog) == [f"{E5}: {said}."]

    def test_changes_no_vector(self, plain: Path, caplog: pytest.LogCaptureFixture) -> None:
        expected = load(plain).embed(TEXTS, "query")
        assert advice_in(caplog) == []
        named = load(plain, model_name=E5)
        assert len(advice_in(caplog)) == 1
        np.testing.assert_array_equal(named.embed(TEXTS, "query"), expected)

    @pytest.mark.parametrize("name", [E5, E5.upper(), "Xorbits/multilingual-e5-large"])
    def test_is_for_a_known_name_on_either_hub_also_of_a_folder(self, plain: Path, name: str) -> None:
        assert "passage: " in info(model_path=str(plain), model_name=name)["prompt_advice"]

    def test_is_followed_by_what_it_says(
        self, plain: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("EMB_PROVIDER_QUERY_PROMPT", "query: ")
        monkeypatch.setenv("EMB_PROVIDER_DOCUMENT_PROMPT", "passage: ")
        ours = load(plain, model_name=E5)
        assert (ours.prompts.advice, advice_in(caplog)) == (None, [])
        oracle = load_oracle(plain)
        assert_equal(ours.embed(TEXTS, "query"), oracle.encode(TEXTS, prompt="query: "))
        assert_equal(ours.embed(TEXTS), oracle.encode(TEXTS, prompt="passage: "))

    def test_is_only_for_the_role_without_a_prompt(self, plain: Path) -> None:
        said = load(plain, model_name=E5, query_prompt="mine: ").prompts.advice or ""
        assert "EMB_PROVIDER_DOCUMENT_PROMPT" in said
        assert "EMB_PROVIDER_QUERY_PROMPT" not in said

    def test_is_not_for_a_user_who_wants_no_prompt(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        ours = load(plain, model_name=E5, query_prompt="", document_prompt="")
        assert (ours.prompts.advice, advice_in(caplog)) == (None, [])

    def test_is_not_for_prompts_that_are_in_the_files(self, toy_model: Path) -> None:
        ours = load(toy_model, model_name=E5)
        assert ours.prompts.advice is None
        assert ours.prompt("document") == "passage: "

    @pytest.mark.parametrize("name", ["someone/unknown", "sentence-transformers/all-MiniLM-L6-v2"])
    def test_is_not_for_a_model_that_needs_none(
        self, plain: Path, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert info(model_path=str(plain), model_name=name)["prompt_advice"] is None
        assert advice_in(caplog) == []

    @pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
    @pytest.mark.parametrize("name", [E5, QWEN, "BAAI/bge-base-zh-v1.5", "hkunlp/instructor-large"])
    def test_is_one_line_that_a_shell_understands(self, plain: Path, name: str) -> None:
        expected = load(plain, model_name=name, prompts="recommended")
        said = load(plain, model_name=name).prompts.advice or ""
        assert "\n" not in said
        settings = said.partition("; set ")[2].partition(", or EMB")[0]
        commands = [f"export {setting}" for setting in settings.split(" and EMB")]
        script = "\n".join([*commands, 'printf %s "$EMB_PROVIDER_QUERY_PROMPT"']).replace(
            "export _PROVIDER", "export EMB_PROVIDER"
        )
        run = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
        assert run.stdout.decode() == expected.prompt("query") != ""


class TestRecommended:
    def test_prompts_are_in_force_where_the_files_carry_none(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        ours, oracle = load(plain, model_name=E5, prompts="recommended"), load_oracle(plain)
        assert_equal(ours.embed(TEXTS, "query"), oracle.encode(TEXTS, prompt="query: "))
        assert_equal(ours.embed(TEXTS), oracle.encode(TEXTS, prompt="passage: "))
        assert (ours.prompts.advice, advice_in(caplog)) == (None, [])

    def test_by_the_variable_they_show_in_the_info(
        self, plain: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMB_PROVIDER_PROMPTS", "Recommended")
        found = info(model_path=str(plain), model_name=E5)
        assert found["prompts"] == {"query": "query: ", "document": "passage: "}
        assert found["prompt_advice"] is None

    def test_prompts_leave_saved_ones_and_the_users(self, plain: Path) -> None:
        save_prompts(plain, {"query": "saved: "})
        ours = load(plain, model_name=E5, prompts="recommended")
        assert (ours.prompt("query"), ours.prompt("document")) == ("saved: ", "passage: ")
        ours = load(plain, model_name=E5, prompts="recommended", document_prompt="")
        assert (ours.prompt("query"), ours.prompt("document")) == ("saved: ", "")

    def test_prompts_of_an_unknown_model_are_none_and_the_log_says_so(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        ours = load(plain, model_name="someone/unknown", prompts="recommended")
        assert (ours.prompt("query"), ours.prompt("document")) == ("", "")
        said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert said == ["No recommended prompts are known for someone/unknown."]

    def test_prompts_make_another_embedding_space(self, plain: Path) -> None:
        saved, recommended = (load(plain, model_name=E5, prompts=p) for p in ("saved", "recommended"))
        assert saved.fingerprint != recommended.fingerprint
        given = load(plain, query_prompt="query: ", document_prompt="passage: ")
        assert recommended.fingerprint == given.fingerprint
