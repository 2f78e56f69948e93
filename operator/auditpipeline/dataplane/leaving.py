"""Routes of a gateway whose AuditSink is gone (a pipeline is suspended): no new events, but those before still go.

    removed --> delivers up to the end of then --+--> nothing waits: the cursor goes
                                                 +--> LEAVE_SECONDS are over, or the process starts again: the cursor
                                                      goes, and what waited is lost by `removed`

Whoever comes back meanwhile goes on from its cursor. In a full spool a route that leaves is as any other that is
behind: `Spool.isolate` says who makes room.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress

from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.route import Route
from auditpipeline.dataplane.spool import Spool

LEAVE_SECONDS = 3600.0


class Leaving:
    """Running routes that end by themselves, by name; owns them."""

    def __init__(self, spool: Spool) -> None:
        self.routes: dict[str, Route] = {}
        self.ends: dict[str, int] = {}
        self._spool = spool
        self._since: dict[str, float] = {}

    def add(self, route: Route, end: int) -> None:
        """Takes over a route that was started, and that ends before the event `end`."""
        name = route.config.name
        self.routes[name], self.ends[name], self._since[name] = route, end, time.monotonic()

    async def stop(self, names: Collection[str], grace: float) -> None:
        """Ends those of the routes, and keeps their cursors: who owns them now goes on."""
        for name in [name for name in self.routes if name in names]:
            await self.routes[name].stop(grace)
            self._forget(name)

    async def tidy(self, grace: float) -> None:
        """Lets go of routes that have nothing left to do, or had their time; a full disk is waited for."""
        latest = time.monotonic() - LEAVE_SECONDS
        over = [name for name, route in self.routes.items() if route.drained or self._since[name] <= latest]
        if not over:
            return
        for name in over:
            await self.routes[name].stop(grace)
        with suppress(Retryable):
            await self._spool.use(self._spool.cursors.keys() - set(over), self.ends)
            for name in over:
                self._forget(name)

    def _forget(self, name: str) -> None:
        del self.routes[name], self.ends[name], self._since[name]
