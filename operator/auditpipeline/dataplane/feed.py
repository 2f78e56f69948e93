"""From the spool to the batches of one output: read from its cursor on, narrowed by its policies, bounded in number and
size.

What was stored under exactly this output's policies is passed on as it is; anything else is parsed and narrowed again.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from auditpipeline.core.config import Route as RouteConfig
from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import delivery_key
from auditpipeline.dataplane.filter import digest, narrow_line
from auditpipeline.dataplane.spool import Spool
from auditpipeline.dataplane.store import Chunk, Dead

BATCH_BYTES = 4 * 2**20


class Batch(NamedTuple):
    """Lines to deliver; `ends[i]` is the cursor behind line i, `end` the one behind the whole batch (narrowing may have
    left nothing of the last events). `spoilt` are those that cannot be delivered, each with the cursor behind it."""

    lines: list[bytes]
    ends: list[int]
    end: int
    spoilt: list[tuple[int, Spoilt]]


class Spoilt(NamedTuple):
    """What cannot be read: a dead letter, or a number of events that the disk lost."""

    dead: Dead | None = None
    damaged: int = 0


class Feed:
    """The events of one output from a cursor on, narrowed by its policies."""

    def __init__(self, config: RouteConfig, spool: Spool, position: int) -> None:
        self.position = position
        self._config = config
        self._spool = spool
        self._digest = digest([config.policies])
        self._held: deque[tuple[int, bytes]] = deque()
        self._spoilt: list[tuple[int, Spoilt]] = []

    async def take(self) -> Batch:
        """The next batch, of at most `max_events` and about BATCH_BYTES; waits while there is nothing to read."""
        if not self._held:
            await self._spool.wait(self.position)
        if len(self._held) < self._config.max_events and self.position < self._spool.end:
            for chunk in await self._spool.read(self.position, BATCH_BYTES):
                self._hold(chunk)
        return self._batch()

    def _hold(self, chunk: Chunk) -> None:
        start, end = max(self.position, chunk.first), chunk.first + chunk.events
        self.position = end
        if chunk.lines is None:
            self._spoilt.append((end, Spoilt(damaged=end - start)))
            return
        for number, line in enumerate(chunk.lines[start - chunk.first :], start + 1):
            narrowed = line if chunk.digest == self._digest else self._narrow(number, line)
            if narrowed is not None:
                self._held.append((number, narrowed))

    def _narrow(self, number: int, line: bytes) -> bytes | None:
        try:
            return narrow_line(line, self._config.policies)
        except Permanent as error:
            self._spoilt.append((number, Spoilt(Dead(self._config.name, str(error), line, delivery_key(line)))))
            return None

    def _batch(self) -> Batch:
        lines, ends, size = list[bytes](), list[int](), 0
        while self._held and len(lines) < self._config.max_events and size < BATCH_BYTES:
            number, line = self._held.popleft()
            lines.append(line)
            ends.append(number)
            size += len(line)
        end = ends[-1] if self._held else self.position
        spoilt = [item for item in self._spoilt if item[0] <= end]
        self._spoilt = [item for item in self._spoilt if item[0] > end]
        return Batch(lines, ends, end, spoilt)
