"""From token vectors to one vector per text, and the layers after that: in numpy, or in torch on a GPU.

Each function computes where its first argument lies: torch has numpy's functions under numpy's names, and
takes numpy's `axis` and `keepdims`.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from emb_model_provider.core.embedding.layers import Dense, PoolingMode

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Array: TypeAlias = "Floats | torch.Tensor"


def _namespace(x: Array) -> Any:
    return np if isinstance(x, np.ndarray) else sys.modules["torch"]


def _beside(values: npt.NDArray[Any], x: Any) -> Any:
    """A numpy array where `x` lies."""
    return values if isinstance(x, np.ndarray) else _namespace(x).as_tensor(values, device=x.device)


def _gelu(x: Any) -> Any:
    on_host = isinstance(x, np.ndarray)  # numpy has no erf; rows are few here
    erf = np.vectorize(math.erf, otypes=[np.float32]) if on_host else _namespace(x).erf
    return x * np.float32(0.5) * (1 + erf(x / np.float32(math.sqrt(2))))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + _namespace(x).exp(-x))


_ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "Identity": lambda x: x,
    "Tanh": lambda x: _namespace(x).tanh(x),
    "ReLU": lambda x: x.clip(0),
    "GELU": _gelu,
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
}


def pool(hidden: Array, mask: Integers, modes: tuple[PoolingMode, ...], skip: int = 0) -> Array:
    """One vector per row of token vectors.

    The semantics are those of sentence-transformers 6.2 (its `pooling.py`), padding on either side.

    Args:
        hidden: (rows, tokens, width).
        mask: (rows, tokens), 1 for a token and 0 for padding.
        modes: Results of several modes are concatenated in this order.
        skip: Leading tokens of each row left out, for a prompt that is not to be pooled.

    Returns:
        (rows, width * len(modes)).
    """
    first = mask.argmax(axis=1)[:, None]
    positions = np.arange(mask.shape[1]) - first  # of each token within its text
    pooled = mask * (positions >= skip) if skip else mask
    vectors = [_pool_one(hidden, pooled, positions, mode) for mode in modes]
    joined: Array = vectors[0] if len(vectors) == 1 else _namespace(hidden).concatenate(vectors, axis=1)
    return joined


def _pool_one(hidden: Any, mask: Integers, positions: Integers, mode: PoolingMode) -> Any:
    xp = _namespace(hidden)
    rows = np.arange(len(mask))
    if mode == "cls":
        return hidden[rows, mask.argmax(axis=1)]
    if mode == "lasttoken":
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        return hidden[rows, last] * _beside(mask[rows, last, None].astype(np.float32), hidden)
    if mode == "max":
        return xp.amax(xp.where(_beside(mask[:, :, None] == 1, hidden), hidden, -math.inf), axis=1)
    weights = (mask * (positions + 1) if mode == "weightedmean" else mask).astype(np.float32)
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    total = np.sqrt(total) if mode == "mean_sqrt_len_tokens" else total
    # A matrix product over the tokens: no array of the size of `hidden` is made.
    return xp.matmul(_beside(weights[:, None, :], hidden), hidden)[:, 0] / _beside(total, hidden)


def dense(x: Any, layer: Dense, weights: Mapping[str, Any]) -> Any:
    """`activation(x W^T + b)`, plus the residual: (rows, in_features) to (rows, out_features)."""
    out = x @ weights["linear.weight"].T
    if layer.bias:
        out += weights["linear.bias"]
    out = _ACTIVATIONS[layer.activation](out)
    if layer.residual:
        out = out + (x if "residual.weight" not in weights else x @ weights["residual.weight"].T)
    return out


def layer_norm(x: Any, weights: Mapping[str, Any]) -> Any:
    """Layer normalisation with torch's default epsilon of 1e-5."""
    centred = x - x.mean(axis=1, keepdims=True)
    variance = (centred * centred).mean(axis=1, keepdims=True)
    return centred / (variance + 1e-5) ** 0.5 * weights["norm.weight"] + weights["norm.bias"]


def normalize(x: Any) -> Any:
    """Rows scaled to unit length; a row of zeros stays (torch's epsilon of 1e-12)."""
    length = (x * x).sum(axis=1, keepdims=True) ** 0.5
    return x / length.clip(1e-12)
