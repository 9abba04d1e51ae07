"""From token vectors to one vector per text, and the layers after that, in numpy."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from emb_model_provider.core.embedding.description import Dense, PoolingMode

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def _gelu(x: Floats) -> Floats:
    erf = np.vectorize(math.erf, otypes=[np.float32])  # numpy has none; rows are few here
    out: Floats = x * np.float32(0.5) * (1 + erf(x / np.float32(math.sqrt(2))))
    return out


def _sigmoid(x: Floats) -> Floats:
    out: Floats = np.float32(1) / (1 + np.exp(-x))
    return out


_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": _gelu,
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
}


def pool(hidden: Floats, mask: Integers, modes: tuple[PoolingMode, ...], skip: int = 0) -> Floats:
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
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=1)


def _pool_one(hidden: Floats, mask: Integers, positions: Integers, mode: PoolingMode) -> Floats:
    rows = np.arange(len(hidden))
    if mode == "cls":
        vectors: Floats = hidden[rows, mask.argmax(axis=1)]
    elif mode == "lasttoken":
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        vectors = hidden[rows, last] * mask[rows, last, None].astype(np.float32)
    elif mode == "max":
        vectors = np.where(mask[:, :, None] == 1, hidden, -np.inf).max(axis=1)
    else:
        weights = (mask * (positions + 1) if mode == "weightedmean" else mask).astype(np.float32)
        # A matrix product over the tokens: no array of the size of `hidden` is made.
        vectors = np.matmul(weights[:, None, :], hidden)[:, 0]
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        vectors /= np.sqrt(total) if mode == "mean_sqrt_len_tokens" else total
    return vectors


def dense(x: Floats, layer: Dense, weights: Mapping[str, Floats]) -> Floats:
    """`activation(x W^T + b)`, plus the residual: (rows, in_features) to (rows, out_features)."""
    out: Floats = x @ weights["linear.weight"].T
    if layer.bias:
        out += weights["linear.bias"]
    out = _ACTIVATIONS[layer.activation](out)
    if layer.residual:
        out = out + (x if "residual.weight" not in weights else x @ weights["residual.weight"].T)
    return out


def layer_norm(x: Floats, weights: Mapping[str, Floats]) -> Floats:
    """Layer normalisation with torch's default epsilon of 1e-5."""
    centred: Floats = x - x.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    scaled: Floats = centred / np.sqrt(variance + 1e-5)
    out: Floats = scaled * weights["norm.weight"] + weights["norm.bias"]
    return out


def normalize(x: Floats) -> Floats:
    """Rows scaled to unit length; a row of zeros stays (torch's epsilon of 1e-12)."""
    length: Floats = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Floats = x / np.maximum(length, np.float32(1e-12))
    return unit
