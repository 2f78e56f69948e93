"""The numbers of rows, counters and cursors at every open: what does not agree is mended, counted, or salvaged."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.dataplane import layout, numbers
from auditpipeline.dataplane.layout import beyond
from auditpipeline.dataplane.numbers import Mended, gaps, settle
from auditpipeline.dataplane.store import Store
from tests.dataplane.test_spool import aside, lines_from, opened

ROWS = 5


def made(path: Path) -> None:
    """A spool with five rows of ten events; `ahead` has got 20 of them, `behind` none."""
    store = Store(layout.open_checked(path), 2**30)
    with store.transaction():
        store.use(["ahead", "behind"])
        for row in range(ROWS):
            store.append([b"%d" % number for number in range(10 * row, 10 * row + 10)], "x")
        store.advance("ahead", 20, 20)
    store.close()


def changed(path: Path, *changes: str) -> None:
    """Changes a closed spool behind its back."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as found:
        for change in changes:
            found.execute(change)


def settled(path: Path) -> Mended:
    """What an open finds."""
    with contextlib.closing(layout.open_checked(path)) as found:
        return settle(found)


def lost(path: Path) -> dict[str, int]:
    """What is counted as damaged."""
    with contextlib.closing(sqlite3.connect(path)) as found:
        return dict(found.execute("SELECT output, events FROM lost WHERE reason = 'damaged'"))


def test_numbers_that_agree_are_left_alone(tmp_path: Path) -> None:
    """Again and again."""
    path = tmp_path / "spool.sqlite"
    made(path)
    for _ in range(2):
        assert settled(path) == ({}, 0)
    assert lost(path) == {}


@pytest.mark.parametrize(
    ("first", "missing"),
    [(0, {"behind": 10}), (10, {"behind": 10}), (30, {"ahead": 10, "behind": 10}), (40, {"ahead": 10, "behind": 10})],
)
def test_a_gap_is_counted_once_for_each_output_before_it(tmp_path: Path, first: int, missing: dict[str, int]) -> None:
    """Wherever it is: before the first row, between two, after the last one."""
    path = tmp_path / "spool.sqlite"
    made(path)
    settled(path)
    changed(path, f"DELETE FROM events WHERE first = {first}")  # noqa: S608
    assert settled(path) == (missing, 0)
    assert lost(path) == missing
    for _ in range(2):
        assert settled(path) == ({}, 0)
    changed(path, "UPDATE cursors SET next = 45 WHERE output = 'ahead'", "DELETE FROM events WHERE first = 20")
    again = {"behind": 10}
    assert settled(path) == (again, 0)
    assert lost(path) == {output: missing.get(output, 0) + again.get(output, 0) for output in missing}


def let_go(store: Store) -> None:
    """Both outputs lose what they have not got."""
    with store.transaction():
        store.drop_oldest(2**30)


def expire(store: Store) -> None:
    """Likewise, by age."""
    store.max_age, store.clock = 1.0, iter([0.0, 10.0, 20.0]).__next__
    for _ in range(3):
        with store.transaction():
            store.expire()


def remove(store: Store) -> None:
    """Both outputs go."""
    with store.transaction():
        store.use([])


@pytest.mark.parametrize("lose", [let_go, expire, remove])
def test_a_gap_is_not_counted_again_when_the_rest_is_lost(tmp_path: Path, lose: Callable[[Store], None]) -> None:
    """Each event that an output does not get has one reason: 30 and 50 wait, ten of them are missing from the disk."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, "DELETE FROM events WHERE first = 20")
    assert settled(path).missing == {"ahead": 10, "behind": 10}
    store = Store(layout.open_checked(path), 2**30)
    lose(store)
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT sum(events) FROM lost").fetchone() == (30 + 50,)
        assert found.execute("SELECT sum(events) FROM lost WHERE reason = 'damaged'").fetchone() == (20,)


@pytest.mark.parametrize("forgotten", [False, True], ids=["its count can be read", "its count is lost"])
async def test_a_gap_is_counted_once_by_a_later_salvage(tmp_path: Path, forgotten: bool) -> None:
    """The file is damaged twice; what was missing before is missing once."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, "DELETE FROM events WHERE first = 20")
    settled(path)
    if forgotten:
        changed(path, "DELETE FROM lost")
    changed(path, "UPDATE counters SET value = 'x' WHERE name = 'received'")
    spool = await opened(path, outputs=("ahead", "behind"))
    await spool.close()
    assert aside(tmp_path)
    assert lost(path) == {"ahead": 10, "behind": 10}


def test_what_the_release_before_has_counted_is_not_counted_again(tmp_path: Path) -> None:
    """It knows no gaps; what its salvage has lost, it has told by output."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, "DELETE FROM events WHERE first = 30", "INSERT INTO lost VALUES ('behind', 'damaged', 10)")
    assert settled(path) == ({"ahead": 10}, 0)
    assert settled(path) == ({}, 0)


@pytest.mark.parametrize("received", [3, 43, 49])
async def test_rows_that_were_never_counted_are_delivered(tmp_path: Path, received: int) -> None:
    """As the release before left them: `received` is raised, no number is used twice, and requests are taken."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, f"UPDATE counters SET value = {received} WHERE name = 'received'")  # noqa: S608
    spool = await opened(path, outputs=("ahead", "behind"))
    assert spool.end == 50
    await spool.append([b"50"])
    assert await lines_from(spool) == [b"%d" % number for number in range(51)]
    assert (await spool.figures()).lost == []
    await spool.close()
    assert not aside(tmp_path)


async def test_numbers_that_a_failed_commit_skipped_are_counted(tmp_path: Path) -> None:
    """As the release before left them: a row behind a gap, and a counter that is as much too low."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, "UPDATE events SET first = 47 WHERE first = 40")
    spool = await opened(path, outputs=("ahead", "behind"))
    assert spool.end == 57
    assert sorted((await spool.figures()).lost) == [("ahead", "damaged", 7), ("behind", "damaged", 7)]
    assert len(await lines_from(spool)) == 50
    await spool.append([b"again"])
    await spool.close()


async def test_numbers_that_two_rows_hold_are_given_anew(tmp_path: Path) -> None:
    """As the release before could leave them: nothing is lost, and the file is put aside."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, "UPDATE events SET first = 33 WHERE first = 40")
    spool = await opened(path, outputs=("ahead", "behind"))
    assert aside(tmp_path)
    found = await lines_from(spool)
    assert sorted(found, key=int) == [b"%d" % number for number in range(50)]
    assert spool.healthy
    assert spool.cursors["ahead"].next == 20
    await spool.close()
    assert settled(path) == ({}, 0)


async def test_a_cursor_beyond_all_events_gets_what_comes(tmp_path: Path) -> None:
    """And for the others, what it says that there was is missing."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, "UPDATE cursors SET next = 60 WHERE output = 'ahead'")
    spool = await opened(path, outputs=("ahead", "behind"))
    assert spool.end == 60
    assert (await spool.figures()).lost == [("behind", "damaged", 10)]
    await spool.append([b"60"])
    assert await lines_from(spool, spool.cursors["ahead"].next) == [b"60"]
    await spool.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cursors SET next = 'x' WHERE output = 'behind'",
        "UPDATE counters SET value = 'x' WHERE name = 'received'",
    ],
)
async def test_a_number_that_is_none_is_salvaged(tmp_path: Path, change: str) -> None:
    """Whoever had that cursor starts at the oldest event."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, change)
    spool = await opened(path, outputs=("ahead", "behind"))
    assert aside(tmp_path)
    assert (spool.cursors["ahead"].next, spool.cursors["behind"].next, spool.end) == (20, 0, 50)
    assert len(await lines_from(spool)) == 50
    await spool.close()


def test_counters_that_are_gone_are_made_again(tmp_path: Path) -> None:
    """From the rows."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, "DELETE FROM counters")
    assert settled(path) == ({}, 50)


def test_a_size_that_is_wrong_is_mended(tmp_path: Path) -> None:
    """A spool that believed it would be full for ever."""
    path = tmp_path / "spool.sqlite"
    made(path)
    changed(path, f"UPDATE events SET size = {2**50} WHERE first = 10")  # noqa: S608
    settled(path)
    with contextlib.closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT count(*) FROM events WHERE size <> length(data)").fetchone() == (0,)


def test_a_failure_in_between_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction."""
    path = tmp_path / "spool.sqlite"
    made(path)
    settled(path)
    changed(path, "DELETE FROM events WHERE first = 30")

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(numbers, "count_loss", fail)
    with pytest.raises(sqlite3.OperationalError):
        settled(path)
    monkeypatch.undo()
    assert lost(path) == {}
    assert settled(path) == ({"ahead": 10, "behind": 10}, 0)


@given(st.sets(st.integers(0, 60)), st.integers(0, 60))
def test_gaps_are_what_no_row_holds(missing: set[int], position: int) -> None:
    """Against a set of numbers."""
    rows = [(number, number + 1) for number in range(60) if number not in missing]
    found = gaps(rows, 0, 60)
    assert {number for first, end in found for number in range(first, end)} == {n for n in missing if n < 60}
    assert beyond(position, found) == sum(position <= number < 60 for number in missing)
