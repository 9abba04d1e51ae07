from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from models import edit_json

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.transformer_files import read_transformer_files
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError


@pytest.fixture
def folder(toy_model: Path, tmp_path: Path) -> ModelFolder:
    return ModelFolder(Path(shutil.copytree(toy_model, tmp_path / "model")), "path")


def set_keys(folder: ModelFolder, file: str, **values: Any) -> None:
    edit_json(folder.path / file, lambda content: {**content, **values})


def test_gives_the_config_and_the_weights(folder: ModelFolder) -> None:
    config, weights = read_transformer_files(folder)
    assert config == json.loads((folder.path / "config.json").read_text())
    assert weights == ("model.safetensors",)


# as real files have them
HARMLESS: list[tuple[str, dict[str, Any]]] = [
    ("config.json", {"quantization_config": None, "auto_map": None, "attn_implementation": None}),
    ("config.json", {"_attn_implementation": "sdpa", "return_dict": True, "output_hidden_states": False}),
    ("config.json", {"id2label": {"0": "A"}, "label2id": {"A": 0}, "num_labels": 3}),
    ("config.json", {"rope_theta": 10**7, "max_position_embeddings": 10**6, "vocab_size": 256_000}),
    ("config.json", {"chunk_size_feed_forward": 0, "layer_norm_eps": 1e-12, "layers": [0, 1]}),
    ("tokenizer_config.json", {"model_max_length": 1e30, "tokenizer_file": "/home/me/tokenizer.json"}),
    ("tokenizer_config.json", {"model_max_length": int(1e30), "auto_map": {}}),
    ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.json"]}),
    ("tokenizer_config.json", {"model_input_names": ["input_ids", "attention_mask"]}),
]


@pytest.mark.parametrize(("file", "values"), HARMLESS)
def test_takes_what_real_models_have(folder: ModelFolder, file: str, values: dict[str, Any]) -> None:
    set_keys(folder, file, **values)
    assert read_transformer_files(folder)[1] == ("model.safetensors",)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "return_dict", False),
        ("config.json", "output_attentions", "yes"),
        ("config.json", "chunk_size_feed_forward", 2),
        ("config.json", "_experts_implementation", "org/kernel"),
        ("tokenizer_config.json", "model_max_length", "512"),
        ("tokenizer_config.json", "model_max_length", 12.5),
        ("tokenizer_config.json", "model_input_names", ["input_ids"]),
        ("tokenizer_config.json", "model_input_names", ""),
    ],
)
def test_refuses_values_that_would_give_other_vectors(
    folder: ModelFolder, file: str, key: str, value: Any
) -> None:
    set_keys(folder, file, **{key: value})
    with pytest.raises(UnsupportedModelError, match=f"{file}: .*{key}"):
        read_transformer_files(folder)


def test_refuses_numbers_that_no_model_has_at_any_depth(folder: ModelFolder) -> None:
    set_keys(folder, "config.json", text_config={"parts": [{"num_hidden_layers": 100_001}]})
    with pytest.raises(ModelFilesError, match=r"config.json: num_hidden_layers is larger than in any model"):
        read_transformer_files(folder)


def test_code_of_the_models_own_needs_trust(folder: ModelFolder) -> None:
    set_keys(folder, "config.json", auto_map={"AutoModel": "modeling.Model"})
    with pytest.raises(UnsupportedModelError, match="trust_remote_code=True"):
        read_transformer_files(folder)
    config, _ = read_transformer_files(folder, trust_remote_code=True)
    assert config["auto_map"] == {"AutoModel": "modeling.Model"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "type 'longrope'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rope_type 'dynamic'"),
        ({"model_type": "big_bird"}, "big_bird"),
    ],
)
def test_a_model_whose_vectors_depend_on_other_texts_is_refused(
    folder: ModelFolder, values: dict[str, Any], said: str
) -> None:
    set_keys(folder, "config.json", **values)
    with pytest.raises(UnsupportedModelError, match=rf"config\.json: .*{said}.* depends? on"):
        read_transformer_files(folder)
