"""What `plane` measures of one server, and how rounds of it are summed up."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from tests.bench.plane_servers import Server
from tests.dataplane.setting import Setting

Start = Callable[[Setting], AbstractAsyncContextManager[Server]]


@dataclass
class Figures:
    """What was measured of one server: an item a round, or (`waits`) a body. Events a second; CPU seconds per million
    events; bytes; seconds; `driver` is the share of its core that the driver used."""

    acknowledged: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    cpu_half: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    waits_half: list[float] = field(default_factory=list)
    refused: int = 0
    driver: list[float] = field(default_factory=list)


def percentile(waits: list[float], share: float) -> str:
    """Milliseconds within which that share of the bodies was acknowledged."""
    ordered = sorted(waits)
    return f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000:.1f}" if ordered else "-"


def ratio(found: list[float], base: list[float]) -> str:
    """How many times as much as the other's, round by round: the median, the least and the most."""
    ratios = sorted(one / other for one, other in zip(found, base, strict=True))
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
