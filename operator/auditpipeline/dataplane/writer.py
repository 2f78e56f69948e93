"""The thread that writes a spool: takes what waits, commits it together, announces it, and tidies up.

1. A change that fails is its caller's alone: the transaction is tried again with each change by itself. An error of the
   disk fails them all, since no other one would fare better.
2. After SQLITE_FULL the disk is `tight`: the reserve is given back so that cursors have room to move in, and events are
   refused until there is room for the reserve again. With `dropOldest`, as many rows go as are missing for that, and
   no more: pages that are free already, and the journal, count.
3. While the journal is too long (`journal`), events are refused as well, and it is looked at once a second.
4. An error that says that the file is damaged, or not what this process has written, makes the spool unhealthy. So
   does a place that cannot be read for minutes (`lasting`): as long as a commit needs it, none succeeds.
5. Whatever else ends the thread is told to `ended`.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from auditpipeline.core.errors import AuditPipelineError, Retryable
from auditpipeline.dataplane.disk import Reserve
from auditpipeline.dataplane.journal import Journal
from auditpipeline.dataplane.lasting import Lasting
from auditpipeline.dataplane.store import Chunk, Cursor, Dead, Full, Store
from auditpipeline.dataplane.worker import Ended, Outcome, call_in, resolve

GROUP = 128
RESERVE = 8 * 2**20
_KEEP_FREE = 64 * 2**20
_MOVE_SECONDS = 0.05
_LOOK_SECONDS = 1.0
_READERS_SECONDS = 0.05
"""How long our own readers have to get out of the journal's way: they are quick."""
_MALFORMED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SURE_SECONDS, _FORGET_SECONDS = 1.0, 60.0
_BROKEN = (
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_INTERNAL,
    sqlite3.SQLITE_MISUSE,
)
_HELD = "the spool's journal has {} bytes, since another process reads an old state of the spool: end that"


class Move(NamedTuple):
    """A cursor that moves over what was delivered; nobody waits for it."""

    output: str
    position: int
    delivered: int


Change = tuple["asyncio.Future[Any]", Callable[[Store], Any]] | Move


class Committed(NamedTuple):
    """What is on disk since the last announcement, and the figures as of now."""

    end: int
    size: int
    cursors: dict[str, Cursor]
    chunks: list[Chunk]
    removed: dict[str, int]


class Stopwatch:
    """How often something was done, and how many seconds all of it took. Written by one thread, read by any."""

    def __init__(self) -> None:
        self.times, self.seconds = 0, 0.0

    @contextmanager
    def measured(self, counts: bool) -> Iterator[None]:
        """Adds what happens within, if it `counts` and does not fail."""
        started = time.monotonic()
        yield
        if counts:
            self.times, self.seconds = self.times + 1, self.seconds + time.monotonic() - started


class Writer:
    """The writing thread of one spool. `announce` and `ended` are called in the event loop, the first after each
    commit, the second once, with None if the thread was asked to end, and so is `broken`, once, when the file turns
    out to be damaged."""

    def __init__(
        self,
        store: Store,
        reserve: Reserve,
        journal: Journal,
        lasting: Lasting,
        announce: Callable[[Committed], None],
        ended: Callable[[Ended | None], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self.commits = Stopwatch()
        self.damaged = False
        self._store = store
        self._reserve = reserve
        self._journal = journal
        self._lasting = lasting
        self._announce = announce
        self._ended = ended
        self._broken = broken
        self._tight = not reserve.take()
        self._held = False
        self._next_look = 0.0
        self._suspected = -_FORGET_SECONDS
        self._more_to_do = True
        self._unmoved: dict[str, Move] = {}
        self._loop = asyncio.get_running_loop()
        self._changes: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    def put(self, change: Change | None) -> None:
        """Hands over a change; None: the thread ends when it has made those before."""
        self._changes.put(change)

    def join(self) -> None:
        """Waits for the end of the thread; after `ended`, there is nothing to wait for."""
        self._thread.join()

    def append(self, lines: Sequence[bytes], digest: str, dead: Sequence[Dead]) -> Chunk | None:
        """What appending does in the thread: `Store.append`, or Full if the disk has no room."""
        if self._held:
            raise Full(_HELD.format(self._journal.size))
        if self._tight:
            missing = 2 * RESERVE - self._journal.free - self._journal.size - self._store.free_bytes
            if missing > 0:
                self._store.make_room(missing)
            raise Full("the disk is full")
        return self._store.append(lines, digest, dead)

    def note(self, error: Exception) -> None:
        """Takes notice of an error that only a new start can help against.

        SQLite calls a file malformed while its disk fails, too: that is believed when it is said again a little later,
        and the disk has not failed in between.
        """
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_IOERR:
            self._suspected = -_FORGET_SECONDS
        broken = self._is_sure(time.monotonic()) if code in _MALFORMED else code in _BROKEN
        if broken or isinstance(error, sqlite3.IntegrityError):
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Makes the spool unhealthy, from any thread."""
        if not self.damaged:
            self.damaged = True
            call_in(self._loop, self._broken, error)

    def _is_sure(self, now: float) -> bool:
        passed = now - self._suspected
        if passed > _FORGET_SECONDS:
            self._suspected = now
        return _SURE_SECONDS <= passed <= _FORGET_SECONDS

    def _run(self) -> None:
        failure: Ended | None = None
        try:
            ends = False
            while not ends:
                group, ends = self._take(block=not self._more_to_do)
                self._publish(self._commit(group))
                self._tidy()
        except BaseException as error:
            failure = Ended("spool-writer", error)
        call_in(self._loop, self._ended, failure)

    def _take(self, block: bool) -> tuple[list[Change], bool]:
        """What waits, and whether that is the end; `block`: waits for the first. Moves alone wait for company."""
        group: list[Change] = []
        looks = self._unmoved or self._store.max_age or self._held
        patience = (_LOOK_SECONDS if looks else None) if block else 0.0
        until = 0.0
        try:
            while len(group) < GROUP:
                change = self._changes.get(timeout=patience) if patience != 0 else self._changes.get_nowait()
                if change is None:
                    return group, True
                group.append(change)
                if not isinstance(change, Move):
                    patience = 0.0
                elif patience != 0:
                    until = until or time.monotonic() + _MOVE_SECONDS
                    patience = max(0.0, until - time.monotonic())
        except queue.Empty:
            pass
        return group, False

    def _commit(self, group: list[Change]) -> list[Outcome]:
        """One transaction for all. If that fails, one for each: a cursor may still move when an event has no room."""
        try:
            with self.commits.measured(bool(group)), self._store.transaction():
                for move in self._unmoved.values():
                    self._store.advance(*move)
                results = [result for change in group if (result := self._apply(change))]
                expiring = self._store.expire()
                more_to_do = self._store.prune() or expiring
        except Exception as error:
            self._more_to_do = False
            return self._failed(group, error)
        self._more_to_do = more_to_do
        self._unmoved.clear()
        self._lasting.works(0)
        return results

    def _failed(self, group: list[Change], error: Exception) -> list[Outcome]:
        """What becomes of changes after a transaction has failed. The error is raised again if it is nobody's."""
        self.note(error)
        if self._lasting.failed(0, error):
            self.give_up(error)
        known = isinstance(error, sqlite3.Error | MemoryError)
        if not (known or group):
            raise error
        again = not _is_disk(error) and (len(group) > 1 or self._tighten(error))
        if again:
            return [result for change in group for result in self._commit([change])]
        why = str(error) or type(error).__name__
        self._keep([change for change in group if isinstance(change, Move)])
        failure = Retryable(f"the spool cannot be written: {why}")
        failure.__cause__ = None if known else error
        return [(change[0], None, failure) for change in group if not isinstance(change, Move)]

    def _keep(self, moves: list[Move]) -> None:
        """Moves that could not be made are tried again with the next commit."""
        for move in moves:
            before = self._unmoved.get(move.output, Move(move.output, 0, 0))
            position = max(before.position, move.position)
            self._unmoved[move.output] = Move(move.output, position, before.delivered + move.delivered)

    def _tighten(self, error: Exception) -> bool:
        """Makes room if the disk turned out to be full; whether trying again may help."""
        if self._tight or (getattr(error, "sqlite_errorcode", 0) & 0xFF) != sqlite3.SQLITE_FULL:
            return False
        self._tight = True
        self._reserve.release()
        with suppress(sqlite3.Error, MemoryError):
            self._store.checkpoint()
        return True

    def _tidy(self) -> None:
        """Keeps the journal short, gives free pages back to the disk, and takes the reserve back when there is room for
        it."""
        try:
            self._store.settle()
            self._shorten()
            if self._store.shrink(0 if self._tight else _KEEP_FREE):
                self._more_to_do = True
            if self._tight and not self._more_to_do:
                self._store.checkpoint()
                self._tight = not self._reserve.take()
        except (sqlite3.Error, MemoryError, OSError) as error:
            self.note(error)

    def _shorten(self) -> None:
        """Begins the journal anew if it has become too long; as long as that cannot be, no events are taken."""
        if not self._journal.is_too_long:
            self._held = False
        elif not self._held or time.monotonic() >= self._next_look:
            self._store.checkpoint(_READERS_SECONDS)
            self._held = self._journal.is_too_long
            self._next_look = time.monotonic() + _LOOK_SECONDS

    def _apply(self, change: Change) -> Outcome | None:
        """SQLite's errors end the transaction; what was refused before anything was written is only the caller's."""
        if isinstance(change, Move):
            self._store.advance(*change)
            return None
        future, call = change
        try:
            return future, call(self._store), None
        except AuditPipelineError as error:
            return future, None, error

    def _publish(self, results: list[Outcome]) -> None:
        store = self._store
        chunks = [result for _, result, _ in results if isinstance(result, Chunk)]
        found = Committed(store.end, store.size, dict(store.cursors), chunks, dict(store.removed))
        call_in(self._loop, self._announce, found)
        resolve(results)


def _is_disk(error: Exception) -> bool:
    """Whether the disk itself failed: every other change would meet the same."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_IOERR
