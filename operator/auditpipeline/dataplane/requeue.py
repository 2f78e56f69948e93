"""Dead letters, put back into the spool. Synchronous; no process may have it open.

One transaction: whatever ends it, each letter is either back or still a letter. `requeue` takes the lock that the
process takes, and refuses while that has it: a running process counts the numbers of events in its memory.

A letter that is put back becomes a new event, of a new number, for its own output alone (`only`), or for every output
if none ever had it; it is counted as received again, and as `requeued`. Of a body in which some events can be read and
others cannot, the first go back and the others stay. One letter is in memory at a time, and one row of at most
`_ROW_BYTES` or of one event.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import zstandard

from auditpipeline.core.errors import AuditPipelineError, Permanent
from auditpipeline.core.event import Raw, decode_event, encode_line, encode_plain, head, without_envelope
from auditpipeline.core.eventlist import Body, Unreadable, encode_body, is_event, read_body
from auditpipeline.core.mend import mended
from auditpipeline.dataplane import layout, numbers, rows
from auditpipeline.dataplane.inspect import REQUEUED, Chosen, Letter, letter_of, where
from auditpipeline.dataplane.store import NO_OUTPUT, Store, only

_ROWS, _ROW_BYTES = 400, 4 * 2**20


class Requeued(NamedTuple):
    """How many letters were put back, as how many events, and why others stay, by id."""

    letters: int
    events: int
    left: dict[int, str]


def requeue(path: Path, chosen: Chosen) -> Requeued:
    """Puts the chosen dead letters back, all or none of what can be; the others stay, with the reason.

    AuditPipelineError where a process has the spool open, or the spool is damaged.
    """
    if not path.is_file():
        raise AuditPipelineError(f"{path}: no spool is there")
    with _locked(path):
        try:
            connection = rows.lenient(layout.open_checked(path))
            numbers.settle(connection)
        except sqlite3.DatabaseError as error:
            raise AuditPipelineError(f"{path} cannot be used: {error}; a start of its process mends it") from error
        # Letters take a sixteenth of a spool at most, so that no limit is needed for what they become.
        writer = Store(connection, max_bytes=2**62)
        try:
            with writer.transaction():
                return _put_back(connection, writer, chosen)
        finally:
            writer.close()


class _Row:
    """The row that is filled for one output."""

    def __init__(self, writer: Store) -> None:
        self.events = 0
        self._writer = writer
        self._output = NO_OUTPUT
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, output: str, line: bytes) -> None:
        """Takes a line; stores what is there if that is enough, or of another output."""
        if output != self._output or len(self._lines) >= _ROWS or self._size + len(line) > _ROW_BYTES:
            self.store()
        self._output = output
        self._lines.append(line)
        self._size += len(line)
        self.events += 1

    def store(self) -> None:
        """Stores what is there."""
        if self._lines:
            self._writer.append(self._lines, only(self._output) if self._output else "")
        self._lines, self._size = [], 0


def _put_back(connection: sqlite3.Connection, writer: Store, chosen: Chosen) -> Requeued:
    row, letters, left = _Row(writer), 0, dict[int, str]()
    for number in _ids(connection, chosen):
        letter = letter_of(connection, number)
        if not letter:
            continue
        found = _lines_of(letter, writer)
        for line in found.lines:
            row.add(letter.output, line)
        if found.reason:
            left[number] = found.reason
        else:
            letters += 1
        if found.lines:
            _take_out(connection, letter, found)
    row.store()
    connection.execute(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
        (REQUEUED, letters),
    )
    return Requeued(letters, row.events, left)


class _Found(NamedTuple):
    """What a letter holds: events as lines, and if there is a `reason`, what cannot be put back."""

    lines: list[bytes]
    reason: str = ""
    rest: bytes = b""


def _take_out(connection: sqlite3.Connection, letter: Letter, found: _Found) -> None:
    """Removes what was put back."""
    if not found.reason:
        connection.execute("DELETE FROM dead WHERE id = ?", (letter.id,))
        return
    data = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(found.rest)
    connection.execute("UPDATE dead SET size = ?, data = ? WHERE id = ?", (len(data), data, letter.id))


def _lines_of(letter: Letter, writer: Store) -> _Found:
    """What can be put back of a letter: whatever would only become a letter again, stays one."""
    if not letter.whole:
        return _Found([], "the disk has damaged it")
    if not letter.data:
        return _Found([], "only its digest was kept" if "SHA-256" in letter.reason else "it is empty")
    try:
        if missing := _missing(letter.output, writer):
            return _Found([], missing)
        if letter.output == NO_OUTPUT:
            return _events_of(letter.data)
        return _Found([encode_line(decode_event(letter.data)) if b"\n" in letter.data else letter.data])
    except Permanent as error:
        return _Found([], str(error))


def _missing(output: str, writer: Store) -> str:
    """Why nobody would get a letter of that output: a new output begins behind what is stored; else empty."""
    if not writer.cursors:
        return "there is no output that would get it"
    return "" if output in (NO_OUTPUT, *writer.cursors) else f"there is no output {output!r} any more"


def _events_of(body: bytes) -> _Found:
    """The events of a body, or of a line, that belongs to no output."""
    read = _read(body)
    lines, others = list[bytes](), [each.data for each in read.unreadable]
    reasons = [each.reason for each in read.unreadable]
    for event in read.events:
        try:
            lines.append(_line(event))
        except Permanent as error:
            others.append(encode_plain(event))
            reasons.append(str(error))
    if not (lines or reasons):
        return _Found([], "there is no event in it")
    left = f"{len(others)} parts of it: " if lines and others else ""
    return _Found(lines, left + "".join(reasons[:1]), encode_body(others))


def _read(body: bytes) -> Body:
    try:
        event = decode_event(body)
    except Permanent as error:
        found = read_body(body)
        return found if found.events else Body([], [Unreadable(str(error), body)])
    alone = "items" not in event and is_event(event)
    return Body([without_envelope(event)], []) if alone else read_body(body)


def _line(event: Raw) -> bytes:
    """The event as a line, mended if it has to be; Permanent if that does not help."""
    try:
        head(event)
        return encode_line(event)
    except Permanent:
        again = mended(encode_plain(event))
    head(again)
    return encode_line(again)


def _ids(connection: sqlite3.Connection, chosen: Chosen) -> list[int]:
    """The chosen letters, output by output, the oldest first."""
    clause, values = where(chosen)
    query = f"SELECT id FROM dead {clause} ORDER BY output, id"  # noqa: S608
    return [number for (number,) in connection.execute(query, values)]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AuditPipelineError(
            f"{path} is in use: stop the process that has it open (in a cluster, scale its StatefulSet to 0 and run "
            "this in a Pod that mounts the claim), requeue, and start it again; events wait at their senders meanwhile"
        ) from None
    finally:
        os.close(lock)
