"""What both adapters share: loaded at first use, shared, small to pickle, and off the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import ModelFilesError
from emb_model_provider.core.lazy_model import LazyModel

if TYPE_CHECKING:
    from conftest import Gate


@pytest.fixture
def lazy(toy_model: Path) -> LazyModel:
    return LazyModel(model_path=str(toy_model))


def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a model's folder whenever one has been loaded."""
    found: list[str] = []
    init = EmbeddingModel.__init__

    def counted(self: EmbeddingModel, *args: object, **kwargs: object) -> None:
        init(self, *args, **kwargs)  # type: ignore[arg-type]
        found.append(str(self.description.folder.path))

    monkeypatch.setattr(EmbeddingModel, "__init__", counted)
    return found


class TestLoading:
    def test_waits_for_the_first_text(self, monkeypatch: pytest.MonkeyPatch, lazy: LazyModel) -> None:
        loaded = loads(monkeypatch)
        assert lazy.embed([], "document") == []
        assert loaded == []
        lazy.embed(["text"], "document")
        lazy.embed(["text"], "query")
        assert loaded == [lazy.model_path]

    def test_is_done_once_for_equal_settings(self, monkeypatch: pytest.MonkeyPatch, toy_model: Path) -> None:
        loaded = loads(monkeypatch)
        first, second = (LazyModel(model_path=str(toy_model), show_progress=shown) for shown in (False, True))
        assert first.model is second.model
        assert len(loaded) == 1

    def test_is_done_for_each_of_different_settings(self, lazy: LazyModel) -> None:
        shorter = LazyModel(model_path=lazy.model_path, max_context_length=8)
        assert shorter.model is not lazy.model
        assert (shorter.model.max_length, lazy.model.max_length) == (8, 32)

    def test_is_done_once_by_many_threads(self, monkeypatch: pytest.MonkeyPatch, toy_model: Path) -> None:
        loaded = loads(monkeypatch)
        lazies = [LazyModel(model_path=str(toy_model)) for _ in range(8)]
        together = threading.Barrier(len(lazies))

        def load(lazy: LazyModel) -> EmbeddingModel:
            together.wait(60)
            return lazy.model

        with ThreadPoolExecutor(len(lazies)) as pool:
            models = list(pool.map(load, lazies))
        assert len({id(model) for model in models}) == 1
        assert len(loaded) == 1

    def test_that_failed_is_tried_again(self, toy_model: Path, tmp_path: Path) -> None:
        lazy = LazyModel(model_path=str(tmp_path / "later"))
        with pytest.raises(ModelFilesError, match="later"):
            lazy.embed(["text"], "document")
        shutil.copytree(toy_model, tmp_path / "later")
        assert len(lazy.embed(["text"], "document")[0]) == 32

    def test_is_undone_when_the_last_user_lets_go(self, toy_model: Path) -> None:
        first, second = (LazyModel(model_path=str(toy_model)) for _ in range(2))
        asyncio.run(first.aembed(["a query"], "query"))
        asyncio.run(first.aembed(["a", "list"], "document"))
        remembered = weakref.ref(second.model)
        del first
        gc.collect()
        assert remembered() is second.model
        del second
        gc.collect()
        assert remembered() is None

    def test_tells_what_is_loaded(self, lazy: LazyModel) -> None:
        info = lazy.get_model_info()
        assert (info["folder"], info["dimension"], info["source"]) == (lazy.model_path, 32, "path")


class TestCopy:
    def test_shares_the_model(self, lazy: LazyModel) -> None:
        model = lazy.model
        assert copy.copy(lazy).model is model
        assert copy.deepcopy(lazy).model is model

    def test_with_another_setting_has_another_model(self, lazy: LazyModel) -> None:
        assert lazy.model.max_length == 32
        assert lazy.model_copy(update={"max_context_length": 8}).model.max_length == 8

    def test_by_pickle_is_small_and_gives_the_same_vectors(self, lazy: LazyModel) -> None:
        vectors = lazy.embed(["Hello", "world"], "document")
        asyncio.run(lazy.aembed(["Hello"], "query"))
        pickled = pickle.dumps(lazy)
        assert len(pickled) < 10_000
        again = pickle.loads(pickled)
        assert again == lazy
        assert again.embed(["Hello", "world"], "document") == vectors


class TestAsync:
    async def test_answers_like_the_sync_twin(self, lazy: LazyModel) -> None:
        texts = ["one", "two words", ""]
        for role in ("query", "document"):
            assert await lazy.aembed(texts, role) == lazy.embed(texts, role)
            assert await lazy.aembed(["one"], role) == lazy.embed(["one"], role)
        assert await lazy.aembed([], "document") == []

    @pytest.mark.parametrize("texts", [["a single query"], ["a", "list"]])
    async def test_leaves_the_event_loop_free(self, lazy: LazyModel, gate: Gate, texts: list[str]) -> None:
        task = asyncio.create_task(lazy.aembed(texts, "query"))
        assert await asyncio.to_thread(gate.entered.wait, 60)
        beats = 0
        for _ in range(100):
            await asyncio.sleep(0)
            beats += 1
        assert not task.done()
        gate.open()
        assert len(await task) == len(texts)
        assert beats == 100

    @pytest.mark.parametrize("texts", [["a single query"], ["a", "list"]])
    def test_imports_nothing_in_the_event_loop(self, toy_model: Path, texts: list[str]) -> None:
        """An import of numpy or OpenVINO would hold the loop up for 0.1 s at the first text."""
        program = f"""
            import asyncio, sys, threading
            from emb_model_provider.core.lazy_model import LazyModel

            class Recorder:
                def find_spec(self, name, path=None, target=None):
                    found.setdefault(threading.current_thread() is threading.main_thread(), []).append(name)

            async def first_text():
                lazy = LazyModel(model_path={str(toy_model)!r})
                sys.meta_path.insert(0, recorder)
                await lazy.aembed({texts!r}, "query")
                sys.meta_path.remove(recorder)

            found, recorder = {{}}, Recorder()
            asyncio.run(first_text())
            assert "numpy" in found[False]
            print(found.get(True, []))
        """
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120
        )
        assert run.stdout == "[]\n", run.stdout + run.stderr

    async def test_needs_no_thread_of_the_loops_own_pool(self, lazy: LazyModel) -> None:
        await asyncio.get_running_loop().shutdown_default_executor()
        assert len(await lazy.aembed(["query"], "query")) == 1
        assert len(await lazy.aembed(["a", "list"], "document")) == 2

    async def test_batches_the_queries_that_arrive_while_the_model_is_busy(
        self, lazy: LazyModel, gate: Gate
    ) -> None:
        first = asyncio.create_task(lazy.aembed(["first"], "query"))
        assert await asyncio.to_thread(gate.entered.wait, 60)
        texts = [f"query number {n}" for n in range(20)]
        tasks = [asyncio.create_task(lazy.aembed([text], "query")) for text in texts]
        await asyncio.sleep(0)  # each task runs until it waits
        gate.open()
        answers = [vector for (vector,) in await asyncio.gather(*tasks)]
        await first
        assert gate.calls == [(["first"], "query"), (texts, "query")]
        alone = [lazy.embed([text], "query")[0] for text in texts]
        np.testing.assert_allclose(answers, alone, atol=1e-5)

    async def test_runs_lists_one_at_a_time(self, lazy: LazyModel, gate: Gate) -> None:
        tasks = [asyncio.create_task(lazy.aembed(["a", str(n)], "document")) for n in range(5)]
        assert await asyncio.to_thread(gate.entered.wait, 60)
        await asyncio.sleep(0)
        assert len(gate.calls) == 1
        gate.open()
        await asyncio.gather(*tasks)
        assert [texts[1] for texts, _ in gate.calls] == ["0", "1", "2", "3", "4"]

    async def test_sees_the_callers_context(self, monkeypatch: pytest.MonkeyPatch, lazy: LazyModel) -> None:
        request = contextvars.ContextVar("request", default="none")
        seen: set[str] = set()

        def prompt(_: EmbeddingModel, role: str) -> str:
            seen.add(request.get())
            return ""

        monkeypatch.setattr(EmbeddingModel, "prompt", prompt)
        request.set("mine")
        await lazy.aembed(["a", "list"], "document")
        assert seen == {"mine"}

    @pytest.mark.parametrize("texts", [["a single query"], ["a", "list"]])
    async def test_can_be_cancelled_at_any_time(self, lazy: LazyModel, gate: Gate, texts: list[str]) -> None:
        running, waiting, kept = (asyncio.create_task(lazy.aembed(texts, "query")) for _ in range(3))
        assert await asyncio.to_thread(gate.entered.wait, 60)
        running.cancel()
        waiting.cancel()
        gate.open()
        assert await kept == lazy.embed(texts, "query")
        for task in (running, waiting):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await lazy.aembed(texts, "query") == lazy.embed(texts, "query")

    async def test_a_cancelled_list_ends_with_the_batch_that_runs(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its thread is the next list's, and the end of the program waits for it."""
        lazy = LazyModel(model_path=str(toy_model), max_batch_size=1)
        forward, running, go_on = lazy.model._forward, threading.Event(), threading.Event()
        compute = forward._compute

        def held(*args: Any, **options: Any) -> Any:
            running.set()
            assert go_on.wait(60)
            return compute(*args, **options)

        monkeypatch.setattr(forward, "_compute", held)
        before = forward.forward_passes
        task = asyncio.create_task(lazy.aembed([f"text {n}" for n in range(50)], "document"))
        assert await asyncio.to_thread(running.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await lazy.aembed(["the", "next"], "document")
        assert forward.forward_passes == before + 1 + 2

    def test_works_in_one_loop_after_another(self, lazy: LazyModel) -> None:
        answers = [asyncio.run(lazy.aembed(["query"], "query")) for _ in range(3)]
        assert answers == [lazy.embed(["query"], "query")] * 3


class TestProgress:
    def test_is_silent_by_default(self, lazy: LazyModel, capfd: pytest.CaptureFixture[str]) -> None:
        lazy.embed(["a", "b", "c"], "document")
        assert capfd.readouterr() == ("", "")

    def test_is_drawn_on_stderr_for_lists_and_changes_no_vector(
        self, toy_model: Path, lazy: LazyModel, capfd: pytest.CaptureFixture[str]
    ) -> None:
        shown = LazyModel(model_path=str(toy_model), show_progress=True)
        assert shown.embed(["a", "b", "c"], "document") == lazy.embed(["a", "b", "c"], "document")
        out, err = capfd.readouterr()
        assert out == ""
        assert "3/3" in err
        shown.embed(["a query"], "query")
        assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize(
    "use",
    [
        'asyncio.run(lazy.aembed(texts[:1], "query")) + asyncio.run(lazy.aembed(texts, "document"))',
        # Hangs while torch_engine does not give a forked child one thread: the OpenMP threads that the
        # main thread has used are gone there. os.register_at_fork(after_in_child=...) cures it.
        'lazy.embed(texts, "document")',
    ],
    ids=["async", "sync"],
)
def test_works_in_a_child_that_was_forked_after_use(toy_model: Path, use: str) -> None:
    """Threads, torch's own among them, do not survive a fork; LlamaIndex's async pipeline forks."""
    program = f"""
import asyncio, os, signal
import numpy as np
from emb_model_provider.core.lazy_model import LazyModel
lazy = LazyModel(model_path={str(toy_model)!r})
texts = [f"many words that keep every thread busy {{n}} " * 9 for n in range(200)]
def answers():
    return np.array({use})
before = answers()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if np.allclose(answers(), before, atol=1e-5) else 1)
print(os.waitpid(child, 0)[1])
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "0"), run.stderr
