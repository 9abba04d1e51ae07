"""The layers after the transformer, as their files describe them, against sentence-transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from families import POOLING_MODES, TEXTS, DenseSpec, make_bert
from models import assert_equal, edit_json, load, load_oracle
from models import one_thread as one_thread

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import Activation, Dense, LayerNorm, Pooling
from emb_model_provider.core.embedding.model_format import read_description
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

pytestmark = pytest.mark.usefixtures("one_thread")

POOLING = "1_Pooling/config.json"
DENSE = "2_Dense/config.json"
NORM = "3_LayerNorm/config.json"
MODES = list(POOLING_MODES)
ACTIVATIONS = {
    name: f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"
    for name in get_args(Activation)
}


@pytest.fixture(scope="module")
def base(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a Dense and a LayerNorm, not normalised: Transformer, Pooling, Dense, LayerNorm."""
    folder = tmp_path_factory.mktemp("base") / "model"
    return make_bert(folder, dense=(DenseSpec(24),), layer_norm=True, normalize=False)


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    copy = tmp_path / "model"
    shutil.copytree(base, copy)
    return copy


def cut_after(folder: Path, modules: int) -> None:
    edit_json(folder / "modules.json", lambda saved: saved[:modules])


def assert_is_the_oracles(folder: Path, role: Any = "document", **settings: Any) -> None:
    oracle = load_oracle(folder)
    ours = load(folder, **settings)
    expected = oracle.encode_query(TEXTS) if role == "query" else oracle.encode(TEXTS)
    assert ours.dimension == expected.shape[1]
    for batch_size in (1, 64):
        assert_equal(ours.embed(TEXTS, role, batch_size=batch_size), expected)


class TestPooling:
    @pytest.mark.parametrize(
        "mode", [*MODES, ["mean"], ["max", "cls"], ["lasttoken", "mean", "mean_sqrt_len_tokens"], MODES[::-1]]
    )
    def test_modes_are_joined_as_listed(self, folder: Path, mode: str | list[str]) -> None:
        cut_after(folder, 2)
        edit_json(folder / POOLING, lambda config: config.update(pooling_mode=mode))
        assert_is_the_oracles(folder)

    @pytest.mark.parametrize(
        "active", [(), *((m,) for m in MODES), *list(combinations(MODES[::-1], 2))[::3], tuple(MODES[::-1])]
    )
    def test_switches_of_old_versions_are_joined_in_their_fixed_order(
        self, folder: Path, active: tuple[str, ...]
    ) -> None:
        cut_after(folder, 2)
        switches = {POOLING_MODES[mode]: mode in active for mode in MODES[::-1]}
        (folder / POOLING).unlink()
        edit_json(folder / POOLING, lambda config: config.update(word_embedding_dimension=32, **switches))
        pooling = read_description(ModelFolder(folder, "path")).pooling
        assert pooling.modes == (tuple(mode for mode in MODES if mode in active) or ("mean",))
        assert_is_the_oracles(folder)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("prompt", ["q: ", "Represent the question for retrieval: "])
    def test_tokens_of_the_prompt_are_left_out_where_the_model_says_so(
        self, tmp_path: Path, mode: str, prompt: str
    ) -> None:
        folder = make_bert(tmp_path / "m", pooling=mode, include_prompt=False, prompts={"query": prompt})
        assert_is_the_oracles(folder, "query")
        oracle, ours = load_oracle(folder), load(folder, document_prompt="my own: ")
        assert_equal(ours.embed(TEXTS), oracle.encode(TEXTS, prompt="my own: "))

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("pooling_mode", "median", "the pooling_mode 'median' is not known"),
            ("pooling_mode", ["mean", "median"], "the pooling_mode 'median' is not known"),
            ("pooling_mode", [], "pooling_mode is an empty list"),
            ("pooling_mode", 7, "the pooling_mode 7 is not known"),
            ("include_prompt", "no", "include_prompt is 'no', not true or false"),
            ("pooling_mode_top_k", True, "the key 'pooling_mode_top_k' is not known"),
        ],
    )
    def test_of_another_kind_is_refused_by_name(self, folder: Path, key: str, value: Any, said: str) -> None:
        edit_json(folder / POOLING, lambda config: config.update({key: value}))
        with pytest.raises(UnsupportedModelError, match=said) as caught:
            load(folder)
        assert str(folder / POOLING) in str(caught.value)

    def test_switch_that_is_no_switch_is_refused(self, folder: Path) -> None:
        edit_json(folder / POOLING, lambda _: {"pooling_mode_cls_token": "yes"})
        with pytest.raises(UnsupportedModelError, match="pooling_mode_cls_token is 'yes'"):
            load(folder)


class TestDense:
    @pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=list(ACTIVATIONS))
    @pytest.mark.parametrize(
        ("width", "bias", "residual"), [(24, True, False), (24, False, True), (32, True, True)]
    )
    def test_every_activation_and_residual(
        self, tmp_path: Path, activation: str, width: int, bias: bool, residual: bool
    ) -> None:
        spec = DenseSpec(width, bias=bias, activation=activation, use_residual=residual)
        assert_is_the_oracles(make_bert(tmp_path / "m", dense=(spec,), normalize=False))

    def test_one_after_another_and_after_joined_modes(self, tmp_path: Path) -> None:
        dense = (DenseSpec(48, activation=ACTIVATIONS["GELU"]), DenseSpec(16, activation=ACTIVATIONS["ReLU"]))
        assert_is_the_oracles(make_bert(tmp_path / "m", pooling=("cls", "mean"), dense=dense))

    def test_of_old_versions_says_nothing_of_a_residual(self, tmp_path: Path) -> None:
        folder = make_bert(tmp_path / "m", dense=(DenseSpec(24),), legacy=True)
        edit_json(folder / DENSE, lambda config: config.pop("use_residual", None) and None)
        assert_is_the_oracles(folder)

    @pytest.mark.parametrize(
        ("activation", "other_engine"),
        [
            ("torch.nn.modules.activation.Mish", True),
            ("torch.nn.modules.activation.Tanhh", True),
            ("torch.nn.functional.tanh", True),
            ("my_layers.Tanh", False),  # sentence-transformers would take Tanh of torch instead
            ("os.system", False),
            ("", False),
        ],
    )
    def test_of_another_activation_is_refused_by_name(
        self, folder: Path, activation: str, other_engine: bool
    ) -> None:
        edit_json(folder / DENSE, lambda config: config.update(activation_function=activation))
        with pytest.raises(UnsupportedModelError) as caught:
            load(folder)
        assert f"the activation_function {activation!r} is not known" in str(caught.value)
        assert ("EMB_PROVIDER_ENGINE" in str(caught.value)) == other_engine

    @pytest.mark.parametrize(
        ("change", "error", "said"),
        [
            ({"dropout": 0.1}, UnsupportedModelError, "the key 'dropout' is not known"),
            ({"bias": 1}, UnsupportedModelError, "bias is 1, not true or false"),
            ({"module_input_name": "token_embeddings"}, UnsupportedModelError, "module_input_name is not"),
            ({"in_features": "32"}, ModelFilesError, "in_features must be a whole number"),
            ({"out_features": 0}, ModelFilesError, "out_features must be a whole number"),
            ({"in_features": 16}, ModelFilesError, "the config.json beside"),
            ({"out_features": 25}, ModelFilesError, "the config.json beside"),
            ({"bias": False}, ModelFilesError, "the config.json beside"),
            ({"use_residual": True}, ModelFilesError, "the config.json beside"),
        ],
    )
    def test_that_is_not_what_its_weights_are_is_an_error(
        self, folder: Path, change: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        edit_json(folder / DENSE, lambda config: config.update(change))
        with pytest.raises(error, match=said):
            load(folder)

    def test_that_does_not_fit_the_layer_before_is_an_error(self, folder: Path) -> None:
        edit_json(folder / POOLING, lambda config: config.update(pooling_mode=["cls", "mean"]))
        with pytest.raises(ModelFilesError, match="in_features is 32, but the layer before gives 64"):
            load(folder)


class TestOtherLayers:
    def test_layer_norm_with_and_without_normalize(self, base: Path, tmp_path: Path) -> None:
        assert_is_the_oracles(base)
        assert_is_the_oracles(make_bert(tmp_path / "m", layer_norm=True))

    def test_layer_norm_of_another_width_is_an_error(self, folder: Path) -> None:
        edit_json(folder / NORM, lambda config: config.update(dimension=32))
        with pytest.raises(ModelFilesError, match=r"the config\.json beside"):
            load(folder)

    def test_normalize_needs_no_config(self, tmp_path: Path) -> None:
        folder = make_bert(tmp_path / "m")
        shutil.rmtree(folder / "2_Normalize")
        assert_is_the_oracles(folder)
        np.testing.assert_allclose(np.linalg.norm(load(folder).embed(TEXTS), axis=1), 1, rtol=1e-5)

    @pytest.mark.parametrize("change", [{"p": 1}, {"module_input_name": "token_embeddings"}])
    def test_normalize_of_something_else_is_refused(self, tmp_path: Path, change: dict[str, Any]) -> None:
        folder = make_bert(tmp_path / "m")
        edit_json(folder / "2_Normalize/config.json", lambda config: config.update(change))
        with pytest.raises(UnsupportedModelError, match=f"{min(change)}.* is not"):
            load(folder)

    @pytest.mark.parametrize("kind", ["models.Dropout", "sentence_transformer.modules.dropout.Dropout"])
    def test_dropout_does_nothing(self, folder: Path, kind: str) -> None:
        def insert(modules: Any) -> None:
            modules.insert(
                2, {"idx": 2, "name": "d", "path": "d_Dropout", "type": f"sentence_transformers.{kind}"}
            )

        edit_json(folder / "modules.json", insert)
        edit_json(folder / "d_Dropout/config.json", lambda config: config.update(dropout=0.5))
        layers = read_description(ModelFolder(folder, "path")).layers
        assert [type(layer) for layer in layers] == [Pooling, Dense, LayerNorm]
        assert_is_the_oracles(folder)


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        (POOLING, Path.unlink, "is missing"),
        (DENSE, Path.unlink, "is missing"),
        (NORM, Path.unlink, "is missing"),
        ("2_Dense/model.safetensors", Path.unlink, "the model has no weights"),
        ("3_LayerNorm/model.safetensors", Path.unlink, "the model has no weights"),
        (DENSE, lambda file: file.write_text("[]"), "must hold a JSON dict"),
    ],
)
def test_a_missing_or_damaged_file_is_named(
    folder: Path, file: str, damage: Callable[[Path], Any], said: str
) -> None:
    damage(folder / file)
    with pytest.raises(ModelFilesError, match=said) as caught:
        load(folder)
    assert str(folder / file) in str(caught.value)
