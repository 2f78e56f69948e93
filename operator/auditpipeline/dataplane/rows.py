"""Reading the rows of a spool, whatever has become of them: damage of a row costs that row alone.

A row is believed by its frame, which has a checksum. If `count` belies a frame that is whole, a bit of `count` has
flipped, and the frame is right; if the frame is not whole, the numbers from the row up to the next one are those of the
events that are lost with it.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import zstandard

from auditpipeline.dataplane.frames import inflated
from auditpipeline.dataplane.layout import counters
from auditpipeline.dataplane.lines import Lines
from auditpipeline.dataplane.store import Chunk

_ROWS = 256
_NEXT = "SELECT min(first) FROM events WHERE first > ?"


def read(connection: sqlite3.Connection, position: int, max_bytes: int) -> list[Chunk]:
    """The rows from the event of that number on: one at least if there is one, more up to `max_bytes` of lines. If a
    later one cannot be read, the first alone; sqlite3.Error if that cannot."""
    try:
        return _read(connection, position, max_bytes, _ROWS)
    except sqlite3.DatabaseError:
        if found := _read(connection, position, max_bytes, 1):
            return found
        raise


def _read(connection: sqlite3.Connection, position: int, max_bytes: int, most: int) -> list[Chunk]:
    rows = connection.execute(
        "SELECT first, count, received, filter, data FROM events WHERE first >= "
        "coalesce((SELECT max(first) FROM events WHERE first <= ?), 0) ORDER BY first LIMIT ?",
        (position, most),
    )
    chunks, total = list[Chunk](), 0
    for row in rows:
        chunk = _chunk(connection, row)
        if chunk.first + chunk.events <= position:
            continue
        chunks.append(chunk)
        total += chunk.lines.size if isinstance(chunk.lines, Lines) else 0
        if total >= max_bytes:
            break
    rows.close()
    return chunks


def inflate(data: object, count: object) -> Lines | None:
    """The lines of a row; None if they are not `count` whole ones."""
    lines = lines_in(data)
    return lines if lines is not None and len(lines) == count else None


def lines_in(data: object) -> Lines | None:
    """The lines of a row, as many as there are; None if the data is damaged."""
    try:
        text = inflated(data) + b"\n" if isinstance(data, bytes) else b""
    except zstandard.ZstdError:
        return None
    return Lines.joined(text, text.count(b"\n")) if text else None


def _chunk(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Chunk:
    first, count, received, digest, data = row
    lines = lines_in(data)
    if lines is None or len(lines) != count:
        end = end_of(connection, first)
        if lines is not None and first + len(lines) > end:
            lines = None
        count = end - first if lines is None else len(lines)
    at = received if isinstance(received, float) else 0.0
    return Chunk(first, count, at, digest if isinstance(digest, str) else "", lines)


def end_of(connection: sqlite3.Connection, first: int) -> int:
    """Where the numbers of the row end that begins at `first`, if its own count is not to be believed."""
    following = connection.execute(_NEXT, (first,)).fetchone()[0]
    return max(first + 1, counters(connection).get("received", 0) if following is None else following)


def lenient(connection: sqlite3.Connection) -> sqlite3.Connection:
    """The connection, for reading alone: text that is not UTF-8 any more is read with U+FFFD in it."""
    connection.text_factory = lambda data: data.decode(errors="replace")
    return connection
