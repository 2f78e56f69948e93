"""What is synced, and in which order."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from auditpipeline.cli.run_folder import DataFolder
from auditpipeline.core import config as contract
from auditpipeline.core.errors import AuditPipelineError
from auditpipeline.dataplane import disk
from auditpipeline.dataplane.disk import make_folders
from auditpipeline.dataplane.spool import open_spool
from tests.dataplane.test_spool import LOG


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are synced, in order; what cannot be seen from outside."""
    found: list[Path] = []
    sync = disk.sync_folder

    def noted(folder: Path) -> None:
        sync(folder)
        found.append(folder)

    monkeypatch.setattr(disk, "sync_folder", noted)
    return found


def test_each_new_folder_is_synced_in_the_one_above(tmp_path: Path, synced: list[Path]) -> None:
    """From the top down, each before anything is made in it; folders that are there are left alone."""
    make_folders(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    make_folders(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3


async def test_the_folders_of_a_spool_are_synced(tmp_path: Path, synced: list[Path]) -> None:
    """A spool in a folder that a power cut takes away would lose what was acknowledged."""
    spool = await open_spool(contract.Spool(str(tmp_path / "new" / "spool.sqlite")), ("out",), LOG)
    await spool.close()
    assert tmp_path in synced


def test_the_data_folder_of_a_process_without_kubernetes_is_synced(tmp_path: Path, synced: list[Path]) -> None:
    """The spool lies in it, and finds it there: nobody else would sync its name."""
    DataFolder(tmp_path / "auditpipeline" / "main").make()
    assert synced == [tmp_path, tmp_path / "auditpipeline"]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    """Nothing is made, and nothing of it is removed."""
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OSError, match="a"):
        make_folders(tmp_path / "a" / "b")
    with pytest.raises(FileExistsError):
        make_folders(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "mine"


async def test_a_spool_below_a_file_is_refused_in_words(tmp_path: Path) -> None:
    """The message has the folder."""
    (tmp_path / "a").write_text("mine")
    with pytest.raises(AuditPipelineError, match=f"the spool's folder {tmp_path}/a/b cannot be used"):
        await open_spool(contract.Spool(str(tmp_path / "a" / "b" / "spool.sqlite")), ("out",), LOG)


def test_a_folder_that_could_not_be_synced_is_synced_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed again: a folder that is there counts as durable."""
    sync = os.fsync

    def fail(number: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        make_folders(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(os, "fsync", sync)
    make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
