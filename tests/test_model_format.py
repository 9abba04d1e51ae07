"""Folders in every layout that sentence-transformers has written, and those that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import TEXTS, DenseSpec, make_bert
from models import assert_equal, edit_json, load, load_oracle
from models import one_thread as one_thread

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import Dense, LayerNorm, Normalize, Pooling
from emb_model_provider.core.embedding.loading import load_embedding_model
from emb_model_provider.core.embedding.model_format import TRANSFORMER_CONFIGS, read_description
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

pytestmark = pytest.mark.usefixtures("one_thread")

# Module types by the versions that wrote them.
BEFORE_5_4 = "sentence_transformers.models."
SINCE_5_4 = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
}
SINCE_6 = SINCE_5_4 | {"Normalize": "sentence_transformers.base.modules.normalize.Normalize"}
GENERATIONS = [{kind: BEFORE_5_4 + kind for kind in SINCE_6}, SINCE_5_4, SINCE_6]


def read(folder: Path, repo_id: str | None = None) -> ModelDescription:
    return read_description(ModelFolder(folder, "path", repo_id))


@pytest.fixture
def folder(toy_model: Path, tmp_path: Path) -> Path:
    """A copy of the toy model, to be changed."""
    copy = tmp_path / "model"
    shutil.copytree(toy_model, copy)
    return copy


@pytest.fixture(scope="module")
def deep_model(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with every layer that there is."""
    dense = (DenseSpec(24), DenseSpec(24, bias=False, use_residual=True))
    return make_bert(tmp_path_factory.mktemp("deep") / "model", dense=dense, layer_norm=True)


def set_types(folder: Path, types: dict[str, str]) -> None:
    def change(modules: Any) -> None:
        for module in modules:
            module["type"] = types[module["type"].rpartition(".")[2]]

    edit_json(folder / "modules.json", change)


def set_key(folder: Path, file: str, key: str, value: Any) -> None:
    edit_json(folder / file, lambda content: content.update({key: value}))


@pytest.mark.parametrize("types", GENERATIONS, ids=["before 5.4", "since 5.4", "since 6"])
def test_module_types_of_every_generation_are_the_same_model(
    deep_model: Path, tmp_path: Path, types: dict[str, str]
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(deep_model, copy)
    set_types(copy, types)
    ours = load(copy)
    kinds = [type(layer) for layer in ours.description.layers]
    assert kinds == [Pooling, Dense, Dense, LayerNorm, Normalize]
    assert_equal(ours.embed(TEXTS), load_oracle(copy).encode(TEXTS))


def test_the_layout_before_5_4_is_the_same_model(tmp_path: Path) -> None:
    texts = [*TEXTS, "UPPER and lower"]
    new, old = (make_bert(tmp_path / str(legacy), legacy=legacy) for legacy in (False, True))
    assert "max_seq_length" in json.loads((old / "sentence_bert_config.json").read_text("utf-8"))
    assert "max_seq_length" not in json.loads((new / "sentence_bert_config.json").read_text("utf-8"))
    assert read(old).layers == read(new).layers
    vectors = load(old).embed(texts)
    np.testing.assert_array_equal(vectors, load(new).embed(texts))
    assert_equal(vectors, load_oracle(old).encode(texts))


class TestLength:
    @pytest.mark.parametrize(
        ("saved", "tokenizer", "positions", "expected"),
        [
            (20, 32, 128, 20),  # sentence_bert_config.json has the last word,
            (100, 32, 128, 100),  # also where it says more than the tokenizer
            (None, 32, 128, 32),
            (None, 512, 128, 128),
            (None, 10**30, 128, 128),
        ],
    )
    def test_is_the_oracles(
        self, folder: Path, saved: int | None, tokenizer: int, positions: int, expected: int
    ) -> None:
        set_key(folder, "sentence_bert_config.json", "max_seq_length", saved)
        set_key(folder, "tokenizer_config.json", "model_max_length", tokenizer)
        ours, oracle = load(folder), load_oracle(folder)
        assert ours.description.config["max_position_embeddings"] == positions
        assert ours.max_length == oracle.max_seq_length == expected
        assert_equal(ours.embed(TEXTS), oracle.encode(TEXTS, prompt="passage: "))

    def test_is_never_more_than_the_model_has_positions(self, folder: Path) -> None:
        """sentence-transformers fails on such a text."""
        set_key(folder, "sentence_bert_config.json", "max_seq_length", 512)
        ours = load(folder, document_prompt="")
        assert ours.max_length == 128
        expected = load_oracle(folder)
        expected.max_seq_length = 128
        assert_equal(ours.embed(TEXTS), expected.encode(TEXTS))

    @pytest.mark.parametrize("length", [0, -1, "512", 3.5, True])
    def test_that_is_none_is_refused(self, folder: Path, length: Any) -> None:
        set_key(folder, "sentence_bert_config.json", "max_seq_length", length)
        with pytest.raises(UnsupportedModelError, match=r"sentence_bert_config\.json: max_seq_length"):
            read(folder)

    @pytest.mark.parametrize("file", TRANSFORMER_CONFIGS)
    def test_lies_in_a_file_of_one_of_seven_names(self, folder: Path, file: str) -> None:
        (folder / "sentence_bert_config.json").unlink()
        (folder / file).write_text('{"max_seq_length": 9, "do_lower_case": true}', "utf-8")
        description = read(folder)
        assert (description.max_seq_length, description.do_lower_case) == (9, True)
        assert load_oracle(folder).max_seq_length == load(folder).max_length == 9


def test_texts_are_lowercased_where_the_folder_says_so(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model", legacy=True, do_lower_case=True)
    ours = load(folder)
    vectors = ours.embed(["Hello World", "hello world"])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert_equal(ours.embed(TEXTS), load_oracle(folder).encode(TEXTS))
    set_key(folder, "sentence_bert_config.json", "do_lower_case", False)
    cased = load(folder).embed(["Hello World", "hello world"])
    assert np.abs(cased[0] - cased[1]).max() > 1e-3


@pytest.mark.parametrize("size", ["base", "large", "xl"])
def test_instructor_models_do_not_pool_the_prompt_whatever_their_files_say(folder: Path, size: str) -> None:
    assert read(folder).pooling.include_prompt
    assert read(folder, f"someone/instructor-{size}").pooling.include_prompt
    named = ModelFolder(folder, "huggingface", f"hkunlp/instructor-{size}")
    assert not read_description(named).pooling.include_prompt
    oracle = load_oracle(folder)
    oracle.set_pooling_include_prompt(False)
    config = Config(engine="torch", device="cpu")
    assert_equal(load_embedding_model(named, config).embed(TEXTS, "query"), oracle.encode_query(TEXTS))


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("similarity_fn_name", "dot", "similarity", "dot"),
        ("similarity_fn_name", None, "similarity", None),
        ("truncate_dim", 8, "truncate_dim", 8),
        ("prompts", {"query": "q: ", "document": "", "x": None}, "prompts", {"query": "q: "}),
        ("prompts", None, "prompts", {}),
        ("requirements", {"transformers": ">=4"}, "requires_transformers", ">=4"),
        ("requirements", {"transformers": {"specifier": ">=5"}}, "requires_transformers", ">=5"),
        ("__version__", {"sentence_transformers": "1.0"}, "similarity", "cosine"),
    ],
)
def test_the_model_config_is_read(folder: Path, key: str, value: Any, field: str, expected: Any) -> None:
    set_key(folder, "config_sentence_transformers.json", key, value)
    assert getattr(read(folder), field) == expected


def test_a_model_for_another_version_of_transformers_is_refused(folder: Path) -> None:
    set_key(folder, "config_sentence_transformers.json", "requirements", {"transformers": "<4"})
    with pytest.raises(UnsupportedModelError, match="another version of transformers"):
        load(folder)


def replaced(kind: str, place: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        def edit(modules: Any) -> None:
            modules[place]["type"] = kind

        edit_json(folder / "modules.json", edit)

    return change


def keyed(file: str, key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: set_key(folder, file, key, value)


def without(place: int) -> Callable[[Path], None]:
    def edit(modules: Any) -> None:
        del modules[place]

    return lambda folder: edit_json(folder / "modules.json", edit)


def in_sub_folder(folder: Path) -> None:
    edit_json(folder / "modules.json", lambda modules: modules[0].update(path="0_Transformer"))


def twice_pooled(folder: Path) -> None:
    edit_json(folder / "modules.json", lambda modules: modules.append(dict(modules[1])))


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("models.Asym", 0),
        ("base.modules.router.Router", 0),
        ("base.modules.router.Router", 2),
        ("models.CLIPModel", 0),
        ("models.BoW", 0),
        ("models.WordEmbeddings", 0),
        ("models.WordWeights", 1),
        ("models.CNN", 1),
        ("models.LSTM", 1),
        ("models.WeightedLayerPooling", 1),
        ("sentence_transformer.modules.cnn.CNN", 1),
        ("models.SomethingNew", 2),
    ],
)
def test_a_layer_not_known_is_refused_by_name_with_the_engine_that_may_know_it(
    folder: Path, kind: str, place: int
) -> None:
    replaced(f"sentence_transformers.{kind}", place)(folder)
    with pytest.raises(UnsupportedModelError) as caught:
        load(folder)
    said = str(caught.value)
    assert said.startswith(f"{folder / 'modules.json'}: ")
    assert f" {kind.rpartition('.')[2]}" in said
    assert "EMB_PROVIDER_ENGINE) to sentence-transformers" in said


BERT = "sentence_bert_config.json"
MODEL = "config_sentence_transformers.json"
# what is changed in a good folder, what the error says, whether the engine sentence-transformers may do
REFUSED: list[tuple[Callable[[Path], None], str, bool]] = [
    (replaced("os.system", 1), r"module type 'os\.system' is not known", False),
    (replaced("custom_st.Transformer", 0), r"module type 'custom_st\.Transformer' is not known", False),
    (in_sub_folder, "the Transformer lies in the sub-folder '0_Transformer'", True),
    (without(1), r"one Pooling must follow the Transformer, found \['Normalize'\]", True),
    (twice_pooled, "one Pooling must follow the Transformer", True),
    (keyed(MODEL, "model_type", "SparseEncoder"), "the model_type is 'SparseEncoder'", False),
    (keyed(MODEL, "model_type", "CrossEncoder"), "the model_type is 'CrossEncoder'", False),
    (keyed(MODEL, "prompts", ["query: "]), "prompts is not an object of texts", False),
    (keyed(MODEL, "prompts", {"query": 1}), "prompts is not an object of texts", False),
    (keyed(MODEL, "truncate_dim", 0), "truncate_dim is 0", False),
    (keyed(BERT, "new_key", 1), "the key 'new_key' with the value 1 is not known", True),
    (keyed(BERT, "transformer_task", "fill-mask"), "'transformer_task' with the value 'fill-mask'", True),
    (keyed(BERT, "module_output_name", "logits"), "'module_output_name' with the value 'logits'", True),
    (keyed(BERT, "model_args", {"weights_only": False}), "the key 'model_args'", False),
    (keyed(BERT, "config_kwargs", {"num_labels": 2}), "the key 'config_kwargs'", False),
    (keyed(BERT, "modality_config", {"image": {}}), "the key 'modality_config'", True),
    (keyed(BERT, "do_lower_case", "yes"), "do_lower_case 'yes' is not known", False),
]


@pytest.mark.parametrize(
    ("change", "said", "other_engine"), REFUSED, ids=[said[:40] for _, said, _ in REFUSED]
)
def test_what_is_not_known_is_refused_by_name(
    folder: Path, change: Callable[[Path], None], said: str, other_engine: bool
) -> None:
    change(folder)
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        read(folder)
    assert str(folder) in str(caught.value)
    assert "Choose another model" in str(caught.value)
    assert ("EMB_PROVIDER_ENGINE" in str(caught.value)) == other_engine


def test_an_empty_list_of_modules_is_refused(folder: Path) -> None:
    (folder / "modules.json").write_text("[]")
    with pytest.raises(UnsupportedModelError, match="the first module is nothing"):
        read(folder)


@pytest.mark.parametrize("content", ["{}", '["Transformer"]', "[1]", "null"])
def test_a_modules_file_that_is_no_list_of_modules_is_damaged(folder: Path, content: str) -> None:
    (folder / "modules.json").write_text(content)
    with pytest.raises(ModelFilesError, match=r"modules\.json"):
        read(folder)


def test_an_architecture_not_known_is_an_error_that_names_it(folder: Path) -> None:
    set_key(folder, "config.json", "model_type", "no_such_architecture")
    with pytest.raises(ModelFilesError, match="no_such_architecture"):
        load(folder)


def test_an_encoder_with_a_decoder_is_refused(folder: Path) -> None:
    set_key(folder, "config.json", "model_type", "bart")
    set_key(folder, "config.json", "is_encoder_decoder", True)
    with pytest.raises(UnsupportedModelError, match="bart has an encoder and a decoder"):
        load(folder)


def test_without_modules_nothing_is_guessed(folder: Path) -> None:
    (folder / "modules.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"no modules\.json.*saved by sentence-transformers"):
        load(folder)


def test_without_modules_a_gguf_file_is_named(folder: Path) -> None:
    (folder / "modules.json").unlink()
    (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        load(folder)
