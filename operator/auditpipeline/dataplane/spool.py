"""The durable queue between the listeners and the outputs: `store`, with a thread for writing and one for reading.

Promises:

1. when `append` returns, the events are on disk (committed with `synchronous = FULL`);
2. requests that come while a commit runs share the next one; nothing ever waits for company;
3. a full spool or a full disk raises Retryable and harms nothing else: cursors still move, and there is room again as
   soon as outputs have taken events. With `dropOldest` a full spool loses its oldest events instead, and a full disk
   makes it lose as many as give room for new ones; with `isolate` only what outputs wait for that are far behind;
   When the disk is full, `<spool>.reserve` (8 MiB) is given back so that cursors have room to move in; events are
   refused until the disk has room for the reserve again. Pages that fall free are given back to the disk;
4. a damaged file never stops the process, and what can be read of it is never given up for want of room (`salvage`);
5. what was just appended is read from memory (`recent`), and only after it is on disk;
6. a cursor that only moves (`move`) is on disk 50 ms later at most, with the next commit if there is one sooner. A
   crash in between delivers again what these moves passed: at least once, as ever.

One process at a time: the file `<spool>.lock` is locked.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from auditpipeline.core import config as contract
from auditpipeline.core.errors import AuditPipelineError, Retryable
from auditpipeline.dataplane import layout, store
from auditpipeline.dataplane.disk import Reserve, has_no_room, is_full, make_folders, sync_folder
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.recent import Recent
from auditpipeline.dataplane.salvage import open_or_salvage
from auditpipeline.dataplane.store import Chunk, Cursor, Dead, Figures, Full, Store
from auditpipeline.dataplane.worker import Worker, resolve

_GROUP = 128
_RESERVE = 8 * 2**20
_KEEP_FREE = 64 * 2**20
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_RECENT = 8 * 2**20
"""Bytes: more than one commit of what four connections send together, in kube-apiserver's batches of 400 events."""
_MOVE_SECONDS = 0.05
_Result = tuple["asyncio.Future[Any]", Any, Exception | None]


class _Move(NamedTuple):
    """A cursor that moves over what was delivered; nobody waits for it."""

    output: str
    position: int
    delivered: int


_Change = tuple["asyncio.Future[Any]", Callable[[Store], Any]] | _Move


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


class Spool:
    """An open spool; made by `open_spool`. All methods belong to one event loop."""

    def __init__(self, writer: Store, reader: sqlite3.Connection, lock: int, reserve: Reserve, log: Log) -> None:
        self.end = writer.end
        self.size = writer.size
        self.cursors = dict(writer.cursors)
        self.commits = Stopwatch()
        self.damaged = False
        self._store = writer
        self._reader = reader
        self._lock = lock
        self._reserve = reserve
        self._log = log
        self._tight = not reserve.take()
        self._more_to_do = True
        self._recent = Recent(_RECENT)
        self._unmoved: dict[str, _Move] = {}
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._reading = Worker("spool-reader")
        self._thread = threading.Thread(target=self._write, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """False where only a new start can help: the writer is gone, or the file turned out to be damaged."""
        return self._thread.is_alive() and not self.damaged

    @property
    def max_bytes(self) -> int:
        """The limit of the spool's size."""
        return self._store.max_bytes

    async def append(self, lines: Sequence[bytes], digest: str = "", dead: Sequence[Dead] = ()) -> None:
        """Stores events (JSON lines without line ends, filtered under `digest`) and dead letters; on disk when it
        returns.

        Raises Retryable when the spool or the disk is full; nothing of the request is stored then.
        """

        def change(writer: Store) -> Chunk | None:
            if self._tight:
                writer.make_room(2 * _RESERVE)
                raise Full("the disk is full")
            return writer.append(lines, digest, dead)

        if lines or dead:
            await self._change(change)

    async def advance(
        self,
        output: str,
        position: int,
        delivered: int,
        dead: Sequence[Dead] = (),
        lost: Mapping[str, int] | None = None,
    ) -> None:
        """Moves an output's cursor to `position`, and counts what it passed. Raises Retryable when the disk is full."""
        await self._change(lambda writer: writer.advance(output, position, delivered, dead, lost))

    def move(self, output: str, position: int, delivered: int) -> None:
        """Moves an output's cursor over what was delivered; soon on disk, and not waited for."""
        self._changes.put(_Move(output, position, delivered))

    async def use(self, outputs: Collection[str], ends: Mapping[str, int] | None = None) -> dict[str, Cursor]:
        """Makes these the outputs (`Store.use`) and returns their cursors; what waited for others is lost, and said."""

        def change(writer: Store) -> tuple[dict[str, int], dict[str, Cursor]]:
            return writer.use(outputs, ends), dict(writer.cursors)

        gone, cursors = await self._change(change)
        for output, waiting in gone.items():
            if waiting:
                self._log.warning("an output is removed, and what waited for it is lost", output=output, events=waiting)
        found: dict[str, Cursor] = cursors
        return found

    async def limit(self, config: contract.Spool) -> None:
        """Sets the bounds of size and age, and what happens at the first."""

        def change(writer: Store) -> None:
            writer.max_bytes, writer.max_age = config.max_bytes, config.max_age
            writer.backpressure, writer.isolate = config.backpressure, config.isolate

        await self._change(change)

    async def read(self, position: int, max_bytes: int) -> list[Chunk]:
        """Rows from that event on, as `store.read`, out of memory where they are there; Retryable where the file cannot
        be read."""
        if (recent := self._recent.read(position, max_bytes)) is not None:
            return recent
        try:
            return await self._reading.run(partial(store.read, self._reader, position, max_bytes))
        except sqlite3.Error as error:
            self._note(error)
            raise Retryable(f"the spool cannot be read: {error}") from error

    async def figures(self) -> Figures:
        """The figures for reports, with every `move` so far where the disk takes them."""
        with suppress(Retryable, TimeoutError):
            async with asyncio.timeout(1):
                await self._change(lambda _: None)
        return await self._reading.run(partial(store.figures, self._reader))

    async def wait(self, position: int) -> None:
        """Returns when there is an event of that number."""
        while self.end <= position:
            await self._news.wait()

    async def close(self) -> None:
        """Commits what was handed over and closes the files. Nothing may be called after that."""
        self._changes.put(None)
        await asyncio.to_thread(self._thread.join)
        await self._reading.run(self._reader.close)
        self._reading.stop()
        self._store.close(clean=not self.damaged)
        os.close(self._lock)

    async def _change(self, change: Callable[[Store], Any]) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._changes.put((future, change))
        return await future

    def _write(self) -> None:
        """The writer thread: takes what waits, commits it together, says so, and tidies up."""
        ends = False
        while not ends:
            group, ends = self._take(block=not self._more_to_do)
            self._publish(self._commit(group))
            self._tidy()

    def _take(self, block: bool) -> tuple[list[_Change], bool]:
        """What waits, and whether that is the end; `block`: waits for the first. Moves alone wait for company."""
        group: list[_Change] = []
        patience = (1.0 if self._unmoved or self._store.max_age else None) if block else 0.0
        until = 0.0
        try:
            while len(group) < _GROUP:
                change = self._changes.get(timeout=patience) if patience != 0 else self._changes.get_nowait()
                if change is None:
                    return group, True
                group.append(change)
                if not isinstance(change, _Move):
                    patience = 0.0
                elif patience != 0:
                    until = until or time.monotonic() + _MOVE_SECONDS
                    patience = max(0.0, until - time.monotonic())
        except queue.Empty:
            pass
        return group, False

    def _commit(self, group: list[_Change]) -> list[_Result]:
        """One transaction for all. Where that fails, one for each: a cursor may still move where an event has no
        room."""
        try:
            with self.commits.measured(bool(group)), self._store.transaction():
                for move in self._unmoved.values():
                    self._store.advance(*move)
                results = [result for change in group if (result := self._apply(change))]
                expiring = self._store.expire()
                self._more_to_do = self._store.prune() or expiring
        except sqlite3.Error as error:
            self._more_to_do = False
            self._note(error)
            if len(group) <= 1 and not self._tighten(error):
                return self._failed(group, Retryable(f"the spool cannot be written: {error}"))
            return [result for change in group for result in self._commit([change])]
        self._unmoved.clear()
        return results

    def _failed(self, group: list[_Change], failure: Retryable) -> list[_Result]:
        """What is told of changes that could not be made; moves are tried again with the next commit."""
        for change in group:
            if isinstance(change, _Move):
                before = self._unmoved.get(change.output, _Move(change.output, 0, 0))
                position = max(before.position, change.position)
                self._unmoved[change.output] = _Move(change.output, position, before.delivered + change.delivered)
        return [(change[0], None, failure) for change in group if not isinstance(change, _Move)]

    def _tighten(self, error: sqlite3.Error) -> bool:
        """Makes room where the disk turned out to be full; whether trying again may help."""
        if self._tight or (getattr(error, "sqlite_errorcode", 0) & 0xFF) != sqlite3.SQLITE_FULL:
            return False
        self._tight = True
        self._reserve.release()
        with suppress(sqlite3.Error):
            self._store.checkpoint()
        return True

    def _tidy(self) -> None:
        """Keeps the journal short, gives free pages back to the disk, and takes the reserve back when there is room for
        it."""
        try:
            self._store.settle()
            if self._store.shrink(0 if self._tight else _KEEP_FREE):
                self._more_to_do = True
            if self._tight and not self._more_to_do:
                self._store.checkpoint()
                self._tight = not self._reserve.take()
        except sqlite3.Error as error:
            self._note(error)

    def _apply(self, change: _Change) -> _Result | None:
        """SQLite's errors end the transaction; what was refused before anything was written is only the caller's."""
        if isinstance(change, _Move):
            self._store.advance(*change)
            return None
        future, call = change
        try:
            return future, call(self._store), None
        except AuditPipelineError as error:
            return future, None, error

    def _note(self, error: sqlite3.Error) -> None:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE:
            self.damaged = True

    def _publish(self, results: list[_Result]) -> None:
        chunks = [result for _, result, _ in results if isinstance(result, Chunk)]
        found = self._store.end, self._store.size, dict(self._store.cursors), chunks
        try:
            self._loop.call_soon_threadsafe(self._announce, *found)
        except RuntimeError:
            # The loop was closed without `close`: nobody waits.
            return
        resolve(results)

    def _announce(self, end: int, size: int, cursors: dict[str, Cursor], chunks: list[Chunk]) -> None:
        self.size, self.cursors = size, cursors
        for chunk in chunks:
            self._recent.add(chunk)
        self._recent.forget(min((cursor.next for cursor in cursors.values()), default=end))
        if end > self.end:
            self.end = end
            self._news.set()
            self._news = asyncio.Event()


async def open_spool(config: contract.Spool, outputs: Sequence[str], log: Log) -> Spool:
    """Opens the spool, makes it where it is not there, saves what can be saved where it is damaged.

    Raises AuditPipelineError if another process has it open, or the folder cannot be used; Retryable if there is no
    room to open it, or to save what can be saved of a damaged one.
    """
    path = Path(config.path)
    reserve = Reserve(path.with_name(f"{path.name}.reserve"), _RESERVE)
    opening, given_up = Worker("spool-opener"), threading.Event()

    def opened() -> tuple[Store, sqlite3.Connection, int]:
        writer, reader, lock = _open(config, list(outputs), reserve, log)
        if given_up.is_set():
            reader.close()
            writer.close()
            os.close(lock)
        return writer, reader, lock

    try:
        return Spool(*await opening.run(opened), reserve, log)
    except asyncio.CancelledError:
        # A check cannot be broken off, but nobody waits for it any more.
        given_up.set()
        raise
    finally:
        opening.stop()


def _open(
    config: contract.Spool, outputs: list[str], reserve: Reserve, log: Log
) -> tuple[Store, sqlite3.Connection, int]:
    path = Path(config.path)
    try:
        make_folders(path.parent)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if is_full(error):
            raise Retryable(f"{error.filename or path.parent}: {error.strerror}") from error
        raise AuditPipelineError(f"the spool's folder {path.parent} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        reserve.release()  # on a full disk the file could not even be opened
        connection = open_or_salvage(path, outputs, log)
        writer = Store(connection, config.max_bytes, config.backpressure, config.max_age, config.isolate)
        sync_folder(path.parent)
        reader = layout.connect(path)
        reader.execute("PRAGMA cache_size = -256")  # rows are read once
        return writer, reader, lock
    except BaseException as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise AuditPipelineError(f"the spool {path} is in use by another process: stop that first") from error
        if is_full(error) or (isinstance(error, sqlite3.Error) and has_no_room(path.parent)):
            raise Retryable(f"{path}: there is no room on its disk ({error})") from error
        if isinstance(error, sqlite3.OperationalError):
            raise AuditPipelineError(f"the spool {path} cannot be opened: {error}") from error
        raise
