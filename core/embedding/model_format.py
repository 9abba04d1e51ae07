"""Reads a folder in the Sentence-Transformers format, as written by its versions 1 to 6.2.

A key or a type that is not known here is refused by name: guessing gives wrong vectors.
"""

import os
from collections.abc import Mapping
from typing import Any

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.folder import ModelFolder, join
from emb_model_provider.core.embedding.layers import Layer, Pooling, read_layer, refusal
from emb_model_provider.core.embedding.modelscope_format import (
    is_modelscope_native,
    read_modelscope_description,
)
from emb_model_provider.core.embedding.tokenizer_check import check_tokenizer_sizes
from emb_model_provider.core.embedding.transformer_files import read_transformer_files
from emb_model_provider.core.embedding.weight_files import layer_file
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

# The first of these that is there counts (sentence-transformers' Transformer.load_config).
TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)

# Values that leave the vectors of plain text alone; anything else is refused.
_TRANSFORMER_KEYS: dict[str, tuple[Any, ...]] = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "tokenizer_name_or_path": (None, ""),
    "model_args": (None, {}),
    "model_kwargs": (None, {}),
    "tokenizer_args": (None, {}),
    "processor_kwargs": (None, {}),
    "config_args": (None, {}),
    "config_kwargs": (None, {}),
    "processing_kwargs": (None, {}),
    "unpad_inputs": (None, False, True),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None, False),
}
_TEXT_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}

# Models whose files say otherwise, but that sentence-transformers pools without the prompt, by name
# (its SentenceTransformer.__init__).
_WITHOUT_PROMPT = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")


def read_description(
    folder: ModelFolder, *, trust_remote_code: bool = False, allow_pickle_weights: bool = False
) -> ModelDescription:
    """Read a folder in Sentence-Transformers layout; no weights are loaded and nothing is run.

    Args:
        folder: The folder.
        trust_remote_code: Whether Python code in the folder may be run later on.
        allow_pickle_weights: Whether weights may be pickles where there is no safetensors file.

    Raises:
        ModelFilesError: A file is missing or damaged; the message names it.
        UnsupportedModelError: A file asks for something not known here; the message names file and key.
    """
    if not os.path.isdir(folder.path):
        raise ModelFilesError(f"{folder.path} is not a folder. Give the folder that holds the model.")
    if not folder.file("modules.json").is_file():
        if is_modelscope_native(folder):
            return read_modelscope_description(
                folder, trust_remote_code=trust_remote_code, allow_pickle_weights=allow_pickle_weights
            )
        raise _no_modules(folder)
    modules = [(_kind(folder, m), str(m.get("path", ""))) for m in folder.json_list("modules.json")]
    first, path = modules[0] if modules else ("nothing", "")
    if first not in ("Transformer", "StaticEmbedding"):
        raise refusal(folder, "modules.json", f"the first module is {first}", other_engine=bool(modules))
    read = [read_layer(folder, *m, allow_pickle_weights=allow_pickle_weights) for m in modules[1:]]
    layers = [layer for layer in read if layer is not None]
    saved = _read_model_config(folder)
    if first == "StaticEmbedding":
        folder.require(join(path, "tokenizer.json"))
        check_tokenizer_sizes(folder, path)  # before it is hashed
        table = layer_file(folder, path, allow_pickle_weights=False)
        _check_order(folder, first, layers, poolings=0)
        return ModelDescription(
            folder, (Pooling(("mean",)), *layers), {}, weights=(table,), tokenizer_path=path, **saved
        )
    if path not in ("", "."):
        raise refusal(
            folder, "modules.json", f"the Transformer lies in the sub-folder {path!r}", other_engine=True
        )
    _check_order(folder, first, layers, poolings=1)
    if folder.repo_id in _WITHOUT_PROMPT and isinstance(layers[0], Pooling):
        layers[0] = Pooling(layers[0].modes, include_prompt=False)
    config, weights = read_transformer_files(
        folder, trust_remote_code=trust_remote_code, allow_pickle_weights=allow_pickle_weights
    )
    max_seq_length, do_lower_case = _read_transformer_config(folder)
    return ModelDescription(
        folder, tuple(layers), config, max_seq_length, do_lower_case, weights=weights, **saved
    )


def _no_modules(folder: ModelFolder) -> ModelFilesError | UnsupportedModelError:
    if not any(folder.path.iterdir()):
        return ModelFilesError(f"{folder.path} is empty. Give the folder that holds the model.")
    if folder.file("adapter_config.json").is_file():
        return refusal(folder, "adapter_config.json", "this is an adapter for another model")
    if any(folder.path.glob("*.gguf")):
        return UnsupportedModelError(
            f"{folder} holds a model in the GGUF format, which is not read here. "
            "Use a copy of the model with modules.json and model.safetensors."
        )
    if not folder.file("config.json").is_file():
        return ModelFilesError(
            f"{folder.path} holds no model: neither modules.json nor config.json is there. "
            "Give the folder that holds them, or download the model again."
        )
    return UnsupportedModelError(
        f"{folder} has no modules.json, so nothing says how its token vectors become one vector per text. "
        "Use a model saved by sentence-transformers, or save this one with it."
    )


def _kind(folder: ModelFolder, module: Mapping[str, Any]) -> str:
    """Class name of a module: its package moved in versions 5.4 and 6.0, its name did not."""
    name = str(module.get("type", ""))
    if not name.startswith("sentence_transformers."):
        raise refusal(folder, "modules.json", f"the module type {name!r} is not known")
    if module.get("kwargs"):
        raise refusal(folder, "modules.json", f"the module {name!r} takes kwargs", other_engine=True)
    return name.rpartition(".")[2]


def _check_order(folder: ModelFolder, first: str, layers: list[Layer], *, poolings: int) -> None:
    found = [type(layer).__name__ for layer in layers]
    if found[:poolings] != ["Pooling"] * poolings or "Pooling" in found[poolings:]:
        rule = "one Pooling must follow" if poolings else "no Pooling can follow"
        raise refusal(
            folder, "modules.json", f"{rule} the {first}, found {found or 'none'}", other_engine=True
        )


def _read_transformer_config(folder: ModelFolder) -> tuple[int | None, bool]:
    file, config = "", {}
    for file in TRANSFORMER_CONFIGS:
        config = folder.json(file)
        if config:
            break
    for key, value in config.items():
        if key in ("max_seq_length", "do_lower_case"):
            continue
        if key == "modality_config":
            known = isinstance(value, dict) and value.get("text") == _TEXT_MODALITY
        else:
            known = key in _TRANSFORMER_KEYS and value in _TRANSFORMER_KEYS[key]
        if not known:
            raise refusal(
                folder,
                file,
                f"the key {key!r} with the value {value!r} is not known",
                other_engine=not key.endswith(("_args", "_kwargs")),  # closed in that engine too
            )
    length, lower = config.get("max_seq_length"), config.get("do_lower_case", False)
    if not (length is None or _is_positive(length)) or not isinstance(lower, bool):
        raise refusal(folder, file, f"max_seq_length {length!r} or do_lower_case {lower!r} is not known")
    return length, lower


def _read_model_config(folder: ModelFolder) -> dict[str, Any]:
    """The keys of config_sentence_transformers.json that matter here, as fields of the description."""
    file = "config_sentence_transformers.json"
    config = folder.json(file)
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise refusal(folder, file, f"the model_type is {kind!r}, not SentenceTransformer")
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(x, str | None) for x in prompts.values()):
        raise refusal(folder, file, "prompts is not an object of texts")
    truncate_dim = config.get("truncate_dim")
    if not (truncate_dim is None or _is_positive(truncate_dim)):
        raise refusal(folder, file, f"truncate_dim is {truncate_dim!r}")
    requirements = config.get("requirements") or {}
    required = requirements.get("transformers") if isinstance(requirements, dict) else None
    return {
        "prompts": {name: prompt for name, prompt in prompts.items() if prompt},
        "similarity": config.get("similarity_fn_name"),
        "truncate_dim": truncate_dim,
        "requires_transformers": required.get("specifier") if isinstance(required, dict) else required,
    }


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
