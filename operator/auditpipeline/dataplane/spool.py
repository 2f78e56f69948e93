"""The durable queue between the listeners and the outputs: `store`, with a thread for writing (`writer`) and some for
reading (`readers`).

Promises:

1. when `append` returns, the events are on disk (committed with `synchronous = FULL`);
2. requests that come while a commit runs share the next one; nothing ever waits for company;
3. a full spool or a full disk raises Retryable and harms nothing else: cursors still move, and there is room again as
   soon as outputs have taken events. With `dropOldest` a full spool loses its oldest events instead, and a full disk
   makes it lose as many as give room for new ones; with `isolate` only what outputs wait for that are far behind;
   When the disk is full, `<spool>.reserve` (8 MiB) is given back so that cursors have room to move in; events are
   refused until the disk has room for the reserve again. Pages that fall free are given back to the disk. The journal
   is bounded, even if somebody else keeps it from being moved into the file (`journal`);
4. a damaged file never stops the process, and what can be read of it is never given up for want of room (`salvage`);
5. what was just appended is read from memory (`recent`), and only after it is on disk;
6. a cursor that only moves (`move`) is on disk 50 ms later at most, with the next commit if there is one sooner. A
   crash in between delivers again what these moves passed: at least once, as ever;
7. if a thread ends unasked, whoever waits gets Retryable, so does whoever comes later, `failure` returns, and `close`
   still ends.

One process at a time: the file `<spool>.lock` is locked.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from auditpipeline.core import config as contract
from auditpipeline.core.errors import AuditPipelineError, Retryable
from auditpipeline.dataplane import layout, rows, store
from auditpipeline.dataplane.disk import Reserve, has_no_room, is_full, make_folders, sync_folder
from auditpipeline.dataplane.journal import Journal
from auditpipeline.dataplane.lasting import Lasting
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.readers import THREADS, Readers
from auditpipeline.dataplane.recent import Recent
from auditpipeline.dataplane.salvage import open_or_salvage
from auditpipeline.dataplane.store import Chunk, Cursor, Dead, Figures, Store
from auditpipeline.dataplane.worker import Ended, Worker, call_in, fail
from auditpipeline.dataplane.writer import RESERVE, Committed, Move, Stopwatch, Writer

_RECENT = 8 * 2**20
"""Bytes: more than one commit of what four connections send together, in kube-apiserver's batches of 400 events."""
_SAY_SECONDS = 60.0
_LATER = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)


class Opened(NamedTuple):
    """The parts of an open spool."""

    store: Store
    readers: list[sqlite3.Connection]
    lock: int
    figures: Figures

    def close(self) -> None:
        """Closes all of them, if nobody wants them."""
        for reader in self.readers:
            reader.close()
        self.store.close()
        os.close(self.lock)


class Spool:
    """An open spool; made by `open_spool`. All methods belong to one event loop."""

    def __init__(self, opened: Opened, path: Path, reserve: Reserve, log: Log) -> None:
        self.end = opened.store.end
        self.size = opened.store.size
        self.cursors = dict(opened.store.cursors)
        self.journal = Journal(path)
        self._store = opened.store
        self._lock = opened.lock
        self._log = log
        self._recent = Recent(_RECENT)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._figures = opened.figures
        self._removed: dict[str, int] = {}
        self._said: dict[str, int] = {}
        self._saying: asyncio.TimerHandle | None = None
        self._fault_at = -_SAY_SECONDS
        self._failure: asyncio.Future[Exception] = self._loop.create_future()
        self._written: asyncio.Future[None] = self._loop.create_future()
        self._reading = Readers(opened.readers, lambda error: call_in(self._loop, self._fail, error))
        self._unread = Lasting(path)
        self._writer = Writer(
            opened.store, reserve, self.journal, Lasting(path), self._announce, self._ended, self._broken
        )

    @property
    def healthy(self) -> bool:
        """False if only a new start can help: a thread is gone, or the file turned out to be damaged."""
        return not (self._failure.done() or self.damaged)

    @property
    def damaged(self) -> bool:
        """Whether the file turned out to be damaged, or to be another one than was written: the next open checks it."""
        return self._writer.damaged

    @property
    def commits(self) -> Stopwatch:
        """Transactions, and the seconds that they took."""
        return self._writer.commits

    @property
    def max_bytes(self) -> int:
        """The limit of the spool's size."""
        return self._store.max_bytes

    async def failure(self) -> Exception:
        """Returns when a thread of the spool has ended unasked, with the reason: nothing works any more, and the
        process has to be started again."""
        return await asyncio.shield(self._failure)

    async def append(self, lines: Sequence[bytes], digest: str = "", dead: Sequence[Dead] = ()) -> None:
        """Stores events (JSON lines without line ends, filtered under `digest`) and dead letters; on disk when it
        returns.

        Raises Retryable when the spool or the disk is full; nothing of the request is stored then.
        """
        if lines or dead:
            await self._change(lambda _: self._writer.append(lines, digest, dead))

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
        self._writer.put(Move(output, position, delivered))

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
            writer.dead_letters = config.dead_letters

        await self._change(change)

    async def read(self, position: int, max_bytes: int) -> list[Chunk]:
        """Rows from that event on, as `rows.read`, out of memory if they are there; Retryable if the file cannot be
        read."""
        if (recent := self._recent.read(position, max_bytes)) is not None:
            return recent
        try:
            found = await self._reading.read(partial(rows.read, position=position, max_bytes=max_bytes))
            self._unread.works(position)
            return found
        except (sqlite3.Error, MemoryError) as error:
            self._writer.note(error)
            if self._unread.failed(position, error):
                self._writer.give_up(error)
            raise Retryable(f"the spool cannot be read: {error}") from error

    async def figures(self) -> Figures:
        """The figures for reports, with every `move` so far if the disk takes them; those of the last time if the file
        cannot be read just now."""
        with suppress(Retryable, TimeoutError):
            async with asyncio.timeout(1):
                await self._change(lambda _: None)
        try:
            self._figures = await self._reading.read_figures(store.figures)
        except (sqlite3.Error, MemoryError, Ended) as error:
            self._writer.note(error)
        return self._figures

    async def wait(self, position: int) -> None:
        """Returns when there is an event of that number."""
        while self.end <= position:
            await self._news.wait()

    async def close(self) -> None:
        """Commits what was handed over and closes the files. Nothing may be called after that."""
        self._writer.put(None)
        await self._written
        self._writer.join()
        await self._reading.close()
        self._removed = self._store.removed
        self._say_removed()
        if self._saying:
            self._saying.cancel()
        self._store.close(clean=self.healthy)
        os.close(self._lock)

    async def _change(self, change: Callable[[Store], Any]) -> Any:
        if self._failure.done():
            raise Retryable(str(self._failure.result()))
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        self._writer.put((future, change))
        try:
            return await future
        except Retryable as error:
            if error.__cause__ and self._loop.time() - self._fault_at >= _SAY_SECONDS:
                self._fault_at = self._loop.time()
                self._log.error("the spool met a fault of its own", exc_info=error.__cause__)
            raise

    def _ended(self, failure: Ended | None) -> None:
        """The writing thread is over."""
        self._written.set_result(None)
        if failure:
            self._fail(failure)
        fail(self._waiting, failure or Ended("spool-writer", None))

    def _broken(self, error: Exception) -> None:
        self._log.error("the spool is damaged: it is checked when the process is started again", error=str(error))

    def _fail(self, failure: Exception) -> None:
        if not self._failure.done():
            self._log.error("the spool stops working", error=str(failure))
            self._failure.set_result(failure)

    def _announce(self, found: Committed) -> None:
        self.size, self.cursors = found.size, found.cursors
        for chunk in found.chunks:
            self._recent.add(chunk)
        self._recent.forget(min((cursor.next for cursor in found.cursors.values()), default=found.end))
        if found.end > self.end:
            self.end = found.end
            self._news.set()
            self._news = asyncio.Event()
        self._removed = found.removed
        if not self._saying:
            self._say_removed()

    def _say_removed(self) -> None:
        """Says how many dead letters went since it was said last; again in a minute at the earliest."""
        self._saying = None
        news = {output: letters - self._said.get(output, 0) for output, letters in self._removed.items()}
        self._said = self._removed
        for output, letters in news.items():
            if letters:
                self._log.warning("dead letters made room for newer ones", output=output, letters=letters)
        if any(news.values()):
            self._saying = self._loop.call_later(_SAY_SECONDS, self._say_removed)


async def open_spool(config: contract.Spool, outputs: Sequence[str], log: Log) -> Spool:
    """Opens the spool, makes it where it is not there, saves what can be saved where it is damaged.

    Raises AuditPipelineError if another process has it open, or the folder cannot be used; Retryable if the disk is
    full or fails, or has no room yet for saving a damaged one.
    """
    path = Path(config.path)
    reserve = Reserve(path.with_name(f"{path.name}.reserve"), RESERVE)
    opening, given_up = Worker("spool-opener"), threading.Event()

    def opened() -> Opened:
        found = _open(config, list(outputs), reserve, log)
        if given_up.is_set():
            found.close()
        return found

    try:
        return Spool(await opening.run(opened), path, reserve, log)
    except asyncio.CancelledError:
        # A check cannot be broken off, but nobody waits for it any more.
        given_up.set()
        raise
    finally:
        opening.stop()


def _open(config: contract.Spool, outputs: list[str], reserve: Reserve, log: Log) -> Opened:
    path = Path(config.path)
    try:
        make_folders(path.parent)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if is_full(error) or error.errno == errno.EIO:
            raise Retryable(f"{error.filename or path.parent}: {error.strerror}") from error
        raise AuditPipelineError(f"the spool's folder {path.parent} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        reserve.release()  # on a full disk the file could not even be opened
        with ExitStack() as opened:
            connection = opened.enter_context(closing(open_or_salvage(path, outputs, log)))
            sync_folder(path.parent)
            readers = [opened.enter_context(closing(_reader(path))) for _ in range(THREADS + 1)]
            found = Opened(_store(connection, config), readers, lock, store.figures(connection))
            opened.pop_all()
        return found
    except BaseException as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise AuditPipelineError(f"the spool {path} is in use by another process: stop that first") from error
        if is_full(error) or (isinstance(error, sqlite3.Error) and has_no_room(path.parent)):
            raise Retryable(f"{path}: there is no room on its disk ({error})") from error
        if isinstance(error, sqlite3.OperationalError | MemoryError | OSError):
            kind = Retryable if _is_passing(error) else AuditPipelineError
            raise kind(f"the spool {path} cannot be opened: {error}") from error
        raise


def _is_passing(error: sqlite3.OperationalError | MemoryError | OSError) -> bool:
    """Whether the file may be opened later: the disk is full, or has failed."""
    if isinstance(error, OSError):
        return error.errno == errno.EIO
    return isinstance(error, MemoryError) or (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _LATER


def _store(connection: sqlite3.Connection, config: contract.Spool) -> Store:
    return Store(connection, config.max_bytes, config.backpressure, config.max_age, config.isolate, config.dead_letters)


def _reader(path: Path) -> sqlite3.Connection:
    reader = rows.lenient(layout.connect(path))
    reader.execute("PRAGMA cache_size = -256")  # rows are read once
    return reader
