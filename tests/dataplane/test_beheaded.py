"""A spool that is gone, or empty, beside its journal: SQLite would delete the journal, with what was acknowledged."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from auditpipeline.core import config as contract
from auditpipeline.dataplane import layout
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.spool import open_spool
from auditpipeline.dataplane.store import Dead, Store
from tests.dataplane.test_salvage import killed
from tests.dataplane.test_spool import lines_from, opened

ROWS = 30


def left(folder: Path, checkpoint: int) -> Path:
    """What a killed process leaves: 30 rows of two events, of which those before `checkpoint` are in the file alone."""
    made, path = folder / "made" / "spool.sqlite", folder / "spool.sqlite"
    made.parent.mkdir()
    store = Store(layout.open_checked(made), 2**30)
    with store.transaction():
        store.use(["out"])
    for row in range(ROWS):
        if row == checkpoint:
            store.checkpoint()
        with store.transaction():
            store.append([b'{"n":%d,"p":"%s"}' % (2 * row, os.urandom(9000).hex().encode()), b'{"n":0}'], "x")
            store.advance("out", 4, 1, [Dead("out", "refused", b"{}")] if row == ROWS - 1 else ())
    shutil.copy(made, path)
    shutil.copy(f"{made}-wal", f"{path}-wal")
    store.close()
    return path


def harm(path: Path, gone: bool) -> bytes:
    """Loses the file; what the journal holds."""
    os.truncate(path, 0)
    if gone:
        path.unlink()
    return Path(f"{path}-wal").read_bytes()


def alone(folder: Path, journal: bytes) -> Path:
    """A journal without its file."""
    path = folder / "spool.sqlite"
    Path(f"{path}-wal").write_bytes(journal)
    return path


def asides(folder: Path) -> list[Path]:
    """The journals that were put aside."""
    return sorted(folder.glob("spool.sqlite.damaged-*-wal"))


@pytest.mark.parametrize("gone", [False, True], ids=["empty", "gone"])
async def test_what_is_in_the_journal_is_saved(tmp_path: Path, gone: bool) -> None:
    """All of it here, with cursors, counters and letters; the journal is put aside as it was, and the log says so."""
    path, log = left(tmp_path, checkpoint=ROWS), io.StringIO()
    journal = harm(path, gone)
    spool = await open_spool(contract.Spool(str(path)), ["out"], logs.make(log))
    assert spool.end == 2 * ROWS
    assert spool.cursors["out"].next == 4
    assert len(await lines_from(spool, 4)) == 2 * ROWS - 4
    figures = await spool.figures()
    assert (figures.lost, figures.dead) == ([("out", "refused", 1)], 1)
    await spool.append([b"new"])
    await spool.close()
    assert [file.read_bytes() for file in asides(tmp_path)] == [journal]
    said = [json.loads(line) for line in log.getvalue().splitlines()]
    assert "the file is gone or empty, and its journal is not" in {line.get("error") for line in said}


@pytest.mark.parametrize("gone", [False, True], ids=["empty", "gone"])
@pytest.mark.parametrize("checkpoint", [5, 15, ROWS - 1])
async def test_what_only_the_file_had_is_counted(tmp_path: Path, gone: bool, checkpoint: int) -> None:
    """What can be read of the journal alone is there, and with what is not, it makes up all events."""
    path = left(tmp_path, checkpoint)
    journal = harm(path, gone)
    spool = await opened(path)
    found = len(await lines_from(spool, spool.cursors["out"].next))
    lost = sum(events for _, reason, events in (await spool.figures()).lost if reason == "damaged")
    position = spool.cursors["out"].next
    assert lost > 0
    assert found + lost == spool.end - position
    await spool.append([b"new"])
    assert (await lines_from(spool, spool.end - 1)) == [b"new"]
    await spool.close()
    assert [file.read_bytes() for file in asides(tmp_path)] == [journal]


async def test_a_journal_that_holds_nothing_is_kept_and_told(tmp_path: Path) -> None:
    """Noise: nothing can be read, and it does not look like nothing was lost."""
    path = alone(tmp_path, os.urandom(100_000))
    spool = await opened(path, outputs=("a", "b"))
    assert sorted((await spool.figures()).lost) == [("a", "damaged", 1), ("b", "damaged", 1)]
    await spool.close()
    assert [file.stat().st_size for file in asides(tmp_path)] == [100_000]


async def test_saving_a_journal_that_is_killed_anywhere_loses_nothing(tmp_path: Path) -> None:
    """kill -9 of a real process before each step that leaves something on the disk."""
    step, done = 0, False
    while not done:
        folder = tmp_path / str(step)
        folder.mkdir()
        path = left(folder, checkpoint=ROWS)
        journal = harm(path, gone=bool(step % 2))
        done = not killed(path, step)
        spool = await opened(path)
        assert len(await lines_from(spool, 4)) == 2 * ROWS - 4
        assert (await spool.figures()).lost == [("out", "refused", 1)]
        await spool.close()
        assert journal in [file.read_bytes() for file in asides(folder)]
        step += 1
    assert step > 8, "nothing was interrupted: this proves nothing"


async def test_an_older_damaged_file_is_not_put_over_a_journal(tmp_path: Path) -> None:
    """It was put aside by a salvage of another day."""
    path = left(tmp_path, checkpoint=ROWS)
    harm(path, gone=True)
    old = tmp_path / "spool.sqlite.damaged-20200101T000000.000000Z"
    with contextlib.closing(sqlite3.connect(old)) as found:
        found.execute("CREATE TABLE old (x)")
    before = old.read_bytes()
    spool = await opened(path)
    assert len(await lines_from(spool, 4)) == 2 * ROWS - 4
    await spool.close()
    assert old.read_bytes() == before
