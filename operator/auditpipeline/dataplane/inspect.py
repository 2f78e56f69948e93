"""A spool for the person on call: what it holds. Synchronous; `store` has the layout, `requeue` puts letters back.

Looking never changes a byte of the folder, whether a process has the spool open, was killed, or ended: the file and its
shared memory are opened for reading alone (https://www.sqlite.org/wal.html, "Read-Only Databases"; `readonly_shm` is
the option of SQLite's unix VFS for that). Each look is one short transaction: the writer's journal is not held up.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import zstandard

from auditpipeline.core.errors import AuditPipelineError
from auditpipeline.dataplane import layout, rows, store
from auditpipeline.dataplane.frames import inflated

_TRIES = 5
_READ_BYTES = 2**20
REQUEUED = "requeued"


class OutputFigures(NamedTuple):
    """One output: `next` is the number of the event that it gets next, `waiting` how many are stored from that on,
    `oldest` when the first of these was stored (seconds since the epoch), `last` when it got the last one (0: never),
    `lost` what it will not get."""

    name: str
    next: int
    delivered: int
    waiting: int
    oldest: float | None
    last: float
    lost: int


class DeadFigures(NamedTuple):
    """Dead letters of one output and reason that are kept, and the bytes of them as stored."""

    output: str
    reason: str
    letters: int
    size: int


class Summary(NamedTuple):
    """What a spool holds. Events have the numbers `first` to `end - 1`; `size` is the bytes of them as stored, `clean`
    whether the last process closed it; `lost` is (output, reason, events)."""

    first: int
    end: int
    events: int
    size: int
    oldest: float | None
    newest: float | None
    clean: bool
    outputs: list[OutputFigures]
    dead: list[DeadFigures]
    lost: list[tuple[str, str, int]]
    dead_removed: int
    requeued: int


class Letter(NamedTuple):
    """A dead letter; `at` is in seconds since the epoch, `data` what could not be delivered, as it came. Unless it is
    `whole`, the disk has damaged it, and `data` is empty."""

    id: int
    at: float
    output: str
    reason: str
    key: str
    data: bytes
    whole: bool = True


class Stored(NamedTuple):
    """An event and its number; `line` is None where it cannot be read any more."""

    number: int
    received: float
    line: bytes | None


class Chosen(NamedTuple):
    """Which dead letters: these ids, or those of an output (None: of all); of no output is NO_OUTPUT."""

    ids: tuple[int, ...] = ()
    output: str | None = None


class _Alone(AuditPipelineError):
    """A journal without its shared memory."""


@contextmanager
def looking(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads one state of the spool, and changes nothing. AuditPipelineError where it is none."""
    if not path.is_file():
        raise AuditPipelineError(f"{path}: no spool is there; it is called spool.sqlite in a Pod and in --data-dir")
    try:
        with closing(_open(path)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise AuditPipelineError(f"{path} cannot be read as a spool: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    """A transaction that reads; tried again where a process starts, or ends, in that moment."""
    for _ in range(_TRIES):
        try:
            return _begun(path)
        except (sqlite3.OperationalError, _Alone):
            time.sleep(0.05)
    return _begun(path)


def _begun(path: Path) -> sqlite3.Connection:
    if layout.is_beheaded(path):
        raise AuditPipelineError(f"{path} is empty, and its journal is not: a start of its process saves what it holds")
    uri = f"file:{quote(str(path))}?mode=ro&{_how(path)}"
    connection = rows.lenient(sqlite3.connect(uri, uri=True, isolation_level=None))
    try:
        connection.execute("BEGIN")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != layout.LAYOUT:
            raise AuditPipelineError(f"{path} has layout {version}, this release reads {layout.LAYOUT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _how(path: Path) -> str:
    """Without a journal (a process that ended cleanly) the file is all; with one, its shared memory has to be there.

    An empty journal is none: SQLite makes one where a process ends between this look and its own.
    """
    shared, journal = Path(f"{path}-shm"), Path(f"{path}-wal")
    if shared.exists():
        return "readonly_shm=1"
    with suppress(FileNotFoundError):
        if journal.stat().st_size:
            raise _Alone(f"{journal} is there and {shared.name} is not, as in a copy: touch {shared}")
    return "immutable=1"


def summary(path: Path) -> Summary:
    """What the spool holds."""
    with looking(path) as connection:
        figures = store.figures(connection)
        counters = dict(connection.execute("SELECT name, value FROM counters"))
        first, events, size, oldest, newest = connection.execute(
            "SELECT min(first), coalesce(sum(count), 0), coalesce(sum(size), 0), min(received), max(received) "
            "FROM events"
        ).fetchone()
        end = figures.received
        outputs = [
            OutputFigures(
                name, next_, delivered, max(0, end - next_), figures.waiting_since.get(name), at, _lost(figures, name)
            )
            for name, next_, delivered, at in connection.execute("SELECT * FROM cursors ORDER BY output")
        ]
        dead = connection.execute(
            "SELECT output, reason, count(*), sum(size) FROM dead GROUP BY output, reason ORDER BY output, 3 DESC"
        )
        return Summary(
            first=end if first is None else first,
            end=end,
            events=events,
            size=size,
            oldest=oldest,
            newest=newest,
            clean=bool(counters.get("clean")),
            outputs=outputs,
            dead=[DeadFigures(*row) for row in dead],
            lost=sorted(figures.lost),
            dead_removed=figures.dead_removed,
            requeued=counters.get(REQUEUED, 0),
        )


def _lost(figures: store.Figures, name: str) -> int:
    return sum(events for output, _, events in figures.lost if output == name)


def events(path: Path, start: int = 0, end: int | None = None, output: str | None = None) -> Iterator[Stored]:
    """The stored events of these numbers (`end` excluded), or from an output's cursor on; as they were stored, which is
    the widest that any output wants. AuditPipelineError where there is no such output."""
    if output is not None:
        with looking(path) as connection:
            row = connection.execute("SELECT next FROM cursors WHERE output = ?", (output,)).fetchone()
            names = [name for (name,) in connection.execute("SELECT output FROM cursors ORDER BY output")]
        if row is None:
            raise AuditPipelineError(f"{path} knows no output {output!r}: it has {', '.join(names) or 'none'}")
        start = max(start, row[0])
    while end is None or start < end:
        with looking(path) as connection:
            chunks = rows.read(connection, start, _READ_BYTES)
        if not chunks:
            return
        for chunk in chunks:
            for number in range(max(start, chunk.first), min(chunk.first + chunk.events, end or 2**63)):
                yield Stored(number, chunk.received, chunk.lines[number - chunk.first] if chunk.lines else None)
            start = max(start, chunk.first + chunk.events)


def dead(path: Path, chosen: Chosen, most: int) -> list[Letter]:
    """Up to `most` of the chosen dead letters, the newest first."""
    return list(each_dead(path, chosen, most))


def each_dead(path: Path, chosen: Chosen, most: int) -> Iterator[Letter]:
    """The same, one at a time: a letter may be as large as a body. What goes meanwhile is left out."""
    with looking(path) as connection:
        clause, values = where(chosen)
        query = f"SELECT id FROM dead {clause} ORDER BY id DESC LIMIT ?"  # noqa: S608
        numbers_ = connection.execute(query, (*values, most)).fetchall()
    for (number,) in numbers_:
        with looking(path) as connection:
            letter = letter_of(connection, number)
        if letter:
            yield letter


def where(chosen: Chosen) -> tuple[str, list[object]]:
    """The clause that chooses them, and its values."""
    clauses, values = list[str](), list[object]()
    if chosen.ids:
        clauses.append(f"id IN ({', '.join('?' * len(chosen.ids))})")
        values += chosen.ids
    if chosen.output is not None:
        clauses.append("output = ?")
        values.append(chosen.output)
    return f"WHERE {' AND '.join(clauses)}" if clauses else "", values


def letter_of(connection: sqlite3.Connection, number: int) -> Letter | None:
    """The letter of that id; None if it is gone."""
    query = "SELECT id, at, output, reason, key, data FROM dead WHERE id = ?"
    row = connection.execute(query, (number,)).fetchone()
    if not row:
        return None
    letter = Letter(*row)
    try:
        return letter._replace(data=inflated(letter.data if isinstance(letter.data, bytes) else b""))
    except zstandard.ZstdError as error:
        return letter._replace(reason=f"{letter.reason} (damaged by the disk: {error})", data=b"", whole=False)


def in_use(path: Path) -> bool | None:
    """Whether a process has the spool open; None where the kernel does not say. Touches no lock: who starts in that
    moment would be refused."""
    try:
        found = Path(f"{path}.lock").stat()
        locks = Path("/proc/locks").read_text()
    except FileNotFoundError:
        return False
    except OSError:
        return None
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(fields[1:2] == ["FLOCK"] and fields[5] == device for fields in map(str.split, locks.splitlines()))
