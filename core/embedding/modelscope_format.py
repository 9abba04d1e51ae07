"""Reads a repository in ModelScope's own format: configuration.json with the task sentence-embedding.

The vectors are those of ModelScope's pipeline on the same weights (modelscope 1.40,
models/nlp/bert/sentence_embedding.py and preprocessors/nlp/sentence_embedding_preprocessor.py), which does
not run with transformers 5. It reads configuration.json alone; a folder that has modules.json too is read as
a sentence-transformers model, which is what the hub's client does with a folder that names no pipeline.
"""

from collections.abc import Mapping
from typing import Any

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import Layer, Normalize, Pooling, PoolingMode
from emb_model_provider.core.embedding.transformer_files import read_transformer_files
from emb_model_provider.core.errors import UnsupportedModelError

CONFIGURATION = "configuration.json"

_TASK = "sentence-embedding"
_POOLING: Mapping[str, PoolingMode] = {"cls": "cls", "avg": "mean"}
_MARKERS = ("boq", "eoq", "bod", "eod")  # tokens the preprocessor adds to queries and documents
_DEFAULT_MAX_LENGTH = 128


def is_modelscope_native(folder: ModelFolder) -> bool:
    """Whether a folder without modules.json is made for ModelScope's sentence-embedding pipeline."""
    configuration = folder.json(CONFIGURATION)
    return configuration.get("task") == _TASK and bool(_part(configuration, "pipeline").get("type"))


def read_modelscope_description(
    folder: ModelFolder, *, trust_remote_code: bool = False, allow_pickle_weights: bool = False
) -> ModelDescription:
    """Read the folder with the pipeline's defaults: pooling cls, not normalised, 128 tokens.

    Raises:
        ModelFilesError: A file is missing or damaged.
        UnsupportedModelError: The configuration asks for something not known here; names the key.
    """
    configuration = folder.json(CONFIGURATION)
    model = _part(configuration, "model")
    preprocessor = _part(configuration, "preprocessor")
    if model.get("type", "bert") != "bert":
        raise _unsupported(folder, f"the model.type {model['type']!r} is not known")
    pooler = model.get("emb_pooler_type", "cls")
    if pooler not in _POOLING:
        raise _unsupported(folder, f"the model.emb_pooler_type {pooler!r} is not known")
    marker = next((key for key in _MARKERS if preprocessor.get(key) is not None), None)
    if marker is not None:
        raise _unsupported(folder, f"the preprocessor.{marker} is not known")
    normalize = model.get("normalize", False)
    if not isinstance(normalize, bool):
        raise _unsupported(folder, f"the model.normalize {normalize!r} is not true or false")
    key = "sequence_length" if preprocessor.get("max_length") is None else "max_length"
    length = preprocessor.get(key, _DEFAULT_MAX_LENGTH)
    if type(length) is not int or length < 1:
        raise _unsupported(folder, f"the preprocessor.{key} {length!r} is not a number of tokens")
    layers: list[Layer] = [Pooling((_POOLING[pooler],)), *([Normalize()] if normalize else [])]
    config, weights = read_transformer_files(
        folder, trust_remote_code=trust_remote_code, allow_pickle_weights=allow_pickle_weights
    )
    return ModelDescription(
        folder=folder, layers=tuple(layers), config=config, max_seq_length=length, weights=weights
    )


def _part(configuration: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = configuration.get(key)
    return part if isinstance(part, Mapping) else {}


def _unsupported(folder: ModelFolder, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{folder.path / CONFIGURATION}: {what}. This is not known to give the right vectors here, so the "
        "model is refused. Choose another model."
    )
