"""The layers after the transformer, and how their configuration files describe them.

A key or a value that is not known here is refused by name: guessing gives wrong vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from emb_model_provider.core.embedding.folder import ModelFolder, join
from emb_model_provider.core.embedding.weight_files import layer_file
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

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every tensor in the file."""
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["linear.bias"] = (self.out_features,)
        if self.residual and self.in_features != self.out_features:
            shapes["residual.weight"] = (self.out_features, self.in_features)
        return shapes


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation; its weights lie in the folder's `weights` file."""

    weights: str
    dimension: int

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every tensor in the file."""
        return {"norm.weight": (self.dimension,), "norm.bias": (self.dimension,)}


@dataclass(frozen=True)
class Normalize:
    """Scaling to unit length."""


Layer = Pooling | Dense | LayerNorm | Normalize


def read_layer(
    folder: ModelFolder, kind: str, path: str, *, allow_pickle_weights: bool = False
) -> Layer | None:
    """Read one module of `modules.json`.

    Args:
        folder: The model's folder.
        kind: The module's class name.
        path: The module's sub-folder.
        allow_pickle_weights: Whether weights may be a pickle where there is no safetensors file.

    Returns:
        The layer; None for one that does nothing outside training.

    Raises:
        ModelFilesError: A file is missing or damaged; the message names it.
        UnsupportedModelError: A type, key or value is not known here; the message names it.
    """
    config = _Config(folder, join(path, "config.json"))
    match kind:
        case "Pooling":
            return _read_pooling(config)
        case "Dense":
            return _read_dense(config, layer_file(folder, path, allow_pickle_weights))
        case "LayerNorm":
            config.require({"dimension"})
            return LayerNorm(layer_file(folder, path, allow_pickle_weights), config.integer("dimension"))
        case "Normalize":
            config.check(set())  # often absent: git and the hubs keep no empty folders
            return Normalize()
        case "Dropout":
            return None
    raise refusal(folder, "modules.json", f"the module type {kind} is not known", other_engine=True)


def refusal(
    folder: ModelFolder, file: str, what: str, *, other_engine: bool = False
) -> UnsupportedModelError:
    """The error for what is not known to give the right vectors.

    Args:
        folder: The model's folder.
        file: The file that asks for it.
        what: What it asks for.
        other_engine: Whether the engine `sentence-transformers` may know it.
    """
    instead = (
        ", or let sentence-transformers serve this one: pip install sentence-transformers, then set engine "
        "(EMB_PROVIDER_ENGINE) to sentence-transformers"
    )
    return UnsupportedModelError(
        f"{folder.path / file}: {what}. This is not known to give the right vectors here, so the model is "
        f"refused. Choose another model{instead if other_engine else ''}."
    )


class _Config:
    """The configuration file of one module, with every key checked."""

    def __init__(self, folder: ModelFolder, file: str) -> None:
        self._folder = folder
        self._file = file
        self.values: dict[str, Any] = {}

    def require(self, known: set[str]) -> None:
        self._folder.require(self._file)
        self.check(known)

    def check(self, known: set[str]) -> None:
        self.values = self._folder.json(self._file)
        for key in ("module_input_name", "module_output_name"):
            if self.values.pop(key, None) not in (None, "sentence_embedding"):
                raise self.refusal(f"{key} is not sentence_embedding", other_engine=True)
        unknown = set(self.values) - known
        if unknown:
            raise self.refusal(f"the key {min(unknown)!r} is not known", other_engine=True)

    def integer(self, key: str) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelFilesError(
                f"{self._folder.path / self._file}: {key} must be a whole number of 1 or more, "
                f"got {value!r}. Download the model again."
            )
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(f"{key} is {value!r}, not true or false")
        return value

    def refusal(self, what: str, *, other_engine: bool = False) -> UnsupportedModelError:
        return refusal(self._folder, self._file, what, other_engine=other_engine)


def _read_pooling(config: _Config) -> Pooling:
    dimensions = {"embedding_dimension", "word_embedding_dimension"}
    config.require({*dimensions, "pooling_mode", "include_prompt", *_LEGACY_POOLING})
    saved = config.values.get("pooling_mode")
    if saved is None:
        active = (mode for key, mode in _LEGACY_POOLING.items() if config.boolean(key, default=False))
        saved = list(active) or "mean"
    modes: list[Any] = saved if isinstance(saved, list) else [saved]
    for mode in modes:
        if mode not in get_args(PoolingMode):
            raise config.refusal(f"the pooling_mode {mode!r} is not known")
    if not modes:
        raise config.refusal("pooling_mode is an empty list")
    return Pooling(tuple(modes), include_prompt=config.boolean("include_prompt", default=True))


def _read_dense(config: _Config, weights: str) -> Dense:
    config.require({"in_features", "out_features", "bias", "activation_function", "use_residual"})
    name = str(config.values.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, activation = name.rpartition(".")
    if package not in (
        "torch.nn.modules.activation",
        "torch.nn.modules.linear",
    ) or activation not in get_args(Activation):
        # Outside torch, sentence-transformers takes Tanh instead.
        raise config.refusal(
            f"the activation_function {name!r} is not known", other_engine=name.startswith("torch.")
        )
    return Dense(
        weights=weights,
        in_features=config.integer("in_features"),
        out_features=config.integer("out_features"),
        bias=config.boolean("bias", default=True),
        activation=activation,  # type: ignore[arg-type]  # checked above
        residual=config.boolean("use_residual", default=False),
    )
