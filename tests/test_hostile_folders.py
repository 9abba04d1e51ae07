"""Folders that attack: each is refused with the file and the reason; nothing runs, is asked or changes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hostile import (
    TEXTS,
    Payload,
    code,
    refused,
    same_as_oracle,
    set_key,
)
from models import edit_json, load, load_oracle

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.loading import load_embedding_model
from emb_model_provider.core.embedding.model_format import TRANSFORMER_CONFIGS
from emb_model_provider.core.errors import (
    ModelFilesError,
    UnsupportedModelError,
)
from emb_model_provider.core.model_manager import ModelManager
from langchain_embprov import EmbProviderEmbeddings

if TYPE_CHECKING:
    from conftest import HfCache


pytestmark = pytest.mark.usefixtures("marker")


def test_the_payloads_are_live(tmp_path: Path) -> None:
    for attack in (lambda m: pickle.loads(pickle.dumps(Payload(m))).close(), lambda m: exec(code(m))):
        attack(tmp_path / "ran")
        assert (tmp_path / "ran").exists()
        (tmp_path / "ran").unlink()


class TestPickles:
    @pytest.fixture(params=["pytorch_model.bin", "2_Dense/pytorch_model.bin"])
    def evil(self, request: pytest.FixtureRequest, folder: Path, marker: Path) -> Path:
        """A pickle that runs code, where weights are looked for."""
        import torch

        file = folder / str(request.param)
        torch.save({"weights": Payload(marker)}, file)
        return file

    def test_alone_are_refused(self, folder: Path, evil: Path) -> None:
        evil.with_name("model.safetensors").unlink()
        refused(folder, UnsupportedModelError, str(evil), "pickle", "refused", "allow_pickle_weights=True")

    def test_beside_safetensors_are_left_alone(self, folder: Path, evil: Path) -> None:
        assert evil.exists()
        assert same_as_oracle(folder)
        assert same_as_oracle(folder, allow_pickle_weights=True)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_that_run_code_are_refused_even_where_pickles_are_allowed(
        self, folder: Path, evil: Path, marker: Path, zipped: bool
    ) -> None:
        evil.with_name("model.safetensors").unlink()
        if not zipped:
            evil.write_bytes(pickle.dumps({"weights": Payload(marker)}))
        refused(folder, ModelFilesError, evil.name, allow_pickle_weights=True)

    def test_of_honest_weights_give_the_oracles_vectors_where_they_are_allowed(
        self, good: Path, folder: Path
    ) -> None:
        import torch
        from safetensors.torch import load_file

        for file in sorted(folder.rglob("model.safetensors")):
            torch.save(load_file(file), file.with_name("pytorch_model.bin"))
            file.unlink()
        refused(folder, UnsupportedModelError, "pytorch_model.bin")
        vectors = load(folder, allow_pickle_weights=True).embed(TEXTS)
        assert np.abs(vectors - load_oracle(good).encode(TEXTS)).max() <= 1e-5

    @pytest.mark.parametrize("shards", [["evil.bin"], ["a.safetensors", "evil.bin"]])
    def test_in_a_safetensors_index_are_refused(self, folder: Path, marker: Path, shards: list[str]) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        (folder / "evil.bin").write_bytes(pickle.dumps(Payload(marker)))
        index = {"weight_map": {f"tensor{i}": shard for i, shard in enumerate(shards)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(folder, ModelFilesError, "model.safetensors.index.json", "evil.bin")


ARGUMENTS = {
    "model_args": {"weights_only": False},
    "model_kwargs": {"use_safetensors": False, "weights_only": False},
    "config_args": {"trust_remote_code": True},
    "config_kwargs": {"attn_implementation": "evil/kernel"},
    "tokenizer_args": {"trust_remote_code": True},
    "processor_kwargs": {"trust_remote_code": True},
    "processing_kwargs": {"text": {"max_length": 1}},
    "tokenizer_name_or_path": "evil/tokenizer",
    "invented_kwargs": {"a": 1},
}


@pytest.mark.parametrize("file", TRANSFORMER_CONFIGS)
@pytest.mark.parametrize("key", ARGUMENTS)
def test_arguments_for_other_libraries_are_refused(folder: Path, marker: Path, file: str, key: str) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    (folder / "sentence_bert_config.json").write_text("{}")  # the next of the names counts
    edit_json(folder / file, lambda _: {key: ARGUMENTS[key]})
    refused(folder, UnsupportedModelError, file, repr(key))


SWITCHES: list[tuple[str, Any]] = [
    ("attn_implementation", "evil/kernel"),
    ("_attn_implementation", {"": "evil/kernel"}),
    ("experts_implementation", "evil/kernel"),
    ("transformers_weights", "other.safetensors"),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("quantization_config", {}),
    ("compression_config", {"quant_method": "compressed-tensors"}),
    ("auto_map", {"AutoModel": "modeling_evil.Model", "AutoConfig": "modeling_evil.Config"}),
]


@pytest.mark.parametrize(("key", "value"), SWITCHES)
@pytest.mark.parametrize("nested", [False, True])
def test_config_json_chooses_no_other_weights_and_no_other_code(
    folder: Path, marker: Path, key: str, value: Any, nested: bool
) -> None:
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    (folder / "modeling_evil.py").write_text(code(marker))
    set_key("config.json", **({"text_config": [{key: value}]} if nested else {key: value}))(folder)
    refused(folder, UnsupportedModelError, "config.json", key)


class TestCodeOfTheModelsOwn:
    @pytest.fixture(params=["config.json", "tokenizer_config.json"])
    def file(self, request: pytest.FixtureRequest, folder: Path, marker: Path) -> str:
        for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py"):
            (folder / name).write_text(code(marker))
        return str(request.param)

    @pytest.mark.parametrize("model_type", ["bert", "evil"], ids=["with a native class", "without"])
    @pytest.mark.parametrize("repository", ["", "evil/repository--"])
    def test_is_refused(self, folder: Path, file: str, model_type: str, repository: str) -> None:
        parts = {"AutoConfig": "configuration_evil.C", "AutoModel": "modeling_evil.M"}
        auto_map: dict[str, Any] = {name: repository + place for name, place in parts.items()}
        auto_map["AutoTokenizer"] = [None, f"{repository}tokenization_evil.T"]
        set_key("config.json", model_type=model_type)(folder)
        set_key(file, auto_map=auto_map)(folder)
        refused(folder, UnsupportedModelError, file, "auto_map", "trust_remote_code=True")

    def test_is_not_run_without_being_named(self, folder: Path, file: str) -> None:
        assert (folder / "modeling_evil.py").exists()
        assert same_as_oracle(folder)

    def test_for_an_unknown_architecture_is_an_error(self, folder: Path, file: str) -> None:
        set_key("config.json", model_type="evil")(folder)
        refused(folder, ModelFilesError, "evil")


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize(
    "kind",
    [
        "os.system",
        "subprocess.Popen",
        "evil.Pooling",
        "modeling_evil.Model",
        "sentence_transformers_evil.Pooling",
        "sentence_transformers.util.import_from_string",
        "sentence_transformers.models.CNN",
        "sentence_transformers.",
        "",
        "Pooling",
    ],
)
def test_module_types_that_are_not_known_are_refused(
    folder: Path, marker: Path, place: int, kind: str
) -> None:
    for name in ("evil.py", "modeling_evil.py"):
        (folder / name).write_text(code(marker))
    edit_json(folder / "modules.json", lambda modules: modules[place].update(type=kind))
    refused(folder, UnsupportedModelError, "modules.json", kind.rpartition(".")[2])


OUTSIDE = [
    "../outside",
    "1_Pooling/../../outside",
    "/etc",
    "C:\\outside",
    "C:outside",
    "..\\outside",
    "\\\\host\\x",
]


class TestPaths:
    @pytest.mark.parametrize("path", OUTSIDE)
    @pytest.mark.parametrize("place", [1, 2, 3])
    def test_of_modules_stay_inside(self, folder: Path, path: str, place: int) -> None:
        shutil.copytree(folder / "1_Pooling", folder.parent / "outside")
        edit_json(folder / "modules.json", lambda modules: modules[place].update(path=path))
        with pytest.raises(ModelFilesError, match=r"outside its own folder; refused.*use another copy"):
            load(folder)

    @pytest.mark.parametrize("path", OUTSIDE)
    def test_of_shards_stay_inside(self, folder: Path, path: str) -> None:
        shutil.move(folder / "model.safetensors", folder.parent / "outside.safetensors")
        index = {"weight_map": {"embeddings.word_embeddings.weight": f"{path}.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelFilesError, match=r"outside its own folder; refused"):
            load(folder)

    @pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "half \ud800 of one"])
    def test_that_no_file_can_have_are_refused(self, folder: Path, path: str) -> None:
        edit_json(folder / "modules.json", lambda modules: modules[1].update(path=path))
        with pytest.raises(ModelFilesError):
            load(folder)

    @pytest.mark.parametrize(
        "name",
        ["config.json", "model.safetensors", "tokenizer.json", "added_tokens.json", "1_Pooling", "2_Dense"],
    )
    def test_are_no_links_out_of_the_folder(self, folder: Path, name: str) -> None:
        outside = folder.parent / "outside"
        if not (folder / name).exists():
            (folder / name).write_text("{}")
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)
        refused(folder, ModelFilesError, name, "is a link to", str(outside))

    def test_may_be_links_inside_the_folder(self, folder: Path) -> None:
        (folder / "weights").mkdir()
        shutil.move(folder / "model.safetensors", folder / "weights/all")
        (folder / "model.safetensors").symlink_to("weights/all")
        assert same_as_oracle(folder)

    def test_in_the_hugging_face_cache_are_links_to_its_blobs_and_nowhere_else(
        self, good: Path, hf_cache: HfCache
    ) -> None:
        snapshot = hf_cache(good, "org/model")
        assert same_as_oracle(snapshot)
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(good / "config.json")
        refused(snapshot, ModelFilesError, "config.json", "is a link to")


class TestOtherFormats:
    @pytest.mark.parametrize("kept", [True, False], ids=["with base weights", "alone"])
    def test_adapters_are_refused(self, folder: Path, kept: bool) -> None:
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
        shutil.copy(folder / "2_Dense/model.safetensors", folder / "adapter_model.safetensors")
        if not kept:
            (folder / "model.safetensors").unlink()
            (folder / "config.json").unlink()
        refused(folder, UnsupportedModelError, "adapter_config.json", "adapter for another model")

    def test_gguf_is_refused(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model.gguf")
        refused(folder, UnsupportedModelError, "GGUF", "model.safetensors")

    def test_a_folder_without_modules_json_is_refused(self, folder: Path) -> None:
        (folder / "modules.json").unlink()
        refused(folder, UnsupportedModelError, "no modules.json")


class TestSentenceTransformersEngine:
    """The optional engine is as closed as our own reader."""

    @pytest.mark.parametrize("path", ["", "2_Dense", "a/b/c/d"])
    @pytest.mark.parametrize("nested", [False, True])
    def test_arguments_are_refused_wherever_they_lie(self, folder: Path, path: str, nested: bool) -> None:
        file = folder / path / "sentence_bert_config.json"
        content: dict[str, Any] = {"model_args": {"weights_only": False}}
        edit_json(file, lambda _: {"x": [content]} if nested else content)
        refused(folder, UnsupportedModelError, str(file), "model_args", engine="sentence-transformers")

    @pytest.mark.parametrize(
        "content",
        [
            '{"x": 1, "x": 2, "model_args": {"a": 1}}',
            '{"model_args": {"a": 1}, "x": "' + "x" * 5_000_000 + '"}',
        ],
        ids=["equal keys", "giant"],
    )
    def test_a_file_that_cannot_be_checked_is_refused(self, folder: Path, content: str) -> None:
        (folder / "sentence_bert_config.json").write_text(content)
        refused(folder, ModelFilesError, "sentence_bert_config.json", engine="sentence-transformers")

    @pytest.mark.parametrize(("key", "value"), SWITCHES)
    def test_switches_are_refused(self, folder: Path, key: str, value: Any) -> None:
        set_key("config.json", text_config={key: value})(folder)
        refused(folder, UnsupportedModelError, "config.json", key, engine="sentence-transformers")

    @pytest.mark.parametrize("name", ["config.json", "1_Pooling"])
    def test_links_out_of_the_folder_are_refused(self, folder: Path, name: str) -> None:
        shutil.move(folder / name, folder.parent / "outside")
        (folder / name).symlink_to(folder.parent / "outside")
        refused(folder, ModelFilesError, name, "is a link to", engine="sentence-transformers")

    @pytest.mark.parametrize("path", OUTSIDE)
    def test_paths_out_of_the_folder_are_refused(self, folder: Path, path: str) -> None:
        edit_json(folder / "modules.json", lambda modules: modules[1].update(path=path))
        with pytest.raises(ModelFilesError, match="outside its own folder; refused"):
            load(folder, engine="sentence-transformers")

    def test_adapters_are_refused(self, folder: Path) -> None:
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
        refused(folder, UnsupportedModelError, "adapter_config.json", engine="sentence-transformers")

    @pytest.mark.parametrize("prompts", [["a"], {"query": 1}, "text"])
    def test_prompts_that_are_no_texts_are_refused(self, folder: Path, prompts: Any) -> None:
        set_key("config_sentence_transformers.json", prompts=prompts)(folder)
        refused(folder, UnsupportedModelError, "prompts", engine="sentence-transformers")


DOORS: dict[str, Callable[[Path], Any]] = {
    "load_embedding_model": lambda folder: load_embedding_model(
        ModelFolder(folder, "path"), Config(model_path=str(folder), device="cpu")
    ),
    "manager": lambda folder: ModelManager(Config(model_path=str(folder))).load_model(),
    "langchain": lambda folder: EmbProviderEmbeddings(model_path=str(folder)).embed_query("text"),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=list(DOORS))
def test_every_door_refuses(folder: Path, marker: Path, door: Callable[[Path], Any]) -> None:
    (folder / "modeling_evil.py").write_text(code(marker))
    set_key("config.json", auto_map={"AutoModel": "modeling_evil.Model"})(folder)
    with pytest.raises(UnsupportedModelError, match="auto_map"):
        door(folder)
    set_key("config.json", auto_map=None, num_hidden_layers=10**12)(folder)
    with pytest.raises(ModelFilesError, match="num_hidden_layers"):
        door(folder)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of this kind")
def test_nothing_is_asked_at_a_terminal(folder: Path, marker: Path) -> None:
    """In a process of its own, whose stdin is a terminal at which nobody sits."""
    (folder / "modeling_evil.py").write_text(code(marker))
    set_key("config.json", model_type="evil", auto_map={"AutoConfig": "modeling_evil.C"})(folder)
    unnamed = Path(shutil.copytree(folder, folder.parent / "unnamed"))
    set_key("config.json", auto_map=None)(unnamed)
    program = f"""
from langchain_embprov import EmbProviderEmbeddings
for folder in {[str(folder), str(unnamed)]}:
    try:
        EmbProviderEmbeddings(model_path=folder).embed_query("text")
    except RuntimeError as error:
        print(type(error).__name__)
"""
    controller, terminal = os.openpty()
    try:
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert run.stdout.split() == ["UnsupportedModelError", "ModelFilesError"], run.stderr
    assert "[y/N]" not in run.stdout + run.stderr
