"""Hashes of a model's files: right, computed once, and never trusted for a file that has changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from emb_model_provider.core.embedding import file_hashes
from emb_model_provider.core.embedding.file_hashes import (
    FileHashes,
    git_sha1_of,
    sha256_of,
    write_atomically,
)
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.errors import ModelFilesError

NAME = "sub/weights.bin"
CONTENT = b"some bytes" * 200_000  # more than one piece
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    path = tmp_path / "model" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return ModelFolder(tmp_path / "model", "path")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read to be hashed."""
    found: list[str] = []

    def counted(path: Path) -> str:
        found.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(file_hashes, "sha256_of", counted)
    return found


class TestHash:
    def test_is_the_sha256_of_the_bytes(self, folder: ModelFolder, cache: Path) -> None:
        assert FileHashes(folder, cache).sha256(NAME) == DIGEST

    def test_is_computed_once_and_remembered_by_later_processes(
        self, folder: ModelFolder, cache: Path, reads: list[str]
    ) -> None:
        hashes = FileHashes(folder, cache)
        assert [hashes.sha256(NAME), hashes.sha256(NAME), FileHashes(folder, cache).sha256(NAME)] == [
            DIGEST
        ] * 3
        assert reads == ["weights.bin"]

    @pytest.mark.parametrize("change", ["size", "time"])
    def test_is_computed_again_when_the_file_has_changed(
        self, folder: ModelFolder, cache: Path, reads: list[str], change: str
    ) -> None:
        hashes = FileHashes(folder, cache)
        hashes.sha256(NAME)
        path, state = folder.path / NAME, (folder.path / NAME).stat()
        content = CONTENT[:-1] if change == "size" else b"S" + CONTENT[1:]
        path.write_bytes(content)
        later = state.st_mtime_ns + (1 if change == "time" else 0)
        os.utime(path, ns=(state.st_atime_ns, later))
        assert hashes.sha256(NAME) == hashlib.sha256(content).hexdigest()
        assert len(reads) == 2

    def test_is_computed_again_of_another_file_of_the_same_size_and_time(
        self, folder: ModelFolder, cache: Path
    ) -> None:
        """Images and archives that can be made again give every file one time."""
        path = folder.path / NAME
        os.utime(path, (1, 1))
        assert FileHashes(folder, cache).sha256(NAME) == DIGEST
        path.unlink()
        path.write_bytes(CONTENT[::-1])
        os.utime(path, (1, 1))
        assert FileHashes(folder, cache).sha256(NAME) == hashlib.sha256(CONTENT[::-1]).hexdigest()

    @pytest.mark.parametrize("known", [5, None, [], [1], {}, "text"])
    def test_is_computed_again_when_the_record_has_something_else(
        self, folder: ModelFolder, cache: Path, known: object
    ) -> None:
        FileHashes(folder, cache).sha256(NAME)
        (record,) = (cache / "files").iterdir()
        content = json.loads(record.read_text())
        content["found"][NAME] = known
        record.write_text(json.dumps(content))
        assert FileHashes(folder, cache).sha256(NAME) == DIGEST

    def test_of_each_folder_is_kept_apart(self, folder: ModelFolder, cache: Path, reads: list[str]) -> None:
        other = ModelFolder(shutil.copytree(folder.path, folder.path.parent / "other"), "path")
        for place in (folder, other, folder):
            assert FileHashes(place, cache).sha256(NAME) == DIGEST
        assert len(reads) == 2

    @pytest.mark.parametrize(
        "record", ["", "not JSON", "[]", "{}", '{"found": [], "announced": {}}', '{"found": {"a": 1}}']
    )
    def test_is_computed_again_when_the_record_is_damaged(
        self, folder: ModelFolder, cache: Path, reads: list[str], record: str
    ) -> None:
        FileHashes(folder, cache).sha256(NAME)
        (path,) = (cache / "files").iterdir()
        path.write_text(record)
        assert FileHashes(folder, cache).sha256(NAME) == DIGEST
        assert len(reads) == 2

    def test_is_given_although_it_cannot_be_kept(
        self, folder: ModelFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        with caplog.at_level(logging.WARNING):
            assert FileHashes(folder, tmp_path / "file").sha256(NAME) == DIGEST
        assert "computed again" in caplog.text

    def test_of_a_missing_file_names_it(self, folder: ModelFolder, cache: Path) -> None:
        with pytest.raises(ModelFilesError, match=r"nothing\.bin"):
            FileHashes(folder, cache).sha256("nothing.bin")

    def test_of_a_file_that_cannot_be_read_names_it(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFilesError, match="cannot be read") as raised:
            sha256_of(tmp_path)
        assert isinstance(raised.value.__cause__, OSError)

    def test_reports_progress_for_each_mebibyte(self, folder: ModelFolder) -> None:
        reports: list[int] = []
        sha256_of(folder.path / NAME, lambda: reports.append(1))
        assert len(reports) == 2

    def test_of_git_is_gits(self, tmp_path: Path) -> None:
        (tmp_path / "hello").write_bytes(b"hello\n")
        expected = "ce013625030ba8dba906f756967f9e9ca394464a"  # echo hello | git hash-object --stdin
        assert git_sha1_of(tmp_path / "hello") == expected


class TestAnnounced:
    def test_is_nothing_before_a_download(self, folder: ModelFolder, cache: Path) -> None:
        assert FileHashes(folder, cache).announced == {}

    def test_spares_reading_the_files(self, folder: ModelFolder, cache: Path, reads: list[str]) -> None:
        FileHashes(folder, cache).announce({NAME: DIGEST})
        hashes = FileHashes(folder, cache)
        assert (hashes.announced, hashes.sha256(NAME)) == ({NAME: DIGEST}, DIGEST)
        hashes.check(hashes.announced)
        assert reads == []

    def test_outlives_a_change_of_the_file_which_is_then_refused_by_name(
        self, folder: ModelFolder, cache: Path
    ) -> None:
        FileHashes(folder, cache).announce({NAME: DIGEST})
        (folder.path / NAME).write_bytes(b"other bytes")
        hashes = FileHashes(folder, cache)
        with pytest.raises(ModelFilesError, match=f"{NAME} is not the file that was published") as raised:
            hashes.check(hashes.announced)
        assert DIGEST in str(raised.value)
        assert hashlib.sha256(b"other bytes").hexdigest() in str(raised.value)
        assert FileHashes(folder, cache).announced == {NAME: DIGEST}

    def test_may_be_of_an_empty_file(self, folder: ModelFolder, cache: Path) -> None:
        (folder.path / "README.md").touch()
        announced = {"README.md": hashlib.sha256(b"").hexdigest()}
        FileHashes(folder, cache).announce(announced)
        FileHashes(folder, cache).check(announced)

    def test_file_that_is_lost_is_named(self, folder: ModelFolder, cache: Path) -> None:
        with pytest.raises(ModelFilesError, match=r"gone\.bin"):
            FileHashes(folder, cache).check({"gone.bin": DIGEST})

    def test_is_replaced_by_the_next_download(self, folder: ModelFolder, cache: Path) -> None:
        FileHashes(folder, cache).announce({NAME: DIGEST})
        (folder.path / "new.json").write_text("{}")
        digest = hashlib.sha256(b"{}").hexdigest()
        FileHashes(folder, cache).announce({"new.json": digest})
        assert FileHashes(folder, cache).announced == {"new.json": digest}


class TestWriteAtomically:
    def test_makes_the_folder_and_the_file(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a" / "b.json", lambda path: path.write_text(json.dumps([1])))
        assert (tmp_path / "a" / "b.json").read_text() == "[1]"

    def test_leaves_the_old_file_when_it_fails(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("old")

        def fail(path: Path) -> None:
            path.write_text("half")
            raise OSError("no space")

        with pytest.raises(OSError, match="no space"):
            write_atomically(target, fail)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]
