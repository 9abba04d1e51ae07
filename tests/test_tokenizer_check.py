from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, Family, make_model

from emb_model_provider.core.embedding.folder import MAX_TOKENIZER_BYTES, ModelFolder
from emb_model_provider.core.embedding.tokenizer_check import check_tokenizer_files
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError


def check(folder: Path, **content: Any) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    check_tokenizer_files(ModelFolder(folder, "path"))


def charsmap(*replacements: str) -> str:
    texts = b"".join(text.encode() + b"\0" for text in replacements)
    return base64.b64encode((8).to_bytes(4, "little") + b"\xff" * 8 + texts).decode()


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_tokenizers_of_every_family_pass(tmp_path: Path, family: Family) -> None:
    check_tokenizer_files(ModelFolder(make_model(family, tmp_path), "path"))


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        sequence(
            {"type": "NFKC"},
            {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ),
        sequence(
            {"type": "Precompiled", "precompiled_charsmap": charsmap("a", "x" * 33)},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        ),
        {"type": "Precompiled", "precompiled_charsmap": None},
        {"type": "Prepend", "prepend": "▁"},
    ],
)
def test_real_normalizers_pass(tmp_path: Path, normalizer: Any) -> None:
    check(tmp_path, normalizer=normalizer)


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 1001},
        {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 1001},
        {"type": "Replace", "pattern": {"String": "ab"}, "content": "x" * 2002},
        {"type": "Precompiled", "precompiled_charsmap": charsmap("a", "x" * 1001)},
        sequence(*[{"type": "NFKD"}] * 3),
        sequence(*[{"type": "Prepend", "prepend": "x" * 40}] * 2),
    ],
)
def test_normalizers_that_blow_up_are_refused(tmp_path: Path, normalizer: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"tokenizer.json can make a text .* times longer"):
        check(tmp_path, normalizer=normalizer)


@pytest.mark.parametrize(
    "content",
    [
        {"normalizer": "NFC"},
        {"normalizer": {"type": "Replace"}},
        {"normalizer": {"type": "Replace", "pattern": {"String": 5}, "content": "x"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "no base 64 at all!"}},
        {"normalizer": {"type": "Sequence", "normalizers": 5}},
        {"post_processor": {"single": [{"SpecialToken": {"id": "[CLS]"}}], "special_tokens": {}}},
        {"model": []},
        {"model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"a": 0}}},
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    if content.get("model") == []:
        content = {"model": ["BPE"]}
    with pytest.raises(ModelFilesError, match=r"tokenizer.json is not a tokenizer.*ownload the model again"):
        check(tmp_path, **content)


@pytest.mark.parametrize(("count", "fits"), [(64, True), (65, False)])
def test_special_tokens_are_counted(tmp_path: Path, count: int, fits: bool) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"x": {"id": "x", "ids": [1] * count, "tokens": ["x"] * count}},
    }
    processor = {"type": "Sequence", "processors": [template]}
    if fits:
        check(tmp_path, post_processor=processor)
    else:
        with pytest.raises(UnsupportedModelError, match="adds up to 65 tokens"):
            check(tmp_path, post_processor=processor)


def test_files_in_a_sub_folder_are_checked_there(tmp_path: Path) -> None:
    (tmp_path / "0_Static").mkdir()
    with (tmp_path / "0_Static" / "vocab.txt").open("wb") as file:
        file.truncate(MAX_TOKENIZER_BYTES + 1)
    check_tokenizer_files(ModelFolder(tmp_path, "path"))
    with pytest.raises(ModelFilesError, match=r"0_Static/vocab.txt has 100000001 bytes"):
        check_tokenizer_files(ModelFolder(tmp_path, "path"), "0_Static")
