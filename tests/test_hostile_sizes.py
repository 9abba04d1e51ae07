"""Folders that want more memory than they have bytes."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import make_static
from hostile import TEXTS, announce, edit_tensors, refused, set_key
from models import edit_json, load

from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

pytestmark = pytest.mark.usefixtures("marker")


def last(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = max(header.values(), key=lambda entry: entry["data_offsets"][1])
    return entry


@contextmanager
def little_memory() -> Iterator[None]:
    """Half a gigabyte more than now at most: an attack that takes more fails, and ends nothing else."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 29), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "10 GB": lambda h: h.update(big={"dtype": "F32", "shape": [50_000, 50_000], "data_offsets": [0, 10**10]}),
    "a shape of 10 GB": lambda h: last(h).update(shape=[50_000, 50_000]),
    "an overflowing shape": lambda h: last(h).update(shape=[1 << 62, 1 << 62]),
    "a million dimensions": lambda h: last(h).update(shape=[1 << 62] * 1_000_000),
    "a negative shape": lambda h: last(h).update(shape=[-1, -32]),
    "offsets beyond the file": lambda h: last(h).update(data_offsets=[0, 1 << 40]),
    "negative offsets": lambda h: last(h).update(data_offsets=[-8, 0]),
    "offsets reversed": lambda h: last(h).update(data_offsets=last(h)["data_offsets"][::-1]),
    "overlapping offsets": lambda h: h.update(more={"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}),
    "bytes of no tensor": lambda h: h.pop(next(n for n in h if h[n] is last(h))),
    "an unknown type": lambda h: last(h).update(dtype="EVIL"),
    "a type that is a list": lambda h: last(h).update(dtype=["F32"]),
    "a shape that is a text": lambda h: last(h).update(shape="32"),
    "no shape": lambda h: last(h).pop("shape"),
    "tensors that are numbers": lambda h: h.update(dict.fromkeys(h, 1)),
}


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory with /proc")
class TestSize:
    def test_a_giant_table_that_is_computed_is_refused(self, folder: Path) -> None:
        sizes = {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 64, "rotary_dim": 16}
        edit_json(folder / "config.json", lambda _: {"model_type": "gptj", "n_positions": 10**8} | sizes)
        with little_memory():
            refused(folder, ModelFilesError, "config.json")

    @pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
    @pytest.mark.parametrize("place", ["", "2_Dense"])
    def test_lies_in_a_header_are_refused_before_memory_is_taken(
        self, folder: Path, lie: Callable[[dict[str, Any]], Any], place: str
    ) -> None:
        announce(folder / place, lie)
        with little_memory():
            refused(folder, ModelFilesError, f"{folder / place / 'model.safetensors'} is damaged")

    @pytest.mark.parametrize(
        "header",
        [
            struct.pack("<Q", 1 << 63) + b"{}",
            struct.pack("<Q", 99_999_999) + b"{}",
            struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
            struct.pack("<Q", 4) + b"[[]]",
            struct.pack("<Q", 2) + b"\xff\xfe",
            b"\x01",
            b"PK\x03\x04" * 10,
        ],
        ids=["huge", "longer than the file", "deep", "a list", "no text", "one byte", "a zip file"],
    )
    def test_damaged_headers_are_refused(self, folder: Path, header: bytes) -> None:
        (folder / "model.safetensors").write_bytes(header)
        with little_memory():
            refused(folder, ModelFilesError, "model.safetensors is damaged")

    def test_a_tensor_announced_twice_is_refused(self, folder: Path) -> None:
        entry = '"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
        announce(folder, lambda _: None, f"{{{entry},{entry}}}")
        refused(folder, ModelFilesError, "model.safetensors is damaged", "twice")

    @pytest.mark.parametrize(
        "key",
        [
            "hidden_size",
            "num_hidden_layers",
            "vocab_size",
            "max_position_embeddings",
            "type_vocab_size",
            "intermediate_size",
            "num_labels",
        ],
    )
    @pytest.mark.parametrize("value", [10**8, 10**12, 10**300])
    def test_a_giant_model_with_small_weights_is_refused(self, folder: Path, key: str, value: int) -> None:
        set_key("config.json", **{key: value})(folder)
        with little_memory():
            refused(folder, ModelFilesError)

    @pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "t5", "modernbert"])
    @pytest.mark.parametrize("layers", [10**5, 10**9])
    def test_a_giant_list_of_layers_is_refused(self, folder: Path, model_type: str, layers: int) -> None:
        names = ("num_hidden_layers", "num_layers")
        edit_json(folder / "config.json", lambda _: {"model_type": model_type} | dict.fromkeys(names, layers))
        with little_memory():
            refused(folder, ModelFilesError, "config.json")

    @pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "added_tokens.json"])
    def test_a_giant_file_of_the_tokenizer_is_refused(self, folder: Path, name: str) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(10**10)  # takes no space on the disk
        with little_memory():
            refused(folder, ModelFilesError, name, "10000000000 bytes")

    @pytest.mark.parametrize(
        "name", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"]
    )
    def test_a_giant_configuration_is_refused(self, folder: Path, name: str) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(10**10)
        with little_memory():
            refused(folder, ModelFilesError, name, "10000000000 bytes")


def replace(content: str, pattern: str = "e") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


SPECIAL = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def template(*single: Any) -> dict[str, Any]:
    tokens = {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}}
    return {"type": "TemplateProcessing", "single": single, "pair": [TEXT, TEXT], "special_tokens": tokens}


BOMBS: dict[str, dict[str, Any]] = {
    "Replace": {"normalizer": replace("e" * 1_000_000)},
    "a chain of Replace": {"normalizer": {"type": "Sequence", "normalizers": [replace("e" * 10)] * 9}},
    "a tree of Replace": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Sequence", "normalizers": [replace("e" * 10)] * 3}] * 3,
        }
    },
    "Prepend": {"normalizer": {"type": "Prepend", "prepend": "e" * 1_000_000}},
    "special tokens": {"post_processor": template(*[SPECIAL] * 5000, TEXT)},
    "copies of the text": {"post_processor": template(*[TEXT] * 5000)},
}


class TestTokenizer:
    @pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
    @pytest.mark.parametrize("static", [False, True])
    def test_that_blows_texts_up_is_refused(
        self, folder: Path, tmp_path: Path, bomb: dict[str, Any], static: bool
    ) -> None:
        if static:
            folder = make_static(tmp_path / "static", layout="model2vec")
        set_key("tokenizer.json", **bomb)(folder)
        refused(folder, UnsupportedModelError, "tokenizer.json", "times longer")

    def test_that_pads_to_a_giant_length_pads_nothing(self, folder: Path) -> None:
        padding: dict[str, Any] = {"strategy": {"Fixed": 10**9}, "direction": "Right"}
        padding |= {"pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
        expected = load(folder).embed(TEXTS)
        set_key("tokenizer.json", padding=padding)(folder)
        assert np.array_equal(load(folder).embed(TEXTS), expected)

    def test_that_splits_at_random_is_refused(self, folder: Path) -> None:
        edit_json(folder / "tokenizer.json", lambda content: content["model"].update(dropout=0.5))
        refused(folder, UnsupportedModelError, "tokenizer.json", "random")

    def test_of_another_model_is_refused(self, folder: Path) -> None:
        set_key("config.json", vocab_size=64)(folder)
        edit_tensors(
            folder / "model.safetensors",
            lambda t: t.update(
                {n: t[n][:64].copy() for n in list(t) if n.endswith("word_embeddings.weight")}
            ),
        )
        with pytest.raises(ModelFilesError, match=r"vocab_size|different models"):
            load(folder).embed(TEXTS)

    def test_in_another_file_is_refused(self, folder: Path) -> None:
        shutil.copy(folder / "tokenizer.json", folder / "tokenizer.4.0.0.json")
        set_key("tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.0.json"])(folder)
        refused(folder, UnsupportedModelError, "tokenizer_config.json", "fast_tokenizer_files")

    @pytest.mark.parametrize("key", ["tokenizer_file", "vocab_file"])
    def test_file_elsewhere_is_not_read(self, folder: Path, key: str) -> None:
        expected = load(folder).embed(TEXTS)
        set_key("tokenizer_config.json", **{key: str(folder.parent / "elsewhere.json")})(folder)
        assert np.array_equal(load(folder).embed(TEXTS), expected)
