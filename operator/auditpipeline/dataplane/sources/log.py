"""The log source: takes the events that kube-apiserver writes to --audit-log-path.

    parts on disk --lines--> take_events (filtered, on disk) --> position file --> next lines
                                   | full: wait                    `Mark`, as of the last lines that were taken

Promises, whatever rotates the log (by renaming, or by copying and cutting off, .gz or not), and over kill -9:

1. no line is passed over: the position moves only behind what the spool has on disk, and parts that were rotated away
   while nobody looked are read to their end, in order. What was deleted before it was read is told in the log;
2. lines are taken again only between the last stored position and a crash;
3. a line is taken when it has its end; one that has none and never gets it (a newer part has lines) is taken as it is;
4. a line that is no event becomes a dead letter, as does the beginning of one that is longer than `max_line` bytes;
5. a full spool makes the source wait: the log is the buffer then.

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

from auditpipeline.core.errors import Permanent, Retryable
from auditpipeline.core.event import decode_event, delivery_key
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.sources.tail import Piece, Tail
from auditpipeline.dataplane.store import NO_OUTPUT, Dead
from auditpipeline.dataplane.worker import Worker

LOOK_SECONDS = 0.25
WAIT_SECONDS = 1.0
MAX_LINE = 20 * 2**20
_HEAD = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['
_LIST_KIND = b'"EventList"'


class Sink(Protocol):
    """What takes the lines. Both return when everything is on disk, and raise Retryable where there is no room."""

    async def take_events(self, body: bytes) -> object:
        """Takes an EventList, as the listener takes a body."""

    async def bury(self, dead: Sequence[Dead]) -> object:
        """Keeps what cannot be read."""


class Sorted(NamedTuple):
    """Lines as bodies that `take_events` takes, and what is no event."""

    bodies: list[bytes]
    dead: list[Dead]


class LogSource:
    """Reads the log at `path`; `start`, then `run`. `position` is the file that its position is kept in; its folder is
    there."""

    def __init__(self, path: Path, position: Path, sink: Sink, log: Log, max_line: int = MAX_LINE) -> None:
        self._sink = sink
        self._log = log.bind(path=str(path))
        self._tail = Tail(path, position, self._log, max_line)
        self._worker = Worker("log-source")
        self._complaint = ""
        self._strange = False

    async def start(self) -> None:
        """Finds the place to go on from: every line that is written after this is taken. OSError where the position
        cannot be read or stored."""
        await self._worker.run(self._tail.start)

    async def run(self, stop: asyncio.Event) -> None:
        """Takes lines until `stop` is set; what is under way then is taken, and its position stored."""
        while not stop.is_set():
            try:
                piece = await self._worker.run(self._tail.next)
                if piece and await self._hand_over(piece, stop):
                    self._tail.take()
                    await self._store(stop)
                self._complaint = ""
            except OSError as error:
                self._complain("the audit log cannot be read; trying again", error)
                await _sleep(stop, WAIT_SECONDS)
                continue
            if piece is None:
                await _sleep(stop, LOOK_SECONDS)
        await self._worker.run(self._tail.leave)
        self._worker.stop()

    async def _hand_over(self, piece: Piece, stop: asyncio.Event) -> bool:
        """Whether everything was taken; False where told to stop before there was room."""
        bodies, dead = ([], [_letter(piece.data, piece.reason)]) if piece.reason else await self._sorted(piece)
        if dead and not self._strange:
            self._strange = True
            self._log.warning("lines of the audit log are no events: see the dead letters", reason=dead[0].reason)
        calls: list[Callable[[], Awaitable[object]]] = [partial(self._sink.take_events, body) for body in bodies]
        if dead:
            calls.append(partial(self._sink.bury, dead))
        for call in calls:
            if not await self._until_taken(call, stop):
                return False
        return True

    async def _sorted(self, piece: Piece) -> Sorted:
        """Off the event loop: a line that has to be mended takes its time."""
        return await self._worker.run(partial(sort_lines, piece.data))

    async def _until_taken(self, call: Callable[[], Awaitable[object]], stop: asyncio.Event) -> bool:
        while True:
            try:
                await call()
                return True
            except Retryable as error:
                self._complain("the audit log waits: there is no room for its events", error)
                if await _sleep(stop, error.after or WAIT_SECONDS):
                    return False

    async def _store(self, stop: asyncio.Event) -> None:
        """Stores the position; a disk that is full is waited for."""
        while True:
            try:
                await self._worker.run(self._tail.store)
                return
            except OSError as error:
                self._complain("the position in the audit log cannot be stored; trying again", error)
                if await _sleep(stop, WAIT_SECONDS):
                    return

    def _complain(self, event: str, error: Exception) -> None:
        """One line for a state, not one for each try."""
        if event != self._complaint:
            self._complaint = event
            self._log.warning(event, error=str(error))


def sort_lines(data: bytes) -> Sorted:
    """What becomes of lines: those that are events go together as one EventList, as if a webhook had been sent them.

    Each line is read by itself first: lines that are broken must not spoil, or complete, each other. Bytes of zero,
    which a writer leaves that does not append after its file was cut off, are passed over.
    """
    events, bodies, dead = list[bytes](), list[bytes](), list[Dead]()
    for line in (line.strip(b"\0\r\t ") for line in data.split(b"\n")):
        if not line:
            continue
        try:
            kind = bytes(decode_event(line).get("kind", b"")).strip()
        except Permanent as error:
            dead.append(_letter(line, str(error)))
            continue
        (bodies if kind == _LIST_KIND else events).append(line)
    if events:
        bodies.insert(0, _HEAD + b",".join(events) + b"]}")
    return Sorted(bodies, dead)


def _letter(data: bytes, reason: str) -> Dead:
    return Dead(NO_OUTPUT, reason, data, delivery_key(data))


async def _sleep(stop: asyncio.Event, seconds: float) -> bool:
    """Waits; whether told to stop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()
