"""Configuration files that hold anything at all."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import TEXTS, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import load, load_oracle

from emb_model_provider.core.errors import EmbeddingProviderError, ModelFilesError

pytestmark = pytest.mark.usefixtures("marker")


CONFIGS = [
    "modules.json",
    "config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "3_Normalize/config.json",
    "tokenizer_config.json",
    "tokenizer.json",
]
NO_JSON: dict[str, bytes] = {
    "deep objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep lists": b"[" * 200_000 + b"]" * 200_000,
    "no UTF-8": '{"a": "ü"}'.encode("latin-1"),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "equal keys": b'{"a": 1, "a": 2}',
    "a long number": b'{"a": ' + b"1" * 10_000 + b"}",
    "nothing": b"",
    "NUL": b"\0" * 100,
    "half": b'{"a": ',
    "two": b"{}{}",
    "null": b"null",
    "a text": b'"text"',
}


@pytest.mark.parametrize("content", NO_JSON.values(), ids=list(NO_JSON))
@pytest.mark.parametrize("file", CONFIGS)
def test_what_is_not_json_is_refused(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    refused(folder, ModelFilesError, file)


# Keys that a file may have beside those that it has; a path into the content.
MORE: dict[str, list[str]] = {
    "modules.json": [f"{i} {key}" for i in range(4) for key in ("type", "path", "name", "idx", "kwargs")],
    "config.json": [
        *("architectures", "is_decoder", "is_encoder_decoder", "return_dict", "output_hidden_states"),
        *("output_attentions", "num_labels", "id2label", "rope_scaling", "layer_types", "pruned_heads"),
        *("chunk_size_feed_forward", "torch_dtype", "text_config", "auto_map", "quantization_config"),
        *("per_layer_config", "rope_parameters", "name_or_path", "tokenizer_class", "problem_type"),
    ],
    "sentence_bert_config.json": ["max_seq_length", "do_lower_case", "model_args", "unpad_inputs", "x"],
    "config_sentence_transformers.json": ["truncate_dim", "requirements", "prompts query", "x"],
    "1_Pooling/config.json": ["pooling_mode_cls_token", "word_embedding_dimension", "x"],
    "2_Dense/config.json": ["use_residual", "x"],
    "3_Normalize/config.json": ["x"],
    "tokenizer_config.json": [
        *("truncation_side", "padding_side", "model_input_names", "split_special_tokens", "x"),
        *("added_tokens_decoder", "extra_special_tokens", "init_inputs", "chat_template", "auto_map"),
        *("tokenizer_object", "vocab", "special", "fast_tokenizer_files", "additional_special_tokens"),
    ],
    "tokenizer.json": [f"model {key}" for key in ("type", "vocab", "unk_token", "max_input_chars_per_word")],
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
LIKELY = st.sampled_from(
    [
        0,
        1,
        -1,
        2,
        8,
        1.5,
        10**9,
        10**30,
        "",
        "bert",
        "cls",
        "left",
        "[MASK]",
        "../x",
        "float16",
        [],
        {},
        [None],
    ]
)
JSON = st.recursive(
    SCALARS | LIKELY,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=9), part, max_size=3),
)
ANYTHING = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("file", CONFIGS)
@ANYTHING
@given(data=st.data())
def test_any_value_of_any_key_gives_the_oracles_vectors_or_one_of_our_errors(
    good: Path, folder: Path, file: str, data: st.DataObject
) -> None:
    content = json.loads((good / file).read_text(encoding="utf-8"))
    keys = [*(content if isinstance(content, dict) else ()), *MORE[file]]
    *path, key = data.draw(st.sampled_from(sorted(set(keys)))).split(" ")
    place = content
    for step in path:
        place = place[int(step) if step.isdigit() else step]
    place[key] = data.draw(LIKELY | JSON)
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    try:
        vectors = load(folder).embed(TEXTS)
        # Ours are scaled to unit length again where they are cut.
        expected = oracle_vectors(folder, normalize_embeddings=key == "truncate_dim")
    except EmbeddingProviderError:
        return
    finally:
        shutil.copy(good / file, folder / file)
    if expected is not None:
        assert np.abs(vectors - expected).max() <= 1e-5


def oracle_vectors(folder: Path, **options: Any) -> Any:
    """None where sentence-transformers cannot read what we can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return load_oracle(folder).encode(TEXTS, prompt="", **options)
        except Exception:  # noqa: BLE001 - whatever its parts raise
            return None
