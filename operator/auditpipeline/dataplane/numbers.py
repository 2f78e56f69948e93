"""Whether the numbers of a spool agree, looked at whenever it is opened: SQLite's own check cannot know.

    rows        first=0 count=400 | first=400 count=17 |  ......  | first=900 count=100 |      end=1000
    gaps                                               417 to 900
    counters    received = 1000      cursors <= 1000

1. Rows join up. A gap is a loss: it is counted as `damaged`, once, for each output that has not passed it, and noted in
   the side table `gaps` (first, and the number behind it).
2. The last row ends at `received`, and no cursor is behind that. If one is, `received` is raised: a number that was
   used is not used again.
3. No two rows hold the same number. If they do, sqlite3.DatabaseError is raised, and `salvage` gives one of them other
   numbers.

Before a loss is counted, the row before the gap is read: if only its `count` is wrong, that is mended.

The release before knows no `gaps`. What its salvage has counted is known by the outputs' counts of `damaged` events.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from auditpipeline.dataplane.layout import Span, beyond, counters, known_gaps
from auditpipeline.dataplane.rows import lines_in
from auditpipeline.dataplane.store import count_loss

_COUNTERS = ("received", "delivered", "dead_removed", "clean")


class Mended(NamedTuple):
    """What did not agree: events that are missing, by output, and by how much `received` was too low."""

    missing: dict[str, int]
    raised: int


def settle(connection: sqlite3.Connection) -> Mended:
    """Makes the numbers agree, in one transaction. sqlite3.DatabaseError if they cannot."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _settle(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return found


def gaps(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """What is missing between `start` and `end`, and between spans; these are in order."""
    found, reached = list[Span](), start
    for first, behind in (*spans, (end, end)):
        if first > reached:
            found.append((reached, first))
        reached = max(behind, reached)
    return found


def _settle(connection: sqlite3.Connection) -> Mended:
    known = _known(connection)
    connection.executemany("INSERT INTO counters VALUES (?, 0) ON CONFLICT DO NOTHING", [(name,) for name in _COUNTERS])
    cursors = dict(connection.execute("SELECT output, next FROM cursors"))
    received = counters(connection)["received"]
    for value in (received, *cursors.values()):
        if not isinstance(value, int):
            raise sqlite3.DatabaseError(f"{value!r} is not the number of an event")
    connection.execute("UPDATE events SET size = length(data) WHERE size IS NOT length(data)")
    spans = _spans(connection, received, known or set())
    end = max([received, *(behind for _, behind in spans), *cursors.values()])
    connection.execute("UPDATE counters SET value = ? WHERE name = 'received'", (end,))
    start = min([end, *cursors.values(), *(first for first, _ in spans[:1])])
    lost = gaps(spans, start, end)
    missing = _count(connection, cursors, lost, known)
    connection.execute("DELETE FROM gaps")
    connection.executemany("INSERT INTO gaps VALUES (?, ?)", lost)
    return Mended(missing, end - received)


def _known(connection: sqlite3.Connection) -> set[Span] | None:
    """The gaps that are counted; None if no release that knows them has opened the spool yet."""
    fresh = not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'gaps'").fetchone()
    connection.execute("CREATE TABLE IF NOT EXISTS gaps (first INTEGER PRIMARY KEY, next INTEGER NOT NULL)")
    return None if fresh else set(known_gaps(connection))


def _spans(connection: sqlite3.Connection, received: int, known: set[Span]) -> list[Span]:
    """The numbers of each row, as far as they can be told."""
    rows = connection.execute("SELECT first, count FROM events ORDER BY first").fetchall()
    spans = list[Span]()
    for (first, count), row in pairwise([*rows, (None, 0)]):
        following = row[0]
        behind = first + count if isinstance(count, int) and count > 0 else first
        expected = received if following is None else following
        if behind != expected and (behind, expected) not in known:
            behind = _looked_at(connection, first, behind, following, received)
        spans.append((first, behind))
    return spans


def _looked_at(connection: sqlite3.Connection, first: int, behind: int, following: int | None, received: int) -> int:
    """Where the row really ends, by its content; its `count` is mended if that is wrong."""
    (data,) = connection.execute("SELECT data FROM events WHERE first = ?", (first,)).fetchone()
    lines = lines_in(data)
    if lines is None:  # it is counted by each output that reads it
        return max(received, first + 1) if following is None else following
    if following is not None and first + len(lines) > following:
        raise sqlite3.DatabaseError(f"the events from {following} on are stored twice")
    if first + len(lines) != behind:
        connection.execute("UPDATE events SET count = ? WHERE first = ?", (len(lines), first))
    return first + len(lines)


def _count(
    connection: sqlite3.Connection, cursors: dict[str, int], lost: list[Span], known: set[Span] | None
) -> dict[str, int]:
    """Counts the gaps that nobody has counted, by output."""
    told = dict(connection.execute("SELECT output, events FROM lost WHERE reason = 'damaged'"))
    missing = {
        output: max(0, beyond(position, lost) - beyond(position, known or ())) for output, position in cursors.items()
    }
    if known is None:
        missing = {output: max(0, events - told.get(output, 0)) for output, events in missing.items()}
    for output, events in missing.items():
        count_loss(connection, output, "damaged", events)
    return {output: events for output, events in missing.items() if events}
