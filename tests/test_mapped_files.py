"""Giving back the memory of mapped files."""

import mmap
import sys
from pathlib import Path

import pytest
from process_memory import resident

from emb_model_provider.core.embedding.mapped_files import release

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "with a space.bin"
    path.write_bytes(bytes(range(256)) * 16384)
    return path


def test_pages_are_given_back_and_read_again(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        content = mapped[:]
        assert resident(file) >= 4096
        release(file)
        assert resident(file) == 0
        assert mapped[:] == content


def test_what_was_written_into_a_private_mapping_stays(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"mine"
        release(file)
        assert mapped[:4] == b"mine"


def test_a_file_that_is_not_mapped_is_left_alone(file: Path) -> None:
    release(file)
    release(file.with_name("missing"))
