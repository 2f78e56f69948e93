"""The conditions of all routes: what each decides about an event, how long that takes, and how often it fails.

    policies keep an event --> every condition true?   yes, failed, or off --> kept
                                                       no                  --> the route does not get it

1. A condition that fails on an event counts as true, and is counted: evidence wins.
2. Time is measured. `WINDOW` evaluations may take `WINDOW` times `LIMIT` seconds of CPU; a condition that takes more is
   switched off, and counts as true. It stays off until the process starts again or its expression changes.
3. The same condition of several routes is one, and is asked once about an event.

Only the event loop's thread may use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from auditpipeline.core.conditions.model import Condition
from auditpipeline.core.conditions.values import Get
from auditpipeline.core.config import Route
from auditpipeline.core.errors import Invalid
from auditpipeline.core.report import ConditionReport

WINDOW = 100
LIMIT = 0.001
"""Seconds of CPU that an evaluation may take on average over a window."""
Clock = Callable[[], float]
Decide = Callable[[Get], bool | str]


class Watched:
    """One condition, and what became of it since the process started."""

    def __init__(self, condition: Condition, clock: Clock) -> None:
        self.condition = condition
        self.off = False
        self.evaluations = self.rejected = self.failures = 0
        self.seconds = 0.0
        self.last_failure = ""
        self._decide = _compiled(condition.expression)
        self._clock = clock
        self._window = 0
        self._spent = 0.0

    def keeps(self, get: Get, *, again: bool = False) -> bool:
        """Whether the event whose fields `get` finds is kept. An event that is looked at `again` is not counted."""
        if self.off:
            return True
        begun = self._clock()
        found = self._decide(get)
        self._took(self._clock() - begun)
        if not again:
            self._count(found)
        return found is not False

    def report(self) -> ConditionReport:
        """What /status and the metrics say of it."""
        return ConditionReport(
            name=self.condition.name,
            output=self.condition.output,
            evaluations=self.evaluations,
            rejected=self.rejected,
            failures=self.failures,
            seconds=self.seconds,
            off=self.off,
            last_failure=self.last_failure,
        )

    def _count(self, found: bool | str) -> None:
        self.evaluations += 1
        if found is False:
            self.rejected += 1
        elif found is not True:
            self.failures += 1
            self.last_failure = found

    def _took(self, seconds: float) -> None:
        """A window ends early if what is spent is too much for the whole of it."""
        self.seconds += seconds
        self._spent += seconds
        self._window += 1
        if self._spent > WINDOW * LIMIT:
            self.off = True
        elif self._window >= WINDOW:
            self._window, self._spent = 0, 0.0


class Conditions:
    """The conditions of a configuration. `clock` gives seconds of CPU time."""

    def __init__(self, clock: Clock = time.thread_time) -> None:
        self._clock = clock
        self._watched: dict[Condition, Watched] = {}

    def follow(self, routes: Iterable[Route]) -> None:
        """From now on these are the routes: a condition that stays keeps what is known of it."""
        wanted = dict.fromkeys(condition for route in routes for condition in route.conditions)
        self._watched = {each: self._watched.get(each) or Watched(each, self._clock) for each in wanted}

    def of(self, conditions: Sequence[Condition]) -> tuple[Watched, ...]:
        """Those of one route."""
        for condition in conditions:
            if condition not in self._watched:
                self._watched[condition] = Watched(condition, self._clock)
        return tuple(self._watched[condition] for condition in conditions)

    def report(self) -> tuple[ConditionReport, ...]:
        """What is known of each."""
        return tuple(each.report() for each in self._watched.values())


def _compiled(expression: str) -> Decide:
    """The expression as a function. One that cannot be compiled fails on each event: the operator refuses such ones,
    and a receiver that stopped at one would lose events."""
    from auditpipeline.core.conditions.program import compile_expression

    try:
        return compile_expression(expression).decide
    except Invalid as error:
        said = f"it cannot be compiled: {error.message}"
        return lambda _: said
