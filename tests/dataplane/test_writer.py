"""The spool's threads: whatever they meet, who waits hears of it, and nothing in memory is ahead of the disk."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

from auditpipeline.core import config as contract
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane import journal, rows, store, writer
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.letters import Dead
from auditpipeline.dataplane.spool import Spool, open_spool
from auditpipeline.dataplane.store import Chunk, Store
from tests.dataplane.setting import until
from tests.dataplane.test_spool import lines_from, opened


class Failing:
    """A connection whose next statements that begin with `statement` raise `error`: a fault that no real disk has when
    it is asked to."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.statement, self.error, self.times = "", OSError(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """As a connection does, or not."""
        if self.times and statement.startswith(self.statement):
            self.times -= 1
            if self.statement == "COMMIT":
                self.connection.execute("ROLLBACK")
            raise self.error
        return self.connection.execute(statement, *values)

    def fail(self, statement: str, error: BaseException, times: int = 1) -> None:
        """From now on."""
        self.statement, self.error, self.times = statement, error, times  # type: ignore[assignment]


def failing(spool: Spool) -> Failing:
    """Puts one below the writer of the spool."""
    found = Failing(spool._store._db)
    spool._store._db = found  # type: ignore[assignment]
    return found


def io_error() -> sqlite3.OperationalError:
    """What a failing disk raises."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    return error


ERRORS = [io_error(), MemoryError(), zstandard.ZstdError("no memory")]
STATEMENTS = ["BEGIN", "INSERT INTO events", "UPDATE counters", "INSERT INTO dead", "COMMIT"]


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_transaction_that_fails_changes_nothing(tmp_path: Path, statement: str, error: Exception) -> None:
    """Wherever it fails, and whatever with: figures in memory stay those of the file, and the next one succeeds."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    await spool.append([b"first"])
    disk = failing(spool)
    before = spool._store._state.copy()
    disk.fail(statement, error)
    with pytest.raises(Retryable, match="cannot be written"):
        await spool.append([b"refused"], dead=[Dead("", "why", b"letter")])
    found = spool._store._state.copy()
    found.journal, found.pruned = before.journal, before.pruned
    assert found == before
    await spool.append([b"second"], dead=[Dead("", "why", b"letter")])
    assert spool.healthy
    assert await lines_from(spool) == [b"first", b"second"]
    assert (await spool.figures()).dead == 1
    await spool.close()
    spool = await opened(path)
    assert await lines_from(spool) == [b"first", b"second"]
    await spool.append([b"third"])
    assert (spool.end, (await spool.figures()).lost) == (3, [("", "unreadable", 1)])
    await spool.close()


async def test_a_rollback_that_fails_is_made_up_for(tmp_path: Path) -> None:
    """Else every later transaction would begin within the one that failed."""
    spool = await opened(tmp_path / "spool.sqlite")
    disk = failing(spool)

    def fail_both(statement: str, *values: Any) -> sqlite3.Cursor:
        if statement in ("COMMIT", "ROLLBACK") and broken:
            raise io_error()
        return disk.connection.execute(statement, *values)

    broken = True
    disk.execute = fail_both  # type: ignore[method-assign]
    with pytest.raises(Retryable):
        await spool.append([b"refused"])
    broken = False
    await spool.append([b"taken"])
    assert await lines_from(spool) == [b"taken"]
    await spool.close()


async def test_numbers_that_are_not_those_of_the_file_make_it_unhealthy(tmp_path: Path) -> None:
    """Nothing is stored under a number that may be another's; the next start checks the file and goes on."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    await spool.append([b"first"])
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE counters SET value = 9 WHERE name = 'received'")
    for _ in range(2):
        with pytest.raises(Retryable, match="numbers that were committed last"):
            await spool.append([b"second"])
    assert not spool.healthy
    await spool.close()
    spool = await opened(path)
    await spool.append([b"third"])
    assert spool.healthy
    assert await lines_from(spool) == [b"first", b"third"]
    assert (await spool.figures()).lost == [("out", "damaged", 8)]
    await spool.close()


def malformed() -> sqlite3.DatabaseError:
    """What SQLite says of a damaged file, and at times of a sound one on a disk that fails."""
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


@pytest.mark.parametrize(
    ("said", "damaged"),
    [
        ([(0, malformed())], False),
        ([(0, malformed()), (0.5, malformed())], False),
        ([(0, malformed()), (0.5, malformed()), (1.5, malformed())], True),
        ([(0, malformed()), (1, io_error()), (2, malformed()), (2.5, malformed())], False),
        ([(0, malformed()), (1, io_error()), (2, malformed()), (4, malformed())], True),
        ([(0, malformed()), (1000, malformed())], False),
        ([(0, sqlite3.IntegrityError("not unique"))], True),
    ],
)
async def test_a_file_is_damaged_when_that_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[tuple[float, Exception]], damaged: bool
) -> None:
    """And the disk has not failed in between."""
    spool = await opened(tmp_path / "spool.sqlite")
    for at, error in said:
        monkeypatch.setattr(time, "monotonic", lambda at=at: 5000 + at)
        spool._writer.note(error)
    monkeypatch.undo()
    assert spool.healthy != damaged
    await spool.close()


async def test_what_one_caller_hands_over_fails_that_caller_alone(tmp_path: Path) -> None:
    """Whatever it raises; the others of the same commit are stored."""
    spool = await opened(tmp_path / "spool.sqlite")
    bad = Dead(3, "no output", b"")  # type: ignore[arg-type]
    bad = bad._replace(data=7)  # type: ignore[arg-type]
    found = await asyncio.gather(
        spool.append([b"a"]), spool.append([], dead=[bad]), spool.append([b"b"]), return_exceptions=True
    )
    assert [type(each) for each in found] == [type(None), Retryable, type(None)]
    assert sorted(await lines_from(spool)) == [b"a", b"b"]
    assert spool.healthy
    await spool.close()


async def test_a_reason_that_is_no_text_is_kept(tmp_path: Path) -> None:
    """A sender's lone surrogate in it must not keep the letter out for ever."""
    spool = await opened(tmp_path / "spool.sqlite")
    await spool.append([], dead=[Dead("", "it said \ud800\0", b"x", "key\udfff")])
    assert (await spool.figures()).dead == 1
    await spool.close()


@pytest.mark.parametrize(
    "error", [MemoryError(), SystemExit(), RuntimeError("a fault")], ids=lambda e: type(e).__name__
)
async def test_a_writer_that_ends_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """What waits fails, what comes fails at once, `failure` returns, and the spool can be closed and opened again."""
    log, path = io.StringIO(), tmp_path / "spool.sqlite"
    spool = await open_spool(contract.Spool(str(path)), ("out",), logs.make(log))
    await spool.use(["out"])
    await spool.append([b"first"])
    go = threading.Event()

    def held(writer_: Store) -> None:
        go.wait()

    def ends(*_: object) -> None:
        raise error

    waiting = [asyncio.ensure_future(spool._change(held)), asyncio.ensure_future(spool.append([b"second"]))]
    await asyncio.sleep(0)
    monkeypatch.setattr(writer.Writer, "_publish", ends)
    go.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, Retryable) and "spool-writer has ended" in str(each) for each in found)
    assert type(error).__name__ in str(await spool.failure())
    assert not spool.healthy
    for call in (spool.append([b"third"]), spool.advance("out", 1, 1), spool.use(["out"])):
        with pytest.raises(Retryable, match="has to be started again"):
            await call
    monkeypatch.undo()
    await asyncio.wait_for(spool.close(), 10)
    assert [json.loads(line)["event"] for line in log.getvalue().splitlines()] == ["the spool stops working"]
    spool = await opened(path)
    assert (await lines_from(spool))[0] == b"first"
    await spool.close()


async def test_a_reader_that_ends_is_told_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read fails, others go on, and the process is asked to end."""
    spool = await opened(tmp_path / "spool.sqlite")
    await spool.append([b"first"])
    spool._recent.forget(2**63)

    def ends(*_: object, **__: object) -> list[Chunk]:
        raise SystemExit

    monkeypatch.setattr(rows, "read", ends)
    with pytest.raises(Retryable, match="has ended"):
        await spool.read(0, 1)
    monkeypatch.undo()
    assert "spool-reader" in str(await spool.failure())
    assert not spool.healthy
    assert await lines_from(spool) == [b"first"]
    await asyncio.wait_for(spool.close(), 10)


async def test_figures_that_cannot_be_read_are_those_of_the_last_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start on; they are read again when the disk works."""
    spool = await opened(tmp_path / "spool.sqlite")
    await spool.append([b"first"])
    read = store.figures

    def fail(*_: object) -> store.Figures:
        raise io_error()

    monkeypatch.setattr(store, "figures", fail)
    assert (await spool.figures()).received == 0
    monkeypatch.setattr(store, "figures", read)
    assert (await spool.figures()).received == 1
    await spool.close()


async def test_an_output_whose_reads_hang_delays_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the figures; and a read that nobody waits for any more gives its thread back."""
    spool = await opened(tmp_path / "spool.sqlite")
    for number in range(6):
        await spool.append([b"%d" % number])
    spool._recent.forget(2**63)
    go, read = threading.Event(), rows.read

    def slow(connection: sqlite3.Connection, position: int, max_bytes: int) -> list[Chunk]:
        if position == 0:
            go.wait()
        return read(connection, position, max_bytes)

    monkeypatch.setattr(rows, "read", slow)
    hanging = [asyncio.ensure_future(spool.read(0, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    assert (await spool.read(3, 1))[0].lines == [b"3"]
    assert (await spool.figures()).received == 6
    hanging[0].cancel()
    queued = [asyncio.ensure_future(spool.read(0, 1)) for _ in range(4)]
    await asyncio.sleep(0)
    queued[1].cancel()
    await asyncio.sleep(0)
    go.set()
    found = await asyncio.gather(*hanging, *queued, return_exceptions=True)
    assert sum(isinstance(each, asyncio.CancelledError) for each in found) == 2
    chunks = await asyncio.gather(*(spool.read(number, 1) for number in range(6)))
    assert [(each[0].lines or [])[0] for each in chunks] == [b"%d" % number for number in range(6)]
    await spool.close()


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal may have some hundred kilobytes."""
    monkeypatch.setattr(journal, "MOST", 2**18)
    monkeypatch.setattr(journal, "LEAST", 2**18)


async def fill(spool: Spool) -> int:
    """Stores events until they are refused; how many were taken."""
    for taken in range(1000):
        try:
            await spool.append([os.urandom(20_000).hex().encode()])
        except Retryable as error:
            if "another process reads an old state of the spool" in str(error):
                return taken
            raise
    raise AssertionError("nothing was refused")


@pytest.mark.usefixtures("little")
async def test_a_journal_that_somebody_holds_up_is_bounded(tmp_path: Path) -> None:
    """A real second connection reads an old state: events are refused, cursors move and letters are kept; when it has
    gone, events are taken again."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    await spool.append([b"first"])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM events").fetchall()
        taken = 1 + await fill(spool)
        size = spool.journal.size
        assert 2**18 < size < 2**21
        for position in range(1, taken + 1):
            await spool.advance("out", position, 1)
            with pytest.raises(Retryable):
                await spool.append([b"more"])
        assert spool.cursors["out"].next == taken
        assert spool.healthy
        assert spool.journal.size < 2**22

    async def takes() -> bool:
        with contextlib.suppress(Retryable):
            await spool.append([b"again"])
            return True
        return False

    await until(takes)
    await until(lambda: spool.journal.size < 2**18)
    assert (await lines_from(spool, taken))[0] == b"again"
    await spool.close()


@pytest.mark.usefixtures("little")
async def test_a_journal_is_looked_at_while_nobody_comes(tmp_path: Path) -> None:
    """The first request after the other process has gone is taken: somebody was refused, and may come in minutes."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM events").fetchall()
        await fill(spool)
    await until(lambda: spool.journal.size == 0)
    await spool.append([b"at once"])
    await spool.close()


async def test_the_journal_of_a_busy_spool_stays_short(tmp_path: Path) -> None:
    """While nobody holds it up."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    for number in range(300):
        await spool.append([os.urandom(50_000)])
        spool.move("out", number, 1)
    assert spool.journal.size < 64 * 2**20
    await spool.close()
