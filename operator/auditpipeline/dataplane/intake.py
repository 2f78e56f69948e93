"""The way in: bytes from any source -> filter -> spool. A source is the audit listener (`server`) or a log (`sources`).

    take_events(body)   an EventList, or a single Event: what a route wants of it is on disk when this returns
    bury(dead)          what a source could not read: kept as dead letters, on disk when this returns

Both raise Retryable, and have kept nothing, where spool or disk are full: the source waits, or tells its sender to.
"""

from __future__ import annotations

from collections.abc import Sequence

from auditpipeline.dataplane.canary import Canaries
from auditpipeline.dataplane.filter import Filter
from auditpipeline.dataplane.metrics import Metrics
from auditpipeline.dataplane.room import Room
from auditpipeline.dataplane.spool import Spool
from auditpipeline.dataplane.store import Dead

ROOM = 64 * 2**20


class Intake:
    """What every source shares; `room` bounds the bodies that are under way. `taken` counts the events that are not to
    be sent again, wanted or not; `canaries` are those among them."""

    def __init__(self, spool: Spool, filter_: Filter, max_body: int, metrics: Metrics) -> None:
        self.spool = spool
        self.metrics = metrics
        self.room = Room(ROOM)
        self.canaries = Canaries()
        self.taken = 0
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
        taken = deciding.take(body)
        found = self.canaries.find(taken.canaries)
        self.metrics.bytes_received.inc(len(body))
        del body
        await self.spool.append(taken.lines, deciding.digest, taken.dead)
        self.metrics.filtered.inc(taken.filtered)
        self.canaries.note(found)
        self.taken += len(taken.lines) + taken.filtered + len(taken.dead)

    async def bury(self, dead: Sequence[Dead]) -> None:
        """Keeps what a source cannot read; Retryable likewise."""
        await self.spool.append([], "", dead)
