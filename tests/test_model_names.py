"""From a name to the candidates, in the order they are tried."""

from __future__ import annotations

from typing import Any

import pytest

from emb_model_provider.core.config import Config
from emb_model_provider.core.model_names import (
    DEFAULT_MODELSCOPE_MAPPING,
    Candidate,
    candidates,
    full_name,
)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
BGE = "BAAI/bge-small-en-v1.5"
MINE = {BGE: "me/bge"}


def huggingface(repo_id: str) -> Candidate:
    return Candidate("huggingface", repo_id)


def modelscope(repo_id: str) -> Candidate:
    return Candidate("modelscope", repo_id)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        pytest.param(BGE, {}, [huggingface(BGE)], id="huggingface"),
        pytest.param(MINILM, {}, [huggingface(MINILM)], id="huggingface needs no other model"),
        pytest.param(BGE, {"model_source": "modelscope"}, [modelscope(BGE)], id="modelscope"),
        pytest.param(BGE, {"model_source": "auto"}, [modelscope(BGE), huggingface(BGE)], id="auto"),
        pytest.param(
            MINILM,
            {"model_source": "auto"},
            [modelscope(MINILM), huggingface(MINILM), Candidate("modelscope", MULTILINGUAL, MINILM)],
            id="a different model comes last",
        ),
        pytest.param(
            MINILM,
            {"model_source": "auto", "modelscope_model_id": "me/minilm"},
            [modelscope("me/minilm"), huggingface(MINILM)],
            id="an id of the user's is no different model",
        ),
        pytest.param(
            BGE,
            {"model_source": "auto", "modelscope_model_mapping": MINE},
            [modelscope("me/bge"), huggingface(BGE)],
            id="a mapping of the user's replaces the name",
        ),
        pytest.param(
            BGE,
            {"model_source": "modelscope", "modelscope_model_mapping": MINE, "modelscope_model_id": "my/id"},
            [modelscope("my/id")],
            id="an id wins over a mapping",
        ),
        pytest.param(
            MINILM,
            {"model_source": "modelscope", "modelscope_model_mapping": MINE},
            [modelscope(MINILM), Candidate("modelscope", MULTILINGUAL, MINILM)],
            id="a mapping of another name does not matter",
        ),
        pytest.param("all-MiniLM-L6-v2", {}, [huggingface(MINILM)], id="a name without an owner"),
    ],
)
def test_candidates_are_the_exact_ones_first(
    name: str, settings: dict[str, Any], expected: list[Candidate]
) -> None:
    assert list(candidates(name, Config(**settings))) == expected


def test_every_model_of_the_default_mapping_gets_its_modelscope_id() -> None:
    for name, repo_id in DEFAULT_MODELSCOPE_MAPPING.items():
        found = candidates(name, Config(model_source="modelscope"))
        assert repo_id in [candidate.repo_id for candidate in found]
        assert found[0] == modelscope(name)
        assert [c.substitute_for for c in found] == ([None] if repo_id == name else [None, name])


def test_a_candidate_reads_as_a_place() -> None:
    assert str(huggingface(BGE)) == f"{BGE} on Hugging Face"
    assert str(modelscope(BGE)) == f"{BGE} on ModelScope"


def test_a_full_name_stays() -> None:
    assert full_name(BGE) == BGE


def test_the_default_mapping_marks_four_different_models() -> None:
    """Each entry was looked up: an id of its own is the same model, and these are not."""
    assert {name for name, repo_id in DEFAULT_MODELSCOPE_MAPPING.items() if repo_id != name} == {
        MINILM,
        "sentence-transformers/all-MiniLM-L12-v2",
        "shibing624/text2vec-base-chinese",
        "GanymedeNil/text2vec-large-chinese",
    }


def test_substitutes_can_be_forbidden() -> None:
    for name in DEFAULT_MODELSCOPE_MAPPING:
        found = candidates(name, Config(model_source="auto", allow_substitutes=False))
        assert found == (modelscope(name), huggingface(name))
