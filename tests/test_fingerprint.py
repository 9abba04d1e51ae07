"""The identity of an embedding space: equal for equal vectors, different for different ones."""

from __future__ import annotations

import gc
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from both_hubs import ID, WEIGHTS, Side
from families import DenseSpec, make_bert
from models import edit_json, load
from native import change, make_native

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding import file_hashes
from emb_model_provider.core.embedding.file_hashes import sha256_of
from emb_model_provider.core.errors import FingerprintMismatchError, HubConnectionError
from emb_model_provider.core.loaders import download
from emb_model_provider.core.model_manager import ModelManager

OTHER = "0" * 64


@pytest.fixture
def folder(toy_model: Path, tmp_path: Path) -> Path:
    """The toy model, to change."""
    return shutil.copytree(toy_model, tmp_path / "model")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that this process reads to hash them."""
    found: list[str] = []

    def counted(path: Path) -> str:
        found.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(file_hashes, "sha256_of", counted)
    return found


def fingerprint(folder: Path, **settings: Any) -> str:
    found = load(folder, **settings).fingerprint
    assert found is not None
    return found


def edit(name: str, **values: Any) -> Any:
    """A change to a JSON file of a folder."""
    return lambda folder: edit_json(folder / name, lambda content: content.update(values))


def other_weights(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def other_word(folder: Path) -> None:
    def swap(content: Any) -> None:
        vocabulary = content["model"]["vocab"]
        first, second = list(vocabulary)[-2:]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    edit_json(folder / "tokenizer.json", swap)


def test_is_64_hexadecimal_digits_and_in_the_info(toy_model: Path) -> None:
    manager = ModelManager(Config(model_path=str(toy_model)))
    manager.load_model()
    found = manager.get_model_info()["fingerprint"]
    assert re.fullmatch(r"[0-9a-f]{64}", found)
    assert found == fingerprint(toy_model)


class TestEqual:
    def test_for_the_same_files_from_either_hub_or_a_path(
        self, hubs: dict[str, Side], folder: Path, tmp_path: Path
    ) -> None:
        expected = fingerprint(folder)
        for side in hubs.values():
            assert side.load().fingerprint == expected
        assert fingerprint(shutil.copytree(folder, tmp_path / "copy")) == expected

    def test_for_a_package_and_a_path(self, minilm: Path) -> None:
        manager = ModelManager(Config(engine="torch", device="cpu"))
        manager.load_model()
        info = manager.get_model_info()
        assert info["source"] == "package"
        assert info["fingerprint"] == fingerprint(minilm)

    @pytest.mark.parametrize(
        "settings",
        [
            {"max_batch_size": 1},
            {"num_threads": 1},
            {"on_truncation": "ignore"},
            {"query_prompt": "query: "},
            {"hf_token": "secret"},
        ],
        ids=str,
    )
    def test_for_settings_that_leave_vectors_alone(self, toy_model: Path, settings: dict[str, Any]) -> None:
        assert fingerprint(toy_model, **settings) == fingerprint(toy_model)

    @pytest.mark.parametrize("name", ["README.md", "onnx/model.onnx", "training.log", "tf_model.h5"])
    def test_for_files_that_are_not_the_models(self, folder: Path, toy_model: Path, name: str) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("anything")
        assert fingerprint(folder) == fingerprint(toy_model)

    def test_for_a_setting_and_the_file_that_say_the_same(self, folder: Path, toy_model: Path) -> None:
        edit("sentence_bert_config.json", max_seq_length=16)(folder)
        assert fingerprint(folder) == fingerprint(toy_model, max_context_length=16)
        assert fingerprint(folder, max_context_length=1000) == fingerprint(folder)


class TestDifferent:
    @pytest.mark.parametrize(
        "settings",
        [
            {"query_prompt": ""},
            {"document_prompt": "text: "},
            {"max_context_length": 8},
            {"truncate_dim": 8},
            {"query_prompt": "passage: ", "document_prompt": "query: "},
        ],
        ids=str,
    )
    def test_for_each_setting_that_changes_vectors(self, toy_model: Path, settings: dict[str, Any]) -> None:
        assert fingerprint(toy_model, **settings) != fingerprint(toy_model)

    @pytest.mark.parametrize(
        "change_folder",
        [
            pytest.param(other_weights, id="weights"),
            pytest.param(other_word, id="tokenizer"),
            pytest.param(edit("config.json", layer_norm_eps=1e-3), id="architecture"),
            pytest.param(edit("sentence_bert_config.json", max_seq_length=16), id="length"),
            pytest.param(edit("1_Pooling/config.json", pooling_mode="cls"), id="pooling"),
            pytest.param(edit("1_Pooling/config.json", include_prompt=False), id="pooling without prompts"),
            pytest.param(edit("config_sentence_transformers.json", truncate_dim=8), id="truncation"),
            pytest.param(
                edit("config_sentence_transformers.json", prompts={"query": "search: "}), id="prompts"
            ),
            pytest.param(
                lambda folder: edit_json(folder / "modules.json", lambda modules: modules[:2]),
                id="normalisation",
            ),
        ],
    )
    def test_for_each_change_of_the_files_that_changes_vectors(
        self, folder: Path, toy_model: Path, change_folder: Any
    ) -> None:
        change_folder(folder)
        assert fingerprint(folder) != fingerprint(toy_model)

    def test_for_another_dense_layer(self, tmp_path: Path) -> None:
        folder = make_bert(tmp_path / "dense", dense=[DenseSpec(8)])
        found = fingerprint(folder)
        weights = next((folder / "2_Dense").glob("*.safetensors"))
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint(folder) != found

    def test_for_another_precision(self, toy_model: Path) -> None:
        from emb_model_provider.core.embedding.file_hashes import FileHashes
        from emb_model_provider.core.embedding.fingerprint import fingerprint as identify
        from emb_model_provider.core.embedding.folder import ModelFolder
        from emb_model_provider.core.embedding.model_format import read_description
        from emb_model_provider.core.embedding.prompts import Prompts

        source = ModelFolder(toy_model, "path")
        hashes = FileHashes(source, Path(os.environ["EMB_PROVIDER_CACHE_DIR"]))
        found = {
            identify(
                read_description(source), hashes, prompts=Prompts("query: ", "passage: "), precision=precision
            )
            for precision in ("fp32", "bf16", "fp16", "int8")
        }
        assert len(found) == 4
        assert fingerprint(toy_model) in found

    def test_for_another_pooling_in_modelscopes_format(self, tmp_path: Path) -> None:
        folder = make_native(tmp_path / "native")
        found = {fingerprint(folder)}
        change(folder, "model", emb_pooler_type="avg")
        found.add(fingerprint(folder))
        change(folder, "preprocessor", max_length=64)
        found.add(fingerprint(folder))
        change(folder, "model", normalize=True)
        assert len(found | {fingerprint(folder)}) == 4


class TestExpected:
    def test_is_loaded(self, toy_model: Path) -> None:
        expected = fingerprint(toy_model)
        for spelling in (expected, expected.upper()):
            assert fingerprint(toy_model, expected_fingerprint=spelling) == expected

    def test_of_another_model_is_refused_and_both_are_printed(self, toy_model: Path) -> None:
        found = fingerprint(toy_model)
        with pytest.raises(FingerprintMismatchError, match=OTHER) as raised:
            load(toy_model, expected_fingerprint=OTHER)
        assert found in str(raised.value)
        assert str(toy_model) in str(raised.value)

    def test_is_read_from_the_environment(self, toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMB_PROVIDER_EXPECTED_FINGERPRINT", OTHER)
        with pytest.raises(FingerprintMismatchError, match=OTHER):
            ModelManager(Config(model_path=str(toy_model))).load_model()

    @pytest.mark.parametrize("offline", [True, False])
    def test_that_a_copy_on_disk_has_not_is_refused_without_a_request(
        self, side: Side, toy_model: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
    ) -> None:
        side.load()
        monkeypatch.setattr(download, "_child", None)  # a request would need one
        with pytest.raises(FingerprintMismatchError, match=OTHER) as raised:
            side.load(expected_fingerprint=OTHER, offline=offline)
        assert fingerprint(toy_model) in str(raised.value)

    def test_of_a_download_that_differs_is_refused(self, hubs: dict[str, Side]) -> None:
        with pytest.raises(FingerprintMismatchError, match=OTHER):
            hubs["modelscope"].load(expected_fingerprint=OTHER)

    def test_makes_auto_go_on_to_the_hub_that_has_it(
        self, hubs: dict[str, Side], folder: Path, toy_model: Path
    ) -> None:
        other_weights(folder)
        hubs["modelscope"].hub.add_model(ID, folder)
        expected = fingerprint(toy_model)
        manager = hubs["modelscope"].manager(model_source="auto", expected_fingerprint=expected)
        info = manager.get_model_info()
        assert (info["source"], info["fingerprint"]) == ("huggingface", expected)
        assert expected in info["failures"][f"{ID} on ModelScope"]


class TestHashing:
    def test_reads_the_weights_of_a_path_once(self, folder: Path, reads: list[str]) -> None:
        found = fingerprint(folder)
        assert reads.count(WEIGHTS) == 1
        gc.collect()
        assert fingerprint(folder) == found
        assert reads.count(WEIGHTS) == 1

    def test_reads_nothing_of_a_download_that_was_verified(self, side: Side, reads: list[str]) -> None:
        found = side.load().fingerprint
        assert side.load().fingerprint == found
        assert reads == []

    def test_reads_a_file_that_was_changed_since(self, side: Side, reads: list[str]) -> None:
        side.load()
        other_weights(side.snapshot)
        with pytest.raises(HubConnectionError, match=WEIGHTS):
            side.load(offline=True)
        assert set(reads) == {WEIGHTS}
