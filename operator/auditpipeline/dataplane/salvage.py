"""A damaged spool: what can still be read of it is taken over into a new one, and the file is put aside.

    spool.sqlite  --copy-->  .salvaging  --complete, synced-->  .salvaged
    spool.sqlite  ------->   .damaged-20261124T015604Z    (with -wal and -shm, for whoever wants to look)
                             .salvaged  ------->  spool.sqlite

The damaged file stays in its place until the new one is complete and on disk, so that each moment at which the process
may be killed is told by the names that it leaves:

    .salvaging                the copy was broken off: it is thrown away, and made again
    .salvaged                 it is whole: what is left of the renaming is done
    neither, and no spool     beside a damaged file: that is taken back and copied

There is room for both files, or Retryable says how much is missing: nothing is taken from the old file, and no spool
is opened that looks empty. The caller waits and tries again; ARCHITECTURE.md says why.

A file that is gone or empty beside its journal (`-wal`) is damaged too. The journal holds whole pages, so that an empty
spool is put below it, and what the two make together is read.

A disk that fails for a moment makes a sound file look damaged. Therefore the file is looked at twice, and in between
all of its bytes have to be readable, or stay unreadable for ten seconds; if reads begin to fail during the copy,
Retryable says so.

In every other case the process goes on, since a crash loop stores nothing. Rows are read from the oldest on until the
damage, and from the newest back until it, so that torn pages cost only what lies on them, unless rows are found by way
of two of them: then also what is between these. Event numbers show what is
missing: each output that had not passed it yet counts it as lost with the reason `damaged`. If cursors cannot be read,
their outputs start at the oldest event: twice is better than never. A whole row whose numbers another one holds as well
gets new ones.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane import numbers
from auditpipeline.dataplane.disk import is_readable, sync_folder
from auditpipeline.dataplane.layout import Span, beyond, is_beheaded, make, open_checked
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.rows import inflate, lenient
from auditpipeline.dataplane.store import NO_OUTPUT, count_loss

_Row = tuple[Any, ...]
_FILES = ("", "-wal", "-shm")
_TRIES, _TRY_SECONDS = 10, 1.0
_IN_VAIN, _UNREADABLE = 64, 1024
"""So many unreadable rows one behind the other mean that no later one can be read, either; and so many in all are
passed over, since each makes SQLite walk through all rows before it."""
_DISK = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
)


def open_or_salvage(path: Path, outputs: list[str], log: Log) -> sqlite3.Connection:
    """A connection to the spool at `path`; of a damaged one, to what could be read of it. `outputs` are those of the
    configuration. Retryable where the disk has no room for that."""
    error = _interrupted(path, log)
    for look in () if error else (1, 2):
        try:
            return _opened(path, log)
        except sqlite3.DatabaseError as found:
            if _is_disk(found):  # putting the file aside would not help
                raise
            error = str(found)
        if look == 1:
            _wait_for_disk(path, log)
    log.error("the spool is damaged: what can be read of it is taken over", path=str(path), error=error)
    taken, missing = _take_over(path, outputs)
    aside = _replace(path)
    log.warning("the damaged spool was put aside", aside=str(aside), events=taken, missing=missing)
    return _opened(path, log)


def _wait_for_disk(path: Path, log: Log) -> None:
    """Returns when all bytes of the spool can be read, or could not be for so long that they never will be."""
    for attempt in range(_TRIES):
        if _is_readable(path):
            return
        if not attempt:
            log.warning("the disk fails: the spool is not held to be damaged yet", path=str(path))
        time.sleep(_TRY_SECONDS)


def _is_readable(path: Path) -> bool:
    return all(is_readable(Path(f"{path}{suffix}")) for suffix in _FILES[:2])


def _opened(path: Path, log: Log) -> sqlite3.Connection:
    """A connection to a spool that is whole and whose numbers agree; sqlite3.DatabaseError if it is not."""
    connection = open_checked(path)
    try:
        found = numbers.settle(connection)
    except BaseException:
        connection.close()
        raise
    if found.raised:
        log.warning("events were stored that the spool did not count", path=str(path), events=found.raised)
    for output, events in found.missing.items():
        log.error("events are missing from the spool", path=str(path), output=output, events=events)
    return connection


def _interrupted(path: Path, log: Log) -> str:
    """Finishes what an earlier process began; why the file has to be salvaged whatever it looks like, or ""."""
    building, built = _beside(path, "salvaging"), _beside(path, "salvaged")
    begun = building.exists()
    _remove(building)
    if built.exists():
        log.warning("a salvage that was interrupted is finished", path=str(path), aside=str(_replace(path)))
        return ""
    if not (path.exists() or is_beheaded(path)) and (aside := _newest_aside(path)):
        log.warning("there is no spool beside a damaged one: that is taken back", path=str(path), aside=str(aside))
        for suffix in reversed(_FILES):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{aside}{suffix}").rename(f"{path}{suffix}")
        return "it was put aside, and nothing was put in its place"
    return "a salvage was interrupted" if begun else ""


def _take_over(path: Path, outputs: list[str]) -> tuple[int, int]:
    """Makes `.salvaged`; the number of events in it, and of those known to be missing. Retryable where there is no room
    for it."""
    building, built = _beside(path, "salvaging"), _beside(path, "salvaged")
    readable = _is_readable(path)
    building.touch(mode=0o600)  # from here on the file is copied, whatever it looks like
    try:
        _give_head(path)
        _pad(path)
        with contextlib.closing(make(building)) as new, contextlib.closing(_old(path)) as old:
            found = _copy_all(old, new, outputs)
        _sync(building)
    except (sqlite3.OperationalError, OSError) as error:
        _remove(building)
        raise Retryable(
            f"{error}: salvaging the damaged spool {path} needs up to {_size(path)} bytes free on its volume, and "
            f"{_free(path)} are: make room there, or move the file to another place, and with it what it holds"
        ) from error
    if old.unread and readable:
        _remove(building)
        raise Retryable(f"the disk of {path} has failed while the damaged spool was read")
    building.rename(built)
    sync_folder(path.parent)
    return found


def _replace(path: Path) -> Path:
    """Puts the damaged files aside and `.salvaged` in their place; where the first of them is now. May be interrupted
    anywhere and done again: the journal must be gone before another database stands beside it."""
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = _beside(path, f"damaged-{stamp}")
    if not path.exists():
        aside = _newest_aside(path) or aside
    for suffix in _FILES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    sync_folder(path.parent)
    _beside(path, "salvaged").rename(path)
    sync_folder(path.parent)
    return aside


def _newest_aside(path: Path) -> Path | None:
    """The damaged spool that was put aside last."""
    found = [file for file in path.parent.glob(f"{path.name}.damaged-*") if not file.name.endswith(_FILES[1:])]
    return max(found, default=None)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _remove(path: Path) -> None:
    for suffix in (*_FILES, "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _size(path: Path) -> int:
    return sum(file.stat().st_size for suffix in _FILES[:2] if (file := Path(f"{path}{suffix}")).exists())


def _free(path: Path) -> int:
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize


class _Old(sqlite3.Connection):
    """A connection to a damaged spool; `unread` if its disk did not give what was asked for."""

    unread = False


def _old(path: Path) -> _Old:
    """For reading alone: SQLite would move the journal into the damaged file, and delete it, when it is closed."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, factory=_Old)
    lenient(connection)
    return connection


def _copy_all(old: _Old, new: sqlite3.Connection, outputs: list[str]) -> tuple[int, int]:
    """Copies what can be read; the number of events copied, and of those known to be missing."""
    new.execute("BEGIN")
    spans, taken = _copy_events(old, new)
    for table, columns in (("dead", 7), ("lost", 3), ("counters", 2)):
        _copy(_rows(old, f"SELECT * FROM {table}"), new, table, columns)  # noqa: S608
    cursors = _cursors(_rows(old, "SELECT * FROM cursors"), spans[0][0] if spans else 0)
    if not (cursors or spans):
        # Nothing at all could be read: how many is unknown, but it must not look like none.
        for name in outputs or [NO_OUTPUT]:
            count_loss(new, name, "damaged", 1)
    cursors = cursors or [(name, spans[0][0] if spans else 0, 0, 0.0) for name in outputs]
    _copy(iter(cursors), new, "cursors", 4)
    spans += _copy_taken(old, new, taken, _end(new, spans, cursors))
    missing = _settle_numbers(new, spans, cursors, _known_gaps(old))
    new.execute("COMMIT")
    return sum(end - first for first, end in spans), missing


def _cursors(rows: Iterator[_Row], oldest: int) -> list[_Row]:
    """The cursors that can be read, from the oldest event on if their number cannot."""
    return [row if isinstance(row[1], int) else (row[0], oldest, 0, 0.0) for row in rows if isinstance(row[0], str)]


def _pad(path: Path) -> None:
    """Lengthens a file that was cut short to what its header says: SQLite reads nothing of it otherwise.

    Source: https://www.sqlite.org/fileformat2.html, "The Database Header": page size at 16, number of pages at 28.
    """
    with path.open("r+b") as file:
        header = file.read(32)
        size = int.from_bytes(header[16:18], "big") * int.from_bytes(header[28:32], "big")
        if header.startswith(b"SQLite format 3\0") and path.stat().st_size < size < 2**40:
            file.truncate(size)


def _give_head(path: Path) -> None:
    """Puts an empty spool below a journal that has lost its file: SQLite would delete it otherwise. Pages that the
    journal has come from there, others are those of a spool in which nothing was ever stored."""
    if not is_beheaded(path):
        return
    blank = _beside(path, "blank")
    _remove(blank)
    with contextlib.closing(make(blank)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    _sync(blank)
    blank.rename(path)
    sync_folder(path.parent)


def _copy_events(old: _Old, new: sqlite3.Connection) -> tuple[list[Span], list[int]]:
    """Copies the rows that are whole and in order; their numbers, and the first ones of rows whose numbers are
    taken."""
    spans, seen, taken = list[Span](), set[int](), list[int]()
    edge = 0
    for row in _rows(old, "SELECT * FROM events ORDER BY first"):
        if _is_whole(row) and row[0] >= edge:
            edge = row[0] + row[1]
            seen.add(row[0])
            spans.append(_insert(new, row))
    ceiling = 2**63
    for row in _rows(old, "SELECT * FROM events ORDER BY first DESC"):
        if row[0] in seen or not _is_whole(row):
            continue
        seen.add(row[0])
        if edge <= row[0] and row[0] + row[1] <= ceiling:
            ceiling = row[0]
            spans.append(_insert(new, row))
        else:
            taken.append(row[0])
    return sorted(spans), sorted(taken)


def _copy_taken(old: _Old, new: sqlite3.Connection, taken: list[int], end: int) -> list[Span]:
    """Copies rows under new numbers, from `end` on: outputs get them again, if they had them."""
    spans = list[Span]()
    for first in taken:
        for row in _rows(old, f"SELECT * FROM events WHERE first = {first}"):  # noqa: S608
            spans.append(_insert(new, (end, *row[1:])))
            end = spans[-1][1]
    return spans


def _insert(new: sqlite3.Connection, row: _Row) -> Span:
    new.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
    return row[0], row[0] + row[1]


def _is_whole(row: _Row) -> bool:
    """Whether the row holds the events that it says; a damaged page may yield anything."""
    kinds = (int, int, float, str, int, bytes)
    sound = len(row) == len(kinds) and all(map(isinstance, row, kinds))
    return sound and row[1] > 0 and inflate(row[5], row[1]) is not None


def _end(new: sqlite3.Connection, spans: list[Span], cursors: list[_Row]) -> int:
    """The first number that nothing has had."""
    known = new.execute("SELECT value FROM counters WHERE name = 'received'").fetchone()[0]
    ends: list[int] = [known if isinstance(known, int) else 0, *(end for _, end in spans), *(row[1] for row in cursors)]
    return max(ends)


def _known_gaps(old: _Old) -> list[Span]:
    """The gaps that were counted when the spool was opened before, as far as they can be read."""
    rows = _rows(old, "SELECT first, next FROM gaps")
    return [(first, behind) for first, behind in rows if isinstance(first, int) and isinstance(behind, int)]


def _settle_numbers(new: sqlite3.Connection, spans: list[Span], cursors: list[_Row], known: list[Span]) -> int:
    """Sets `received` to the end of the numbers, and counts for each output the gaps that it has not passed. What is
    `known` is not counted again, unless that count could not be read."""
    end = _end(new, spans, cursors)
    new.execute("UPDATE counters SET value = ? WHERE name = 'received'", (end,))
    new.execute("UPDATE counters SET value = 0 WHERE name = 'clean'")
    told = dict(new.execute("SELECT output, events FROM lost WHERE reason = 'damaged'"))
    missing = 0
    for output, position, *_ in cursors:
        counted = min(beyond(position, known), told.get(output, 0))
        lost = max(0, end - position - beyond(position, spans) - counted)
        missing = max(missing, lost)
        count_loss(new, output, "damaged", lost)
    return missing


def _copy(rows: Iterator[_Row], new: sqlite3.Connection, table: str, columns: int) -> None:
    marks = ", ".join("?" * columns)
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):  # a row of nulls, from a page of zeros
            new.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)  # noqa: S608


def _rows(old: _Old, query: str) -> Iterator[_Row]:
    """The rows that can be read, past those that cannot; up to the damage if that lies where SQLite finds its way from
    row to row. sqlite3.OperationalError where it is the disk that fails, and not the file."""
    behind, in_vain, unreadable = 0, 0, 0
    while in_vain < _IN_VAIN and unreadable < _UNREADABLE:
        try:
            for row in old.execute(f"{query} LIMIT -1 OFFSET {behind}"):
                behind, in_vain = behind + 1, 0
                yield row
            return
        except sqlite3.DatabaseError as error:
            _check(old, error)
        held_back = _one(old, query, behind)
        yield from held_back
        behind, unreadable = behind + 1, unreadable + 1
        in_vain = 0 if held_back else in_vain + 1


def _one(old: _Old, query: str, behind: int) -> list[_Row]:
    """The row behind so many, if it can be read: sqlite3 looks one ahead, and throws it away if the next one fails."""
    try:
        return old.execute(f"{query} LIMIT 1 OFFSET {behind}").fetchall()
    except sqlite3.DatabaseError as error:
        _check(old, error)
        return []


def _check(old: _Old, error: sqlite3.DatabaseError) -> None:
    if _is_disk(error):
        raise error
    old.unread |= getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_READ


def _is_disk(error: sqlite3.DatabaseError) -> bool:
    """Whether a file may be sound and its disk is not: full, read-only, no rights. What can never be read is damage."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF in _DISK and code not in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
