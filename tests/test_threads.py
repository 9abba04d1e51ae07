"""How many threads a forward pass may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emb_model_provider.core.embedding import threads
from emb_model_provider.core.embedding.threads import allowed_threads


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """64 cores, no container, no variable. The folder is where a container's limits are."""
    monkeypatch.setattr(threads._quota, "__defaults__", (tmp_path,))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def test_every_core_by_default() -> None:
    assert allowed_threads() == 64


@pytest.mark.parametrize(
    ("limit", "allowed"), [("max 100000", 64), ("200000 100000", 2), ("50000 100000", 1)]
)
def test_the_limit_of_a_container(limit: str, allowed: int, machine: Path) -> None:
    (machine / "cpu.max").write_text(f"{limit}\n")
    assert allowed_threads() == allowed


@pytest.mark.parametrize(("quota", "allowed"), [("-1", 64), ("150000", 2)])
def test_the_limit_of_an_older_container(quota: str, allowed: int, machine: Path) -> None:
    (machine / "cpu").mkdir()
    (machine / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (machine / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert allowed_threads() == allowed


@pytest.mark.parametrize(("value", "allowed"), [("3", 3), ("4,2", 4), ("0", 64), ("", 64), ("many", 64)])
def test_openmps_variable(value: str, allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert allowed_threads() == allowed


def test_the_least_of_them(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "cpu.max").write_text("800000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert allowed_threads() == 6


def test_the_users_number_wins(machine: Path) -> None:
    (machine / "cpu.max").write_text("100000 100000")
    assert allowed_threads(7) == 7


def test_a_limit_that_cannot_be_read_is_none(machine: Path) -> None:
    (machine / "cpu.max").write_text("not a limit")
    assert allowed_threads() == 64
