"""The transformer's own files: its config, and the weight files, refused where they would mislead."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import refusal
from emb_model_provider.core.embedding.tokenizer_check import check_tokenizer_sizes
from emb_model_provider.core.embedding.weight_files import check_transformer_files, transformer_files
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

# Keys that choose other weights, other code or another form of output, with the values that do not.
_CLOSED: Mapping[str, tuple[Any, ...]] = {
    "compression_config": (None,),
    "transformers_weights": (None,),
    "attn_implementation": (None, "eager", "sdpa"),
    "_attn_implementation": (None, "eager", "sdpa"),
    "experts_implementation": (None, "eager", "grouped_mm", "batched_mm"),
    "_experts_implementation": (None, "eager", "grouped_mm", "batched_mm"),
    "fast_tokenizer_files": (None, ["tokenizer.json"]),
    "output_hidden_states": (None, False, True),
    "output_attentions": (None, False, True),
    "return_dict": (None, True),
    "chunk_size_feed_forward": (None, 0),
}

# Kinds of rotary positions that depend on the longest text of a batch, or of an earlier one: no text has a
# vector of its own (transformers' modeling_rope_utils.py).
_SHARED_POSITIONS = ("dynamic", "longrope", "su")

# Architectures that change for good with the first short text (transformers' modeling_big_bird.py).
_STATEFUL = ("big_bird",)

# Numbers that configurations make lists of, before the size of the model is known.
_COUNTS = re.compile("layer|label|block|depth|kernel")
_MAX_COUNT = 100_000

_NO_LIMIT = 1e9  # tokenizers without a limit say about 1e30


def read_transformer_files(
    folder: ModelFolder, *, trust_remote_code: bool = False, allow_pickle_weights: bool = False
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The transformer's `config.json` and the names of its weight files. Nothing is loaded or run.

    Args:
        folder: The model's folder.
        trust_remote_code: Whether Python code in the folder may be run later on.
        allow_pickle_weights: Whether weights may be pickles where there is no safetensors file.

    Raises:
        ModelFilesError: A file is missing or damaged; the message names it.
        UnsupportedModelError: Loading the files would give other vectors than the model's own, or is not
            safe; the message names the file and the reason.
    """
    if folder.file("adapter_config.json").is_file():
        raise refusal(folder, "adapter_config.json", "this is an adapter for another model")
    folder.require("config.json")
    check_tokenizer_sizes(folder)
    for file in ("config.json", "tokenizer_config.json"):
        check_config(folder, file, folder.json(file), trust_remote_code=trust_remote_code)
    weights = transformer_files(folder, allow_pickle_weights=allow_pickle_weights)
    check_transformer_files(folder, weights)
    config = folder.json("config.json")
    _check_independence(folder, config)
    return config, weights


def _check_independence(folder: ModelFolder, config: Mapping[str, Any]) -> None:
    """Refuse what gives a text another vector after, or beside, another text."""
    architecture = config.get("model_type")
    if architecture in _STATEFUL:
        raise refusal(folder, "config.json", f"the vectors of a {architecture} depend on the texts before")
    for key, value in entries(config):
        if key in ("rope_type", "type") and value in _SHARED_POSITIONS:
            raise refusal(folder, "config.json", f"with {key} {value!r} vectors depend on other texts")


def check_config(folder: ModelFolder, file: str, content: Any, *, trust_remote_code: bool = False) -> None:
    """Check the content of a configuration file, before another library reads it.

    Raises:
        ModelFilesError: It asks for more than any model has.
        UnsupportedModelError: It asks for code, quantisation or anything else that is closed here.
    """
    for key, value in entries(content):
        _check_entry(folder, file, key, value, trust_remote_code=trust_remote_code)


def entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every value of a configuration, at any depth, with the key it is under."""
    left = [("", content)]
    while left:
        key, value = left.pop()
        yield key, value
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [("", item) for item in value]


def _check_entry(folder: ModelFolder, file: str, key: str, value: Any, *, trust_remote_code: bool) -> None:
    if key == "quantization_config" and value is not None:
        raise refusal(folder, file, "the model is quantised (quantization_config)")
    if key == "auto_map" and value and not trust_remote_code:
        # transformers leaves the code out without a word when it knows a class for the model_type.
        raise UnsupportedModelError(
            f"{folder.path / file} says that the model brings its own Python code (auto_map). Without it "
            "the files may load as a different model, and give wrong vectors. Read that code, then set "
            "trust_remote_code=True (EMB_PROVIDER_TRUST_REMOTE_CODE), or choose another model."
        )
    if key in _CLOSED and value not in _CLOSED[key]:
        raise refusal(folder, file, f"the key {key!r} with the value {value!r} is not known")
    whole = isinstance(value, int | None) or (isinstance(value, float) and value > _NO_LIMIT)
    if key == "model_max_length" and not whole:
        raise refusal(folder, file, f"model_max_length is {value!r}, not a whole number")
    if key == "model_input_names" and not (isinstance(value, list) and "attention_mask" in value):
        raise refusal(folder, file, f"model_input_names is {value!r}, without attention_mask")
    if isinstance(value, int) and value > _MAX_COUNT and _COUNTS.search(key):
        raise ModelFilesError(
            f"{folder.path / file}: {key} is larger than in any model (above {_MAX_COUNT}); refused. "
            "Use another copy of the model."
        )
