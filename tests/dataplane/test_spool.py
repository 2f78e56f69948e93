"""The spool: held against a list, then against what disks and files do."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sqlite3
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from auditpipeline.core import config as contract
from auditpipeline.core.errors import AuditPipelineError, Retryable
from auditpipeline.dataplane import inspect, layout, rows, store
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.spool import Spool, open_spool
from auditpipeline.dataplane.store import Dead, Store
from tests.dataplane.setting import until

OUTPUTS = ("a", "b", "c")
PAGE = 8192
LOG = logs.make(io.StringIO())


class SpoolAgainstAList(RuleBasedStateMachine):
    """The store must always agree with a plain list of events and a dict of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "spool.sqlite"
        self.events: list[bytes] = []
        self.positions: dict[str, int] = {}
        self.delivered: dict[str, int] = {}
        self.floors: dict[str, int] = {}
        self.lost = 0
        self.store = Store(layout.open_checked(self.path), 2**20)
        self.store_reader = layout.connect(self.path)

    def teardown(self) -> None:
        self.store_reader.close()
        self.store.close()
        self.folder.cleanup()

    @rule(count=st.integers(1, 5), size=st.integers(0, 50))
    def append(self, count: int, size: int) -> None:
        lines = [b'{"n":%d,"p":"%s"}' % (len(self.events) + number, b"x" * size) for number in range(count)]
        with self.store.transaction():
            self.store.append(lines, "digest")
        self.events += lines

    @rule(output=st.sampled_from(OUTPUTS), step=st.integers(0, 7), lost=st.integers(0, 2))
    def advance(self, output: str, step: int, lost: int) -> None:
        if output not in self.positions:
            return
        position = min(self.positions[output] + step, len(self.events))
        with self.store.transaction():
            self.store.advance(
                output, position, step, [Dead(output, "refused by a test", b"{}")], {"undelivered": lost}
            )
        floor = self.floors.get(output, 0)
        if floor and position <= floor:
            return  # a delivery that was under way when its events were dropped: they are counted
        self.floors.pop(output, None)
        self.positions[output] = position
        delivered = min(step, position - floor) if floor else step
        self.delivered[output] += delivered
        self.lost += 1 + (max(0, min(lost, position - floor - delivered - 1)) if floor else lost)

    @rule(outputs=st.sets(st.sampled_from(OUTPUTS)))
    def use(self, outputs: set[str]) -> None:
        with self.store.transaction():
            gone = self.store.use(sorted(outputs))
        assert gone == {name: len(self.events) - at for name, at in self.positions.items() if name not in outputs}
        self.lost += sum(gone.values())
        self.positions = {name: self.positions.get(name, len(self.events)) for name in outputs}
        self.delivered = {name: self.delivered.get(name, 0) for name in outputs}
        self.floors = {name: floor for name, floor in self.floors.items() if name in outputs}

    @rule(count=st.integers(1, 5))
    def fail(self, count: int) -> None:
        """What a transaction did is gone when it fails."""
        with contextlib.suppress(RuntimeError), self.store.transaction():
            self.store.append([b"{}"] * count, "digest")
            self.store.use([])
            raise RuntimeError

    @rule(share=st.floats(0, 1), expired=st.booleans())
    def drop(self, share: float, expired: bool) -> None:
        """The oldest rows go, and every output that had not got them counts them."""
        if not self.events:
            return
        with self.store.transaction():
            if expired:
                self.store.max_age = 1.0
                for now in (0.0, 10.0):
                    self.store.clock = partial(float, now)
                    self.store.expire(3)
                self.store.max_age = None
                self.store.expire()
            else:
                self.store.drop_oldest(int(share * self.store.size))
        for output, cursor in self.store.cursors.items():
            assert cursor.next >= self.positions[output]
            if cursor.next > self.positions[output]:
                self.floors[output] = cursor.next
            self.lost += cursor.next - self.positions[output]
            self.positions[output] = cursor.next

    @rule()
    def prune(self) -> None:
        with self.store.transaction():
            self.store.prune()

    @rule(clean=st.booleans())
    def reopen(self, clean: bool) -> None:
        self.store_reader.close()
        self.store.close(clean)
        self.floors.clear()
        self.store = Store(layout.open_checked(self.path), 2**20)
        self.store_reader = layout.connect(self.path)

    @precondition(lambda self: self.positions)
    @rule(data=st.data(), most=st.integers(1, 200))
    def read(self, data: st.DataObject, most: int) -> None:
        """From any cursor on, the events are there, in order, and joined up."""
        position = self.positions[data.draw(st.sampled_from(sorted(self.positions)))]
        got: list[bytes] = []
        while chunks := rows.read(self.store_reader, position + len(got), most):
            for chunk in chunks:
                assert chunk.lines is not None
                got += chunk.lines[position + len(got) - chunk.first :]
        assert got == self.events[position:]

    @invariant()
    def agrees(self) -> None:
        assert {name: cursor.next for name, cursor in self.store.cursors.items()} == self.positions
        assert {name: cursor.delivered for name, cursor in self.store.cursors.items()} == self.delivered
        assert self.store.end == len(self.events)
        found = self.store_reader.execute(
            "SELECT coalesce(sum(size), 0), coalesce(min(first), ?) FROM events", (self.store.end,)
        )
        size, lowest = found.fetchone()
        assert size == self.store.size
        assert lowest <= min(self.positions.values(), default=len(self.events))
        figures = store.figures(self.store_reader)
        assert sum(events for _, _, events in figures.lost) == self.lost
        waiting = {name for name, position in self.positions.items() if position < len(self.events)}
        assert set(figures.waiting_since) == waiting


TestSpoolAgainstAList = SpoolAgainstAList.TestCase
TestSpoolAgainstAList.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


async def opened(path: Path, max_bytes: int = 2**30, outputs: tuple[str, ...] = ("out",), **bounds: Any) -> Spool:
    """A spool with these outputs, which keeps dead letters whole."""
    bounds.setdefault("dead_letters", "whole")
    spool = await open_spool(contract.Spool(str(path), max_bytes, **bounds), outputs, LOG)
    await spool.use(outputs)
    return spool


async def lines_from(spool: Spool, position: int = 0) -> list[bytes]:
    """Everything from a position on."""
    lines: list[bytes] = []
    while chunks := await spool.read(position, 2**20):
        for chunk in chunks:
            lines += chunk.lines or []
            position = chunk.first + chunk.events
    return lines


async def test_requests_that_come_together_share_commits(tmp_path: Path) -> None:
    """200 appends at once need far fewer syncs than 200, and each is there."""
    spool = await opened(tmp_path / "spool.sqlite")
    commits: list[str] = []
    spool._store._db.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    await asyncio.gather(*(spool.append([b"%d" % number]) for number in range(200)))
    assert len(commits) < 20
    assert await lines_from(spool) == [b"%d" % number for number in range(200)]
    await spool.close()


async def test_a_full_disk_is_back_pressure_and_cursors_still_move(tmp_path: Path) -> None:
    """SQLITE_FULL (here by page limit): append is told to come later, what is there stays, and there is room again when
    the output has taken it."""
    spool = await opened(tmp_path / "spool.sqlite")
    pages = spool._store._db.execute("PRAGMA page_count").fetchone()[0]
    spool._store._db.execute(f"PRAGMA max_page_count = {pages + 40}")
    noise = [bytes(byte % 90 + 33 for byte in number.to_bytes(16, "big") * 64) for number in range(4)]
    stored = 0
    with contextlib.suppress(Retryable):
        while True:
            await spool.append([b"%d" % stored, *noise])
            stored += 1
    with pytest.raises(Retryable, match="full"):
        await spool.append(noise * 4)
    assert len(await lines_from(spool)) == stored * 5
    await spool.advance("out", spool.end, spool.end)
    await spool.append([b"again"])
    assert (await lines_from(spool, spool.end - 1))[-1] == b"again"
    await spool.close()


async def test_a_request_larger_than_the_limit_is_taken_by_an_empty_spool(tmp_path: Path) -> None:
    """Else it would be refused for ever; the next one waits."""
    spool = await opened(tmp_path / "spool.sqlite", max_bytes=100)
    noise = bytes(range(33, 127)) * 3
    await spool.append([noise])
    with pytest.raises(Retryable, match="the spool holds"):
        await spool.append([noise])
    await spool.close()


async def test_rows_that_pile_up_are_smaller_and_read_alike(tmp_path: Path) -> None:
    """Time is spent on what waits; a row says by itself how it is to be read. When outputs have caught up, it is as
    before."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path, max_bytes=2**20)
    lines = [b'{"key":"%s"}' % os.urandom(16).hex().encode() for _ in range(1000)]
    while spool.size < 2**18:
        await spool.append(lines)
    with contextlib.closing(sqlite3.connect(path)) as found:
        sizes = [size for (size,) in found.execute("SELECT size FROM events ORDER BY first")]
        assert [chunk.lines for chunk in rows.read(found, 0, 2**30)] == [lines] * len(sizes)
    assert sizes[-1] < sizes[0]
    await spool.advance("out", spool.end, spool.end)
    await spool.append(lines)
    await until(lambda: spool.size == sizes[0])
    await spool.close()


async def test_moves_are_on_disk_soon_and_at_the_latest_when_it_closes(tmp_path: Path) -> None:
    """Nobody waits for a cursor that only moves; many of them are one commit."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    await spool.append([b"{}"] * 100)
    commits: list[str] = []
    spool._store._db.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    for position in range(1, 51):
        spool.move("out", position, 1)
    await until(lambda: spool.cursors["out"].next == 50)
    assert len(commits) <= 5
    spool.move("out", 51, 1)
    await spool.close()
    with contextlib.closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT next, delivered FROM cursors").fetchall() == [(51, 51)]


async def test_a_move_that_the_disk_refuses_is_made_with_the_next_commit(tmp_path: Path) -> None:
    """Nothing is told, and nothing of the count is lost."""
    spool = await opened(tmp_path / "spool.sqlite")
    await spool.append([b"{}"] * 10)
    refuse = True

    def authorizer(action: int, table: str | None, *_: object) -> int:
        denied = refuse and action == sqlite3.SQLITE_UPDATE and table == "cursors"
        return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK

    spool._store._db.set_authorizer(authorizer)
    spool.move("out", 3, 3)
    spool.move("out", 5, 2)
    with pytest.raises(Retryable, match="cannot be written"):
        await spool.advance("out", 6, 1)
    refuse = False
    await spool.advance("out", 7, 1)
    assert (spool.cursors["out"].next, spool.cursors["out"].delivered) == (7, 6)
    await spool.close()


async def test_the_oldest_make_room_where_the_spool_says_so(tmp_path: Path) -> None:
    """`dropOldest`: new events are always taken; what an output had not got is counted, and what it is given meanwhile
    is not counted twice."""
    spool = await opened(tmp_path / "spool.sqlite", 2**20, ("slow", "quick"), backpressure="dropOldest")
    lines = [os.urandom(60_000).hex().encode() for _ in range(30)]
    for number, line in enumerate(lines, 1):
        await spool.append([line])
        spool.move("quick", number, 1)
    assert spool.size <= 2**20
    floor = spool.cursors["slow"].next
    assert 0 < floor < 30
    assert await lines_from(spool, floor) == lines[floor:]
    figures = await spool.figures()
    assert figures.lost == [("slow", "overflow", floor)]
    await spool.advance("slow", floor - 1, floor - 1)
    assert spool.cursors["slow"] == (floor, 0, 0.0)
    await spool.advance("slow", floor + 2, 4)
    assert (spool.cursors["slow"].next, spool.cursors["slow"].delivered) == (floor + 2, 2)
    assert (await spool.figures()).lost == figures.lost
    await spool.close()


@pytest.mark.parametrize(
    ("position", "undelivered"), [(3, 0), (5, 1), (10, 6)], ids=["all dropped", "one left", "six left"]
)
def test_a_batch_that_is_given_up_while_it_is_dropped_is_lost_once(
    tmp_path: Path, position: int, undelivered: int
) -> None:
    """BestEffort gives up ten events, of which an overflow has taken the first four meanwhile."""
    store_ = Store(layout.open_checked(tmp_path / "spool.sqlite"), 2**30)
    with store_.transaction():
        store_.use(["out"])
        for _ in range(5):
            store_.append([b"{}"] * 2, "digest")
    with store_.transaction():
        store_.drop_oldest(store_.size * 2 // 5)
        assert store_.cursors["out"].next == 4
    with store_.transaction():
        store_.advance("out", position, 0, (), {"undelivered": position})
    store_.close()
    with contextlib.closing(layout.connect(tmp_path / "spool.sqlite")) as found:
        lost = {reason: events for _, reason, events in store.figures(found).lost}
    assert lost == {"overflow": 4, **({"undelivered": undelivered} if undelivered else {})}


async def test_who_is_far_behind_makes_room_for_the_others(tmp_path: Path) -> None:
    """`isolate`: new events are taken as long as one output keeps up; only who does not loses any, and it is counted
    for that one."""
    spool = await opened(tmp_path / "spool.sqlite", 2**20, ("dead", "late", "quick"), isolate=True)
    lines = [os.urandom(60_000).hex().encode() for _ in range(40)]
    for number, line in enumerate(lines, 1):
        await spool.append([line])
        await spool.advance("quick", number, 1)
        await spool.advance("late", max(0, number - 5), 1)
    assert spool.size <= 2**20
    floor = spool.cursors["dead"].next
    assert 20 < floor < 35
    assert (spool.cursors["late"].next, spool.cursors["quick"].next) == (35, 40)
    assert (await spool.figures()).lost == [("dead", "overflow", floor)]
    assert await lines_from(spool, floor) == lines[floor:]
    await spool.close()


@pytest.mark.parametrize("outputs", [("a",), ("a", "b")])
async def test_outputs_that_are_behind_alike_are_back_pressure(tmp_path: Path, outputs: tuple[str, ...]) -> None:
    """`isolate` or not: nobody's events are given up for nobody."""
    spool = await opened(tmp_path / "spool.sqlite", 2**20, outputs, isolate=True)
    stored = 0
    with contextlib.suppress(Retryable):
        while True:
            await spool.append([os.urandom(60_000).hex().encode()])
            stored += 1
    assert len(await lines_from(spool)) == stored > 10
    assert (await spool.figures()).lost == []
    await spool.close()


async def test_events_that_wait_too_long_are_lost_and_counted(tmp_path: Path) -> None:
    """By `maxAge`, whether or not anything comes; later ones stay."""
    spool = await opened(tmp_path / "spool.sqlite", max_age=3600.0)
    now = time.monotonic()
    spool._store.clock = lambda: now
    await spool.append([b"old"] * 3)
    now += 100
    await spool.figures()
    now += 1700
    await spool.append([b"new"])
    now += 1950
    await until(lambda: spool.cursors["out"].next == 3)
    assert (await spool.figures()).lost == [("out", "expired", 3)]
    assert await lines_from(spool, 3) == [b"new"]
    await spool.close()


async def test_a_clock_that_is_set_makes_no_event_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while the process runs, nor while it does not: only the time counts that it has seen pass."""
    path, wall = tmp_path / "spool.sqlite", time.time
    for days in (0, 400, -20000, 30000):
        monkeypatch.setattr(time, "time", lambda days=days: wall() + days * 86400)
        spool = await opened(path, max_age=60.0)
        for jump in (1, -1):
            await spool.append([b"{}"])
            monkeypatch.setattr(time, "time", lambda days=days + jump: wall() + days * 86400)
            await spool.figures()
        assert (await spool.figures()).lost == []
        assert len(await lines_from(spool)) == spool.end
        await spool.close()


async def test_a_number_that_was_rolled_back_makes_no_event_old(tmp_path: Path) -> None:
    """It is given to an event that comes later."""
    made = Store(layout.open_checked(tmp_path / "spool.sqlite"), 2**30, max_age=60.0)
    now = 0.0
    made.clock = lambda: now
    with made.transaction():
        made.use(["out"])
    with contextlib.suppress(RuntimeError), made.transaction():
        made.append([b"{}"], "digest")
        made.expire()
        raise RuntimeError
    now = 100.0
    with made.transaction():
        made.append([b"{}"], "digest")
        made.expire()
    assert made.cursors["out"].next == 0
    made.close()


async def test_two_processes_do_not_share_a_spool(tmp_path: Path) -> None:
    """The second one says so at once."""
    spool = await opened(tmp_path / "spool.sqlite")
    with pytest.raises(AuditPipelineError, match="in use by another process"):
        await opened(tmp_path / "spool.sqlite")
    await spool.close()


async def test_dead_letters_take_a_bounded_share(tmp_path: Path) -> None:
    """The oldest make room; each stays counted."""
    spool = await opened(tmp_path / "spool.sqlite", max_bytes=2**20)
    for number in range(40):
        await spool.append([], dead=[Dead("", f"letter {number}", os.urandom(2**16))])
    figures = await spool.figures()
    assert figures.lost == [("", "unreadable", 40)]
    assert figures.dead + figures.dead_removed == 40
    assert 0 < figures.dead < 40
    await spool.close()


@pytest.mark.parametrize("damage", ["no database", "empty header", "a torn page in the middle", "truncated"])
async def test_a_damaged_file_is_put_aside_and_what_is_readable_saved(tmp_path: Path, damage: str) -> None:
    """Never a crash loop: the spool opens, works, keeps what can be read, and counts what cannot."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    for number in range(400):
        await spool.append([b'{"n":%d,"p":"%s"}' % (number, os.urandom(1500).hex().encode()), b"{}"])
    await spool.advance("out", 10, 10)
    spool._writer.damaged = True
    await spool.close()
    break_file(path, damage)

    spool = await opened(path)
    assert aside(tmp_path)
    lines, end = await lines_from(spool, 10), spool.end
    lost = sum(events for _, _, events in (await spool.figures()).lost)
    if "header" in damage or "database" in damage:
        assert (end, lost) == (0, 1)
    else:
        assert (end, len(lines) + lost) == (800, 790)
        assert 0 < lost < 600
    await spool.append([b"new"])
    assert (await lines_from(spool, spool.end - 1))[-1] == b"new"
    await spool.close()


async def test_a_large_unreadable_body_is_kept_by_its_beginning(tmp_path: Path) -> None:
    """Its sender was told 200: nobody sends it again. A refused event stays whole."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path, max_bytes=16 * 2**20)
    body = os.urandom(2**21)
    await spool.append([], dead=[Dead("", "no JSON", body)])
    (letter,) = inspect.dead(path, inspect.Chosen(), 10)
    assert letter.data == body[: 2**19]
    assert letter.reason == f"no JSON (of {2**21} bytes the first {2**19} are kept)"
    await spool.append([], dead=[Dead("out", "refused", body)])
    letter, _ = inspect.dead(path, inspect.Chosen(), 10)
    assert (letter.output, letter.data) == ("out", body)
    figures = await spool.figures()
    assert (figures.dead, figures.dead_removed) == (2, 0)
    await spool.close()


def aside(folder: Path) -> list[Path]:
    """What was put aside."""
    return list(folder.glob("spool.sqlite.damaged-*"))


def break_file(path: Path, damage: str) -> None:
    """Damages a closed database."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        match damage:
            case "no database":
                file.write(b"x" * 100)
            case "empty header":
                file.write(bytes(100))
            case "a torn page in the middle":
                # A leaf of the table: its type byte is 0x0d.
                page = next(n for n in range(size // PAGE // 2, size // PAGE) if _type(path, n) == 0x0D)
                file.seek(page * PAGE)
                file.write(b"\xff" * PAGE)
            case _:
                file.truncate(size // 2)


def _type(path: Path, page: int) -> int:
    with path.open("rb") as file:
        file.seek(page * PAGE)
        return file.read(1)[0]


async def test_a_row_that_cannot_be_inflated_is_told_apart(tmp_path: Path) -> None:
    """The frame's checksum says so; the rows around it are read."""
    spool = await opened(tmp_path / "spool.sqlite")
    for number in range(3):
        await spool.append([b"%d" % number])
    spool._store._db.execute("UPDATE events SET data = x'00' WHERE first = 1")
    await spool.close()
    spool = await opened(tmp_path / "spool.sqlite")
    chunks = await spool.read(0, 2**20)
    assert [chunk.lines for chunk in chunks] == [[b"0"], None, [b"2"]]
    await spool.close()


async def test_anybody_can_open_it_with_sqlite(tmp_path: Path) -> None:
    """Mode 0600, WAL, and a table that explains itself."""
    spool = await opened(tmp_path / "spool.sqlite")
    await spool.append([b"{}", b"{}"])
    with contextlib.closing(sqlite3.connect(tmp_path / "spool.sqlite")) as found:
        assert found.execute("SELECT first, count FROM events").fetchall() == [(0, 2)]
        assert found.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / "spool.sqlite").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "spool.sqlite-wal").stat().st_mode & 0o777 == 0o600
    await spool.close()
