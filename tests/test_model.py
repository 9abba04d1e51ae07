"""From texts to vectors: values, order, equal texts, and what the vectors do not depend on."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from families import TEXTS, make_bert, make_static
from hypothesis import given, settings
from hypothesis import strategies as st
from models import assert_equal, edit_json, load, load_oracle
from models import one_thread as one_thread
from safetensors.numpy import load_file, save_file

from emb_model_provider.core.embedding import model as model_module
from emb_model_provider.core.embedding.model import EmbeddingModel, Role
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.embedding.prompts import ROLES
from emb_model_provider.core.embedding.static_engine import StaticEngine
from emb_model_provider.core.errors import (
    ConfigError,
    EmbeddingProviderError,
    ModelFilesError,
    NonFiniteEmbeddingError,
    TextTypeError,
    TextValueError,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.usefixtures("one_thread")

some_texts = st.lists(st.text(max_size=50), min_size=1, max_size=8)
few = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def real(one_thread: None, minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingModel:
    """The real all-MiniLM-L6-v2."""
    return load(minilm, cache_dir=str(tmp_path_factory.mktemp("cache")))


class TestRealModel:
    def test_vectors_of_real_texts_are_the_oracles(
        self, real: EmbeddingModel, oracle: SentenceTransformer, real_texts: list[str]
    ) -> None:
        texts = real_texts[::20] + real_texts[1::5]  # every special one, and some of the documentation
        assert_equal(real.embed(texts), oracle.encode(texts))

    @few
    @given(texts=some_texts)
    def test_vectors_of_any_texts_are_the_oracles(
        self, real: EmbeddingModel, oracle: SentenceTransformer, texts: list[str]
    ) -> None:
        assert_equal(real.embed(texts), oracle.encode(texts))

    def test_finds_the_sentence_that_means_the_same(self, real: EmbeddingModel) -> None:
        documents = real.embed(["Cats purr when content.", "The bank raised its rates.", "It rains in May."])
        query = real.embed(["Why does my kitten make that noise?"], "query")
        assert (documents @ query[0]).argmax() == 0


@few
@given(texts=some_texts, size=st.integers(1, 9), data=st.data())
def test_vectors_depend_neither_on_batches_nor_on_order(
    toy: EmbeddingModel, texts: list[str], size: int, data: st.DataObject
) -> None:
    expected = np.concatenate([toy.embed([text]) for text in texts])
    assert_equal(toy.embed(texts, batch_size=size), expected)
    order = data.draw(st.permutations(range(len(texts))))
    assert_equal(toy.embed([texts[i] for i in order]), expected[order])


@few
@given(texts=some_texts)
def test_equal_texts_have_equal_vectors_in_every_place(toy: EmbeddingModel, texts: list[str]) -> None:
    vectors = toy.embed([*texts, *texts[::-1]])
    np.testing.assert_array_equal(vectors[: len(texts)], vectors[len(texts) :][::-1])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 44, 500])
def test_every_batch_size_gives_the_oracles_vectors_in_order(toy_model: Path, batch_size: int) -> None:
    expected = load_oracle(toy_model).encode_query(TEXTS)
    assert_equal(load(toy_model, max_batch_size=batch_size).embed(TEXTS, "query"), expected)


@pytest.mark.parametrize("role", ["querys", "passage", "", None])
def test_an_unknown_role_is_refused(toy: EmbeddingModel, role: Any) -> None:
    """It would get the other role's prompt, and so wrong vectors in silence."""
    for use in (
        lambda: toy.prompt(role),
        lambda: toy.embed(["text"], role),
        lambda: toy.count_tokens(["text"], role),
        lambda: next(toy.embed_stream(["text"], role)),
    ):
        with pytest.raises(TextValueError, match="Unknown role"):
            use()


def test_no_texts_are_no_vectors(toy: EmbeddingModel) -> None:
    for role in ROLES:
        vectors = toy.embed([], role)
        assert vectors.shape == (0, 32)
        assert vectors.dtype == np.float32


def test_a_tuple_will_do_and_texts_stay_as_they_are(toy: EmbeddingModel) -> None:
    texts = ["one", "two", "one"]
    np.testing.assert_array_equal(toy.embed(tuple(texts)), toy.embed(texts))
    assert texts == ["one", "two", "one"]


def test_the_vectors_are_the_callers_own(toy: EmbeddingModel) -> None:
    first = toy.embed(["a text", "another"])
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(toy.embed(["a text", "another"]), kept)


def test_equal_texts_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(make_static(tmp_path / "model", layout="st"))
    rows: list[int] = []
    compute = StaticEngine.hidden_states

    def counted(engine: StaticEngine, batch: Any) -> Any:
        rows.append(len(batch.ids))
        return compute(engine, batch)

    monkeypatch.setattr(StaticEngine, "hidden_states", counted)
    vectors = model.embed(["one", "two", "one", "three", "two", "one"])
    assert sum(rows) == 3
    np.testing.assert_array_equal(vectors[[0, 1]], vectors[[5, 4]])
    assert np.abs(vectors[0] - vectors[3]).max() > 1e-3


class TestStream:
    @pytest.fixture
    def small_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_module, "WINDOW_TEXTS", 4)

    @pytest.mark.usefixtures("small_windows")
    @pytest.mark.parametrize("role", ROLES)
    def test_gives_the_vectors_of_a_list_in_order(self, toy: EmbeddingModel, role: Role) -> None:
        texts = [*TEXTS, *TEXTS[::3]]  # some are repeated, near and far
        parts = list(toy.embed_stream(iter(texts), role, batch_size=3))
        assert [len(part) for part in parts[:-1]] == [4] * (len(texts) // 4)
        assert_equal(np.concatenate(parts), toy.embed(texts, role))

    def test_of_no_texts_is_empty(self, toy: EmbeddingModel) -> None:
        assert list(toy.embed_stream([])) == []

    @pytest.mark.usefixtures("small_windows")
    def test_takes_few_texts_ahead(self, toy: EmbeddingModel) -> None:
        taken: list[int] = []

        def texts() -> Iterator[str]:
            for i in range(100):
                taken.append(i)
                yield f"text {i}"

        stream = toy.embed_stream(texts())
        assert not taken
        for part in range(1, 25):
            next(stream)
            assert len(taken) <= 4 * (part + 2)

    def test_takes_fewer_texts_ahead_where_they_are_long(
        self, toy: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model_module, "WINDOW_CHARACTERS", 3000)
        texts = [f"text {i} " + "hello " * 200 for i in range(7)]
        parts = list(toy.embed_stream(texts))
        assert [len(part) for part in parts] == [3, 3, 1]
        assert_equal(np.concatenate(parts), toy.embed(texts))

    @pytest.mark.usefixtures("small_windows")
    @pytest.mark.parametrize(("bad", "error"), [(7, TextTypeError), ("a \ud800", TextValueError)])
    def test_names_the_index_of_a_bad_text_and_gives_what_came_before(
        self, toy: EmbeddingModel, bad: object, error: type[Exception]
    ) -> None:
        texts: list[Any] = [f"text {i}" for i in range(20)]
        texts[13] = bad
        stream = toy.embed_stream(texts)
        assert_equal(next(stream), toy.embed(texts[:4]))
        later: list[Floats] = []
        with pytest.raises(error, match="Text 13 "):
            later += stream  # takes what comes until it fails
        assert_equal(np.concatenate(later), toy.embed(texts[4:13]))

    @pytest.mark.usefixtures("small_windows")
    @pytest.mark.parametrize("good", [0, 1, 4, 5, 8, 11])
    def test_of_a_source_that_fails_gives_what_came_before(self, toy: EmbeddingModel, good: int) -> None:
        expected = [f"text {i}" for i in range(good)]

        def texts() -> Iterator[str]:
            yield from expected
            raise OSError("the disk is gone")

        found: list[Floats] = []
        with pytest.raises(OSError, match="the disk is gone"):
            found += itertools.chain.from_iterable(toy.embed_stream(texts()))
        assert len(found) == good
        if good:
            assert_equal(np.array(found), toy.embed(expected))

    @pytest.mark.parametrize("texts", ["a bare text", b"bytes", None])
    def test_of_what_is_no_list_of_texts_is_refused(self, toy: EmbeddingModel, texts: Any) -> None:
        with pytest.raises(TextTypeError, match="Expected a list of texts"):
            list(toy.embed_stream(texts))

    @pytest.mark.usefixtures("small_windows")
    def test_counts_what_is_cut_and_names_what_is_refused(self, toy_model: Path) -> None:
        texts = [f"text {i}" for i in range(10)]
        texts[5] = texts[9] = "hello " * 50
        model = load(toy_model)
        list(model.embed_stream(texts))
        assert model.truncated == 2
        (tokens,) = model.count_tokens(texts[5:6])
        with pytest.raises(TextValueError, match=f"Text 5 has {tokens} tokens"):
            list(load(toy_model, on_truncation="error").embed_stream(texts))

    @pytest.mark.skipif(sys.platform != "linux", reason="peak memory as Linux tells it")
    def test_memory_does_not_grow_with_the_texts(self, tmp_path: Path) -> None:
        """What the tokenizers library makes of these would take 600 MB."""
        folder = make_static(tmp_path / "model", layout="st")
        program = """
import sys
from pathlib import Path
from emb_model_provider.core.config import Config
from emb_model_provider.core.model_manager import ModelManager

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000

model = ModelManager(Config(model_path=sys.argv[1], on_truncation="ignore")).load_model()
model.embed(["hello"])
before = peak()
texts = (f"text {i} " + "hello " * 1000 for i in range(4000))
print(sum(len(part) for part in model.embed_stream(texts)), peak() - before)
"""
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        rows, grown = done.stdout.split()
        assert int(rows) == 4000
        assert float(grown) < 150


class TestTruncateDim:
    def test_keeps_the_leading_components_at_unit_length(self, toy_model: Path) -> None:
        """sentence-transformers leaves them shorter; a dot product is to stay a cosine."""
        oracle = load_oracle(toy_model)
        short = oracle.encode_query(TEXTS, truncate_dim=8)
        assert np.linalg.norm(short, axis=1).max() < 0.95
        vectors = load(toy_model, truncate_dim=8).embed(TEXTS, "query")
        assert_equal(vectors, short / np.linalg.norm(short, axis=1, keepdims=True))
        assert_equal(vectors, oracle.encode_query(TEXTS, truncate_dim=8, normalize_embeddings=True))

    def test_leaves_the_length_of_vectors_that_have_none_of_their_own(self, tmp_path: Path) -> None:
        folder = make_bert(tmp_path / "model", normalize=False)
        expected = load_oracle(folder).encode(TEXTS, truncate_dim=8)
        assert_equal(load(folder, truncate_dim=8).embed(TEXTS), expected)

    def test_comes_from_the_model_unless_the_user_says_otherwise(self, tmp_path: Path) -> None:
        folder = make_bert(tmp_path / "model", truncate_dim=16, normalize=False)
        oracle = load_oracle(folder)
        assert oracle.encode(TEXTS).shape == (len(TEXTS), 16)
        assert_equal(load(folder).embed(TEXTS), oracle.encode(TEXTS))
        assert load(folder, truncate_dim=8).dimension == 8
        full = load(folder, truncate_dim=32)
        assert full.dimension == 32
        assert_equal(full.embed(TEXTS), oracle.encode(TEXTS, truncate_dim=32))

    def test_of_all_components_changes_nothing(self, toy_model: Path, toy: EmbeddingModel) -> None:
        np.testing.assert_array_equal(load(toy_model, truncate_dim=32).embed(TEXTS), toy.embed(TEXTS))

    def test_of_more_than_there_are_is_refused(self, toy_model: Path) -> None:
        with pytest.raises(ConfigError, match=r"truncate_dim \(EMB_PROVIDER_TRUNCATE_DIM\) is 33.*Choose 32"):
            load(toy_model, truncate_dim=33)

    def test_of_nothing_is_nothing(self, toy_model: Path) -> None:
        assert load(toy_model, truncate_dim=8).embed([]).shape == (0, 8)


class TestNonFinite:
    @pytest.fixture
    def broken(self, toy_model: Path, tmp_path: Path) -> Path:
        """The toy model, whose vector of the token "hello" is infinite."""
        folder = tmp_path / "model"
        shutil.copytree(toy_model, folder)
        token = load_oracle(toy_model).tokenizer.convert_tokens_to_ids("hello")
        tensors = load_file(folder / "model.safetensors")
        tensors["embeddings.word_embeddings.weight"][token] = np.inf
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the arithmetic with infinity
    @pytest.mark.parametrize("batch_size", [1, 64])
    def test_vectors_are_an_error_that_names_the_first_text(self, broken: Path, batch_size: int) -> None:
        model = load(broken)
        assert np.isfinite(model.embed(["the vector", "of a sentence"])).all()
        texts = ["the vector", "one", "hello", "two", "hello world"]
        with pytest.raises(NonFiniteEmbeddingError, match=r"gave NaN or infinity for text 2\.") as caught:
            model.embed(texts, batch_size=batch_size)
        assert str(broken) in str(caught.value)
        assert isinstance(caught.value, EmbeddingProviderError)
        assert isinstance(caught.value, RuntimeError)


def test_a_tokenizer_of_a_larger_model_is_an_error(toy_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy_model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:40].copy()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", lambda config: config.update(vocab_size=40))
    with pytest.raises(ModelFilesError, match=r"the token id \d+, but the model has only 40"):
        load(folder).embed(TEXTS)
