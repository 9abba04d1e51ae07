"""Pooling and the layers after it, on arrays, against torch and the definition."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest

from emb_model_provider.core.embedding.layers import Activation, Dense, PoolingMode
from emb_model_provider.core.embedding.pooling import dense, layer_norm, normalize, pool

Floats = npt.NDArray[np.float32]
LENGTHS = (5, 1, 3)
MODES: tuple[PoolingMode, ...] = get_args(PoolingMode)


def batch(side: str) -> tuple[Floats, npt.NDArray[np.int64], list[Floats]]:
    """Token vectors with numbers in the padding that must not count, the mask, and each row's own."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((3, 5, 4), dtype=np.float32)
    mask = np.zeros((3, 5), dtype=np.int64)
    for row, length in enumerate(LENGTHS):
        mask[row, slice(0, length) if side == "right" else slice(5 - length, 5)] = 1
    rows = [hidden[row][mask[row] == 1] for row in range(3)]
    hidden[mask == 0] = 1000
    return hidden, mask, rows


def defined(tokens: Floats, mode: PoolingMode, skip: int = 0) -> Floats:
    """What a mode means, for the vectors of one text."""
    kept = tokens[skip:]
    places = np.arange(skip + 1, len(tokens) + 1, dtype=np.float32)[:, None]
    vectors: dict[PoolingMode, Floats] = {
        "cls": kept[0],
        "lasttoken": kept[-1],
        "max": kept.max(axis=0),
        "mean": kept.mean(axis=0),
        "mean_sqrt_len_tokens": kept.sum(axis=0) / np.float32(np.sqrt(len(kept))),
        "weightedmean": (kept * places).sum(axis=0) / places.sum(),
    }
    return vectors[mode]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_padding_on_either_side_does_not_count(side: str, mode: PoolingMode) -> None:
    hidden, mask, rows = batch(side)
    expected = np.stack([defined(row, mode) for row in rows])
    np.testing.assert_allclose(pool(hidden, mask, (mode,)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_leading_tokens_are_left_out(side: str, mode: PoolingMode) -> None:
    hidden, mask, rows = batch(side)
    found = pool(hidden, mask, (mode,), 2)
    for i, row in enumerate(rows):
        if len(row) > 2:
            np.testing.assert_allclose(found[i], defined(row, mode, 2), rtol=1e-5, atol=1e-6)


def test_modes_are_joined_in_order() -> None:
    hidden, mask, _ = batch("right")
    found = pool(hidden, mask, ("max", "cls"))
    assert found.shape == (3, 8)
    np.testing.assert_array_equal(found[:, :4], pool(hidden, mask, ("max",)))
    np.testing.assert_array_equal(found[:, 4:], pool(hidden, mask, ("cls",)))


def test_the_token_vectors_stay_as_they_are() -> None:
    hidden, mask, _ = batch("left")
    before = hidden.copy()
    pool(hidden, mask, MODES, 1)
    np.testing.assert_array_equal(hidden, before)


@pytest.mark.filterwarnings("ignore:overflow")  # exp(-x) of a very negative x: the result is 0 all the same
@pytest.mark.parametrize("activation", get_args(Activation))
def test_activations_are_torchs(activation: Activation) -> None:
    import torch

    x = np.linspace(-100, 100, 401, dtype=np.float32)[None]
    layer = Dense("", 401, 401, bias=False, activation=activation, residual=False)
    expected = getattr(torch.nn, activation)()(torch.from_numpy(x)).numpy()
    found = dense(x, layer, {"linear.weight": np.eye(401, dtype=np.float32)})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_and_normalize_are_torchs() -> None:
    import torch

    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 7), dtype=np.float32)
    weight, bias = rng.standard_normal((2, 7), dtype=np.float32)
    tensors = [torch.from_numpy(values) for values in (x, weight, bias)]
    expected = torch.nn.functional.layer_norm(tensors[0], [7], tensors[1], tensors[2])
    found = layer_norm(x, {"norm.weight": weight, "norm.bias": bias})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    unit = torch.nn.functional.normalize(tensors[0], dim=1).numpy()
    np.testing.assert_allclose(normalize(x), unit, rtol=1e-6)


def test_a_row_of_zeros_stays_zero() -> None:
    np.testing.assert_array_equal(normalize(np.zeros((2, 3), dtype=np.float32)), 0)
