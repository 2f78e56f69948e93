"""A damaged spool: put aside, and what can still be read of it taken over into a new one.

    spool.sqlite  ->  spool.sqlite.damaged-20261124T015604Z   (with -wal and -shm, for whoever wants to look)

The process goes on in every case, since a crash loop stores nothing. Rows are read from the oldest on until the damage,
and from the newest back until it, so that one torn page costs only what lies on it. Event numbers show what is missing:
each output that had not passed it yet counts it as lost with the reason `damaged`. Where the cursors cannot be read,
outputs start at the oldest event: twice is better than never.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.store import NO_OUTPUT, count_loss, inflate, open_checked

_Row = tuple[Any, ...]


def open_or_salvage(path: Path, outputs: list[str], log: Log) -> sqlite3.Connection:
    """A connection to the spool at `path`; a damaged one is put aside first. `outputs` are those of the
    configuration."""
    try:
        return open_checked(path)
    except sqlite3.OperationalError:
        # The disk, not the file: full, read-only, no rights. Putting the file aside would not help.
        raise
    except sqlite3.DatabaseError as error:
        aside = quarantine(path)
        log.error("the spool is damaged and was put aside", path=str(path), aside=str(aside), error=str(error))
        connection = open_checked(path)
        taken, missing = _take_over(aside, connection, outputs)
        log.warning("what could be read of the damaged spool was taken over", events=taken, missing=missing)
        return connection


def quarantine(path: Path) -> Path:
    """Renames the spool's files out of the way; the new name of the first."""
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def _take_over(aside: Path, new: sqlite3.Connection, outputs: list[str]) -> tuple[int, int]:
    """Copies what can be read; the number of events copied, and of those known to be missing."""
    _pad(aside)
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as old:
        new.execute("BEGIN IMMEDIATE")
        spans = _copy_events(old, new)
        for table, columns in (("dead", 7), ("lost", 3), ("counters", 2)):
            _copy(_rows(old, f"SELECT * FROM {table}"), new, table, columns)  # noqa: S608
        cursors = [row for row in _rows(old, "SELECT * FROM cursors") if isinstance(row[1], int)]
        if not (cursors or spans):
            # Nothing at all could be read: how many is unknown, but it must not look like none.
            count_loss(new, NO_OUTPUT, "damaged", 1)
        if not cursors:
            cursors = [(name, spans[0][0] if spans else 0, 0, 0.0) for name in outputs]
        _copy(iter(cursors), new, "cursors", 4)
        missing = _settle_numbers(new, spans, cursors)
        new.execute("COMMIT")
    return sum(end - first for first, end in spans), missing


def _pad(aside: Path) -> None:
    """Lengthens a file that was cut short to what its header says: SQLite reads nothing of it otherwise.

    Source: https://www.sqlite.org/fileformat2.html, "The Database Header": page size at 16, number of pages at 28.
    """
    with aside.open("r+b") as file:
        header = file.read(32)
        size = int.from_bytes(header[16:18], "big") * int.from_bytes(header[28:32], "big")
        if header.startswith(b"SQLite format 3\0") and aside.stat().st_size < size < 2**40:
            file.truncate(size)


def _copy_events(old: sqlite3.Connection, new: sqlite3.Connection) -> list[tuple[int, int]]:
    """Copies the rows that are whole and in order; their (first, end)."""
    spans: list[tuple[int, int]] = []
    edge = 0
    for row in _rows(old, "SELECT * FROM events ORDER BY first"):
        if _is_whole(row) and row[0] >= edge:
            edge = row[0] + row[1]
            spans.append(_insert(new, row))
    ceiling = 2**63
    for row in _rows(old, "SELECT * FROM events ORDER BY first DESC"):
        if _is_whole(row) and edge <= row[0] and row[0] + row[1] <= ceiling:
            ceiling = row[0]
            spans.append(_insert(new, row))
    return sorted(spans)


def _insert(new: sqlite3.Connection, row: _Row) -> tuple[int, int]:
    new.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
    return row[0], row[0] + row[1]


def _is_whole(row: _Row) -> bool:
    """Whether the row holds the events that it says; a damaged page may yield anything."""
    kinds = (int, int, float, str, int, bytes)
    sound = all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True))
    return sound and row[1] > 0 and inflate(row[5], row[1]) is not None


def _settle_numbers(new: sqlite3.Connection, spans: list[tuple[int, int]], cursors: list[_Row]) -> int:
    """Sets `received` to the end of the numbers, and counts for each output the gaps that it has not passed."""
    known = new.execute("SELECT value FROM counters WHERE name = 'received'").fetchone()[0]
    end = max([known, *(end for _, end in spans), *(row[1] for row in cursors)])
    new.execute("UPDATE counters SET value = ? WHERE name = 'received'", (end,))
    new.execute("UPDATE counters SET value = 0 WHERE name = 'clean'")
    missing = 0
    for output, position, *_ in cursors:
        lost = end - position - sum(max(0, last - max(first, position)) for first, last in spans)
        missing = max(missing, lost)
        count_loss(new, output, "damaged", lost)
    return missing


def _copy(rows: Iterator[_Row], new: sqlite3.Connection, table: str, columns: int) -> None:
    marks = ", ".join("?" * columns)
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):  # a row of nulls, from a page of zeros
            new.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)  # noqa: S608


def _rows(old: sqlite3.Connection, query: str) -> Iterator[_Row]:
    """The rows up to the first damage."""
    with contextlib.suppress(sqlite3.DatabaseError):
        yield from old.execute(query)
