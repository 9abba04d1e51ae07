"""Torch on the CPU: threads, forks and devices. Vectors are compared with the oracle in test_families.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engines import model_of
from families import TEXTS
from models import load

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.model_format import read_description
from emb_model_provider.core.embedding.tokenization import Batch
from emb_model_provider.core.embedding.torch_engine import TorchEngine, choose_device, native_precisions
from emb_model_provider.core.embedding.torch_loading import load_torch_engine
from emb_model_provider.core.errors import ConfigError

IDS = np.array([[5, 6, 7], [8, 9, 10]])


def engine_of(folder: Path, threads: int | None = None) -> TorchEngine:
    return load_torch_engine(read_description(ModelFolder(folder, "path")), "cpu", threads=threads)


def test_texts_of_equal_length_are_given_no_mask(toy_model: Path) -> None:
    engine = engine_of(toy_model)
    given: list[set[str]] = []
    engine.model.register_forward_pre_hook(
        lambda _, args, options: given.append(set(options)), with_kwargs=True
    )
    engine.hidden_states(Batch(IDS, np.ones_like(IDS), None))
    engine.hidden_states(Batch(IDS, np.array([[1, 1, 1], [1, 1, 0]]), None))
    assert given == [{"input_ids"}, {"input_ids", "attention_mask"}]


class TestThreads:
    def test_are_those_asked_for_during_a_forward_pass_only(self, toy_model: Path) -> None:
        import torch

        before = torch.get_num_threads()
        seen = []
        engine = engine_of(toy_model, threads=before + 1)
        engine.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
        model_of(toy_model, engine).embed(["a text"])
        assert seen == [before + 1]
        assert torch.get_num_threads() == before

    def test_are_given_back_after_a_failure(self, toy_model: Path) -> None:
        import torch

        before = torch.get_num_threads()
        engine = engine_of(toy_model, threads=before + 1)
        with pytest.raises(IndexError):
            engine.hidden_states(Batch(IDS + 10**6, np.ones_like(IDS), None))
        assert torch.get_num_threads() == before


PROGRAM = """
import os, sys
from emb_model_provider.core.config import Config
from emb_model_provider.core.model_manager import ModelManager
texts = [f"text number {i} of many that keep two threads at work" for i in range(64)]
model = ModelManager(Config(engine="torch", model_path=sys.argv[1])).load_model()
expected = model.embed(texts)
child = os.fork()
if not child:
    if sys.argv[2] == "loads its own":
        settings = Config(engine="torch", model_path=sys.argv[1], max_batch_size=63)
        model = ModelManager(settings).load_model()
    sys.exit(0 if abs(model.embed(texts) - expected).max() <= 1e-6 else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("child", ["uses its parent's", "loads its own"])
def test_a_forked_child_does_not_wait_for_threads_it_does_not_have(minilm: Path, child: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(minilm), child],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.strip() == "0", done.stderr


class TestDevice:
    def test_a_cpu_is_always_there(self) -> None:
        assert choose_device("cpu") == "cpu"
        assert "fp32" in native_precisions("cpu")

    @pytest.mark.parametrize("name", ["cuda:99", "cpu:1"])
    def test_that_is_not_there_is_an_error_with_what_there_is(self, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"{name} is not there \(found \d"):
            choose_device(name)

    def test_that_lacks_memory_says_so_in_a_builtin(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        engine = engine_of(toy_model)

        def full(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        engine.model.register_forward_pre_hook(full)
        with pytest.raises(MemoryError, match="cpu has no room for 2 texts of 3 tokens") as raised:
            engine.hidden_states(Batch(IDS, np.ones_like(IDS), None))
        assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_vectors_of_several_batches_come_in_one_array(toy_model: Path) -> None:
    import torch

    parts = [torch.ones(2, 3), torch.zeros(1, 3)]
    assert engine_of(toy_model).to_host(parts).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_a_number_of_threads_changes_no_vector(toy_model: Path, toy: EmbeddingModel) -> None:
    assert np.abs(load(toy_model, num_threads=1).embed(TEXTS) - toy.embed(TEXTS)).max() <= 1e-6
