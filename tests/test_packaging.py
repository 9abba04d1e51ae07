"""What the metadata says is what is there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"core": "emb_model_provider.core"}  # folder -> the name it is installed as, where they differ


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    content: dict[str, Any] = toml.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return content


def test_every_folder_of_code_is_installed(project: dict[str, Any]) -> None:
    folders = {
        path.parent.relative_to(ROOT).parts
        for top in ("core", "langchain_embprov", "llamaindex_embprov")
        for path in (ROOT / top).rglob("*.py")
    }
    names = {".".join((PACKAGES.get(parts[0], parts[0]), *parts[1:])) for parts in folders}
    assert names == set(project["tool"]["setuptools"]["packages"])


def test_every_package_says_that_it_is_typed(project: dict[str, Any]) -> None:
    assert all((ROOT / name / "py.typed").is_file() for name in ("core", *_adapters()))
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["*"]


def test_every_file_of_data_is_installed(project: dict[str, Any]) -> None:
    data = project["tool"]["setuptools"]["package-data"]
    patterns = [*data["*"], *data["emb_model_provider.core"]]
    files = [p for p in (ROOT / "core").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert files
    assert all(p.parent == ROOT / "core" and any(p.match(pattern) for pattern in patterns) for p in files)


def test_nothing_is_left_to_two_installations() -> None:
    """The adapters come from where the core does, not from the current folder (`make wheel`)."""
    core = importlib.import_module("emb_model_provider.core")
    places = {Path(str(importlib.import_module(name).__file__)).parent.parent for name in _adapters()}
    home = Path(str(core.__file__)).parent
    assert places == {home.parent if home.parent == ROOT else home.parent.parent}


def test_public_names_are_sorted_and_resolve() -> None:
    core = importlib.import_module("emb_model_provider.core")
    assert core.__all__ == sorted(core.__all__)
    for name in core.__all__:
        assert getattr(core, name).__name__ == name
    assert set(core.__all__) <= set(dir(core))
    with pytest.raises(AttributeError, match="NoSuchName"):
        core.NoSuchName  # noqa: B018


@pytest.mark.parametrize("name", ["langchain_embprov", "llamaindex_embprov"])
def test_an_adapter_package_has_one_name(name: str) -> None:
    package = importlib.import_module(name)
    (public,) = package.__all__
    assert getattr(package, public).__name__ == public


def test_the_changelog_has_the_version_on_top(project: dict[str, Any]) -> None:
    versions = re.findall(r"^## \[?([^\]\s]+)\]?", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    released = [version for version in versions if version.lower() != "unreleased"]
    assert released[0] == project["project"]["version"]


def test_all_is_both_adapters_modelscope_and_openvino(project: dict[str, Any]) -> None:
    (everything,) = project["project"]["optional-dependencies"]["all"]
    assert everything == "emb-model-provider[langchain,llamaindex,modelscope,openvino]"


def test_every_dependency_has_a_tested_version(project: dict[str, Any]) -> None:
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    for extra in project["project"]["optional-dependencies"].values():
        wanted = wanted + [r for r in extra if _plain_name(r) != project["project"]["name"]]
    tested = {
        _plain_name(line) for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line
    }
    assert {_plain_name(requirement) for requirement in wanted} <= tested


def _adapters() -> tuple[str, str]:
    return "langchain_embprov", "llamaindex_embprov"


def _plain_name(requirement: str) -> str:
    return re.split(r"[\s<>=;\[#]", requirement, maxsplit=1)[0].lower().replace("_", "-")
