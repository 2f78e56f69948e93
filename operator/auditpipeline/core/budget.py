"""How much a computation on users' rules may cost: counted in steps, so that the answer is the same on every machine.

A step is one comparison of two conditions or of two sets of requests, some microseconds. It is paid for before it is
made. What would cost more than its budget is not made; its caller then has an answer that costs less.
"""

from __future__ import annotations

from collections.abc import Callable


class TooMany(Exception):
    """The steps that are left are not enough."""


class Stopped(Exception):
    """Nobody waits for the result any more."""


def _never() -> bool:
    return False


class Budget:
    """So many steps; `stopped` is asked at each payment and may be set by another thread."""

    def __init__(self, steps: int, stopped: Callable[[], bool] = _never) -> None:
        self.used = 0
        self._steps, self._stopped = steps, stopped

    def spend(self, steps: int = 1) -> None:
        """Pay for steps that come next; raises TooMany and Stopped."""
        self.used += steps
        if self.used > self._steps:
            raise TooMany
        if self._stopped():
            raise Stopped
