"""The spool's file: what it holds, and the transactions that change it. Synchronous; `spool` gives it threads.

Every event that is stored gets a number, from 0, and keeps it. A row holds the events of one request, a cursor is the
number of the next event that an output shall get:

    events   first=0 count=400 | first=400 count=17 | first=417 count=400 |          end=817
                                      ^ cursor archive=405        ^ cursor siem=617

    events.data = zstd (any level, checksum) of `count` JSON lines, joined by a line feed, none at the end

Invariants, each held by the transactions below:

1. rows join up: the `first` of a row is `first + count` of the row before it. A gap is a loss, and counted (`salvage`);
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

`layout` has the tables. `counters.clean` is 1 only between a clean close and the next open.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import zstandard

from auditpipeline.core.config import Backpressure
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.layout import counters
from auditpipeline.dataplane.lines import Lines, as_lines

# What has no output (an unreadable body), and what belonged to outputs that are gone, is counted under this name.
NO_OUTPUT = ""
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
    SELECT first FROM events WHERE first < :floor AND first + count <= :floor ORDER BY first LIMIT :most
) RETURNING size"""


def only(output: str) -> str:
    """What `events.filter` holds of a row that one output alone gets."""
    return f"{_ONLY}{output}"


def is_for(digest: str, output: str) -> bool:
    """Whether a row with that in `events.filter` is for that output."""
    return not digest.startswith(_ONLY) or digest == only(output)


class Full(Retryable):
    """The limit of the size, or of the disk, is reached; room comes as outputs take events."""


class Dead(NamedTuple):
    """Something that cannot be delivered: kept as it came, with the reason. `key` as in core.event.delivery_key.
    `events` is how many events it stands for, as far as they could be counted: so many are counted as lost."""

    output: str
    reason: str
    data: bytes
    key: str = ""
    events: int = 1


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


class Store:
    """The writing side. One thread at a time; every change within `transaction`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        max_bytes: int,
        backpressure: Backpressure = "reject",
        max_age: float | None = None,
        isolate: bool = False,
    ) -> None:
        self.max_bytes = max_bytes
        self.backpressure: Backpressure = backpressure
        self.max_age = max_age
        self.isolate = isolate
        self.clock: Callable[[], float] = time.monotonic
        self._ages: deque[tuple[float, int]] = deque()
        self._dropped: dict[str, int] = {}
        self._db = connection
        self._quick, self._small = (zstandard.ZstdCompressor(level=level, write_checksum=True) for level in _LEVELS)
        self._pruned = -1
        self._journal = 0
        self._load()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on disk when it ends; sqlite3.Error where it did not happen."""
        dropped = dict(self._dropped)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
            self._journal += _COMMIT
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._dropped = dropped
            self._load()
            raise

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
        self._add("received", len(lines))
        self.end += len(lines)
        self.size += len(data)
        self._journal += len(data)
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
        old = self.cursors[output]
        if floor := self._dropped.get(output):
            # What lies below was counted when it was dropped, while this was under way.
            if position <= floor:
                return
            del self._dropped[output]
            delivered = min(delivered, position - floor)
        new = Cursor(max(old.next, position), old.delivered + delivered, time.time() if delivered else old.at)
        self._db.execute(
            "UPDATE cursors SET next = ?, delivered = ?, at = ? WHERE output = ?",
            (new.next, new.delivered, new.at, output),
        )
        self.cursors[output] = new
        self._add("delivered", delivered)
        self._bury(dead)
        for reason, events in (lost or {}).items():
            count_loss(self._db, output, reason, events)

    def use(self, outputs: Collection[str], ends: Mapping[str, int] | None = None) -> dict[str, int]:
        """From now on there are these outputs: a new one gets what is stored from now on, others keep their cursor.
        How many events waited for each that is gone, up to its number in `ends`: they are lost by `removed`."""
        gone = {
            name: max(0, (ends or {}).get(name, self.end) - cursor.next)
            for name, cursor in self.cursors.items()
            if name not in outputs
        }
        for name, waiting in gone.items():
            self._db.execute("DELETE FROM cursors WHERE output = ?", (name,))
            del self.cursors[name]
            self._dropped.pop(name, None)
            count_loss(self._db, name, "removed", waiting)
            for reason, events in self._db.execute(
                "DELETE FROM lost WHERE output = ? RETURNING reason, events", (name,)
            ):
                count_loss(self._db, NO_OUTPUT, reason, events)
        for name in outputs:
            if name not in self.cursors:
                self.cursors[name] = Cursor(self.end, 0, 0.0)
                self._db.execute("INSERT INTO cursors VALUES (?, ?, 0, 0)", (name, self.end))
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
        for first, count, length in self._db.execute("SELECT first, count, size FROM events ORDER BY first"):
            if found >= size or first + count > end:
                break
            floor, found = first + count, found + length
        self._drop(floor)

    def expire(self, most: int = 64) -> bool:
        """Lets up to `most` rows go that have waited here for more than `max_age`; what outputs had not got is lost by
        `expired`. Whether there may be more.

        Time passes as this process sees it, not as the wall clock says, which may be set: what is here when it starts,
        or when `max_age` is set, waits from then on. A row may wait longer by a part of _AGES.
        """
        if self.max_age is None:
            self._ages.clear()
            return False
        now = self.clock()
        if not self._ages or now - self._ages[-1][0] >= self.max_age / _AGES:
            self._ages.append((now, self.end))
        while len(self._ages) > 1 and self._ages[1][0] <= now - self.max_age:
            self._ages.popleft()
        at, floor = self._ages[0]
        if at > now - self.max_age:
            return False
        query = "SELECT first + count FROM events WHERE first < ? ORDER BY first LIMIT ?"
        ends = [end for (end,) in self._db.execute(query, (floor, most))]
        self._drop(max(ends, default=-1), expired=True)
        return len(ends) == most

    def _drop(self, floor: int, expired: bool = False) -> None:
        for output, cursor in self.cursors.items():
            if cursor.next < floor:
                count_loss(self._db, output, "expired" if expired else "overflow", floor - cursor.next)
                self._db.execute("UPDATE cursors SET next = ? WHERE output = ?", (floor, output))
                self.cursors[output] = cursor._replace(next=floor)
                self._dropped[output] = floor
        while self.prune():
            pass

    def prune(self, most: int = 64) -> bool:
        """Deletes up to `most` rows that every cursor has passed; whether there may be more."""
        floor = min((cursor.next for cursor in self.cursors.values()), default=self.end)
        if floor <= self._pruned:
            return False
        sizes = [size for (size,) in self._db.execute(_PRUNE, {"floor": floor, "most": most})]
        self.size -= sum(sizes)
        if len(sizes) < most:
            self._pruned = floor
        return len(sizes) == most

    def shrink(self, keep: int) -> bool:
        """Gives free pages back to the disk, a few at a time, until at most `keep` bytes are left; whether there is
        more to do. Outside of a transaction; sqlite3.Error where it cannot."""
        free, size = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size"))
        if free * size <= keep:
            return False
        self._db.execute("PRAGMA incremental_vacuum(512)").fetchall()
        return bool((free - 512) * size > keep)

    def settle(self) -> None:
        """Moves what is in the journal into the file where it has become much: after a commit was announced, so that
        nobody waits for it. sqlite3.Error where it cannot."""
        if self._journal >= _JOURNAL:
            self._journal = 0
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def checkpoint(self) -> None:
        """Moves what is in the journal into the file and gives its room back; sqlite3.Error where it cannot."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self, clean: bool = True) -> None:
        """Closes the file. The next open checks the whole of it where this was not `clean`, or could not say so."""
        with suppress(sqlite3.Error):
            self._db.execute("UPDATE counters SET value = ? WHERE name = 'clean'", (int(clean),))
        self._db.close()

    def _compressed(self, lines: Lines) -> bytes:
        """A row's data: quickly made where it is likely never read, small where events pile up."""
        compressor = self._small if self.size >= min(_PILE, self.max_bytes // 8) else self._quick
        return compressor.compress(memoryview(lines.text)[:-1])

    def _load(self) -> None:
        self.cursors = {name: Cursor(*rest) for name, *rest in self._db.execute("SELECT * FROM cursors")}
        self.end = counters(self._db).get("received", 0)
        self.size: int = self._db.execute("SELECT coalesce(sum(size), 0) FROM events").fetchone()[0]
        self.dead_size: int = self._db.execute("SELECT coalesce(sum(size), 0) FROM dead").fetchone()[0]
        self._pruned = -1
        # Numbers of what was rolled back are given to others, later.
        self._ages = deque((at, min(end, self.end)) for at, end in self._ages)

    def _bury(self, dead: Sequence[Dead]) -> None:
        now = time.time()
        for letter in dead:
            data, reason = self._small.compress(letter.data), letter.reason
            if len(data) > self._most_dead and not letter.output:
                # No event can be made of it any more, but somebody may see what it was. An event stays whole.
                data = self._small.compress(letter.data[: self._most_dead // 2])
                reason = f"{reason} (of {len(letter.data)} bytes the first {self._most_dead // 2} are kept)"
            row = (now, letter.output, reason, letter.key, len(data), data)
            self._db.execute("INSERT INTO dead (at, output, reason, key, size, data) VALUES (?, ?, ?, ?, ?, ?)", row)
            count_loss(self._db, letter.output, "refused" if letter.output else "unreadable", letter.events)
            self.dead_size += len(data)
        if dead:
            self._bound_dead()

    @property
    def _most_dead(self) -> int:
        """Bytes that dead letters may take, a sixteenth of the limit: they must neither stop events nor fill the
        disk."""
        return max(self.max_bytes // 16, 2**20)

    def _bound_dead(self) -> None:
        """The oldest dead letters go, and never the last one: its sender was told that it is kept."""
        oldest = "SELECT min(id) FROM dead WHERE id < (SELECT max(id) FROM dead)"
        while self.dead_size > self._most_dead:
            removed = self._db.execute(f"DELETE FROM dead WHERE id = ({oldest}) RETURNING size").fetchall()  # noqa: S608
            if not removed:
                return
            self.dead_size -= removed[0][0]
            self._add("dead_removed", len(removed))

    def _add(self, counter: str, number: int) -> None:
        if number:
            self._db.execute("UPDATE counters SET value = value + ? WHERE name = ?", (number, counter))


def count_loss(connection: sqlite3.Connection, output: str, reason: str, events: int) -> None:
    """The one place where events that an output will not get are counted: each dead letter, and each that is gone."""
    if not events:
        return
    connection.execute(
        "INSERT INTO lost VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET events = events + excluded.events",
        (output, reason, events),
    )


def read(connection: sqlite3.Connection, position: int, max_bytes: int) -> list[Chunk]:
    """The rows from the event of that number on: one at least where there is one, more up to `max_bytes` of lines."""
    rows = connection.execute(
        "SELECT first, count, received, filter, data FROM events WHERE first >= "
        "coalesce((SELECT max(first) FROM events WHERE first <= ?), 0) AND first + count > ? ORDER BY first LIMIT 256",
        (position, position),
    )
    chunks, total = list[Chunk](), 0
    for first, count, received, digest, data in rows:
        lines = inflate(data, count)
        chunks.append(Chunk(first, count, received, digest, lines))
        total += lines.size if lines else 0
        if total >= max_bytes:
            break
    rows.close()
    return chunks


def inflate(data: bytes, count: int) -> Lines | None:
    """The lines of a row; None where they are not `count` whole ones."""
    try:
        text = zstandard.ZstdDecompressor().decompress(data) + b"\n"
    except zstandard.ZstdError:
        return None
    return Lines.joined(text, count) if text.count(b"\n") == count else None


class Figures(NamedTuple):
    """What is asked for reports: losses are (output, reason, events); `waiting_since` is the time at which the oldest
    event that an output waits for was stored."""

    received: int
    delivered: int
    lost: list[tuple[str, str, int]]
    dead: int
    dead_removed: int
    waiting_since: dict[str, float]


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
    )
