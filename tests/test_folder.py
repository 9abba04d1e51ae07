from __future__ import annotations

from pathlib import Path

import pytest

from emb_model_provider.core.embedding.folder import ModelFolder, join, safe_relative_path
from emb_model_provider.core.errors import ModelFilesError


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    (tmp_path / "good.json").write_text('{"a": [1]}')
    (tmp_path / "list.json").write_text('[{"a": 1}, {}]')
    (tmp_path / "empty.json").touch()
    return ModelFolder(tmp_path, "path")


def test_says_where_the_model_came_from(tmp_path: Path) -> None:
    assert str(ModelFolder(tmp_path, "path")) == str(tmp_path)
    hub = ModelFolder(tmp_path, "huggingface", "org/model", "main")
    assert str(hub) == f"org/model@main of huggingface, {tmp_path}"


def test_reads_json(folder: ModelFolder) -> None:
    assert folder.json("good.json") == {"a": [1]}
    assert folder.json("absent.json") == {}
    assert folder.json_list("list.json") == [{"a": 1}, {}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "must hold a JSON dict"),
        ("{", "cannot be read as JSON"),
        ('{"a": {"b": 1, "b": 2}}', r"cannot be read as JSON \(a key is there twice, among \['b'\]\)"),
    ],
)
def test_refuses_json_that_is_not_one_object(folder: ModelFolder, content: str, said: str) -> None:
    (folder.path / "bad.json").write_text(content)
    with pytest.raises(ModelFilesError, match=f"bad.json {said}.*ownload the model again"):
        folder.json("bad.json")


def test_refuses_a_list_of_anything_but_objects(folder: ModelFolder) -> None:
    (folder.path / "list.json").write_text("[{}, 1]")
    with pytest.raises(ModelFilesError, match="must hold a list of objects"):
        folder.json_list("list.json")
    with pytest.raises(ModelFilesError, match=r"absent.json is missing"):
        folder.json_list("absent.json")


def test_requires_a_file_with_something_in_it(folder: ModelFolder) -> None:
    assert folder.require("good.json") == folder.path / "good.json"
    with pytest.raises(ModelFilesError, match=r"absent is missing"):
        folder.require("absent")
    with pytest.raises(ModelFilesError, match=r"empty.json is empty"):
        folder.require("empty.json")


def test_limits_sizes(folder: ModelFolder) -> None:
    assert folder.check_size("good.json", 10) == folder.path / "good.json"
    assert folder.check_size("absent", 0) == folder.path / "absent"
    with pytest.raises(ModelFilesError, match=r"good.json has 10 bytes, more than .* \(9\)"):
        folder.check_size("good.json", 9)


@pytest.mark.parametrize("name", ["a", "a/b.json", "./a", "a/./b", "ü/数.json", ".hidden", "a..b"])
def test_takes_names_inside(name: str) -> None:
    assert not safe_relative_path(name).is_absolute()


@pytest.mark.parametrize("name", ["..", "a/..", "../a", "/a", "//a", "C:", "C:a", "c:/a", "a\\b", "\\a"])
def test_refuses_names_that_lead_outside(name: str) -> None:
    with pytest.raises(ModelFilesError, match=r"outside its own folder; refused"):
        safe_relative_path(name)


@pytest.mark.parametrize(
    ("path", "joined"), [("", "x"), (".", "x"), ("a", "a/x"), ("a/", "a/x"), ("a/b", "a/b/x")]
)
def test_joins_the_path_of_a_module(path: str, joined: str) -> None:
    assert join(path, "x") == joined


@pytest.mark.parametrize("kept", ["models--org--model", "other"])
@pytest.mark.parametrize("blobs", ["models--org--model/blobs", "blobs", "elsewhere"])
def test_links_of_a_snapshot_lead_to_blobs_only(tmp_path: Path, kept: str, blobs: str) -> None:
    folder = ModelFolder(tmp_path / kept / "snapshots" / "main", "huggingface")
    blob = tmp_path / blobs / "1234"
    for parent in (folder.path, blob.parent):
        parent.mkdir(parents=True)
    blob.write_text("{}")
    (folder.path / "config.json").symlink_to(blob)
    if kept == "other" or blobs == "elsewhere":
        with pytest.raises(
            ModelFilesError, match=r"config.json is a link to .*1234, outside the model's folder"
        ):
            folder.file("config.json")
    else:
        assert folder.json("config.json") == {}


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\ntext", "mit"),
        ("---\ntags: [a]\nlicense: 'apache-2.0'\n---\n", "apache-2.0"),
        ("license: mit\n", None),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_reads_the_licence_of_the_model_card(folder: ModelFolder, card: str, licence: str | None) -> None:
    assert folder.read_licence() is None
    (folder.path / "README.md").write_text(card)
    assert folder.read_licence() == licence
