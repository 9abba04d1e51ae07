"""Downloads from both hubs with their real clients: bounded waits, and only verified files.

The bounds asserted here are what the README's table promises, with a margin for a busy machine.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from both_hubs import ID, SETTINGS, WEIGHTS, Side, at_most, blackhole, same
from hubs import SilentServer, refused_url

from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import (
    AccessDeniedError,
    HubConnectionError,
    ModelFilesError,
    ModelLoadError,
    ModelNotFoundError,
)
from emb_model_provider.core.loaders import download


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def models_files(root: Path) -> set[Path]:
    """Every file of the machine but our locks and what the hub's client knows of its user."""
    others = {"locks", "modelscope_home"}
    return {path for path in root.rglob("*") if path.is_file() and not others & set(path.parts)}


def rename_on_hub(side: Side, toy_model: Path, tmp_path: Path) -> Path:
    """Serve the toy model from a copy, which a test may change."""
    copy = tmp_path / "served"
    for name, content in files(toy_model).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    side.commit = side.hub.add_model(ID, copy)
    return copy


class TestNothingOnDisk:
    def test_a_download_brings_the_model(self, side: Side, toy: EmbeddingModel) -> None:
        model = side.load()
        assert same(model, toy)
        assert model.description.folder.path == side.snapshot
        assert side.lists() == 1
        assert set(side.fetched().values()) == {1}
        assert side.fetched()[WEIGHTS] == 1

    def test_only_the_files_that_a_model_is_made_of_come(
        self, side: Side, toy_model: Path, tmp_path: Path
    ) -> None:
        copy = rename_on_hub(side, toy_model, tmp_path)
        for name in ("onnx/model.onnx", "tf_model.h5", "pytorch_model.bin", "a/b/c.json", "openvino/x.json"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(b"{}")
        side.hub.add_model(ID, copy)
        side.load()
        assert set(side.fetched()) == set(files(toy_model))

    def test_a_hub_that_refuses_is_an_error_within_3_s(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(side.endpoint_variable, refused_url())
        with at_most(3), pytest.raises(HubConnectionError, match=side.endpoint_variable) as raised:
            side.load()
        assert refused_url() in str(raised.value)

    def test_a_silent_hub_is_an_error_within_connect_timeout_and_2_s(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with SilentServer() as silent:
            monkeypatch.setenv(side.endpoint_variable, silent.url)
            with (
                at_most(1 + 2),
                pytest.raises(HubConnectionError, match=ID),
            ):
                side.load(connect_timeout=1)

    def test_a_hub_behind_a_blackhole_is_an_error_within_connect_timeout_and_2_s(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with blackhole() as url:
            monkeypatch.setenv(side.endpoint_variable, url)
            with at_most(1 + 2), pytest.raises(HubConnectionError, match=ID):
                side.load(connect_timeout=1)

    def test_a_hub_that_sends_its_list_drop_by_drop_is_an_error_within_connect_timeout_and_2_s(
        self, side: Side
    ) -> None:
        side.hub.fault("slow", match=side.list_path, seconds=60)
        with at_most(1 + 2), pytest.raises(HubConnectionError, match=ID):
            side.load(connect_timeout=1)

    @pytest.mark.parametrize(("hub", "bound"), [("refuses", 3), ("is silent", 1 + 2)])
    def test_auto_goes_on_to_the_other_hub_within_the_same_bounds(
        self,
        hubs: dict[str, Side],
        hub: str,
        bound: float,
        monkeypatch: pytest.MonkeyPatch,
        toy: EmbeddingModel,
    ) -> None:
        with SilentServer() as silent:
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", refused_url() if hub == "refuses" else silent.url)
            with at_most(bound):
                manager = hubs["modelscope"].manager(model_source="auto", connect_timeout=1)
        assert manager.get_model_info()["source"] == "huggingface"
        assert same(manager.model, toy)

    def test_auto_without_any_hub_fails_within_10_s_with_both_reasons(
        self, hubs: dict[str, Side], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for side in hubs.values():
            monkeypatch.setenv(side.endpoint_variable, refused_url())
        with at_most(10), pytest.raises(ModelLoadError) as raised:
            hubs["modelscope"].manager(model_source="auto")
        for side in hubs.values():
            assert f"on {side.name}: " in str(raised.value)


class TestCompleteOnDisk:
    def test_no_request_and_no_wait_whatever_the_hub_does(
        self, side: Side, monkeypatch: pytest.MonkeyPatch, toy: EmbeddingModel
    ) -> None:
        side.load()
        requests, connections = len(side.hub.requests), side.hub.connections
        monkeypatch.setattr(download, "_child", None)  # a request would need one
        with ExitStack() as stack:
            silent = stack.enter_context(SilentServer())
            for url in (side.hub.url, refused_url(), silent.url, stack.enter_context(blackhole())):
                monkeypatch.setenv(side.endpoint_variable, url)
                with at_most(0):
                    assert same(side.load(), toy)
            assert silent.connections == 0
        assert (len(side.hub.requests), side.hub.connections) == (requests, connections)

    @pytest.mark.parametrize("source", ["own", "auto"])
    def test_offline_settings_do_not_matter_to_a_complete_copy(
        self, side: Side, source: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        side.load()
        side.hub.fault("500")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        before = len(side.hub.requests)
        manager = side.manager(offline=True, model_source="auto" if source == "auto" else side.source)
        assert manager.get_model_info()["source"] == side.source
        assert len(side.hub.requests) == before


class TestHubThatFails:
    """A few bounded tries, then an error that says what is wrong."""

    @pytest.mark.parametrize(
        ("kind", "error", "tries"),
        [
            ("404", ModelNotFoundError, 1),
            ("unknown-revision", ModelNotFoundError, 1),
            ("401", ModelLoadError, 1),
            ("401-nocode", AccessDeniedError, 1),
            ("403", AccessDeniedError, 1),
            ("gated", AccessDeniedError, 1),
            ("429", HubConnectionError, 3),
            ("500", HubConnectionError, 3),
            ("503", HubConnectionError, 3),
            ("html", HubConnectionError, 1),
            ("cut", HubConnectionError, 1),
            ("short", HubConnectionError, 1),
            ("empty-list", ModelFilesError, 1),
            ("success-false", ModelFilesError, 1),
        ],
    )
    def test_a_list_that_fails(self, side: Side, kind: str, error: type[ModelLoadError], tries: int) -> None:
        if kind not in side.hub.FAULTS:
            kind = "empty-list"  # success-false is ModelScope's way to say it
        side.hub.fault(kind, match=side.list_path, retry_after=0)
        with pytest.raises(error) as raised:
            side.load(connect_timeout=10)
        assert ID in str(raised.value)
        assert side.lists() == tries
        assert not side.fetched()
        side.hub.clear_faults()
        side.load()  # no failure is kept

    @pytest.mark.parametrize("kind", ["500", "503", "429"])
    def test_a_hub_that_recovers_is_asked_again(self, side: Side, kind: str, toy: EmbeddingModel) -> None:
        side.hub.fault(kind, match=side.list_path, times=1, retry_after=1)
        assert same(side.load(connect_timeout=10), toy)
        assert side.lists() == 2

    def test_a_retry_after_that_exceeds_connect_timeout_is_not_waited_for(self, side: Side) -> None:
        side.hub.fault("429", match=side.list_path, retry_after=120)
        with at_most(2), pytest.raises(HubConnectionError, match="Try again later"):
            side.load(connect_timeout=60)
        assert side.lists() == 1

    @pytest.mark.parametrize("kind", ["404", "403", "429", "500", "no-entry", "html", "cut"])
    def test_a_file_that_fails(self, side: Side, kind: str, toy: EmbeddingModel) -> None:
        side.hub.fault(kind, match=WEIGHTS, retry_after=0)
        with at_most(5), pytest.raises(ModelLoadError, match=ID):
            side.load(download_stall_timeout=3)
        assert side.fetched()[WEIGHTS] <= 6
        assert not list(side.root.rglob(f"**/snapshots/*/{WEIGHTS}"))
        side.hub.clear_faults()
        assert same(side.load(), toy)

    @pytest.mark.parametrize("kind", ["cut", "500"])
    def test_a_file_that_fails_once(self, side: Side, kind: str, toy: EmbeddingModel) -> None:
        side.hub.fault(kind, match=WEIGHTS, times=1)
        assert same(side.load(download_stall_timeout=20), toy)


class TestStall:
    def test_a_download_that_stalls_is_given_up_and_gone_on_with(
        self, side: Side, toy: EmbeddingModel, toy_model: Path
    ) -> None:
        side.hub.fault("stall", match=WEIGHTS)
        with at_most(2), pytest.raises(HubConnectionError, match=ID):
            side.load(download_stall_timeout=1)
        before = side.fetched()
        asked = len(side.hub.requests)
        side.hub.clear_faults()
        assert same(side.load(), toy)
        again = side.fetched() - before
        assert set(again) == {WEIGHTS}, "what was complete is not fetched again"
        if side.source == "modelscope":  # the other client starts a file anew
            half = (toy_model / WEIGHTS).stat().st_size // 2
            ranges = [r.headers["range"] for r in side.hub.requests[asked:] if "range" in r.headers]
            assert len(ranges) == 1
            assert int(ranges[0].removeprefix("bytes=").removesuffix("-")) >= half

    def test_a_connection_that_stalls_once_is_taken_up_in_the_same_call(
        self, side: Side, toy: EmbeddingModel
    ) -> None:
        side.hub.fault("stall", match=WEIGHTS, times=1)
        assert same(side.load(download_stall_timeout=6), toy)
        assert any(request.headers.get("range") for request in side.hub.requests)

    @pytest.mark.slow
    def test_a_slow_line_is_no_stall(self, side: Side, toy: EmbeddingModel) -> None:
        side.hub.fault("slow", match=WEIGHTS, seconds=6)
        assert same(side.load(download_stall_timeout=3), toy)


class TestWrongBytes:
    """Neither weights nor a small file are loaded when they are not what the hub announced."""

    @pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "modules.json"])
    @pytest.mark.parametrize("kind", ["wrong-bytes", "short"])
    def test_for_ever(self, side: Side, name: str, kind: str, toy: EmbeddingModel) -> None:
        side.hub.fault(kind, match=name)
        with pytest.raises(ModelFilesError, match=ID) as raised:
            side.load(download_stall_timeout=20)
        assert name in str(raised.value) or "announced" in str(raised.value)
        assert side.fetched()[name] <= 6
        with pytest.raises(HubConnectionError, match="offline"):
            side.load(offline=True)
        side.hub.clear_faults()
        assert same(side.load(), toy)

    @pytest.mark.parametrize("name", [WEIGHTS, "modules.json"])
    def test_once(self, side: Side, name: str, toy: EmbeddingModel) -> None:
        side.hub.fault("wrong-bytes", match=name, times=1)
        assert same(side.load(), toy)
        assert side.fetched()[name] == 2

    def test_a_hub_that_announces_another_hash(self, side: Side) -> None:
        side.hub.lie_about_sha256(ID, WEIGHTS)
        with pytest.raises(ModelFilesError, match=WEIGHTS):
            side.load()

    def test_a_hub_that_announces_no_hash_for_weights_is_refused_before_any_file(self, side: Side) -> None:
        side.hub.drop_sha256(ID, WEIGHTS)
        with pytest.raises(ModelFilesError, match=f"no sha256 for {WEIGHTS}"):
            side.load()
        assert not side.fetched()


class TestTamperedCache:
    @pytest.mark.parametrize("name", [WEIGHTS, "config.json", "1_Pooling/config.json"])
    @pytest.mark.parametrize("how", ["other bytes", "truncated", "deleted"])
    def test_is_refused_offline_by_name_and_fetched_again_online(
        self, side: Side, name: str, how: str, toy: EmbeddingModel
    ) -> None:
        side.load()
        path = side.snapshot / name
        content = path.read_bytes()
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if how == "other bytes" else b""))
        with pytest.raises(HubConnectionError, match=name):
            side.load(offline=True)
        before = side.fetched()
        assert same(side.load(), toy)
        assert set(side.fetched() - before) <= {name}
        assert path.read_bytes() == content

    def test_a_link_out_of_the_folder_is_refused_by_name(self, side: Side, tmp_path: Path) -> None:
        side.load()
        path = side.snapshot / WEIGHTS
        (tmp_path / "elsewhere").write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(HubConnectionError, match=f"{WEIGHTS} is a link to"):
            side.load(offline=True)

    def test_a_copy_without_hashes_that_does_not_load_is_compared_with_the_hub(
        self, side: Side, toy: EmbeddingModel
    ) -> None:
        """Another program's download: nothing was announced for it on disk."""
        side.load()
        gc.collect()
        for record in Path(os.environ["EMB_PROVIDER_CACHE_DIR"], "files").iterdir():
            record.unlink()
        path = side.snapshot / WEIGHTS
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ModelLoadError, match=WEIGHTS):
            side.load(offline=True)
        assert same(side.load(), toy)


class TestHostileList:
    NAMES = (
        "../../../../../../../../../../evil.json",
        "../evil.json",
        "1_Pooling/../../evil.json",
        "{tmp}/evil.json",
        "C:/evil.json",
        "C:evil.json",
        "..\\evil.json",
        "\\\\server\\share\\evil.json",
        "1_Pooling\\config.json",
    )

    @pytest.mark.parametrize("name", NAMES)
    def test_is_refused_before_a_byte_is_written(self, side: Side, name: str, tmp_path: Path) -> None:
        name = name.format(tmp=tmp_path)
        key = "rfilename" if side.source == "huggingface" else "Path"
        entry = {key: name, "size": 5, "Size": 5, "Type": "blob", "Sha256": "0" * 64}
        side.hub.listed_extra(ID, [entry], b"evil!")
        before = models_files(side.root)
        with pytest.raises(ModelFilesError, match="refused") as raised:
            side.load()
        assert repr(name) in str(raised.value)
        assert not side.fetched()
        assert models_files(side.root) == before
        assert not list(tmp_path.iterdir())
        assert not [p for parent in side.root.parents for p in parent.glob("evil*")]


class TestDisk:
    def test_a_disk_that_is_full_is_an_error_that_names_the_folder(self, side: Side) -> None:
        """The file system has no room: as far as a process without rights can make it so."""
        result = run_python(
            """
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
            """,
            side,
        )
        assert result["error"] == "ModelFilesError"
        assert "cannot be written" in result["message"]
        assert not list(side.root.rglob(f"**/snapshots/*/{WEIGHTS}"))
        assert side.load() is not None  # with room

    def test_a_read_only_cache_that_is_complete_works(self, side: Side) -> None:
        side.load()
        make_read_only(side.root)
        assert run_python("", side, unprivileged=True)["vectors"] == 1

    def test_a_read_only_cache_that_is_incomplete_is_an_error_that_names_the_folder(self, side: Side) -> None:
        make_read_only(side.root)
        result = run_python("", side, unprivileged=True)
        assert result["error"] == "ModelFilesError"
        assert "cannot be written" in result["message"]


class TestKilled:
    def test_a_process_killed_halfway_leaves_nothing_that_loads_and_the_next_one_completes(
        self, side: Side, toy: EmbeddingModel
    ) -> None:
        side.hub.fault("stall", match=WEIGHTS)
        process = start_python("", side)
        side.hub.wait_until(lambda: side.fetched()[WEIGHTS])
        process.kill()
        process.communicate()
        with pytest.raises(HubConnectionError, match="offline"):
            side.load(offline=True)
        side.hub.clear_faults()
        assert same(side.load(), toy)

    def test_a_download_process_killed_halfway_is_an_error(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        children = spy_on_children(monkeypatch)
        side.hub.fault("stall", match=WEIGHTS)
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(side.load)
            side.hub.wait_until(lambda: side.fetched()[WEIGHTS])
            os.kill(children[0].pid, signal.SIGKILL)
            with pytest.raises(ModelLoadError, match=f"{ID}.* ended with code -9"):
                loading.result()

    def test_the_download_process_ends_with_its_parent(self, side: Side) -> None:
        side.hub.fault("stall", match=WEIGHTS)
        process = start_python(
            """
            import subprocess
            class Spied(subprocess.Popen):
                def __init__(self, *args, **options):
                    super().__init__(*args, **options)
                    print(self.pid, flush=True)
            subprocess.Popen = Spied
            """,
            side,
        )
        assert process.stdout is not None
        child = int(process.stdout.readline())
        side.hub.wait_until(lambda: side.fetched()[WEIGHTS])
        handle = os.pidfd_open(child)
        process.kill()
        process.communicate()
        import select

        assert select.select([handle], [], [], 30)[0], "it goes on for ever"
        os.close(handle)

    def test_an_interrupted_load_leaves_no_process(self, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
        children = spy_on_children(monkeypatch)

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(download, "_watch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            side.load()
        assert children[0].poll() is not None


class TestAtOnce:
    PROCESSES = 8
    THREADS = 8

    @pytest.mark.slow
    def test_8_processes_with_8_threads_make_one_download_and_one_load_each(self, side: Side) -> None:
        prepare = f"""
            import threading
            from concurrent.futures import ThreadPoolExecutor
            from emb_model_provider.core.loaders import fallback

            loads = []
            load = fallback.load_embedding_model
            fallback.load_embedding_model = lambda *a: loads.append(a) or load(*a)
            together = threading.Barrier({self.THREADS})
            def in_thread(_):
                manager = ModelManager(config)
                together.wait()
                manager.load_model()
                return manager
            def run():
                with ThreadPoolExecutor({self.THREADS}) as pool:
                    managers = list(pool.map(in_thread, range({self.THREADS})))
                vectors = {{str(m.generate_embeddings(["hello"])) for m in managers}}
                return {{"vectors": vectors.pop(), "different": len(vectors), "loads": len(loads)}}
            """
        processes = [start_python(prepare, side) for _ in range(self.PROCESSES)]
        results = [finish(process) for process in processes]
        assert {(r["loads"], r["different"]) for r in results} == {(1, 0)}
        assert len({r["vectors"] for r in results}) == 1
        assert set(side.fetched().values()) == {1}
        assert side.lists() == 1

    def test_all_who_wait_for_a_silent_hub_wait_together(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with SilentServer() as silent, ThreadPoolExecutor(6) as pool:
            monkeypatch.setenv(side.endpoint_variable, silent.url)
            together = threading.Barrier(6)

            def load(_: int) -> str:
                loader = side.loader(connect_timeout=2)
                together.wait()
                with pytest.raises(HubConnectionError) as raised:
                    loader.load_model()
                return str(raised.value)

            with at_most(2 + 2):  # and not 6 times that
                errors = set(pool.map(load, range(6)))
        assert len(errors) == 1

    def test_a_failure_is_shared_with_those_who_waited_and_nobody_else(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        side.hub.fault("404", match=side.list_path)
        for tries in (1, 2):
            with pytest.raises(ModelNotFoundError):
                side.load()
            assert side.lists() == tries


class TestToken:
    SECRET = "secret_ABCDEF0123456789"

    @pytest.mark.parametrize("given", ["setting", "variable"])
    def test_reaches_the_hub(
        self, side: Side, given: str, monkeypatch: pytest.MonkeyPatch, toy_model: Path
    ) -> None:
        side.hub.add_model(ID, toy_model, private_token=self.SECRET)
        with pytest.raises(ModelNotFoundError, match=side.token_variable):
            side.load()
        if given == "variable":
            monkeypatch.setenv(side.token_variable, self.SECRET)
            side.load()
        else:
            side.load(**{side.token_setting: self.SECRET})

    def test_the_setting_wins_over_the_variable(
        self, side: Side, monkeypatch: pytest.MonkeyPatch, toy_model: Path
    ) -> None:
        side.hub.add_model(ID, toy_model, private_token=self.SECRET)
        monkeypatch.setenv(side.token_variable, "another")
        side.load(**{side.token_setting: self.SECRET})

    def test_of_one_hub_is_not_sent_to_the_other(self, hubs: dict[str, Side]) -> None:
        tokens = {"hf_token": "for-hugging-face", "modelscope_token": "for-modelscope"}
        for side in hubs.values():
            side.load(**tokens)
            sent = {str(request.headers) for request in side.hub.requests}
            foreign = next(value for name, value in tokens.items() if name != side.token_setting)
            assert sent
            assert not [headers for headers in sent if foreign in headers]

    @pytest.mark.parametrize("given", ["setting", "variable"])
    def test_shows_nowhere_even_when_the_hub_repeats_it(
        self, side: Side, given: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        side.hub.fault("500", match=side.list_path)
        error = side.hub._error

        def echoing(refused: Any) -> Any:
            refused.code = f"invalid token {side.hub.requests[-1].token}"
            return error(refused)

        monkeypatch.setattr(side.hub, "_error", echoing)
        settings = {side.token_setting: self.SECRET} if given == "setting" else {}
        if given == "variable":
            monkeypatch.setenv(side.token_variable, self.SECRET)
        with pytest.raises(HubConnectionError) as raised:
            side.load(connect_timeout=1, **settings)
        assert side.hub.requests[0].token == self.SECRET
        assert "invalid token [token]" in str(raised.value)
        assert self.SECRET not in f"{raised.value!r}{caplog.text}"
        written = [p.read_bytes() for p in side.root.rglob("*") if p.is_file()]
        assert not [content for content in written if self.SECRET.encode() in content]

    def test_is_not_in_what_a_request_or_the_settings_print(self, side: Side) -> None:
        loader = side.loader(**{side.token_setting: self.SECRET})
        request = loader.request(ID)
        assert request.token == self.SECRET
        shown = [repr(request), str(request), repr(loader.config), str(loader.config.model_dump())]
        assert self.SECRET not in "".join([*shown, loader.config.model_dump_json()])

    def test_is_not_in_the_message_of_a_process_that_crashed(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        crash = "import sys; sys.exit(f'crashed with {sys.stdin.readline()}')"
        monkeypatch.setattr(download, "_COMMAND", crash)
        with pytest.raises(
            ModelLoadError, match=r"(?s)ended with code 1:.*crashed with .*\[token\]"
        ) as raised:
            side.load(**{side.token_setting: self.SECRET})
        assert self.SECRET not in str(raised.value)


class TestThisProcess:
    def test_nothing_of_other_libraries_is_switched(self, side: Side) -> None:
        before = switches()
        side.load()
        side.hub.fault("500", match="other")
        assert switches() == before

    def test_no_client_is_imported_here(self, side: Side) -> None:
        result = run_python(
            """
            def run():
                ModelManager(config).load_model()
                import sys
                return {"imported": [m for m in ("modelscope_hub", "modelscope") if m in sys.modules]}
            """,
            side,
        )
        assert result == {"imported": []}

    def test_a_download_process_that_does_not_start_is_an_error(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "_COMMAND", "import time; time.sleep(60)")
        monkeypatch.setattr(download, "_START_TIMEOUT", 0.1)
        with pytest.raises(HubConnectionError, match="did not start"):
            side.load()

    def test_files_in_the_current_folder_are_not_imported(self, side: Side) -> None:
        for name in ("json.py", "requests.py", "tqdm.py"):
            Path(name).write_text("raise SystemExit('imported from the current folder')")
        side.load()


def switches() -> dict[str, Any]:
    """What a library may be tempted to set for its whole process."""
    import transformers
    from huggingface_hub import constants
    from huggingface_hub.utils import _http
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    return {
        "environment": dict(os.environ),
        "constants": {k: v for k, v in vars(constants).items() if k.isupper()},
        "factory": _http._GLOBAL_CLIENT_FACTORY,
        "bars": are_progress_bars_disabled(),
        "verbosity": transformers.utils.logging.get_verbosity(),
        "transformers' bars": transformers.utils.logging.is_progress_bar_enabled(),
        "logging": {name: logging.getLogger(name).level for name in ("", "huggingface_hub", "transformers")},
        "path": list(sys.path),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    }


def spy_on_children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The download processes of this process, as they are started."""
    children = []
    start = subprocess.Popen

    def spied(*args: Any, **options: Any) -> Any:
        children.append(start(*args, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", spied)
    return children


_PROGRAM = """
import json, sys, textwrap
from emb_model_provider.core.config import Config
from emb_model_provider.core.model_manager import ModelManager
settings, prepare = json.loads(sys.argv[1]), sys.argv[2]
config = Config(**settings)
def run():
    manager = ModelManager(config)
    manager.load_model()
    return {"vectors": len(manager.generate_embeddings(["hello"]))}
exec(textwrap.dedent(prepare))
try:
    result = run()
except Exception as error:
    result = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(result))
"""


def start_python(
    prepare: str, side: Side, *, unprivileged: bool = False, **settings: Any
) -> subprocess.Popen[str]:
    """Another process that loads the toy model.

    Args:
        prepare: Runs before; it may define another `run`.
        side: The hub.
        unprivileged: Whether to run without root's rights, to which a read-only folder is none.
        settings: Changes to the settings.
    """
    settings = {"model_source": side.source, "model_name": ID} | SETTINGS | settings
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(settings), prepare],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=give_up_roots_rights if unprivileged and os.geteuid() == 0 else None,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process started by `start_python` prints."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def run_python(prepare: str, side: Side, **options: Any) -> dict[str, Any]:
    """`start_python` and `finish`."""
    return finish(start_python(prepare, side, **options))


def give_up_roots_rights() -> None:
    """Whatever this process executes next may write only where file modes allow it, as anybody else."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError("root keeps its rights here")


def make_read_only(folder: Path) -> None:
    """Nobody but root may write below the folder."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
