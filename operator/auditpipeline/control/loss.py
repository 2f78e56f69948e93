"""What the API servers' audit lost: from their own counters, and from what the gateways took. Values and decisions.

    failed grows              Dropped      its webhook backend gave up so many events: tried for too long, or no room
    another start             Restarted    what it held in memory then is gone, unless it ended in peace: not counted
    emitted > failed + taken  Unaccounted  after SETTLED seconds, so that nothing is on its way any more

`Dropped` may count an event that came all the same (a batch whose answer was lost is tried again, and then given up),
and `Unaccounted` may hide one behind another that came twice. A *gap* is the time in which evidence may be missing. It
begins with the last canary that had come when the trouble began, or RETRIES seconds before the reading, whichever is
earlier, and never before the API server itself. What goes on within JOINED seconds is one gap; where there are more
than MOST, the oldest of a kind become one, so that no number is lost but where each is of another kind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import msgspec

from auditpipeline.control.apiservers import FORGIVEN, Reading
from auditpipeline.core.report import Taken

RETRIES = 240.0
"""Seconds for which kube-apiserver may hold a batch: it tries five times in 92 s, and each may hang for 30 s."""
SETTLED = 300.0
EARLY = 1.0
"""Seconds by which the start of a process may be told too early: the kernel's own start is known to the second."""
JOINED = 30.0
WRITTEN = 600.0
MOST = 10
Cause = Literal["Dropped", "Restarted", "Unaccounted"]
Sums = tuple[int, int, int]


class Gap(msgspec.Struct, frozen=True):
    """Evidence may be missing of what an API server did between two times (seconds since the epoch). `events` is 0
    where nobody counted them."""

    server: str
    cause: Cause
    begins: float
    ends: float
    events: int = 0


class Known(msgspec.Struct, frozen=True):
    """An API server at the last reading; `canary` is when the last canary was sent that had reached a gateway then."""

    start: float
    failed: int
    at: float
    canary: float = 0.0


class Kept(msgspec.Struct, frozen=True):
    """What outlives the operator's process."""

    known: dict[str, Known] = {}
    gaps: tuple[Gap, ...] = ()


@dataclass
class LossState:
    """`totals` are the events lost since this process started, by cause; `read` says whether every API server
    could be read the last time, `silent` since when that has not been so. `unkept` says why it could not be written
    down the last time."""

    known: dict[str, Known] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    totals: dict[Cause, int] = field(default_factory=lambda: {"Dropped": 0, "Unaccounted": 0})
    recalled: bool = False
    read: bool = False
    silent: float | None = None
    unkept: str = ""
    _session: tuple[object, ...] = ()
    _history: deque[tuple[float, Sums]] = field(default_factory=deque)
    _told: int = 0

    def take(self, readings: Iterable[Reading], taken: list[Taken | None], canaries: Mapping[str, float]) -> None:
        """Take in a round of readings. `taken` are the gateways' last reports, from before the readings; `canaries` say
        when the newest canary of each API server that reached a gateway was sent."""
        found = list(readings)
        self.read = bool(found) and not any(reading.error for reading in found)
        failed = [reading.at for reading in found if reading.error]
        self.silent = (self.silent or min(failed)) if failed else None
        for reading in found:
            if not reading.error:
                self._one(reading, canaries.get(reading.server.name, 0.0))
        gateways = [each for each in taken if each is not None]
        if found and gateways and len(gateways) == len(taken) and not any(reading.error for reading in found):
            self._balance(found, gateways)

    def is_excused(self, now: float) -> bool:
        """Whether an API server that could not be read may only be starting anew."""
        return self.silent is not None and now - self.silent < FORGIVEN

    def kept(self) -> Kept:
        """What is worth writing down: it changes with a loss, with a restart, and every WRITTEN seconds."""
        known = {
            name: Known(each.start, each.failed, each.at // WRITTEN * WRITTEN) for name, each in self.known.items()
        }
        return Kept(known, tuple(self.gaps))

    def recall(self, kept: Kept) -> None:
        """Go on where a former process ended."""
        self.known, self.gaps, self.recalled = dict(kept.known), list(kept.gaps), True

    def _one(self, reading: Reading, canary: float) -> None:
        name, before = reading.server.name, self.known.get(reading.server.name)
        self.known[name] = Known(reading.start, reading.failed, reading.at, canary)
        going_on = inf
        if before is not None and before.start == reading.start:
            going_on = before.at
            grown = reading.failed - before.failed
            since = min(before.canary or before.at, before.at - RETRIES) if before.at else 0.0
            begins = max(since, reading.start)
        else:
            if before is not None:
                begins = before.canary or (before.at - RETRIES if before.at else before.start)
                self._add(Gap(name, "Restarted", min(begins, reading.start), reading.start + EARLY))
            grown, begins = reading.failed, reading.start
        if grown > 0:
            self._add(Gap(name, "Dropped", begins, reading.at, grown), going_on)

    def _balance(self, readings: list[Reading], taken: list[Taken]) -> None:
        """Hold what was emitted a while ago against what has come since."""
        now = max(reading.at for reading in readings)
        sums = sum(r.emitted for r in readings), sum(r.failed for r in readings), sum(t.events for t in taken)
        session = (*sorted((r.server.name, r.start) for r in readings), *sorted(t.epoch for t in taken))
        if session != self._session:
            self._session, self._told = session, 0
            self._history = deque([(now, sums)])
            return
        self._history.append((now, sums))
        (_, first), settled = self._history[0], [entry for entry in self._history if entry[0] <= now - SETTLED]
        if len(settled) < 2:
            return
        at, then = settled[-1]
        missing = (then[0] - first[0]) - (sums[1] - first[1]) - (sums[2] - first[2]) - self._told
        if missing > 0:
            self._told += missing
            names = ", ".join(sorted(reading.server.name for reading in readings))
            self._add(Gap(names, "Unaccounted", settled[-2][0] - RETRIES, at, missing), settled[-2][0])
        # The first entry is what everything is held against; of the settled ones the last two are still of use.
        while len(self._history) > 3 and self._history[2][0] <= now - SETTLED:
            del self._history[1]

    def _add(self, gap: Gap, going_on: float = inf) -> None:
        """One more gap, or the last one of its kind where that lasted until `going_on`, or nearly."""
        if gap.events:
            self.totals[gap.cause] += gap.events
        alike = [last for last in self.gaps if (last.server, last.cause) == (gap.server, gap.cause)]
        if alike and gap.events and alike[-1].ends >= going_on - JOINED:
            self.gaps[self.gaps.index(alike[-1])] = _joined(alike[-1], gap)
            return
        self.gaps.append(gap)
        while len(self.gaps) > MOST:
            self._fold()

    def _fold(self) -> None:
        """Make the oldest gap that is not alone of its kind and the next of that one. Where each is alone, the oldest
        goes that has no number; at last the oldest."""
        for first, gap in enumerate(self.gaps):
            for next_, other in enumerate(self.gaps[first + 1 :], first + 1):
                if (other.server, other.cause) == (gap.server, gap.cause):
                    self.gaps[next_] = _joined(gap, other)
                    del self.gaps[first]
                    return
        uncounted = (index for index, gap in enumerate(self.gaps) if not gap.events)
        del self.gaps[next(uncounted, 0)]


def _joined(first: Gap, second: Gap) -> Gap:
    begins, ends = min(first.begins, second.begins), max(first.ends, second.ends)
    return Gap(first.server, first.cause, begins, ends, first.events + second.events)
