"""Reads what a folder says of its model: the layers after the transformer, prompts and lengths.

The format is Sentence-Transformers', as written by its versions 1 to 6.2 (`modules.json` and the files it
names). A key or a type that is not known here is refused by name: guessing gives wrong vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]

# Concatenation order of the booleans written before sentence-transformers 5.4 (its pooling.py).
_LEGACY_POOLING: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

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


@dataclass(frozen=True)
class Pooling:
    """Token vectors to one vector; several modes are concatenated in order."""

    modes: tuple[PoolingMode, ...]
    include_prompt: bool = True


@dataclass(frozen=True)
class Dense:
    """A linear layer with an activation; its weights lie in the folder's `weights` file."""

    weights: str
    in_features: int
    out_features: int
    bias: bool
    activation: Activation
    residual: bool


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation; its weights lie in the folder's `weights` file."""

    weights: str
    dimension: int


@dataclass(frozen=True)
class Normalize:
    """Scaling to unit length."""


Layer = Pooling | Dense | LayerNorm | Normalize


@dataclass(frozen=True)
class ModelDescription:
    """What the folder's own files say of the model.

    Attributes:
        folder: The folder read.
        layers: The layers after the transformer, in order.
        config: The transformer's `config.json`.
        max_seq_length: Tokens kept of a text, special tokens included; None leaves it to the tokenizer.
        do_lower_case: Whether texts are lowercased first.
        prompts: Prompts by name, as saved with the model.
        similarity: The similarity the model was made for, such as `cosine`; None when the files do not say.
    """

    folder: ModelFolder
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]
    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    similarity: str | None = None

    @property
    def architecture(self) -> str:
        """The transformer's type, such as `bert`."""
        return str(self.config.get("model_type", "unknown"))

    @property
    def pooling(self) -> Pooling:
        """The first layer: every model read here has one."""
        layer = self.layers[0]
        assert isinstance(layer, Pooling)  # _check_order
        return layer

    def dimension(self, hidden_size: int) -> int:
        """Width of the vectors, for a transformer whose token vectors are `hidden_size` wide."""
        for layer in reversed(self.layers):
            if isinstance(layer, Dense):
                return layer.out_features
        return hidden_size * len(self.pooling.modes)

    @property
    def normalized(self) -> bool:
        """Whether the vectors have unit length."""
        return isinstance(self.layers[-1], Normalize)


def read_description(folder: ModelFolder) -> ModelDescription:
    """Read a folder in Sentence-Transformers layout.

    Raises:
        ModelFilesError: A file is missing or damaged; the message names it.
        UnsupportedModelError: A file asks for something not known here; the message names file and key.
    """
    if not folder.path.is_dir():
        raise ModelFilesError(f"{folder.path} is not a folder. Give the folder that holds the model.")
    if not folder.file("modules.json").is_file():
        raise _no_modules(folder)
    modules = folder.json_list("modules.json")
    kinds = [_kind(folder, module) for module in modules]
    if not kinds or kinds[0] != "Transformer":
        raise _unsupported(folder, "modules.json", f"the first module is {kinds[:1] or 'missing'}")
    root = str(modules[0].get("path", ""))
    if root not in ("", "."):
        raise _unsupported(folder, "modules.json", f"the Transformer lies in the sub-folder {root!r}")
    layers = [_read_layer(folder, k, m) for k, m in zip(kinds[1:], modules[1:], strict=True)]
    _check_order(folder, layers)
    folder.require("config.json")
    max_seq_length, do_lower_case = _read_transformer_config(folder)
    saved = _read_model_config(folder)
    return ModelDescription(
        folder=folder,
        layers=tuple(layer for layer in layers if layer is not None),
        config=folder.json("config.json"),
        max_seq_length=max_seq_length,
        do_lower_case=do_lower_case,
        prompts={k: v for k, v in (saved.get("prompts") or {}).items() if v},
        similarity=saved.get("similarity_fn_name"),
    )


def _no_modules(folder: ModelFolder) -> ModelFilesError | UnsupportedModelError:
    if not any(folder.path.iterdir()):
        return ModelFilesError(f"{folder.path} is empty. Give the folder that holds the model.")
    if not folder.file("config.json").is_file():
        return ModelFilesError(
            f"{folder.path} holds no model: neither modules.json nor config.json is there. "
            "Give the folder that holds them, or download the model again."
        )
    return UnsupportedModelError(
        f"{folder} has no modules.json, so nothing says how its token vectors become one vector per text. "
        "Use a model saved by sentence-transformers, or save this one with it."
    )


def _unsupported(folder: ModelFolder, file: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{folder.path / file}: {what}. This is not known to give the right vectors here, so the model is "
        "refused. Choose another model, or use sentence-transformers itself for this one."
    )


def _kind(folder: ModelFolder, module: Mapping[str, Any]) -> str:
    """Class name of a module: its package moved in versions 5.4 and 6.0, its name did not."""
    name = str(module.get("type", ""))
    if not name.startswith("sentence_transformers."):
        raise _unsupported(folder, "modules.json", f"the module type {name!r} is not known")
    if module.get("kwargs"):
        raise _unsupported(folder, "modules.json", f"the module {name!r} takes kwargs")
    return name.rpartition(".")[2]


def _read_layer(folder: ModelFolder, kind: str, module: Mapping[str, Any]) -> Layer | None:
    path = str(module.get("path", ""))
    file = f"{path}/config.json"
    match kind:
        case "Pooling":
            folder.require(file)
            return _read_pooling(folder, file)
        case "Dense":
            folder.require(file)
            return _read_dense(folder, file, f"{path}/model.safetensors")
        case "LayerNorm":
            folder.require(file)
            config = _checked(folder, file, {"dimension"})
            return LayerNorm(f"{path}/model.safetensors", int(config["dimension"]))
        case "Normalize":
            _checked(folder, file, set())
            return Normalize()
        case "Dropout":  # does nothing outside training
            return None
    raise _unsupported(folder, "modules.json", f"the module type {kind} is not known")


def _checked(folder: ModelFolder, file: str, known: set[str]) -> dict[str, Any]:
    """A module's config, refused when it has a key that may change the vectors."""
    config = folder.json(file)
    for key in ("module_input_name", "module_output_name"):
        if config.pop(key, "sentence_embedding") not in (None, "sentence_embedding"):
            raise _unsupported(folder, file, f"{key} is not sentence_embedding")
    unknown = set(config) - known
    if unknown:
        raise _unsupported(folder, file, f"the key {sorted(unknown)[0]!r} is not known")
    return config


def _read_pooling(folder: ModelFolder, file: str) -> Pooling:
    dimensions = {"embedding_dimension", "word_embedding_dimension"}
    known = {*dimensions, "pooling_mode", "include_prompt", *_LEGACY_POOLING}
    config = _checked(folder, file, known)
    saved = config.get("pooling_mode")
    if saved is None:
        saved = [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)] or ["mean"]
    modes = (saved,) if isinstance(saved, str) else tuple(saved)
    for mode in modes:
        if mode not in get_args(PoolingMode):
            raise _unsupported(folder, file, f"the pooling_mode {mode!r} is not known")
    return Pooling(modes, include_prompt=bool(config.get("include_prompt", True)))


def _read_dense(folder: ModelFolder, file: str, weights: str) -> Dense:
    known = {"in_features", "out_features", "bias", "activation_function", "use_residual"}
    config = _checked(folder, file, known)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = str(name).rpartition(".")[2]
    if not str(name).startswith("torch.nn.modules.") or activation not in get_args(Activation):
        raise _unsupported(folder, file, f"the activation_function {name!r} is not known")
    return Dense(
        weights=weights,
        in_features=int(config["in_features"]),
        out_features=int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=activation,  # type: ignore[arg-type]  # checked above
        residual=bool(config.get("use_residual", False)),
    )


def _check_order(folder: ModelFolder, layers: list[Layer | None]) -> None:
    kept = [type(layer).__name__ for layer in layers if layer is not None]
    if not kept or kept[0] != "Pooling" or "Pooling" in kept[1:]:
        raise _unsupported(
            folder, "modules.json", f"one Pooling must follow the Transformer, found {kept or 'none'}"
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
            raise _unsupported(folder, file, f"the key {key!r} with the value {value!r} is not known")
    length = config.get("max_seq_length")
    return None if length is None else int(length), bool(config.get("do_lower_case", False))


def _read_model_config(folder: ModelFolder) -> dict[str, Any]:
    file = "config_sentence_transformers.json"
    config = folder.json(file)
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise _unsupported(folder, file, f"the model_type is {kind}, not SentenceTransformer")
    if config.get("truncate_dim") is not None:
        raise _unsupported(folder, file, "truncate_dim is set")
    return config
