"""The log source: takes the events that kube-apiserver writes to --audit-log-path.

    parts on disk --lines--> sorted --> take_events (filtered, on disk) --> position file --> next lines
                                           | full: wait                     `Mark`, as of the last lines that were taken

Promises, whatever rotates the log (by renaming, or by copying and cutting off, packed or not), and over kill -9:

1. no line is passed over: the position moves only behind what the spool has on disk, and parts that were rotated away
   while nobody looked are read to their end, in order. What was deleted before it was read is told in the log;
2. lines are taken again only between the last stored position and a crash;
3. a line is taken when it has its end; one that has none and never gets it (a newer part has lines) is taken as it is;
4. every intact event in a torn line is taken. What is not an event becomes a dead letter, as does the beginning of a
   line that is longer than `max_line` bytes; lines that are not meant as events are counted (`sorting`);
5. a full spool makes the source wait: the log is the buffer then;
6. a fault of a part costs what cannot be read of that part; a fault of the folder or the disk is waited for. Neither
   ends the process, and both are in the report (`state`).

At the very first start the part that is written to is read from its beginning, and older ones are not read. What
copytruncate itself loses (lines written between its copy and its cut) nobody can read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from auditpipeline.core.errors import Retryable
from auditpipeline.core.report import SourceReport
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.sources.packed import FAULTS
from auditpipeline.dataplane.sources.sorting import Sorted, Sorter, letter
from auditpipeline.dataplane.sources.state import State
from auditpipeline.dataplane.sources.tail import Piece, Tail
from auditpipeline.dataplane.store import Dead
from auditpipeline.dataplane.worker import Worker

LOOK_SECONDS = 0.25
WAIT_SECONDS = 1.0
MAX_LINE = 20 * 2**20
_FAILS = "the audit log cannot be read; trying again"


class Sink(Protocol):
    """What takes the lines. Both return when everything is on disk, and raise Retryable if there is no room."""

    async def take_events(self, body: bytes) -> object:
        """Takes an EventList, as the listener takes a body."""

    async def bury(self, dead: Sequence[Dead]) -> object:
        """Keeps what cannot be read."""


class _Next(NamedTuple):
    """The next piece, sorted."""

    found: Sorted
    seen: bool


class LogSource:
    """Reads the log at `path`; `start`, then `run`. `position` is the file that its position is kept in; its folder is
    there."""

    def __init__(self, path: Path, position: Path, sink: Sink, log: Log, max_line: int = MAX_LINE) -> None:
        self._sink = sink
        self._tail = Tail(path, position, log.bind(path=str(path)), max_line)
        self._sorter = Sorter(max_line)
        self._state = State(path, log.bind(path=str(path)))
        self._worker = Worker("log-source")
        self._started = False

    def report(self) -> SourceReport:
        """Where it is, and what went wrong last."""
        return self._state.report()

    async def start(self) -> None:
        """Finds the place to go on from: every line that is written after this is taken. If the position cannot be read
        or stored, `run` tries again."""
        try:
            await self._worker.run(self._tail.start)
            self._started = True
        except FAULTS as error:
            self._state.fails("the position in the audit log cannot be read or stored; trying again", error)

    async def run(self, stop: asyncio.Event) -> None:
        """Takes lines until `stop` is set; what is under way then is taken, and its position stored."""
        try:
            while not stop.is_set():
                if not self._started:
                    await self.start()
                if not self._started or not await self._step(stop):
                    await _sleep(stop, LOOK_SECONDS if self._started else WAIT_SECONDS)
        finally:
            try:
                await self._worker.run(self._tail.leave)
            finally:
                self._worker.stop()

    async def _step(self, stop: asyncio.Event) -> bool:
        """Takes the next lines; False if there are none yet."""
        try:
            following = await self._worker.run(self._next)
        except FAULTS as error:
            self._state.fails(_FAILS, error)
            await _sleep(stop, WAIT_SECONDS)
            return False
        if following is None and self._tail.absent:
            self._state.fails("the audit log is not there yet", FileNotFoundError("there is no such file yet"))
            return False
        self._state.goes_on()
        if following and await self._hand_over(following.found, stop):
            self._state.took(following.found, following.seen)
            self._state.goes_on()
            await self._passed(stop)
        return following is not None

    def _next(self) -> _Next | None:
        piece = self._tail.next()
        return _Next(self._sorted(piece), self._sorter.seen) if piece else None

    def _sorted(self, piece: Piece) -> Sorted:
        if not piece.reason:
            return self._sorter.sort(b"\0" * bool(piece.skip) + piece.data)  # what zeros are before is told by that
        found = self._sorter.sort(b"")
        return found._replace(dead=[letter(piece.data, piece.reason)], lines=int(bool(piece.data)))

    async def _hand_over(self, found: Sorted, stop: asyncio.Event) -> bool:
        """Whether everything was taken; False if told to stop before there was room."""
        calls: list[Callable[[], Awaitable[object]]] = [partial(self._sink.take_events, body) for body in found.bodies]
        if found.dead:
            calls.append(partial(self._sink.bury, found.dead))
        for call in calls:
            if not await self._until_taken(call, stop):
                return False
        return True

    async def _until_taken(self, call: Callable[[], Awaitable[object]], stop: asyncio.Event) -> bool:
        while True:
            try:
                await call()
                return True
            except Retryable as error:
                self._state.fails("the audit log waits: there is no room for its events", error, "Waiting")
                if await _sleep(stop, error.after or WAIT_SECONDS):
                    return False

    async def _passed(self, stop: asyncio.Event) -> None:
        """Moves on, and stores the position; a disk that is full or fails is waited for."""
        for call in (self._tail.take, self._tail.store):
            while not await self._done(call):
                if await _sleep(stop, WAIT_SECONDS):
                    return

    async def _done(self, call: Callable[[], None]) -> bool:
        try:
            await self._worker.run(call)
        except FAULTS as error:
            self._state.fails("the position in the audit log cannot be stored; trying again", error)
            return False
        return True


async def _sleep(stop: asyncio.Event, seconds: float) -> bool:
    """Waits; whether told to stop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()
