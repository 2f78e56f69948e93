"""The way in: bytes from any source -> filter -> spool. A source is the audit listener (`server`) or a log (`sources`).

    take_events(body)   an EventList, or a single Event: what a route wants of it is on disk when this returns
    bury(dead)          what a source could not read: kept as dead letters, on disk when this returns

Both raise Retryable, and have kept nothing, where spool or disk are full: the source waits, or tells its sender to.

A body that no strict parser takes is read item by item in a thread of its own, one such body after the other: others
pass it by. So is one with very large events decided on there, since redaction may have to take them apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from auditpipeline.core.eventlist import read_body
from auditpipeline.dataplane.canary import Canaries
from auditpipeline.dataplane.filter import Decoded, Filter, Taken, decode, merged
from auditpipeline.dataplane.log import Seldom
from auditpipeline.dataplane.metrics import Metrics
from auditpipeline.dataplane.room import Room
from auditpipeline.dataplane.spool import Spool
from auditpipeline.dataplane.store import Dead
from auditpipeline.dataplane.worker import Worker

ROOM = 64 * 2**20
_HEAVY = 2**17
"""Bytes that the bodies of one event have if all of its request is decided on in a thread."""
T = TypeVar("T")


class Intake:
    """What every source shares; `room` bounds the bodies that are under way. `taken` counts the events that are not to
    be sent again, wanted or not; `canaries` are those among them."""

    def __init__(
        self, spool: Spool, filter_: Filter, max_body: int, metrics: Metrics, log: Seldom | None = None
    ) -> None:
        self.spool = spool
        self.metrics = metrics
        self.room = Room(ROOM)
        self.canaries = Canaries()
        self.taken = 0
        self._log = log
        self._reader: Worker | None = None
        self.follow(filter_, max_body)

    def follow(self, filter_: Filter, max_body: int) -> None:
        """From now on bodies go through this filter and have at most so many bytes."""
        self.filter = filter_
        self.max_body = max_body
        self.room.most = max(ROOM, 4 * max_body)

    async def take_events(self, body: bytes) -> None:
        """Filters a body and stores what is left; what cannot be read of it becomes dead letters.

        On disk when it returns. Retryable, and nothing was kept, where there is no room.
        """
        deciding = self.filter
        quick = decode(body)
        taken = await self._decide(deciding, quick, len(body)) if quick else None
        del quick
        if taken is None or taken.dead:
            taken = await self._take_slowly(deciding, body)
        found = self.canaries.find(taken.canaries)
        self.metrics.bytes_received.inc(len(body))
        del body
        await self.spool.append(taken.lines, deciding.digest, taken.dead)
        self.metrics.filtered.inc(taken.filtered)
        self.metrics.excess.inc(taken.excess)
        self.metrics.redacted.inc(taken.redacted)
        self.metrics.redacted_values.inc(taken.values)
        self.canaries.note(found)
        self.taken += len(taken.lines) + taken.filtered + sum(letter.events for letter in taken.dead)
        self._tell(taken.dead)

    async def bury(self, dead: Sequence[Dead]) -> None:
        """Keeps what a source cannot read; Retryable likewise."""
        await self.spool.append([], "", dead)
        self._tell(dead)

    def close(self) -> None:
        """Ends the thread, if there is one. Nothing may be called after that."""
        if self._reader:
            self._reader.stop()

    async def _decide(self, deciding: Filter, decoded: Decoded, size: int) -> Taken:
        """What becomes of the events of a body of that size, while other bodies are taken."""
        if size < _HEAVY or not any(decoded.form.size(event) > _HEAVY for event in decoded.events):
            return await _decided(deciding.slices(decoded))
        return await self._elsewhere(lambda: merged(list(deciding.slices(decoded))))

    async def _take_slowly(self, deciding: Filter, body: bytes) -> Taken:
        """As `Filter.take`, while other bodies are taken."""
        events, unreadable = await self._elsewhere(partial(read_body, body))
        taken = await self._decide(deciding, Decoded.one_by_one(events), len(body))
        return merged([taken, deciding.left_over(unreadable)])

    async def _elsewhere(self, work: Callable[[], T]) -> T:
        self._reader = self._reader or Worker("body-reader")
        return await self._reader.run(work)

    def _tell(self, dead: Sequence[Dead]) -> None:
        """One line for what is buried within a minute."""
        if dead and self._log:
            events = sum(letter.events for letter in dead)
            self._log.warning("events cannot be read: see the dead letters", events=events, reason=dead[0].reason)


async def _decided(slices: Iterator[Taken]) -> Taken:
    """What became of all of them; between two of them others get their turn."""
    parts = [next(slices)]
    for part in slices:
        await asyncio.sleep(0)
        parts.append(part)
    return merged(parts)
