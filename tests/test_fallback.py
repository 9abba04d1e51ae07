"""Which copy of a model is taken, and what is said when one, some or all of the candidates fail."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from both_hubs import ID, SETTINGS, WEIGHTS, Side, same
from hubs import refused_url
from models import edit_json, load

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import (
    AccessDeniedError,
    ConfigError,
    FingerprintMismatchError,
    HubConnectionError,
    MissingDependencyError,
    ModelFilesError,
    ModelLoadError,
    ModelNotFoundError,
    ModelSubstitutionWarning,
    NoModelError,
    UnsupportedModelError,
)
from emb_model_provider.core.loaders import fallback, modelscope
from emb_model_provider.core.loaders.fallback import LoadedModel, load_first
from emb_model_provider.core.model_manager import ModelManager
from emb_model_provider.core.model_names import Candidate

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"


class Shelf:
    """A source: what each repository has on disk, and what its download brings."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self.name = name
        self.disk: dict[str, Path | Exception] = {}
        self.hub: dict[str, Path | Exception] = {}
        self._asked = asked

    def find_local(self, repo_id: str) -> ModelFolder | None:
        self._asked.append(f"{self.name} disk {repo_id}")
        return self._folder(repo_id, self.disk[repo_id]) if repo_id in self.disk else None

    def download(self, repo_id: str) -> ModelFolder:
        self._asked.append(f"{self.name} hub {repo_id}")
        nothing = ModelNotFoundError(f"{repo_id} not found on {self.name}. Check the name.")
        return self._folder(repo_id, self.hub.get(repo_id, nothing))

    def _folder(self, repo_id: str, found: Path | Exception) -> ModelFolder:
        if isinstance(found, Exception):
            raise found
        return ModelFolder(found, self.name, repo_id, "main")


class Shelves:
    """Both sources.

    Attributes:
        asked: Every question to one of them, in order.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.modelscope = Shelf("modelscope", self.asked)
        self.huggingface = Shelf("huggingface", self.asked)

    def load(self, name: str = ID, source: str = "auto", **settings: Any) -> LoadedModel:
        given: dict[str, Any] = SETTINGS | {"model_source": source} | settings
        return load_first(
            name, Config(**given), {"modelscope": self.modelscope, "huggingface": self.huggingface}
        )


@pytest.fixture
def shelves() -> Shelves:
    return Shelves()


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model package is installed."""
    monkeypatch.setattr(fallback, "find_package", lambda repo_id: None)


@pytest.fixture
def broken(toy_model: Path, tmp_path: Path) -> Path:
    """A model with weights that are cut off."""
    folder = shutil.copytree(toy_model, tmp_path / "broken")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])
    return folder


@pytest.fixture
def unsupported(toy_model: Path, tmp_path: Path) -> Path:
    """A model with a switch that is not known."""
    folder = shutil.copytree(toy_model, tmp_path / "unsupported")
    edit_json(folder / "1_Pooling" / "config.json", lambda content: content.update(new_switch=1))
    return folder


@pytest.mark.usefixtures("no_package")
def test_auto_fallback(hubs: dict[str, Side], toy_model: Path, toy: EmbeddingModel) -> None:
    hubs["modelscope"].hub.fault("500")
    hubs["huggingface"].hub.add_model(MINILM, toy_model)

    config = Config(model_source="auto")
    manager = ModelManager(config)

    # Should succeed even if ModelScope fails
    manager.load_model("sentence-transformers/all-MiniLM-L6-v2")
    embeddings = manager.generate_embeddings(["test"])
    assert embeddings is not None

    assert embeddings == [pytest.approx(toy.embed(["test"])[0].tolist(), abs=1e-5)]
    info = manager.get_model_info()
    assert (info["source"], info["repo_id"], info["substitute_for"]) == ("huggingface", MINILM, None)
    assert "failing" in info["failures"][f"{MINILM} on ModelScope"]
    assert hubs["modelscope"].lists() == 3


class TestAuto:
    """Over the real loaders: ModelScope fails in each way it can, Hugging Face has the model."""

    @pytest.mark.parametrize(
        ("failure", "said"),
        [
            ("missing package", "ModelScope not installed. Install with: pip install modelscope"),
            ("404", "not found on ModelScope"),
            ("403", "gated or private"),
            ("refused", "cannot be reached"),
            ("html", "does not answer as ModelScope does"),
            ("success-false", "lists no files"),
            ("wrong-bytes", "announced"),
            ("unsupported", "new_switch"),
        ],
    )
    def test_falls_back_over_every_kind_of_failure(
        self,
        hubs: dict[str, Side],
        toy: EmbeddingModel,
        unsupported: Path,
        failure: str,
        said: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        side, other = hubs["modelscope"], hubs["huggingface"]
        if failure == "missing package":
            monkeypatch.setattr(modelscope, "find_spec", lambda name: None)
        elif failure == "refused":
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", refused_url())
        elif failure == "unsupported":
            side.hub.add_model(ID, unsupported)
        else:
            side.hub.fault(failure, match=WEIGHTS if failure == "wrong-bytes" else "")
        with caplog.at_level(logging.WARNING, "emb_model_provider"):
            manager = side.manager(model_source="auto")
        info = manager.get_model_info()
        expected = {
            "source": "huggingface",
            "repo_id": ID,
            "revision": other.commit,
            "folder": str(other.snapshot),
            "substitute_for": None,
        }
        assert {key: info[key] for key in expected} == expected
        assert list(info["failures"]) == [f"{ID} on ModelScope"]
        assert said in info["failures"][f"{ID} on ModelScope"]
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [f"{ID} on ModelScope: {info['failures'][f'{ID} on ModelScope']}"]
        assert manager.loader is manager._loaders["huggingface"]
        assert same(manager.model, toy)

    def test_prefers_modelscope_and_asks_the_other_nothing(self, hubs: dict[str, Side]) -> None:
        info = hubs["modelscope"].manager(model_source="auto").get_model_info()
        assert (info["source"], info["failures"]) == ("modelscope", {})
        assert hubs["huggingface"].hub.requests == []

    def test_prefers_a_copy_on_disk_of_the_other_to_a_download(self, hubs: dict[str, Side]) -> None:
        hubs["huggingface"].load()
        info = hubs["modelscope"].manager(model_source="auto").get_model_info()
        assert (info["source"], info["failures"]) == ("huggingface", {})
        assert hubs["modelscope"].hub.requests == []


class TestOrder:
    @pytest.mark.usefixtures("no_package")
    @pytest.mark.parametrize(
        ("source", "settings", "expected"),
        [
            ("huggingface", {}, [f"huggingface {place} {MINILM}" for place in ("disk", "hub")]),
            (
                "modelscope",
                {},
                [
                    f"modelscope {place} {name}"
                    for name in (MINILM, MULTILINGUAL)
                    for place in ("disk", "hub")
                ],
            ),
            (
                "auto",
                {},
                [
                    f"modelscope disk {MINILM}",
                    f"huggingface disk {MINILM}",
                    f"modelscope hub {MINILM}",
                    f"huggingface hub {MINILM}",
                    f"modelscope disk {MULTILINGUAL}",
                    f"modelscope hub {MULTILINGUAL}",
                ],
            ),
            (
                "auto",
                {"allow_substitutes": False},
                [
                    f"{hub} {place} {MINILM}"
                    for place in ("disk", "hub")
                    for hub in ("modelscope", "huggingface")
                ],
            ),
            (
                "modelscope",
                {"modelscope_model_id": "me/mine"},
                ["modelscope disk me/mine", "modelscope hub me/mine"],
            ),
            (
                "modelscope",
                {"modelscope_model_mapping": {MINILM: "me/mapped"}},
                ["modelscope disk me/mapped", "modelscope hub me/mapped"],
            ),
        ],
    )
    def test_is_what_is_on_disk_then_the_hubs_then_a_different_model(
        self, shelves: Shelves, source: str, settings: dict[str, Any], expected: list[str]
    ) -> None:
        with pytest.raises(ModelLoadError):
            shelves.load(MINILM, source, **settings)
        assert shelves.asked == expected

    def test_puts_a_package_before_a_download(
        self, shelves: Shelves, toy_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = ModelFolder(toy_model, "package", "a_package")
        monkeypatch.setattr(fallback, "find_package", lambda repo_id: package if repo_id == MINILM else None)
        found = shelves.load("all-MiniLM-L6-v2")
        assert found.model.description.folder == package
        assert shelves.asked == [f"modelscope disk {MINILM}", f"huggingface disk {MINILM}"]

    def test_leaves_a_package_out_where_a_revision_is_asked_for(self, shelves: Shelves) -> None:
        with pytest.raises(ModelNotFoundError):
            shelves.load(MINILM, "huggingface", revision="v1.0")
        assert shelves.asked[-1] == f"huggingface hub {MINILM}"

    def test_puts_a_folder_of_the_users_before_all(self, shelves: Shelves, toy_model: Path) -> None:
        found = shelves.load(MINILM, model_path=str(toy_model))
        assert found.model.description.folder.path == toy_model
        assert shelves.asked == []


class TestFailure:
    KINDS = (
        MissingDependencyError,
        ModelNotFoundError,
        AccessDeniedError,
        HubConnectionError,
        ModelFilesError,
        UnsupportedModelError,
        FingerprintMismatchError,
        ModelLoadError,
    )

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("place", ["disk", "hub"])
    def test_of_any_kind_leads_to_the_next_candidate(
        self, shelves: Shelves, toy_model: Path, kind: type[ModelLoadError], place: str
    ) -> None:
        error = kind("what failed. What to do.")
        getattr(shelves.modelscope, place)[ID] = error
        shelves.huggingface.hub[ID] = toy_model
        found = shelves.load()
        assert found.model.description.folder.source == "huggingface"
        assert [candidate for candidate, _ in found.failures] == [Candidate("modelscope", ID)]
        assert "what failed. What to do." in str(found.failures[0][1])

    @pytest.mark.parametrize(
        "kind", [MissingDependencyError, UnsupportedModelError, FingerprintMismatchError]
    )
    def test_that_another_copy_would_share_spares_the_download(
        self, shelves: Shelves, kind: type[ModelLoadError]
    ) -> None:
        shelves.modelscope.disk[ID] = error = kind("no use")
        with pytest.raises(kind) as raised:
            shelves.load(source="modelscope")
        assert raised.value is error
        assert shelves.asked == [f"modelscope disk {ID}"]

    def test_of_a_copy_on_disk_is_cured_by_a_download(
        self, shelves: Shelves, broken: Path, toy_model: Path
    ) -> None:
        shelves.modelscope.disk[ID] = broken
        shelves.modelscope.hub[ID] = toy_model
        found = shelves.load(source="modelscope")
        assert found.model.description.folder.path == toy_model
        assert WEIGHTS in str(found.failures[0][1])

    def test_of_a_copy_on_disk_is_told_when_the_download_fails_too(
        self, shelves: Shelves, broken: Path
    ) -> None:
        shelves.modelscope.disk[ID] = broken
        shelves.modelscope.hub[ID] = HubConnectionError("cannot be reached.")
        with pytest.raises(HubConnectionError, match=rf"cannot be reached\. On disk: .*{WEIGHTS}"):
            shelves.load(source="modelscope")

    def test_of_the_only_candidate_is_raised_as_it_is(self, shelves: Shelves) -> None:
        shelves.huggingface.hub[ID] = error = AccessDeniedError("gated")
        with pytest.raises(AccessDeniedError) as raised:
            shelves.load(source="huggingface")
        assert raised.value is error

    @pytest.mark.usefixtures("no_package")
    def test_of_all_is_one_error_with_every_reason_and_next_step(
        self, shelves: Shelves, caplog: pytest.LogCaptureFixture
    ) -> None:
        reasons: dict[Candidate, ModelLoadError] = {
            Candidate("modelscope", MINILM): AccessDeniedError("gated. Accept its licence."),
            Candidate("huggingface", MINILM): HubConnectionError("silent. Check the network."),
            Candidate("modelscope", MULTILINGUAL): ModelFilesError("damaged. Try again."),
        }
        for candidate, reason in reasons.items():
            getattr(shelves, candidate.source).hub[candidate.repo_id] = reason
        with pytest.raises(RuntimeError) as raised, caplog.at_level(logging.WARNING):
            shelves.load(MINILM)
        error = raised.value
        assert isinstance(error, NoModelError)
        assert error.failures == tuple(reasons.values())
        lines = [f"{candidate}: {reason}" for candidate, reason in reasons.items()]
        assert str(error).splitlines() == [
            f"No candidate for the model {MINILM!r} could be loaded:",
            *(f"  - {line}" for line in lines),
        ]
        assert [record.getMessage() for record in caplog.records] == lines
        chain: list[BaseException] = []
        link = error.__cause__
        while link is not None:
            chain.append(link)
            link = link.__cause__ or link.__context__
        assert chain == list(reversed(reasons.values()))

    @pytest.mark.parametrize("bug", [TypeError("a bug"), KeyError("a bug"), ConfigError("no such device")])
    def test_that_is_a_bug_or_a_wrong_setting_is_not_fallen_back_over(
        self, shelves: Shelves, bug: Exception, toy_model: Path
    ) -> None:
        shelves.modelscope.hub[ID] = bug
        shelves.huggingface.hub[ID] = toy_model
        with pytest.raises(type(bug)) as raised:
            shelves.load()
        assert raised.value is bug


@pytest.mark.usefixtures("no_package")
class TestSubstitute:
    def test_is_loaded_with_a_warning_and_told(self, hubs: dict[str, Side], toy_model: Path) -> None:
        hubs["modelscope"].hub.add_model(MULTILINGUAL, toy_model)
        with pytest.warns(ModelSubstitutionWarning, match="a different model") as warned:
            info = hubs["modelscope"].manager(model_name=MINILM).get_model_info()
        assert len(warned) == 1
        for part in (MULTILINGUAL, MINILM, "allow_substitutes", "modelscope_model_id"):
            assert part in str(warned[0].message)
        assert (info["repo_id"], info["substitute_for"]) == (MULTILINGUAL, MINILM)
        assert list(info["failures"]) == [f"{MINILM} on ModelScope"]

    def test_of_a_copy_on_disk_that_is_damaged_is_fetched_again(
        self, shelves: Shelves, broken: Path, toy_model: Path
    ) -> None:
        shelves.modelscope.disk[MULTILINGUAL] = broken
        shelves.modelscope.hub[MULTILINGUAL] = toy_model
        with pytest.warns(ModelSubstitutionWarning):
            assert shelves.load(MINILM).model.description.folder.path == toy_model

    def test_on_disk_comes_after_the_model_itself_on_a_hub(self, shelves: Shelves, toy_model: Path) -> None:
        shelves.modelscope.disk[MULTILINGUAL] = toy_model
        shelves.huggingface.hub[MINILM] = toy_model
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = shelves.load(MINILM)
        assert (found.model.description.folder.repo_id, found.substitute_for) == (MINILM, None)

    @pytest.mark.parametrize("source", ["modelscope", "auto"])
    def test_that_is_forbidden_is_an_error(
        self, shelves: Shelves, toy_model: Path, source: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMB_PROVIDER_ALLOW_SUBSTITUTES", "false")
        shelves.modelscope.disk[MULTILINGUAL] = shelves.modelscope.hub[MULTILINGUAL] = toy_model
        with pytest.raises(ModelLoadError, match=MINILM):
            shelves.load(MINILM, source)
        assert not [asked for asked in shelves.asked if MULTILINGUAL in asked]

    @pytest.mark.parametrize(
        "settings",
        [
            {"modelscope_model_id": "me/mine"},
            {"modelscope_model_mapping": {MINILM: "me/mine"}},
            {"modelscope_model_id": "me/mine", "modelscope_model_mapping": {MINILM: "me/other"}},
        ],
        ids=str,
    )
    def test_is_none_when_the_user_names_the_models_own_id(
        self, hubs: dict[str, Side], toy_model: Path, settings: dict[str, Any]
    ) -> None:
        hubs["modelscope"].hub.add_model("me/mine", toy_model)
        manager = hubs["modelscope"].manager(model_name=MINILM, model_source="auto", **settings)
        info = manager.get_model_info()
        assert (info["source"], info["repo_id"]) == ("modelscope", "me/mine")
        assert (info["substitute_for"], info["failures"]) == (None, {})
        assert same(manager.model, load(toy_model))
