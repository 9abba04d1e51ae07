"""Conversion to OpenVINO: verified, kept for the next start, and done without where it does not work."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import TEXTS
from models import load as load_in

from emb_model_provider.core.embedding import (
    conversion,
    openvino_conversion,
    openvino_engine,
    openvino_library,
)
from emb_model_provider.core.embedding.conversion import ConversionError
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.openvino_engine import OpenVinoEngine
from emb_model_provider.core.embedding.torch_engine import TorchEngine
from emb_model_provider.core.errors import ConfigError, FingerprintMismatchError, MissingDependencyError


def load(folder: Path, **settings: Any) -> EmbeddingModel:
    return load_in(folder, **({"engine": "auto"} | settings))


def engine_of(model: EmbeddingModel) -> object:
    return model._forward.engines[0]


def entries() -> list[Path]:
    folder = Path(os.environ["EMB_PROVIDER_CACHE_DIR"], "converted")
    return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One item for each conversion that is made."""
    made: list[object] = []
    convert = openvino_conversion.convert

    def counted(engine: TorchEngine) -> Any:
        made.append(engine)
        return convert(engine)

    monkeypatch.setattr(openvino_conversion, "convert", counted)
    return made


class TestNextStart:
    def test_needs_no_conversion_and_gives_the_same_vectors(
        self, toy_model: Path, conversions: list[object]
    ) -> None:
        first = load(toy_model).embed(TEXTS)
        model = load(toy_model)
        assert isinstance(engine_of(model), OpenVinoEngine)
        assert np.array_equal(model.embed(TEXTS), first)
        assert len(conversions) == 1

    def test_imports_neither_torch_nor_transformers(self, toy_model: Path) -> None:
        load(toy_model)
        program = """
import sys
from langchain_embprov import EmbProviderEmbeddings
EmbProviderEmbeddings(model_path=sys.argv[1]).embed_query("a text")
heavy = ("torch", "transformers", "huggingface_hub", "scipy", "sklearn")
print(*[name for name in heavy if name in sys.modules])
print("openvino" in sys.modules)
"""
        done = subprocess.run(
            [sys.executable, "-c", program, str(toy_model)], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["True"]

    @pytest.mark.parametrize(
        "settings",
        [{"query_prompt": "other: "}, {"max_context_length": 16}, {"truncate_dim": 8}, {"max_batch_size": 3}],
        ids=lambda settings: next(iter(settings)),
    )
    def test_serves_other_settings_too(
        self, toy_model: Path, settings: dict[str, Any], conversions: list[object]
    ) -> None:
        load(toy_model)
        found = load(toy_model, **settings).embed(TEXTS, "query")
        expected = load(toy_model, engine="torch", **settings).embed(TEXTS, "query")
        assert np.abs(found - expected).max() <= 1e-5
        assert len(conversions) == 1

    def test_after_other_weights_converts_again(
        self, toy_model: Path, tmp_path: Path, conversions: list[object]
    ) -> None:
        from families import make_bert

        load(toy_model)
        load(make_bert(tmp_path / "other", prompts={"query": "query: ", "document": "passage: "}, seed=1))
        assert len(conversions) == 2
        assert len(entries()) == 2

    def test_of_another_version_of_openvino_converts_again(
        self, toy_model: Path, conversions: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load(toy_model)
        monkeypatch.setattr(openvino_library, "version", lambda: "2099.1")
        load(toy_model)
        assert len(conversions) == 2


class TestKeptModel:
    @pytest.mark.parametrize(
        "name", ["model.bin", "model.xml", "model.blob", "tokenizer.json", "manifest.json"]
    )
    @pytest.mark.parametrize("how", ["changed", "gone"])
    def test_that_is_damaged_is_made_again(
        self, toy_model: Path, name: str, how: str, conversions: list[object]
    ) -> None:
        expected = load(toy_model).embed(TEXTS)
        file = entries()[0] / name
        if how == "gone":
            file.unlink()
        else:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        assert np.array_equal(load(toy_model).embed(TEXTS), expected)
        assert len(conversions) == 2
        assert np.array_equal(load(toy_model).embed(TEXTS), expected)
        assert len(conversions) == 2

    def test_compiled_for_another_cpu_is_compiled_again(
        self, toy_model: Path, conversions: list[object]
    ) -> None:
        expected = load(toy_model).embed(TEXTS)
        (entry,) = entries()
        (entry / "model.blob").write_bytes(b"for another CPU")
        manifest = json.loads((entry / "manifest.json").read_text())
        from emb_model_provider.core.embedding.file_hashes import sha256_of

        manifest["model.blob"] = sha256_of(entry / "model.blob")
        (entry / "manifest.json").write_text(json.dumps(manifest))
        assert np.array_equal(load(toy_model).embed(TEXTS), expected)
        assert len(conversions) == 1

    def test_of_many_threads_at_once_is_whole(self, toy_model: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            models = list(pool.map(lambda size: load(toy_model, max_batch_size=size), range(1, 5)))
        vectors = [model.embed(TEXTS) for model in models]
        assert max(np.abs(v - vectors[0]).max() for v in vectors) <= 1e-6
        assert [entry.name.startswith(".making-") for entry in entries()] == [False]

    @pytest.mark.parametrize("method", ["save_model", "export_model"])
    def test_that_fills_the_disk_is_done_without(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
    ) -> None:
        """OpenVINO says so with a RuntimeError; another precision would have other vectors."""
        library = openvino_library.openvino()
        owner = library if method == "save_model" else library.CompiledModel

        def full(*_: object, **__: object) -> None:
            raise RuntimeError("basic_ios::clear: iostream error")

        monkeypatch.setattr(owner, method, full)
        precision = "bf16" if "bf16" in openvino_library.native_precisions() else "fp32"
        model = load(toy_model, precision=precision)
        assert (model.precision, type(engine_of(model))) == (precision, OpenVinoEngine)
        assert "cannot be kept in" in caplog.text
        assert "iostream error" in caplog.text
        assert entries() == []

    def test_that_cannot_be_used_once_stays(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Every byte is as it was written: this process is the one that cannot."""
        first = load(toy_model).embed(TEXTS)
        before = entries()

        def ending(*_: object, **__: object) -> None:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

        with monkeypatch.context() as patch:
            patch.setattr(openvino_engine, "load", ending)
            np.testing.assert_allclose(load(toy_model).embed(TEXTS), first, rtol=0, atol=1e-6)
        assert "converting it again" in caplog.text
        assert entries() == before
        assert np.array_equal(load(toy_model).embed(TEXTS), first)

    def test_of_another_process_may_be_put_in_place_meanwhile(self, toy_model: Path) -> None:
        folder = Path(os.environ["EMB_PROVIDER_CACHE_DIR"], "converted")
        folder.mkdir(parents=True)
        (folder / ".making-gone").symlink_to(folder / "renamed between the list and the look")
        load(toy_model)
        assert any("openvino" in entry.name for entry in entries())

    def test_that_cannot_be_written_is_done_without(
        self, toy_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("in the way of a folder")
        model = load(toy_model, cache_dir=str(tmp_path / "file"))
        assert isinstance(engine_of(model), OpenVinoEngine)
        assert "EMB_PROVIDER_CACHE_DIR" in caplog.text
        assert np.abs(model.embed(TEXTS) - load(toy_model, engine="torch").embed(TEXTS)).max() <= 1e-5


def wrong(compile_model: Callable[..., Any]) -> Callable[..., Any]:
    """Engines whose hidden states are a little off."""

    def compiled(*args: Any, **options: Any) -> Any:
        engine = compile_model(*args, **options)
        hidden_states = engine.hidden_states
        engine.hidden_states = lambda batch: hidden_states(batch) + np.float32(0.05)
        return engine

    return compiled


class TestWithoutConversion:
    def test_a_model_that_cannot_be_traced_runs_in_torch(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: object) -> None:
            raise RuntimeError("an operation that nobody knows")

        monkeypatch.setattr(openvino_conversion, "convert", fail)
        model = load(toy_model)
        assert isinstance(engine_of(model), TorchEngine)
        assert "an operation that nobody knows" in caplog.text
        assert "Using torch" in caplog.text
        assert np.array_equal(model.embed(TEXTS), load(toy_model, engine="torch").embed(TEXTS))
        assert entries() == []

    def test_a_model_that_gives_other_vectors_runs_in_torch(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(openvino_engine, "compile_model", wrong(openvino_engine.compile_model))
        model = load(toy_model)
        assert isinstance(engine_of(model), TorchEngine)
        assert "differ by" in caplog.text
        assert entries() == []

    @pytest.mark.skipif("bf16" not in openvino_library.native_precisions(), reason="this CPU has no bf16")
    def test_another_precision_is_lost_with_it_and_the_fingerprint_says_so(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = load(toy_model, precision="bf16").fingerprint

        def fail(*_: object, **__: object) -> None:
            raise ConversionError("it cannot be done today")

        monkeypatch.setattr("emb_model_provider.core.embedding.loading.load_converted", fail)
        model = load(toy_model, precision="bf16")
        assert model.precision == "fp32"
        assert model.fingerprint == load(toy_model, engine="torch").fingerprint != expected
        assert "another fingerprint than bf16" in caplog.text
        with pytest.raises(FingerprintMismatchError):
            load(toy_model, precision="bf16", expected_fingerprint=expected)

    def test_openvino_on_a_gpu_is_refused(self, toy_model: Path) -> None:
        with pytest.raises(ConfigError, match="runs on the CPU, not on cuda"):
            load(toy_model, engine="openvino", device="cuda")

    def test_auto_without_openvino_takes_torch(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("emb_model_provider.core.embedding.loading.find_spec", lambda name: None)
        assert isinstance(engine_of(load(toy_model)), TorchEngine)

    def test_auto_with_an_openvino_that_does_not_import_takes_torch_and_says_so(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken() -> None:
            raise MissingDependencyError("OpenVINO is there and does not import.")

        monkeypatch.setattr(openvino_library, "core", broken)
        assert isinstance(engine_of(load(toy_model)), TorchEngine)
        assert "Using torch" in caplog.text


def test_a_folder_named_openvino_is_not_the_library(
    toy_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model's repository has one, and Python takes a folder in the current one for a package."""
    monkeypatch.setattr(openvino_library, "_without_telemetry", types.ModuleType)
    openvino_library.openvino.cache_clear()
    openvino_library.core.cache_clear()
    try:
        assert isinstance(engine_of(load(toy_model)), TorchEngine)
        assert "The engine openvino is not installed" in caplog.text
    finally:
        openvino_library.openvino.cache_clear()
        openvino_library.core.cache_clear()


def test_nothing_is_said_of_a_conversion_that_works(
    toy_model: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        load(toy_model, on_truncation="ignore")
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_no_calibration_is_made_but_for_int8(toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "read_calibration_texts", None)
    load(toy_model)
