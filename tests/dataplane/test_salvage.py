"""Salvaging a damaged spool: what is read of it, on a disk without room for it, and whatever interrupts it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from auditpipeline.core.errors import AuditPipelineError, Retryable
from auditpipeline.dataplane import layout, salvage
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.run import run
from auditpipeline.dataplane.store import Store
from tests.dataplane.setting import Setting, event, lines_in, until
from tests.dataplane.test_spool import PAGE, lines_from, opened
from tests.reliability.namespace import small_disk

ROWS, EVENTS = 60, 10


def damaged(path: Path, rows: int = ROWS) -> None:
    """Makes a spool with that many rows, a page of which is noise."""
    made = Store(layout.open_checked(path), 2**30)
    with made.transaction():
        made.use(["out"])
    for _ in range(rows):
        with made.transaction():
            noise = os.urandom(900).hex()
            made.append([json.dumps(event(userAgent=noise)).encode() for _ in range(EVENTS)], "digest")
    made.checkpoint()
    made.close(clean=False)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // PAGE // 2 * PAGE)
        file.write(b"\xff" * PAGE)


async def conserved(path: Path, rows: int = ROWS) -> None:
    """Opens the spool: most events are there, and the others are counted."""
    spool = await opened(path)
    lines = await lines_from(spool)
    lost = sum(events for _, _, events in (await spool.figures()).lost)
    await spool.close()
    assert len(lines) + lost == rows * EVENTS
    assert rows * EVENTS // 4 < len(lines)


async def test_a_salvage_that_is_killed_anywhere_loses_nothing(tmp_path: Path) -> None:
    """kill -9 of a real process before each file that it opens, renames or removes, and before it ends the copy: the
    next one finds all that could be read."""
    step, done = 0, False
    while not done:
        folder = tmp_path / str(step)
        folder.mkdir()
        damaged(folder / "spool.sqlite")
        done = not killed(folder / "spool.sqlite", step)
        await conserved(folder / "spool.sqlite")
        assert (left(folder, "*.salvag*"), left(folder, "*.damaged-*Z")) == (0, 1)
        step += 1
    assert step > 10, "nothing was interrupted: this proves nothing"


@pytest.mark.parametrize("torn", [(9,), (0,), (19,), (3, 9, 10, 16)], ids=str)
async def test_a_torn_page_costs_its_row_alone(tmp_path: Path, torn: tuple[int, ...]) -> None:
    """Neither the row before it (sqlite3 looks one row ahead of what it returns) nor what lies between two of them."""
    path = tmp_path / "spool.sqlite"
    made = Store(layout.open_checked(path), 2**30)
    for number in range(20):
        with made.transaction():
            made.use(["out"])
            noise = os.urandom(4 * PAGE).hex()
            made.append([json.dumps(event(auditID=f"{number}", userAgent=noise)).encode()], "digest")
    rows = dict(made._db.execute("SELECT first, data FROM events"))
    made.checkpoint()
    made.close(clean=False)
    for number in torn:
        with path.open("r+b") as file:
            file.seek(file.read().index(rows[number][len(rows[number]) // 2 :][:256]) // PAGE * PAGE)
            file.write(b"\xff" * PAGE)
    spool = await opened(path)
    found = [int(json.loads(line)["auditID"]) for line in await lines_from(spool)]
    assert found == [number for number in range(20) if number not in torn]
    assert (await spool.figures()).lost == [("out", "damaged", len(torn))]
    await spool.close()


async def test_a_salvage_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """Each process gets one step further than the one before it, from what that left."""
    path, step = tmp_path / "spool.sqlite", 0
    damaged(path)
    while killed(path, step):
        step += 1
    await conserved(path)


def left(folder: Path, pattern: str) -> int:
    """How many files of that name there are."""
    return len(list(folder.glob(pattern)))


def killed(path: Path, step: int) -> bool:
    """Runs a process that salvages the spool, and is killed before that step; whether it was."""
    command = [sys.executable, "-m", "tests.dataplane.dying", str(path), str(step)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode in (0, -signal.SIGKILL), found.stderr
    return bool(found.returncode)


async def test_a_damaged_spool_that_lies_alone_is_taken_back(tmp_path: Path) -> None:
    """As a release left it that was killed after it had put the file aside, and before it had copied anything."""
    path = tmp_path / "spool.sqlite"
    damaged(path)
    path.rename(f"{path}.damaged-20261124T015604.000000Z")
    await conserved(path)


@pytest.mark.parametrize("version", [0, 257, 2**31 - 1], ids=["zeros", "a flipped bit", "noise"])
async def test_a_version_that_the_tables_belie_is_damage(tmp_path: Path, version: int) -> None:
    """Nobody is sent for another release, which would send them back; no event is lost."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    await spool.append([b"{}"] * 3)
    await spool.close()
    with path.open("r+b") as file:
        file.seek(60)  # https://www.sqlite.org/fileformat2.html, "The Database Header"
        file.write(version.to_bytes(4, "big"))
    spool = await opened(path)
    assert await lines_from(spool) == [b"{}"] * 3
    assert (await spool.figures()).lost == []
    await spool.close()
    assert left(tmp_path, "*.damaged-*Z") == 1


async def test_the_layout_of_another_release_is_left_alone(tmp_path: Path) -> None:
    """It has other tables, and is whole."""
    path = tmp_path / "spool.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript("CREATE TABLE events (number INTEGER PRIMARY KEY, line BLOB); PRAGMA user_version = 2")
    with pytest.raises(AuditPipelineError, match="run the other release"):
        await opened(path)
    assert left(tmp_path, "*.damaged-*") == 0


async def test_what_is_missing_at_the_end_is_waited_for_by_nobody(setting: Setting) -> None:
    """The file was cut short: the newest events are gone and counted, the route moves past them, and rests."""
    damaged(setting.spool)
    with setting.spool.open("r+b") as file:
        file.truncate(setting.spool.stat().st_size * 6 // 10 // PAGE * PAGE)
    async with setting.running(setting.config(setting.route("out"))) as plane:

        async def all_passed() -> bool:
            output = (await plane.report()).outputs[0]
            return output.pending == 0 and output.state == "Idle"

        await until(all_passed)
        report = await plane.report()
        assert 0 < report.events.delivered < ROWS * EVENTS == report.events.delivered + report.events.dropped
        later = event()
        assert await plane.post([later]) == 200
        await until(lambda: lines_in(setting.file)[-1]["auditID"] == later["auditID"])


def test_a_disk_without_room_for_a_salvage_loses_nothing(tmp_path: Path) -> None:
    """On a real disk: nothing is opened that looks empty, and as soon as there is room all is there."""
    with small_disk(tmp_path / "small", "48m") as disk:
        command = [*disk.command, sys.executable, "-m", "tests.dataplane.test_salvage", str(disk.folder)]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr


async def fill(folder: Path) -> None:
    """Runs on the small disk."""
    path, rows = folder / "spool.sqlite", 1600
    damaged(path, rows)
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 2**20))
    for _ in range(2):
        with pytest.raises(Retryable, match="make room there"):
            await opened(path)
        assert left(folder, "*.salvag*") == left(folder, "*.damaged-*") == 0, "it keeps what little room there is"
    ballast.unlink()
    await conserved(path, rows)


async def test_a_process_waits_for_room_and_says_so(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """No crash loop: it is healthy and not ready, its log says what to do, and it goes on when there is room."""
    damaged(setting.spool)
    make, full = layout.make, True

    def tight(path: Path) -> sqlite3.Connection:
        connection = make(path)
        if full:
            connection.execute("PRAGMA max_page_count = 30")
        return connection

    monkeypatch.setattr(salvage, "make", tight)
    setting.write(setting.config(setting.route("out")))
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(run(setting.path, stop=stop, on_ready=lambda _: ready.set(), log=logs.make(setting.log)))
    said = "no events are taken: the spool cannot be opened"
    await until(lambda: len(setting.log_lines(said)) > 1)
    assert "make room there" in setting.log_lines(said)[0]["error"]
    assert not ready.is_set()
    full = False
    await until(ready.is_set)
    await until(lambda: setting.file.exists() and setting.file.read_bytes().count(b"\n") > ROWS * EVENTS // 4)
    stop.set()
    await asyncio.wait_for(task, 10)


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1])))
