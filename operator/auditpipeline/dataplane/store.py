"""The spool's file: what it holds, and the transactions that change it. Synchronous; `spool` gives it threads.

Every event that is stored gets a number, from 0, and keeps it. A row holds the events of one request, a cursor is the
number of the next event that an output shall get:

    events   first=0 count=400 | first=400 count=17 | first=417 count=400 |          end=817
                                      ^ cursor archive=405        ^ cursor siem=617

    events.data = zstd (any level, checksum) of `count` JSON lines, joined by a line feed, none at the end

Invariants, each held by the transactions below:

1. rows join up: the `first` of a row is `first + count` of the row before it. A gap is a loss, and counted
   (`numbers`, at every open);
2. no row goes before every cursor has passed it, and numbers are never used again;
3. a cursor never goes back, and moves in the transaction that counts what it passed;
4. what an output does not get is counted by `count_loss`, and by nothing else;
5. `size` is what the rows of `events` take; before it would pass the limit, `Full` is raised, or the oldest rows go:
   with `dropOldest` always, with `isolate` while they wait only for outputs that are far behind. Cursors move over
   what goes, and all that they pass counts as lost, whether or not the output would have wanted it, and even where a
   delivery of it is under way.

       isolate    first=0 ........ middle ........ end      far behind: before the middle of the numbers that are here
                  ^ siem                     ^ archive      rows up to archive's may go, for siem alone

`events.filter` is the digest of the filter that decided, or `only NAME`: that output alone gets the row (a dead letter
that was put back).

6. what is in memory (`_State`) is what was committed: a transaction works on a copy, which is assigned after COMMIT
   and thrown away if anything fails. Nothing is read again from a disk that has just failed.

COMMIT may fail when its frames are in the journal already, but not synced. SQLite rolls back then, and so do we: the
frames lie behind what counts as the journal's end, where the next transaction writes over them, under the numbers that
the failed one would have had. If the process ends before there is a next one, the next start may find the frames
whole, and with them a request that was refused. It gets its numbers then, and is delivered; its sender has sent it
again: twice is better than never. In no case can a number be given twice: each change of `received` and of a cursor
names the value that it replaces. If the disk has another one, the file is not what this process has written, and
sqlite3.IntegrityError makes it unhealthy: a new start looks at all numbers (`numbers`).

`layout` has the tables, `letters` what becomes of dead letters. `counters.clean` is 1 only between a clean close and
the next open.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice, pairwise
from typing import NamedTuple

import zstandard

from auditpipeline.core.config import Backpressure, DeadLetters
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane import letters
from auditpipeline.dataplane.layout import beyond, counters, known_gaps
from auditpipeline.dataplane.letters import NO_OUTPUT, Budget, Dead
from auditpipeline.dataplane.lines import Lines, as_lines

__all__ = ["NO_OUTPUT", "Dead"]  # of `letters`
_ONLY = "only "
_LEVELS = (-7, 1)
"""zstd's levels while outputs keep up, and while rows pile up: _PILE bytes, or an eighth of the limit. Of audit events
the first makes a third in less than half of the time, the second a seventh."""
_PILE = 16 * 2**20
_JOURNAL, _COMMIT = 6 * 2**20, 2**16
"""Bytes of rows, and of what a commit writes besides: when there are about so many in the journal, `settle` moves them
into the file. SQLite by itself does so at 1000 pages, within a commit."""
_AGES = 64
"""Into so many parts of `max_age` the time is divided: for each part is known which number came next at its end."""
_PRUNE = """DELETE FROM events WHERE first IN (
    SELECT first FROM events AS old WHERE first < :floor AND
    coalesce((SELECT min(first) FROM events WHERE first > old.first), :end) <= :floor ORDER BY first LIMIT :most
) RETURNING size"""
"""Where a row ends is said by the next one: a bit of its `count` may have flipped."""


def only(output: str) -> str:
    """What `events.filter` holds of a row that one output alone gets."""
    return f"{_ONLY}{output}"


def is_for(digest: str, output: str) -> bool:
    """Whether a row with that in `events.filter` is for that output."""
    return not digest.startswith(_ONLY) or digest == only(output)


class Full(Retryable):
    """The limit of the size, or of the disk, is reached; room comes as outputs take events."""


class Cursor(NamedTuple):
    """Where an output is: `next` is the number of the event that it gets next, `at` the time of its last delivery."""

    next: int
    delivered: int
    at: float


class Chunk(NamedTuple):
    """The events `first` to `first + events` as they were stored under the filter of that digest; `lines` is None where
    they cannot be read any more."""

    first: int
    events: int
    received: float
    digest: str
    lines: Sequence[bytes] | None


@dataclass
class _State:
    """What is known of the file, as of the last COMMIT: `dropped` is up to which number what an output had not got was
    dropped and counted, `removed` how many dead letters went since the process started, `ages` at which time which
    number came next, `pruned` the floor of the last pruning, `journal` about how many bytes wait there."""

    cursors: dict[str, Cursor]
    end: int
    size: int
    dead: dict[str, int]
    dropped: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    ages: deque[tuple[float, int]] = field(default_factory=deque)
    pruned: int = -1
    journal: int = 0

    def copy(self) -> _State:
        """One that can be changed by itself."""
        return replace(
            self,
            cursors=dict(self.cursors),
            dead=dict(self.dead),
            dropped=dict(self.dropped),
            removed=dict(self.removed),
            ages=self.ages.copy(),
        )


class Store:
    """The writing side. One thread at a time; every change within `transaction`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        max_bytes: int,
        backpressure: Backpressure = "reject",
        max_age: float | None = None,
        isolate: bool = False,
        dead_letters: DeadLetters = "digest",
    ) -> None:
        self.max_bytes = max_bytes
        self.backpressure: Backpressure = backpressure
        self.max_age = max_age
        self.isolate = isolate
        self.dead_letters: DeadLetters = dead_letters
        self.clock: Callable[[], float] = time.monotonic
        self._db = connection
        self._quick, self._small = (zstandard.ZstdCompressor(level=level, write_checksum=True) for level in _LEVELS)
        self._state = _loaded(connection)
        self._gaps = known_gaps(connection)

    @property
    def end(self) -> int:
        """The number of the event that is stored next."""
        return self._state.end

    @property
    def size(self) -> int:
        """The bytes that the rows of events take."""
        return self._state.size

    @property
    def cursors(self) -> dict[str, Cursor]:
        """Where each output is; not to be changed."""
        return self._state.cursors

    @property
    def removed(self) -> dict[str, int]:
        """Dead letters that made room for newer ones, by output, since the process started."""
        return self._state.removed

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on disk when it ends; sqlite3.Error or MemoryError (SQLITE_NOMEM) if it did not happen."""
        before = self._state
        try:
            self._roll_back()  # what could not be rolled back when it failed
            self._db.execute("BEGIN IMMEDIATE")
            self._state = before.copy()
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._state = before
            with suppress(sqlite3.Error, MemoryError):
                self._roll_back()
            raise
        self._state.journal += _COMMIT

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def append(self, lines: Sequence[bytes], digest: str, dead: Sequence[Dead] = ()) -> Chunk | None:
        """Stores events (lines without line ends) and dead letters; the row that it made, if it did. Full where there
        is no room for the events.

        An empty spool takes any request: one that is larger than the limit would otherwise never be taken.
        """
        lines = as_lines(lines)
        data = self._compressed(lines) if lines else b""
        if lines and self.size and self.size + len(data) > self.max_bytes:
            self.make_room(self.size + len(data) - self.max_bytes)
            if self.size and self.size + len(data) > self.max_bytes:
                raise Full(f"the spool holds {self.size} of {self.max_bytes} bytes")
        self._bury(dead)
        if not lines:
            return None
        chunk = Chunk(self.end, len(lines), time.time(), digest, lines)
        row = (chunk.first, chunk.events, chunk.received, digest, len(data), data)
        self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
        self._replace(
            "UPDATE counters SET value = ? WHERE name = 'received' AND value = ?", self.end + len(lines), self.end
        )
        self._state.end += len(lines)
        self._state.size += len(data)
        self._state.journal += len(data)
        return chunk

    def advance(
        self,
        output: str,
        position: int,
        delivered: int,
        dead: Sequence[Dead] = (),
        lost: Mapping[str, int] | None = None,
    ) -> None:
        """Moves a cursor over what was `delivered`, is `dead`, or is `lost` (events by reason). A cursor that went with
        its output stays gone."""
        if output not in self.cursors:
            return
        old, losses = self.cursors[output], dict(lost or {})
        if floor := self._state.dropped.get(output):
            # What lies below was counted when it was dropped, while this was under way.
            if position <= floor:
                return
            del self._state.dropped[output]
            delivered = min(delivered, position - floor)
            losses = _at_most(losses, position - floor - delivered - sum(letter.events for letter in dead))
        new = Cursor(max(old.next, position), old.delivered + delivered, time.time() if delivered else old.at)
        self._replace(
            "UPDATE cursors SET next = ?, delivered = ?, at = ? WHERE output = ? AND next = ?",
            *(new.next, new.delivered, new.at, output, old.next),
        )
        self.cursors[output] = new
        self._add("delivered", delivered)
        self._bury(dead)
        for reason, events in losses.items():
            count_loss(self._db, output, reason, events)

    def use(self, outputs: Collection[str], ends: Mapping[str, int] | None = None) -> dict[str, int]:
        """From now on there are these outputs: a new one gets what is stored from now on, others keep their cursor.
        How many events waited for each that is gone, up to its number in `ends`: they are lost by `removed`."""
        gone = {
            name: self._uncounted(cursor.next, (ends or {}).get(name, self.end))
            for name, cursor in self.cursors.items()
            if name not in outputs
        }
        for name, waiting in gone.items():
            self._db.execute("DELETE FROM cursors WHERE output = ?", (name,))
            del self.cursors[name]
            self._state.dropped.pop(name, None)
            count_loss(self._db, name, "removed", waiting)
            for reason, events in self._db.execute(
                "DELETE FROM lost WHERE output = ? RETURNING reason, events", (name,)
            ):
                count_loss(self._db, NO_OUTPUT, reason, events)
        for name in outputs:
            if name not in self.cursors:
                self.cursors[name] = Cursor(self.end, 0, 0.0)
                self._db.execute("INSERT INTO cursors VALUES (?, ?, 0, 0)", (name, self.end))
        letters.forget_removed(self._db, gone)
        self._bound_gone()
        return gone

    def make_room(self, size: int) -> None:
        """Lets the oldest rows go, of `size` bytes, as far as the bounds allow it."""
        if self.backpressure == "dropOldest":
            self.drop_oldest(size)
        elif self.isolate:
            # More at once: else each request at the limit would look for room again.
            self.drop_oldest(max(size, self.max_bytes // 64), self._awaited())

    def _awaited(self) -> int:
        """The number of the first event that an output waits for which is not far behind; 0 where all are."""
        oldest = self._db.execute("SELECT min(first) FROM events").fetchone()[0] or 0
        middle = (oldest + self.end) / 2
        return min((cursor.next for cursor in self.cursors.values() if cursor.next >= middle), default=0)

    def drop_oldest(self, size: int, end: int = 2**63) -> None:
        """Lets the oldest rows go, of at least `size` bytes where there are as many before the event `end`; what
        outputs had not got is lost by `overflow`."""
        floor, found = -1, 0
        for behind, length in self._rows():
            if found >= size or behind > end:
                break
            floor, found = behind, found + length
        self._drop(floor)

    def expire(self, most: int = 64) -> bool:
        """Lets up to `most` rows go that have waited here for more than `max_age`; what outputs had not got is lost by
        `expired`. Whether there may be more.

        Time passes as this process sees it, not as the wall clock says, which may be set: what is here when it starts,
        or when `max_age` is set, waits from then on. A row may wait longer by a part of _AGES.
        """
        ages = self._state.ages
        if self.max_age is None:
            ages.clear()
            return False
        now = self.clock()
        if not ages or now - ages[-1][0] >= self.max_age / _AGES:
            ages.append((now, self.end))
        while len(ages) > 1 and ages[1][0] <= now - self.max_age:
            ages.popleft()
        at, floor = ages[0]
        if at > now - self.max_age:
            return False
        ends = [end for end, _ in islice(self._rows(), most) if end <= floor]
        self._drop(max(ends, default=-1), expired=True)
        return len(ends) == most

    def _rows(self) -> Iterator[tuple[int, int]]:
        """Where each row ends and how many bytes it takes, the oldest first."""
        rows = self._db.execute("SELECT first, size FROM events ORDER BY first")
        for (_, size), following in pairwise(chain(rows, [None])):
            yield (following[0] if following else self.end), size

    def _drop(self, floor: int, expired: bool = False) -> None:
        for output, cursor in self.cursors.items():
            if cursor.next < floor:
                count_loss(self._db, output, "expired" if expired else "overflow", self._uncounted(cursor.next, floor))
                self._replace("UPDATE cursors SET next = ? WHERE output = ? AND next = ?", floor, output, cursor.next)
                self.cursors[output] = cursor._replace(next=floor)
                self._state.dropped[output] = floor
        while self.prune():
            pass

    def _uncounted(self, start: int, end: int) -> int:
        """How many events have the numbers from `start` up to `end`: gaps were counted when the spool was opened."""
        return max(0, end - start) - beyond(start, ((first, min(behind, end)) for first, behind in self._gaps))

    def prune(self, most: int = 64) -> bool:
        """Deletes up to `most` rows that every cursor has passed; whether there may be more."""
        floor = min((cursor.next for cursor in self.cursors.values()), default=self.end)
        if floor <= self._state.pruned:
            return False
        sizes = [size for (size,) in self._db.execute(_PRUNE, {"floor": floor, "most": most, "end": self.end})]
        self._state.size -= sum(sizes)
        if len(sizes) < most:
            self._state.pruned = floor
        return len(sizes) == most

    def shrink(self, keep: int) -> bool:
        """Gives free pages back to the disk, a few at a time, until at most `keep` bytes are left; whether there is
        more to do. Outside of a transaction; sqlite3.Error where it cannot."""
        free, size = self._free_pages()
        if free * size <= keep:
            return False
        self._db.execute("PRAGMA incremental_vacuum(512)").fetchall()
        return bool((free - 512) * size > keep)

    @property
    def free_bytes(self) -> int:
        """Bytes in pages that hold nothing, and that `shrink` can give back."""
        pages, size = self._free_pages()
        return pages * size

    def _free_pages(self) -> tuple[int, int]:
        free, size = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size"))
        return free, size

    def settle(self) -> None:
        """Moves what is in the journal into the file if it has become much: after a commit was announced, so that
        nobody waits for it. sqlite3.Error if it cannot."""
        if self._state.journal >= _JOURNAL:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._state.journal = 0

    def checkpoint(self, wait: float = 0.0) -> None:
        """Moves what is in the journal into the file and gives its room back, as far as nobody reads what is there: it
        waits at most so many seconds for that. sqlite3.Error if it cannot."""
        (patience,) = self._db.execute("PRAGMA busy_timeout").fetchone()
        self._db.execute(f"PRAGMA busy_timeout = {round(wait * 1000)}").fetchall()
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {patience}").fetchall()

    def close(self, clean: bool = True) -> None:
        """Closes the file. The next open checks the whole of it where this was not `clean`, or could not say so."""
        with suppress(sqlite3.Error, MemoryError):
            self._roll_back()
            self._db.execute("UPDATE counters SET value = ? WHERE name = 'clean'", (int(clean),))
        self._db.close()

    def _compressed(self, lines: Lines) -> bytes:
        """A row's data: quickly made where it is likely never read, small where events pile up."""
        compressor = self._small if self.size >= min(_PILE, self.max_bytes // 8) else self._quick
        return compressor.compress(memoryview(lines.text)[:-1])

    def _bury(self, dead: Sequence[Dead]) -> None:
        budget = Budget(self.max_bytes, len(self.cursors))
        for letter in dead:
            output, sizes = letter.output, self._state.dead
            whole = self.dead_letters == "whole"
            sizes[output] = sizes.get(output, 0) + letters.store(
                self._db, letter, self._small.compress, budget.none, whole
            )
            count_loss(self._db, output, "refused" if output else "unreadable", letter.events)
            if output and output not in self.cursors:
                self._bound_gone()
            elif excess := max(0, sizes[output] - (budget.each if output else budget.none)):
                removed, found = letters.bound(self._db, output, excess)
                sizes[output] -= found
                self._note_removed(output, removed)

    def _bound_gone(self) -> None:
        """The letters of outputs that are gone share one budget."""
        sizes = self._state.dead
        gone = [output for output in sizes if output and output not in self.cursors]
        excess = sum(sizes[output] for output in gone) - Budget(self.max_bytes, len(self.cursors)).none
        if excess > 0:
            removed, _ = letters.bound_gone(self._db, excess)
            self._state.dead = letters.sizes(self._db)
            self._note_removed(NO_OUTPUT, removed)

    def _note_removed(self, output: str, removed: int) -> None:
        if removed:
            letters.note_removed(self._db, output, removed)
            self._state.removed[output] = self._state.removed.get(output, 0) + removed

    def _add(self, counter: str, number: int) -> None:
        if number:
            self._db.execute("UPDATE counters SET value = value + ? WHERE name = ?", (number, counter))

    def _replace(self, update: str, *values: object) -> None:
        """Makes a change that names the value which it replaces; sqlite3.IntegrityError if the file has another one."""
        if self._db.execute(update, values).rowcount != 1:
            raise sqlite3.IntegrityError("the file does not have the numbers that were committed last")


def _at_most(losses: Mapping[str, int], rest: int) -> dict[str, int]:
    """The losses, `rest` of them at most."""
    found = dict[str, int]()
    for reason, events in losses.items():
        found[reason] = max(0, min(events, rest))
        rest -= found[reason]
    return found


def _loaded(connection: sqlite3.Connection) -> _State:
    """What the file holds when it is opened."""
    (size,) = connection.execute("SELECT coalesce(sum(size), 0) FROM events").fetchone()
    cursors = {name: Cursor(*rest) for name, *rest in connection.execute("SELECT * FROM cursors")}
    return _State(cursors, counters(connection).get("received", 0), size, letters.sizes(connection))


def count_loss(connection: sqlite3.Connection, output: str, reason: str, events: int) -> None:
    """The one place where events that an output will not get are counted: each dead letter, and each that is gone."""
    if not events:
        return
    connection.execute(
        "INSERT INTO lost VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET events = events + excluded.events",
        (output, reason, events),
    )


class Figures(NamedTuple):
    """What is asked for reports: losses are (output, reason, events); `dead_removed` is how many dead letters made room
    for newer ones, `dead_removed_of` those of each output; `waiting_since` is the time at which the oldest event that
    an output waits for was stored."""

    received: int
    delivered: int
    lost: list[tuple[str, str, int]]
    dead: int
    dead_removed: int
    waiting_since: dict[str, float]
    dead_removed_of: dict[str, int]


def figures(connection: sqlite3.Connection) -> Figures:
    """The figures as of the last commit."""
    found = counters(connection)
    since = connection.execute(
        "SELECT output, (SELECT received FROM events WHERE first + count > next AND first >= "
        "coalesce((SELECT max(first) FROM events WHERE first <= next), 0) ORDER BY first LIMIT 1) "
        "FROM cursors WHERE next < ?",
        (found["received"],),
    ).fetchall()
    return Figures(
        received=found["received"],
        delivered=found["delivered"],
        lost=connection.execute("SELECT output, reason, events FROM lost").fetchall(),
        dead=connection.execute("SELECT count(*) FROM dead").fetchone()[0],
        dead_removed=found["dead_removed"],
        waiting_since={output: at for output, at in since if at is not None},
        dead_removed_of=_removed_of(connection, found["dead_removed"]),
    )


def _removed_of(connection: sqlite3.Connection, total: int) -> dict[str, int]:
    """Removed dead letters by output. Those that the release before has removed are of no output: it did not count them
    apart."""
    by_output: dict[str, int] = {}
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'dead_removed'").fetchone():
        by_output = dict(connection.execute("SELECT output, letters FROM dead_removed"))
    if rest := total - sum(by_output.values()):
        by_output[NO_OUTPUT] = max(0, by_output.get(NO_OUTPUT, 0) + rest)
    return by_output
