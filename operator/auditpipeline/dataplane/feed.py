"""From the spool to the batches of one output: read from its cursor on, narrowed by its policies, without what its
redaction takes, bounded in number and size.

    rows --narrow, redact--> pieces (lines, and the cursor behind each) --cut to size--> batches

What was stored under exactly this output's policies, redaction and conditions is passed on as it is, a row at a time;
anything else is parsed, narrowed, redacted and asked about again, line by line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from auditpipeline.core.config import Route as RouteConfig
from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import delivery_key
from auditpipeline.core.redaction.redactor import Redactor
from auditpipeline.dataplane.conditions import Conditions
from auditpipeline.dataplane.filter import Wanted, digest, narrow_line, redaction_of, redactor
from auditpipeline.dataplane.lines import Lines, as_lines
from auditpipeline.dataplane.spool import Spool
from auditpipeline.dataplane.store import Chunk, Dead, is_for

FOR_EVER = 2**63


class Spoilt(NamedTuple):
    """What cannot be read: a dead letter, or a number of events that the disk lost."""

    dead: Dead | None = None
    damaged: int = 0


class Batch(NamedTuple):
    """Lines to deliver; `ends[i]` is the cursor behind line i, `end` the one behind the whole batch (narrowing may have
    left nothing of the last events). `spoilt` are those that cannot be delivered, each with the cursor behind it."""

    lines: Sequence[bytes]
    ends: Sequence[int]
    end: int
    spoilt: list[tuple[int, Spoilt]]


class _Piece(NamedTuple):
    """Lines of one row, and the cursor behind each."""

    lines: Lines
    ends: Sequence[int]


class Feed:
    """The events of one output from a cursor on, and before the event `until`. `key` is that of hashes."""

    def __init__(
        self,
        config: RouteConfig,
        spool: Spool,
        position: int,
        key: bytes | None = None,
        until: int = FOR_EVER,
        *,
        conditions: Conditions | None = None,
    ) -> None:
        self.position = position
        self._until = until
        self._config = config
        self._spool = spool
        self._redactor = redactor(config.taken, key)
        self._most = config.batch_events
        self._enough = config.batch_bytes
        self._digest = digest([Wanted(config.policies, config.taken, config.conditions)], key)
        self._watched = (conditions or Conditions()).of(config.conditions)
        self._pieces: deque[_Piece] = deque()
        self._waiting = 0
        self._size = 0
        self._spoilt: list[tuple[int, Spoilt]] = []

    async def take(self, wait: float = 0.0) -> Batch:
        """The next batch, of at most `batch_events` and about `batch_bytes`; waits while there is nothing to read, and
        then at most `wait` seconds for what fills it."""
        if not self._waiting:
            await self._spool.wait(self.position)
        await self._read()
        if wait and self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    while not self._is_full() and self.position < self._until:
                        await self._spool.wait(self.position)
                        await self._read()
        return self._batch()

    def _is_full(self) -> bool:
        return self._waiting >= self._most or self._size >= self._enough

    async def _read(self) -> None:
        """Takes in rows. Where there is none before the end, what had these numbers is gone, and counted (`store`)."""
        end = min(self._spool.end, self._until)
        if self._is_full() or self.position >= end:
            return
        chunks = await self._spool.read(self.position, self._enough)
        for chunk in chunks:
            self._hold(chunk)
        if not chunks:
            self.position = end

    def _hold(self, chunk: Chunk) -> None:
        start, end = max(self.position, chunk.first), min(chunk.first + chunk.events, self._until)
        self.position = end
        if start >= end or not is_for(chunk.digest, self._config.name):
            return
        if chunk.lines is None:
            self._spoilt.append((end, Spoilt(damaged=end - start)))
            return
        whole = end - start == chunk.events
        lines = as_lines(chunk.lines if whole else chunk.lines[start - chunk.first : end - chunk.first])
        piece = _Piece(lines, range(start + 1, end + 1))
        if chunk.digest != self._digest:
            redacted = redaction_of(chunk.digest) == redaction_of(self._digest) != ""
            piece = self._prepared(piece, None if redacted else self._redactor)
        if piece.lines:
            self._pieces.append(piece)
            self._waiting += len(piece.lines)
            self._size += piece.lines.size

    def _prepared(self, piece: _Piece, redactor: Redactor | None) -> _Piece:
        """The piece narrowed; and redacted, unless it was stored without what this output must not have."""
        lines, ends = list[bytes](), list[int]()
        for line, end in zip(piece.lines, piece.ends, strict=True):
            try:
                found = narrow_line(line, self._config.policies, redactor, self._watched)
                if found is not None:
                    lines.append(found)
                    ends.append(end)
            except Permanent as error:
                self._spoilt.append((end, Spoilt(Dead(self._config.name, str(error), line, delivery_key(line)))))
        return _Piece(as_lines(lines), ends)

    def _batch(self) -> Batch:
        taken, events, size = list[_Piece](), 0, 0
        while self._pieces and events < self._most and size < self._enough:
            piece = self._pieces.popleft()
            fits = _fitting(piece.lines, self._most - events, self._enough - size, self._enough)
            if fits < len(piece.lines):
                self._pieces.appendleft(_Piece(piece.lines[fits:], piece.ends[fits:]))
                piece = _Piece(piece.lines[:fits], piece.ends[:fits])
            taken.append(piece)
            events += fits
            size += piece.lines.size
        self._waiting -= events
        self._size -= size
        end = taken[-1].ends[-1] if self._pieces else self.position
        spoilt = [item for item in self._spoilt if item[0] <= end]
        self._spoilt = [item for item in self._spoilt if item[0] > end]
        whole = taken[0] if len(taken) == 1 else _joined(taken)
        return Batch(whole.lines, whole.ends, end, spoilt)


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    return _Piece(
        Lines.chained([piece.lines for piece in pieces]),
        list(chain.from_iterable(piece.ends for piece in pieces)),
    )


def _fitting(lines: Lines, events: int, size: int, small: int) -> int:
    """How many lines are needed to reach one of the bounds, all where they do not. A row of at most
    `small` bytes is not cut for its size: nobody has to look through it."""
    if len(lines) <= events and lines.size <= small:
        return len(lines)
    total = 0
    for number, line in enumerate(lines[:events], 1):
        total += len(line)
        if total >= size:
            return number
    return min(len(lines), events)
