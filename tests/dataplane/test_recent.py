"""The rows in memory, held against a list; and that outputs which have caught up are served from there."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.config import HttpOutput
from auditpipeline.dataplane import rows
from auditpipeline.dataplane.recent import Recent
from auditpipeline.dataplane.store import Chunk
from tests.dataplane.setting import Destination, Setting, event, ids, until

MOST = 40
ROWS = st.lists(st.lists(st.binary(max_size=15), min_size=1, max_size=4), max_size=12)


@given(ROWS, st.integers(0, 50), st.integers(0, 50), st.integers(1, 60))
def test_what_it_gives_is_what_was_added_or_nothing(
    rows: list[list[bytes]], floor: int, position: int, most: int
) -> None:
    """From any event on: in order, joined up, one row at least where it has the event; and it never holds too much."""
    recent, whole = Recent(MOST), list[bytes]()
    for lines in rows:
        recent.add(Chunk(len(whole), len(lines), 0.0, "", lines))
        whole += lines
        assert recent.size <= MOST
    recent.forget(min(floor, len(whole)))
    position = min(position, len(whole))
    found = recent.read(position, most)
    if found is None:
        return
    got = [line for chunk in found for line in (chunk.lines or ())[max(0, position - chunk.first) :]]
    assert got == whole[position : position + len(got)]
    assert got or position == len(whole)


def test_it_holds_what_fits_and_lets_go_of_what_all_have_passed() -> None:
    """The newest rows stay; what is read before them is not here."""
    recent = Recent(30)
    for number in range(5):
        recent.add(Chunk(number * 2, 2, 0.0, "", [b"x" * 5, b"y" * 5]))
    assert recent.size == 30
    assert recent.read(3, 1) is None
    assert [chunk.first for chunk in recent.read(5, 100) or ()] == [4, 6, 8]
    recent.forget(7)
    assert [chunk.first for chunk in recent.read(7, 100) or ()] == [6, 8]
    recent.forget(10)
    assert (recent.size, recent.read(9, 1)) == (0, None)


def test_a_row_that_does_not_join_up_replaces_the_others() -> None:
    """Nothing may be read across a gap."""
    recent = Recent(100)
    recent.add(Chunk(0, 2, 0.0, "", [b"a", b"b"]))
    recent.add(Chunk(7, 1, 0.0, "", [b"c"]))
    assert recent.read(0, 100) is None
    assert [chunk.first for chunk in recent.read(7, 100) or ()] == [7]


async def test_an_output_that_has_caught_up_reads_no_disk(
    setting: Setting, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are not read back; what an output missed while it was down comes from the disk, in order."""
    read: list[int] = []
    original = rows.read

    def noted(connection: sqlite3.Connection, position: int, max_bytes: int) -> list[Chunk]:
        read.append(position)
        return original(connection, position, max_bytes)

    monkeypatch.setattr(rows, "read", noted)
    sent = [event() for _ in range(60)]
    async with setting.running(setting.config(setting.route(output=HttpOutput(destination.url)))) as plane:
        for found in sent[:30]:
            assert await plane.post([found]) == 200
        await until(lambda: len(destination.events) == 30)
        assert read == []
    down = setting.config(setting.route(output=HttpOutput("http://127.0.0.1:1/")))
    async with setting.running(down) as plane:
        for found in sent[30:45]:
            assert await plane.post([found]) == 200
    async with setting.running(setting.config(setting.route(output=HttpOutput(destination.url)))) as plane:
        for found in sent[45:]:
            assert await plane.post([found]) == 200
        await until(lambda: len(destination.events) == 60)
    assert read
    assert ids(destination.events) == ids(sent)
