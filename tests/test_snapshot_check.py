"""Whether a folder holds every file its model needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import pytest
from families import DenseSpec, make_bert, make_static
from models import edit_json
from native import make_native

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import ModelFilesError
from emb_model_provider.core.loaders.snapshot_check import check_complete

OPTIONAL = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a Dense layer."""
    return make_bert(tmp_path_factory.mktemp("made") / "model", dense=[DenseSpec(8)])


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    return shutil.copytree(made, tmp_path / "model")


def check(folder: Path, source: str = "path", *, absent: bool = True) -> None:
    check_complete(ModelFolder(folder, source), lambda name: absent)


def test_a_complete_folder_passes(folder: Path) -> None:
    for absent in (True, False):
        check(folder, absent=absent)


@pytest.mark.parametrize(
    "lost",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    ],
)
def test_a_needed_file_that_is_lost_is_named(folder: Path, lost: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(ModelFilesError, match=lost):
        check(folder)


@pytest.mark.parametrize("lost", OPTIONAL)
def test_an_optional_file_must_be_known_to_be_absent(folder: Path, lost: str) -> None:
    """A copy that another program made of some files only may lack it, and would give other vectors."""
    (folder / lost).unlink()
    with pytest.raises(ModelFilesError, match=f"{lost} is missing, and may be"):
        check(folder, "huggingface", absent=False)
    check_complete(ModelFolder(folder, "huggingface"), lambda name: name == lost)


def test_an_old_name_of_an_optional_file_will_do(folder: Path) -> None:
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")
    check(folder, absent=False)


@pytest.mark.parametrize("part", ["model.safetensors.incomplete", "1_Pooling/config.json.incomplete"])
def test_a_download_that_was_not_finished_is_named(folder: Path, part: str) -> None:
    (folder / part).touch()
    with pytest.raises(ModelFilesError, match=rf"{part} is a download that was not finished"):
        check(folder)


@pytest.mark.parametrize("missing", [1, 2])
def test_each_part_of_split_weights_is_needed(folder: Path, missing: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {f"model-0000{n}-of-00002.safetensors": n for n in (1, 2)}
    index: dict[str, str] = {}
    for name, number in parts.items():
        half: dict[str, torch.Tensor] = dict(list(weights.items())[number % 2 :: 2])
        save_file(half, folder / name)
        index |= dict.fromkeys(half, name)
    edit_json(folder / "model.safetensors.index.json", lambda _: {"metadata": {}, "weight_map": index})
    check(folder)
    (folder / f"model-0000{missing}-of-00002.safetensors").unlink()
    with pytest.raises(ModelFilesError, match=f"model-0000{missing}-of-00002"):
        check(folder)


def test_weights_that_are_cut_off_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelFilesError, match=r"model\.safetensors"):
        check(folder)


@pytest.mark.parametrize("layout", ["st", "model2vec"])
def test_a_static_model_needs_its_table_and_tokenizer(
    tmp_path: Path, layout: Literal["st", "model2vec"]
) -> None:
    folder = make_static(tmp_path / "static", layout=layout)
    check(folder)
    for name in ("tokenizer.json", "model.safetensors"):
        found = next(folder.rglob(name))
        content = found.read_bytes()
        found.unlink()
        with pytest.raises(ModelFilesError, match=name):
            check(folder)
        found.write_bytes(content)


def test_a_model_that_is_not_supported_counts_as_complete(folder: Path) -> None:
    """Loading it says why it is refused; a download would bring the same."""
    edit_json(folder / "1_Pooling" / "config.json", lambda content: content.update(new_switch=1))
    check(folder)


def test_pickled_weights_count_as_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    check(folder)


@pytest.mark.parametrize("source", ["modelscope", "huggingface"])
def test_a_model_in_modelscopes_format_lacks_the_files_of_sentence_transformers(
    tmp_path: Path, source: str
) -> None:
    folder = make_native(tmp_path / "native")
    check(folder)
    if source == "modelscope":
        check(folder, source, absent=False)
        (folder / "tokenizer_config.json").unlink()
    lost = "tokenizer_config.json" if source == "modelscope" else "modules.json"
    with pytest.raises(ModelFilesError, match=f"{lost} is missing, and may be"):
        check(folder, source, absent=False)


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="nowhere"):
        check(tmp_path / "nowhere")
