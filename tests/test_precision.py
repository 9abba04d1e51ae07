"""What a model computes in, and what that changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import TEXTS
from models import load

from emb_model_provider.core.embedding import openvino_library
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.precision import (
    CALIBRATION_TEXTS,
    calibration_id,
    choose_precision,
    read_calibration_texts,
)
from emb_model_provider.core.errors import ConfigError, MissingDependencyError

OPENVINO = sorted(openvino_library.native_precisions() & {"bf16", "fp16"})


class TestChoice:
    @pytest.mark.parametrize(
        ("asked", "native", "chosen"),
        [
            ("fp32", {"fp32", "bf16"}, "fp32"),
            ("bf16", {"fp32", "bf16"}, "bf16"),
            ("int8", {"fp32", "int8"}, "int8"),
            ("auto", {"fp32", "bf16", "int8"}, "bf16"),
            ("auto", {"fp32", "int8", "fp16"}, "fp32"),
        ],
    )
    def test_is_what_was_asked_for_or_the_fastest_that_keeps_the_vectors(
        self, asked: str, native: set[str], chosen: str
    ) -> None:
        assert choose_precision(asked, native, "this machine") == chosen

    def test_of_what_would_be_emulated_is_refused_with_what_there_is(self) -> None:
        with pytest.raises(
            ConfigError, match=r"EMB_PROVIDER_PRECISION.* bf16, which an old CPU.*fp32 or auto"
        ):
            choose_precision("bf16", {"fp32"}, "an old CPU")

    @pytest.mark.parametrize("precision", ["int8", "fp16"])
    def test_of_what_torch_does_not_have_on_a_cpu_is_refused(self, toy_model: Path, precision: str) -> None:
        with pytest.raises(ConfigError, match=f"{precision}, which the engine torch on cpu"):
            load(toy_model, precision=precision)


@pytest.mark.parametrize("precision", OPENVINO)
def test_half_precision_keeps_every_cosine_in_openvino(
    minilm: Path, toy: EmbeddingModel, precision: str
) -> None:
    exact = load(minilm, on_truncation="ignore").embed(TEXTS)
    half = load(minilm, on_truncation="ignore", engine="openvino", precision=precision)
    assert half.precision == precision
    assert (half.embed(TEXTS) * exact).sum(axis=1).min() >= 0.9999


@pytest.mark.skipif("bf16" not in OPENVINO, reason="this CPU has no bf16")
def test_half_precision_keeps_every_cosine_in_torch(minilm: Path) -> None:
    exact = load(minilm, on_truncation="ignore").embed(TEXTS)
    half = load(minilm, on_truncation="ignore", precision="bf16")
    assert half.precision == "bf16"
    assert half.embed(TEXTS).dtype == np.float32
    assert (half.embed(TEXTS) * exact).sum(axis=1).min() >= 0.9998


@pytest.mark.slow
def test_int8_stays_close_and_is_kept(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"engine": "openvino", "precision": "int8", "on_truncation": "ignore"}
    exact = load(minilm, on_truncation="ignore").embed(TEXTS)
    quantized = load(minilm, **settings).embed(TEXTS)
    assert (quantized * exact).sum(axis=1).min() >= 0.95
    assert np.median((quantized * exact).sum(axis=1)) >= 0.99
    again = load(minilm, **settings)
    alone = np.concatenate([again.embed([text]) for text in TEXTS[:20]])
    assert np.abs(alone - quantized[:20]).max() <= 0.02
    monkeypatch.setattr(openvino_library, "nncf", None)  # the next start needs neither it nor torch
    assert np.array_equal(load(minilm, **settings).embed(TEXTS), quantized)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 5])
def test_int8_is_right_for_texts_of_every_length(minilm: Path, rows: int) -> None:
    exact = load(minilm, on_truncation="ignore")
    quantized = load(minilm, engine="openvino", precision="int8", on_truncation="ignore")
    words = " ".join(read_calibration_texts(None)).split()
    for count in range(1, 64, 2):
        texts = [" ".join(words[9 * row : 9 * row + count]) for row in range(rows)]
        cosines = (quantized.embed(texts) * exact.embed(texts)).sum(axis=1)
        assert cosines.min() >= 0.95, f"{count} words: {cosines}"


def test_int8_without_nncf_says_what_to_install(toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_library.nncf.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(MissingDependencyError, match=r"emb-model-provider\[int8\]"):
        load(toy_model, engine="openvino", precision="int8")


def test_every_precision_has_a_fingerprint_of_its_own(toy_model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("a text of mine\nand another\n", encoding="utf-8")
    settings = [{"precision": "fp32"}, *({"precision": name, "engine": "openvino"} for name in OPENVINO)]
    found = [load(toy_model, **setting).fingerprint for setting in settings]
    assert len(set(found)) == len(settings)
    assert calibration_id("int8", None) != calibration_id("int8", str(mine))
    assert calibration_id("fp32", str(mine)) is None


class TestCalibrationTexts:
    def test_of_our_own_are_many_short_and_long_in_many_scripts(self) -> None:
        texts = read_calibration_texts(None)
        assert len(texts) == CALIBRATION_TEXTS
        assert len(set(texts)) >= 150
        assert min(map(len, texts)) < 30
        assert max(map(len, texts)) > 800
        joined = "".join(texts)
        assert all(sample in joined for sample in ("vector", "向量", "ばいい", "Совет", "SELECT"))

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("texts.txt", "first text\n\nsecond text\n"),
            ("texts.jsonl", '{"text": "first text"}\n"second text"\n'),
        ],
    )
    def test_of_the_users_are_read_from_lines_or_json(self, name: str, content: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert read_calibration_texts(str(tmp_path / name)) == ("first text", "second text")

    def test_of_a_large_file_are_spread_over_it(self, tmp_path: Path) -> None:
        (tmp_path / "large.txt").write_text("\n".join(f"text {i}" for i in range(3000)), encoding="utf-8")
        texts = read_calibration_texts(str(tmp_path / "large.txt"))
        assert (texts[0], texts[-1], len(texts)) == ("text 0", "text 2990", CALIBRATION_TEXTS)

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("none.txt", None, "cannot be read"),
            ("empty.txt", "\n \n", "holds no text"),
            ("bad.jsonl", '"fine"\n{"title": "no text"}\n', "text 2"),
            ("broken.jsonl", "{\n", "text 1: not JSON"),
        ],
    )
    def test_that_cannot_be_read_are_an_error_that_names_the_file(
        self, name: str, content: str | None, reason: str, tmp_path: Path
    ) -> None:
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=f"{name}.*{reason}"):
            read_calibration_texts(str(tmp_path / name))
