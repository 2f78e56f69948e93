"""Giving way to somebody who writes to our objects again and again: two that disagree must not keep an API server busy.

what others wrote      mended at once   AT_ONCE times in a row, then after 1, 2, 4 ... LONGEST seconds each time
CALM seconds of peace  this counts anew
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from auditpipeline.control.seen import Key

AT_ONCE, CALM, LONGEST = 3, 600.0, 300.0


class _Fight(NamedTuple):
    rounds: int
    last: float
    told: bool = False


@dataclass
class Fights:
    """For each object, how often in a row what others wrote was mended, and when last. Times are in seconds."""

    _known: dict[Key, _Fight] = field(default_factory=dict)

    def left(self, key: Key, now: float) -> float:
        """The number of seconds for which what others wrote is left alone yet; 0.0 if it is to be mended now."""
        fight = self._known.get(key)
        if fight is None or fight.rounds < AT_ONCE or now - fight.last >= CALM:
            return 0.0
        return max(0.0, fight.last + min(LONGEST, 2.0 ** (fight.rounds - AT_ONCE)) - now)

    def mend(self, key: Key, now: float) -> None:
        """Count that what others wrote is mended now."""
        fight = self._known.get(key)
        count = fight.rounds if fight and now - fight.last < CALM else 0
        self._known[key] = _Fight(count + 1, now)

    def tell(self, key: Key) -> bool:
        """Whether it is still to be told that this fight is left alone for now; once for each time."""
        fight = self._known.get(key)
        if fight is None or fight.told:
            return False
        self._known[key] = fight._replace(told=True)
        return True

    def forget(self, key: Key) -> None:
        """The object is gone, and nobody wants it back."""
        self._known.pop(key, None)
