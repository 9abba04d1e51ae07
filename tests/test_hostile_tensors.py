"""Weights that do not fit, are damaged or are quantised: an error, and never a vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import LAYER, TEXTS, announce, edit_tensors, one_tensor, refused, same_as_oracle, set_key
from models import load

from emb_model_provider.core.errors import ModelFilesError, NonFiniteEmbeddingError, UnsupportedModelError

pytestmark = pytest.mark.usefixtures("marker")


class TestTensors:
    @pytest.mark.parametrize(
        "change",
        [
            lambda tensors: tensors.pop(LAYER),
            lambda tensors: tensors.update({LAYER: tensors[LAYER][:, :-1].copy()}),
            lambda tensors: tensors.update({"other." + LAYER: tensors.pop(LAYER)}),
            lambda tensors: tensors.clear(),
            lambda tensors: [tensors.pop(name) for name in list(tensors) if name != LAYER],
        ],
        ids=["missing", "another shape", "another name", "none", "only one"],
    )
    def test_that_do_not_fit_are_refused(self, folder: Path, change: Any) -> None:
        edit_tensors(folder / "model.safetensors", change)
        refused(folder, ModelFilesError, "config.json")

    @pytest.mark.parametrize(
        "change",
        [
            lambda tensors: tensors.pop("linear.bias"),
            lambda tensors: tensors.update({"linear.bias": tensors["linear.bias"][:-1].copy()}),
            lambda tensors: tensors.update({"more": tensors["linear.bias"]}),
        ],
        ids=["missing", "another shape", "one more"],
    )
    def test_of_a_dense_layer_that_do_not_fit_are_refused(self, folder: Path, change: Any) -> None:
        edit_tensors(folder / "2_Dense/model.safetensors", change)
        refused(folder, ModelFilesError, "2_Dense/model.safetensors", "does not fit")

    def test_that_the_model_does_not_use_change_nothing(self, folder: Path) -> None:
        edit_tensors(
            folder / "model.safetensors", lambda tensors: tensors.update(classifier=np.ones(3, np.float32))
        )
        assert same_as_oracle(folder)
        assert np.array_equal(load(folder).embed(TEXTS), load(folder).embed(TEXTS))

    @pytest.mark.parametrize("lost", ["a shard", "a tensor of a shard"])
    def test_named_by_an_index_must_be_there(self, folder: Path, lost: str) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        shards = {name: f"model-0000{1 + (name == LAYER)}-of-00002.safetensors" for name in tensors}
        for shard in set(shards.values()):
            save_file(
                {n: t for n, t in tensors.items() if shards[n] == shard}, folder / shard, {"format": "pt"}
            )
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": shards})
        )
        assert same_as_oracle(folder)
        if lost == "a shard":
            (folder / shards[LAYER]).unlink()
            refused(folder, ModelFilesError, shards[LAYER], "missing")
        else:
            edit_tensors(folder / shards[LAYER], lambda t: t.update(other=t.pop(LAYER)))
            refused(folder, ModelFilesError, "1 missing", LAYER)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_that_are_not_finite_give_an_error_and_no_vector(self, folder: Path, value: float) -> None:
        edit_tensors(folder / "model.safetensors", lambda tensors: tensors[LAYER].fill(value))
        with pytest.raises(NonFiniteEmbeddingError, match=f"{folder}.*text 0.*damaged"):
            load(folder).embed(TEXTS)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_of_a_dense_layer_that_are_not_finite_are_refused(self, folder: Path, value: float) -> None:
        edit_tensors(folder / "2_Dense/model.safetensors", lambda t: t["linear.bias"].fill(value))
        refused(folder, ModelFilesError, "2_Dense/model.safetensors", "linear.bias", "NaN or infinity")

    def test_that_overflow_give_an_error_and_no_vector(self, folder: Path) -> None:
        edit_tensors(folder / "2_Dense/model.safetensors", lambda t: t["linear.weight"].fill(3e38))
        set_key("2_Dense/config.json", activation_function="torch.nn.modules.linear.Identity")(folder)
        with (
            np.errstate(all="ignore"),
            pytest.raises(NonFiniteEmbeddingError, match="NaN or infinity for text 0"),
        ):
            load(folder).embed(TEXTS)

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.bool_])
    def test_that_are_quantised_are_refused(self, folder: Path, dtype: Any) -> None:
        edit_tensors(
            folder / "model.safetensors",
            lambda tensors: tensors.update({LAYER: tensors[LAYER].astype(dtype)}),
        )
        refused(folder, UnsupportedModelError, "model.safetensors", "quantised", LAYER)

    @pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"])
    def test_of_eight_bits_and_less_are_refused(self, folder: Path, dtype: str) -> None:
        announce(folder, lambda header: one_tensor(header, dtype=dtype, bits=4 if dtype == "F4" else 8))
        refused(folder, UnsupportedModelError, "model.safetensors", "quantised", dtype)
