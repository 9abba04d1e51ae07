"""Hugging Face as a source: its cache by its documented layout, revisions, mirrors, offline variables."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from both_hubs import ID, SETTINGS, WEIGHTS, Side, same
from families import make_bert
from hubs import HuggingFaceHub
from models import load

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import HubConnectionError, ModelFilesError, ModelNotFoundError
from emb_model_provider.core.loaders import download
from emb_model_provider.core.loaders.huggingface import HuggingFaceModelLoader, cache_dir

if TYPE_CHECKING:
    from conftest import HfCache

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40
OPTIONAL = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
)


@pytest.fixture
def side(hubs: dict[str, Side]) -> Side:
    """Hugging Face's hub."""
    return hubs["huggingface"]


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one than the toy model."""
    return make_bert(tmp_path_factory.mktemp("other") / "model", pooling="cls", seed=1)


def offline(**settings: Any) -> HuggingFaceModelLoader:
    """A loader that makes no request."""
    given: dict[str, Any] = {"model_name": ID, "offline": True} | SETTINGS | settings
    return HuggingFaceModelLoader(Config(**given))


def repository(snapshot: Path) -> Path:
    return snapshot.parent.parent


class TestCacheFolder:
    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({"HF_HOME": "/a"}, "/a/hub"),
            ({"HF_HUB_CACHE": "/b", "HF_HOME": "/a"}, "/b"),
            ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HOME": "/a"}, "/c"),
            ({"HF_HUB_CACHE": "/b", "HUGGINGFACE_HUB_CACHE": "/c"}, "/b"),
            ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
            ({"HF_HOME": "", "XDG_CACHE_HOME": ""}, "/me/.cache/huggingface/hub"),
            ({}, "/me/.cache/huggingface/hub"),
            ({"HF_HOME": "~/hf"}, "/me/hf/hub"),
            ({"HF_HUB_CACHE": "$DISK/hub", "DISK": "/disk"}, "/disk/hub"),
        ],
    )
    def test_is_the_clients(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
    ) -> None:
        for name in ("HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name)
        for name, value in ({"HOME": "/me"} | variables).items():
            monkeypatch.setenv(name, value)
        assert str(cache_dir()) == expected

    def test_is_where_a_download_goes_and_is_found_again(
        self, side: Side, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        path = side.load().description.folder.path
        assert path == tmp_path / "cache" / "models--org--toy.v1" / "snapshots" / side.commit
        assert offline().find_local(ID) is not None

    def test_is_readable_by_the_hubs_client(self, side: Side) -> None:
        """What we fetch, other programs need not fetch again."""
        from huggingface_hub import snapshot_download

        path = side.load().description.folder.path
        cache = Path(os.environ["HF_HOME"]) / "hub"
        assert snapshot_download(ID, cache_dir=cache, local_files_only=True) == str(path)
        weights = (path / WEIGHTS).resolve()
        assert weights.parent == repository(path) / "blobs"


class TestRevision:
    def test_that_is_a_branch_is_the_commit_of_its_reference(
        self, hf_cache: HfCache, toy_model: Path, other_model: Path
    ) -> None:
        mine = hf_cache(toy_model, ID)
        hf_cache(other_model, ID, commit=OTHER_COMMIT)
        (repository(mine) / "refs" / "mine").write_text(f"{COMMIT}\n")
        for revision, model, commit in ((None, other_model, OTHER_COMMIT), ("mine", toy_model, COMMIT)):
            found = offline(revision=revision).load_model()
            assert same(found, load(model))
            assert found.description.folder.revision == commit

    def test_that_is_a_commit_needs_no_reference(
        self, hf_cache: HfCache, toy_model: Path, toy: EmbeddingModel
    ) -> None:
        shutil.rmtree(repository(hf_cache(toy_model, ID)) / "refs")
        assert offline().find_local(ID) is None
        assert same(offline(revision=COMMIT).load_model(), toy)
        assert offline(revision=OTHER_COMMIT).find_local(ID) is None

    def test_of_a_pull_request_is_a_reference_in_a_folder(self, hf_cache: HfCache, toy_model: Path) -> None:
        reference = repository(hf_cache(toy_model, ID)) / "refs" / "refs" / "pr" / "1"
        reference.parent.mkdir(parents=True)
        reference.write_text(COMMIT)
        assert offline(revision="refs/pr/1").find_local(ID) is not None

    @pytest.mark.parametrize("content", ["", OTHER_COMMIT, "not a commit"])
    def test_whose_reference_names_no_snapshot_is_not_there(
        self, hf_cache: HfCache, toy_model: Path, content: str
    ) -> None:
        (repository(hf_cache(toy_model, ID)) / "refs" / "main").write_text(content)
        assert offline().find_local(ID) is None

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 5000, b"../../elsewhere", b""])
    def test_whose_reference_is_damaged_is_not_there(
        self, hf_cache: HfCache, toy_model: Path, content: bytes
    ) -> None:
        (repository(hf_cache(toy_model, ID)) / "refs" / "main").write_bytes(content)
        assert offline().find_local(ID) is None

    def test_is_downloaded_by_branch_and_then_found_by_commit(
        self, side: Side, other_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = side.hub.add_model(ID, other_model, revision="v1.0")
        info = side.manager(revision="v1.0").get_model_info()
        assert (info["source"], info["repo_id"], info["revision"]) == ("huggingface", ID, commit)
        monkeypatch.setattr(download, "_child", None)  # a request would need one
        assert same(side.load(revision=commit), load(other_model))

    def test_that_is_a_commit_is_downloaded(self, side: Side, toy: EmbeddingModel) -> None:
        assert same(side.load(revision=side.commit), toy)
        assert offline(revision=side.commit).find_local(ID) is not None
        assert offline().find_local(ID) is None, "no branch was asked for"

    def test_that_the_hub_does_not_know_is_named(self, side: Side) -> None:
        with pytest.raises(ModelNotFoundError, match="revision v9"):
            side.load(revision="v9")

    def test_that_has_moved_on_does_not_matter_to_a_copy_on_disk(
        self, side: Side, other_model: Path, toy: EmbeddingModel
    ) -> None:
        side.load()
        side.hub.add_model(ID, other_model)
        asked = len(side.hub.requests)
        assert same(side.load(), toy)
        assert len(side.hub.requests) == asked


class TestPartialCopy:
    """Other programs fetch some files only: what they left out may change vectors."""

    @pytest.mark.parametrize("lost", OPTIONAL)
    def test_is_not_used_when_the_lost_file_may_exist(
        self, hf_cache: HfCache, toy_model: Path, lost: str
    ) -> None:
        (hf_cache(toy_model, ID) / lost).unlink()
        with pytest.raises(HubConnectionError, match=f"{lost} is missing"):
            offline().load_model()

    @pytest.mark.parametrize("known", ["no_exist", "trees"])
    def test_is_used_when_the_lost_file_is_known_not_to_exist(
        self, hf_cache: HfCache, toy_model: Path, known: str
    ) -> None:
        lost = "config_sentence_transformers.json"
        snapshot = hf_cache(toy_model, ID, no_exist=(lost,) if known == "no_exist" else ())
        (snapshot / lost).unlink()
        if known == "trees":
            tree = repository(snapshot) / "trees" / f"{COMMIT}.json"
            tree.parent.mkdir()
            files: dict[str, Any] = {
                path.relative_to(snapshot).as_posix(): {} for path in snapshot.rglob("*")
            }
            tree.write_text(json.dumps({"files": files}))
        assert offline().load_model().prompt("query") == ""

    @pytest.mark.parametrize("tree", ["", "[]", "{}", '{"files": 1}', '{"files": {"modules.json": {}}}'])
    def test_is_not_used_when_the_list_of_files_does_not_tell(
        self, hf_cache: HfCache, toy_model: Path, tree: str
    ) -> None:
        snapshot = hf_cache(toy_model, ID)
        (snapshot / "modules.json").unlink()
        path = repository(snapshot) / "trees" / f"{COMMIT}.json"
        path.parent.mkdir()
        path.write_text(tree)
        assert offline().find_local(ID) is None

    def test_is_completed_online(
        self, side: Side, hf_cache: HfCache, toy_model: Path, toy: EmbeddingModel
    ) -> None:
        lost = hf_cache(toy_model, ID, commit=side.commit) / "modules.json"
        lost.resolve().unlink()
        lost.unlink()
        assert same(side.load(), toy)
        assert set(side.fetched()) == {"modules.json"}

    def test_is_completed_by_the_hubs_word_that_there_is_no_more(
        self, side: Side, hf_cache: HfCache, tmp_path: Path, toy_model: Path
    ) -> None:
        smaller = shutil.copytree(toy_model, tmp_path / "smaller")
        (smaller / "config_sentence_transformers.json").unlink()
        commit = side.hub.add_model(ID, smaller)
        hf_cache(smaller, ID, commit=commit)
        assert offline().find_local(ID) is None
        assert same(side.load(), load(smaller))
        assert not side.fetched()
        assert offline().find_local(ID) is not None


class TestBlobNames:
    """Blobs are named after their content, so every copy can be checked without the hub."""

    def test_of_an_unharmed_copy_are_right(
        self, hf_cache: HfCache, toy_model: Path, toy: EmbeddingModel
    ) -> None:
        hf_cache(toy_model, ID)
        assert same(offline().load_model(), toy)

    @pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json", "1_Pooling/config.json"])
    def test_reveal_other_bytes(self, hf_cache: HfCache, toy_model: Path, name: str) -> None:
        blob = (hf_cache(toy_model, ID) / name).resolve()
        content = blob.read_bytes()  # changed so that it could still be loaded
        changed = content[:-1] + bytes([content[-1] ^ 1]) if name == WEIGHTS else content + b"\n"
        blob.write_bytes(changed)
        with pytest.raises(HubConnectionError, match=f"{name} is not the file that was published"):
            offline().load_model()

    def test_do_not_matter_of_files_that_are_not_the_models(self, hf_cache: HfCache, toy_model: Path) -> None:
        snapshot = hf_cache(toy_model, ID)
        (repository(snapshot) / "blobs" / ("0" * 40)).write_text("other bytes")
        (snapshot / "train.csv").symlink_to(f"../../blobs/{'0' * 40}")
        assert offline().find_local(ID) is not None

    def test_are_not_needed_of_real_files(
        self, hf_cache: HfCache, toy_model: Path, toy: EmbeddingModel
    ) -> None:
        """Where links cannot be made, the client keeps files."""
        snapshot = hf_cache(toy_model, ID)
        for path in [path for path in snapshot.rglob("*") if path.is_symlink()]:
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
        assert same(offline().load_model(), toy)

    def test_may_lie_in_the_caches_own_folder(
        self, hf_cache: HfCache, toy_model: Path, toy: EmbeddingModel
    ) -> None:
        weights = hf_cache(toy_model, ID) / WEIGHTS
        blob = weights.resolve()
        shared = repository(weights.parent).parent / "blobs" / blob.name
        shared.parent.mkdir()
        blob.rename(shared)
        weights.unlink()
        weights.symlink_to(shared)
        assert same(offline().load_model(), toy)

    def test_outside_the_cache_are_refused(self, hf_cache: HfCache, toy_model: Path, tmp_path: Path) -> None:
        weights = hf_cache(toy_model, ID) / WEIGHTS
        elsewhere = shutil.copy(weights.resolve(), tmp_path / weights.resolve().name)
        weights.unlink()
        weights.symlink_to(elsewhere)
        with pytest.raises(HubConnectionError, match="outside the model's folder"):
            offline().load_model()


class TestEnvironment:
    def test_names_a_mirror(
        self, side: Side, toy_model: Path, toy: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with HuggingFaceHub() as mirror:
            mirror.add_model(ID, toy_model)
            monkeypatch.setenv("HF_ENDPOINT", f"{mirror.url}/")
            assert same(side.load(), toy)
            assert mirror.count(WEIGHTS, "GET") == 1
        assert side.hub.requests == []

    @pytest.mark.parametrize("value", [None, ""])
    def test_without_a_mirror_asks_the_hub_itself(
        self, monkeypatch: pytest.MonkeyPatch, value: str | None
    ) -> None:
        if value is not None:
            monkeypatch.setenv("HF_ENDPOINT", value)
        request = HuggingFaceModelLoader(Config()).request(ID)
        assert (request.endpoint, request.revision) == ("https://huggingface.co", "main")

    @pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
    @pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
    def test_forbids_requests(
        self, side: Side, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        with pytest.raises(HubConnectionError, match=f"{variable} forbids requests"):
            side.load()
        assert side.hub.requests == []

    @pytest.mark.parametrize("value", ["", "0", "false"])
    def test_with_a_switch_that_is_off_allows_requests(
        self, side: Side, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert side.loader().request(ID).repo_id == ID

    def test_does_not_forbid_the_other_hub(
        self, hubs: dict[str, Side], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert hubs["modelscope"].loader().request(ID).repo_id == ID

    @pytest.mark.parametrize("where", ["variable", "file"])
    def test_holds_a_token_for_a_private_model(
        self, side: Side, toy_model: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        side.hub.add_model(ID, toy_model, private_token="mine")
        if where == "variable":
            monkeypatch.setenv("HF_TOKEN", "mine")
        else:  # as `hf auth login` leaves it
            (Path(os.environ["HF_HOME"]) / "token").write_text("mine\n")
        side.load()
        assert {request.token for request in side.hub.requests if "/org/" in request.path} == {"mine"}


def test_a_reference_is_written_last(side: Side) -> None:
    """It says that the branch is complete on disk."""
    side.hub.fault("404", match=WEIGHTS)
    with pytest.raises((ModelFilesError, ModelNotFoundError)):
        side.load()
    assert side.snapshot.is_dir()
    assert not (repository(side.snapshot) / "refs").exists()
    side.hub.clear_faults()
    side.load()
    assert (repository(side.snapshot) / "refs" / "main").read_text() == side.commit
