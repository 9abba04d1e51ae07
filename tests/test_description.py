"""What is said of a loaded model: `get_model_info()` and the description behind it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from families import DenseSpec, make_bert, make_static
from models import edit_json, load, load_oracle

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import Normalize, Pooling
from emb_model_provider.core.model_manager import ModelManager

if TYPE_CHECKING:
    from conftest import HfCache

ID = "owner/a-model"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
CARD = "---\ntags:\n- sentence-similarity\nlicense: apache-2.0\n---\n# A model\nlicense: not this\n"


def info(**settings: Any) -> dict[str, Any]:
    manager = ModelManager(Config(engine="torch", device="cpu", **settings))
    manager.load_model()
    return manager.get_model_info()


@pytest.fixture
def folder(toy_model: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(toy_model, copy)
    return copy


def test_everything_is_said_of_a_model_from_a_hub(toy_model: Path, folder: Path, hf_cache: HfCache) -> None:
    (folder / "README.md").write_text(CARD, "utf-8")
    snapshot = hf_cache(folder, ID, commit=COMMIT)
    oracle = load_oracle(folder)
    weights = sum(p.numel() for p in oracle.parameters())
    found = info(model_name=ID)
    fingerprint = found.pop("fingerprint")
    assert (len(fingerprint), set(fingerprint) <= set("0123456789abcdef")) == (64, True)
    expected = {
        "source": "huggingface",
        "repo_id": ID,
        "revision": COMMIT,
        "folder": str(snapshot),
        "architecture": "bert",
        "parameters": weights,
        "dtype": "float32",
        "size_on_disk": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "licence": "apache-2.0",
        "dimension": 32,
        "max_length": 32,
        "truncated_texts": 0,
        "pooling": "mean",
        "normalized": True,
        "prompts": {"query": "query: ", "document": "passage: "},
        "prompt_advice": None,
        "similarity": "cosine",
        "device": "cpu",
        "substitute_for": None,
        "failures": {},
    }
    assert {key: found.get(key, "missing") for key in expected} == expected


def test_a_folder_has_no_repository(folder: Path) -> None:
    found = info(model_path=str(folder))
    said = [found[key] for key in ("source", "repo_id", "revision", "folder", "licence")]
    assert said == ["path", None, None, str(folder), None]


def test_the_settings_in_force_are_said(folder: Path) -> None:
    found = info(
        model_path=str(folder),
        query_prompt="find: ",
        document_prompt="",
        truncate_dim=8,
        max_context_length=9,
    )
    assert found["prompts"] == {"query": "find: ", "document": ""}
    assert (found["dimension"], found["max_length"]) == (8, 9)


def test_texts_that_were_cut_are_counted(folder: Path) -> None:
    manager = ModelManager(Config(engine="torch", device="cpu", model_path=str(folder)))
    manager.load_model()
    manager.generate_embeddings(["short", "long " * 99, "long " * 98])
    assert manager.get_model_info()["truncated_texts"] == 2


def test_the_real_model(minilm: Path) -> None:
    found = info(model_path=str(minilm))
    said = [found[key] for key in ("architecture", "dimension", "max_length", "pooling", "normalized")]
    assert said == ["bert", 384, 256, "mean", True]
    assert (found["parameters"], found["dtype"], found["licence"]) == (22_713_216, "float32", "apache-2.0")
    assert found["size_on_disk"] > 90_000_000


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pooling": ("cls", "max")}, {"pooling": "cls+max", "dimension": 64}),
        ({"normalize": False, "similarity": "dot"}, {"normalized": False, "similarity": "dot"}),
        ({"dense": (DenseSpec(24),)}, {"dimension": 24}),
        ({"max_seq_length": None}, {"max_length": 128}),
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ({"truncate_dim": 16}, {"dimension": 16}),
        ({"legacy": True}, {"pooling": "mean", "max_length": 32}),
    ],
    ids=str,
)
def test_what_the_files_say_is_said(
    tmp_path: Path, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = info(model_path=str(make_bert(tmp_path / "model", **settings)))
    assert {key: found[key] for key in expected} == expected


def test_weights_of_every_layer_are_counted(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model", dense=(DenseSpec(24),), layer_norm=True)
    expected = sum(p.numel() for p in load_oracle(folder).parameters())
    assert load(folder).description.parameters == expected


def test_a_static_model_is_described_too(tmp_path: Path) -> None:
    found = info(model_path=str(make_static(tmp_path / "model", layout="st")))
    said = [found[key] for key in ("architecture", "pooling", "max_length", "dimension", "dtype")]
    assert said == ["static", "mean", None, 32, "float32"]
    assert found["parameters"] % 32 == 0


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (CARD, "apache-2.0"),
        ('---\nlicense: "mit"\n---\n', "mit"),
        ("---\nlicense: other\n---\nlicense: mit\n", "other"),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("# No front matter\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_is_the_one_in_the_cards_front_matter(
    folder: Path, card: str, expected: str | None
) -> None:
    (folder / "README.md").write_text(card, "utf-8")
    assert load(folder).description.licence == expected


@pytest.mark.parametrize(
    ("saved", "query", "document"),
    [
        ({"query": "q", "document": "d", "passage": "p", "corpus": "c"}, "q", "d"),
        ({"passage": "p", "corpus": "c"}, "", "p"),
        ({"corpus": "c"}, "", "c"),
        ({"STS": "s"}, "", ""),
    ],
)
def test_the_saved_prompt_of_a_role(tmp_path: Path, saved: dict[str, str], query: str, document: str) -> None:
    layers = (Pooling(("mean",)), Normalize())
    description = ModelDescription(ModelFolder(tmp_path, "path"), layers, {}, prompts=saved)
    assert (description.saved_prompt("query"), description.saved_prompt("document")) == (query, document)


def test_pickled_weights_are_not_counted(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = info(model_path=str(folder), allow_pickle_weights=True)
    assert (found["parameters"], found["dtype"], found["dimension"]) == (None, None, 32)


def test_a_model_without_a_type_is_of_an_unknown_architecture(folder: Path) -> None:
    from emb_model_provider.core.embedding.model_format import read_description

    edit_json(folder / "config.json", lambda config: config.pop("model_type") and None)
    assert read_description(ModelFolder(folder, "path")).architecture == "unknown"
