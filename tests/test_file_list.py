"""Which files of a hub's list are fetched, and which lists are refused before a byte is."""

from __future__ import annotations

import pytest

from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError
from emb_model_provider.core.loaders.file_list import HubFile, may_be_needed, needed_files

WHERE = "org/toy@main on http://hub.test"
SHA = "0" * 64
SMALL = ("modules.json", "config.json", "tokenizer.json", "1_Pooling/config.json", "vocab.txt")
WEIGHTS = "model.safetensors"


def listed(*paths: str, sha256: str | None = SHA) -> list[HubFile]:
    """The files with growing sizes; only weights have a sha256."""
    weights = (".safetensors", ".bin")
    return [HubFile(p, size, sha256 if p.endswith(weights) else None) for size, p in enumerate(paths, 10)]


def chosen(*paths: str, allow_pickle_weights: bool = False) -> set[str]:
    found = needed_files(listed(*paths), WHERE, allow_pickle_weights=allow_pickle_weights)
    return {file.path for file in found}


class TestChoice:
    @pytest.mark.parametrize(
        "extra",
        [
            "tf_model.h5",
            "flax_model.msgpack",
            "rust_model.ot",
            "model.gguf",
            "train.csv",
            "pytorch_model.bin",
            "training_args.bin",
            "adapter_model.safetensors",
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino/openvino_model.xml",
            "openvino/model.safetensors",
            "original/model.safetensors",
            "a/b/config.json",
            ".gitattributes",
            "modeling_toy.py",
            "card.md",
        ],
    )
    def test_leaves_what_a_model_is_not_made_of(self, extra: str) -> None:
        assert chosen(*SMALL, WEIGHTS, extra) == {*SMALL, WEIGHTS}

    @pytest.mark.parametrize(
        "extra",
        [
            "2_Dense/model.safetensors",
            "2_Dense/config.json",
            "merges.txt",
            "sentencepiece.bpe.model",
            "configuration.json",
            "README.md",
        ],
    )
    def test_takes_what_a_model_may_be_made_of(self, extra: str) -> None:
        assert chosen(*SMALL, WEIGHTS, extra) == {*SMALL, WEIGHTS, extra}

    def test_takes_every_part_of_split_weights(self) -> None:
        parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        names = {*SMALL, *parts, "model.safetensors.index.json"}
        assert chosen(*names) == names

    def test_is_fetched_smallest_first(self) -> None:
        files = listed("modules.json", WEIGHTS, "config.json", "a.json")
        files[3] = HubFile("a.json", files[0].size)
        found = needed_files(files, WHERE, allow_pickle_weights=False)
        assert [file.path for file in found] == ["a.json", "modules.json", WEIGHTS, "config.json"]

    def test_of_a_model_in_modelscopes_own_format_needs_no_modules(self) -> None:
        assert chosen("configuration.json", "config.json", WEIGHTS) == {
            "configuration.json",
            "config.json",
            WEIGHTS,
        }


class TestPickles:
    def test_alone_are_refused_by_name(self) -> None:
        with pytest.raises(UnsupportedModelError, match=r"pytorch_model\.bin, a pickle.*ALLOW_PICKLE"):
            chosen(*SMALL, "pytorch_model.bin")

    def test_alone_are_taken_when_allowed(self) -> None:
        assert chosen(*SMALL, "pytorch_model.bin", allow_pickle_weights=True) == {*SMALL, "pytorch_model.bin"}

    def test_beside_safetensors_are_left(self) -> None:
        files = (*SMALL, WEIGHTS, "pytorch_model.bin", "2_Dense/pytorch_model.bin")
        assert chosen(*files, allow_pickle_weights=True) == {*SMALL, WEIGHTS, "2_Dense/pytorch_model.bin"}

    def test_do_not_count_as_weights_of_the_model_when_safetensors_lie_elsewhere(self) -> None:
        with pytest.raises(UnsupportedModelError, match="a pickle"):
            chosen(*SMALL, "pytorch_model.bin", "2_Dense/model.safetensors")


class TestRefusal:
    @pytest.mark.parametrize(
        "name",
        [
            "../x.json",
            "a/../../x.json",
            "..",
            "/etc/x.json",
            "//server/x.json",
            "C:/x.json",
            "C:x.json",
            "..\\x.json",
            "a\\x.json",
            "\\\\server\\share\\x.json",
        ],
    )
    def test_of_a_name_outside_the_folder_whether_or_not_the_file_is_needed(self, name: str) -> None:
        for extra in (name, name.replace(".json", ".bin")):
            with pytest.raises(ModelFilesError, match="outside its own folder; refused") as raised:
                chosen(*SMALL, WEIGHTS, extra)
            assert repr(extra) in str(raised.value)

    def test_of_an_empty_list(self) -> None:
        with pytest.raises(ModelFilesError, match=f"{WHERE} lists no files"):
            chosen()

    def test_of_a_list_without_modules(self) -> None:
        with pytest.raises(UnsupportedModelError, match=rf"{WHERE} has no modules\.json"):
            chosen("config.json", WEIGHTS, "1_Pooling/config.json")

    @pytest.mark.parametrize("weights", [WEIGHTS, "model-00001-of-00001.safetensors"])
    def test_of_weights_without_an_announced_hash(self, weights: str) -> None:
        files = listed(*SMALL, weights, sha256=None)
        with pytest.raises(ModelFilesError, match=f"announces no sha256 for {weights}.*model_path"):
            needed_files(files, WHERE, allow_pickle_weights=False)

    def test_not_of_weights_that_are_left_and_have_no_hash(self) -> None:
        files = [*listed(*SMALL, WEIGHTS), *listed("onnx/model.safetensors", sha256=None)]
        found = needed_files(files, WHERE, allow_pickle_weights=False)
        assert {file.path for file in found} == {*SMALL, WEIGHTS}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("config.json", True),
        ("1_Pooling/config.json", True),
        ("model.safetensors", True),
        ("model-00001-of-00003.safetensors", True),
        ("pytorch_model.bin", True),
        ("spiece.model", True),
        ("README.md", True),
        ("docs/README.md", True),
        ("LICENSE", False),
        ("onnx/config.json", False),
        ("a/b/config.json", False),
        ("model.safetensors.incomplete", False),
        ("lora.safetensors", False),
        ("weights.bin", False),
    ],
)
def test_a_file_may_be_needed_by_its_name(path: str, expected: bool) -> None:
    assert may_be_needed(path) is expected
