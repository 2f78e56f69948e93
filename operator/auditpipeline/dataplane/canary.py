"""The canaries that came: the newest of each API server, for the report. In memory: another one comes soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from auditpipeline.core.canary import Sighting, sighting
from auditpipeline.core.event import Raw
from auditpipeline.core.report import Canary

MOST = 32
"""API servers that are remembered."""


class Canaries:
    """What to report; `user` is whose canaries count."""

    def __init__(self, user: str = "", clock: Callable[[], float] = time.time) -> None:
        self.user = user
        self._clock = clock
        self._newest: dict[str, tuple[float, Canary]] = {}

    def find(self, suspects: Iterable[Raw]) -> list[Sighting]:
        """The canaries among events of a body that is not taken yet."""
        return [found for event in suspects if (found := sighting(event, self.user))]

    def note(self, found: Iterable[Sighting]) -> None:
        """Take in canaries whose body was taken. One that comes late, or again, is not the newest."""
        now = self._clock()
        for source, number, received in found:
            at, before = self._newest.pop(source, (0.0, Canary(source, "")))
            if received <= at:
                self._newest[source] = (at, before)
                continue
            latency = max(0.0, now - received)
            self._newest[source] = (received, Canary(source, number, before.seen + 1, round(latency, 3), now))
            if len(self._newest) > MOST:
                del self._newest[next(iter(self._newest))]

    def report(self) -> tuple[Canary, ...]:
        """The newest of each API server."""
        return tuple(canary for _, canary in self._newest.values())
