"""The conditions of all routes: what each decides about an event, how long that takes, and how often it fails.

    policies keep an event --> every condition true?   yes, failed, or off --> kept
                                                       no                  --> the route does not get it

1. A condition that fails on an event counts as true, and is counted: evidence wins.
2. Time is measured. `WINDOW` evaluations may take `WINDOW` times `LIMIT` seconds of CPU; a condition that takes more is
   switched off, and counts as true. It stays off until the process starts again or its expression changes.
3. The same condition of several routes is one, and is asked once about an event.

Bodies with very large events are decided on in a thread of their own: one thread at a time asks conditions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import NamedTuple

from auditpipeline.core.conditions.model import Condition
from auditpipeline.core.conditions.values import Get
from auditpipeline.core.conditions.view import seen
from auditpipeline.core.config import Route
from auditpipeline.core.errors import Invalid
from auditpipeline.core.policy import Decision
from auditpipeline.core.report import ConditionReport

WINDOW = 100
LIMIT = 0.001
"""Seconds of CPU that an evaluation may take on average over a window."""
Clock = Callable[[], float]
Tell = Callable[[Condition], None]
Decide = Callable[[Get], bool | str]


class Watched:
    """One condition, and what became of it since the process started. `decide` says what it is of an event; whoever
    calls it says what it `took`, by its `clock`."""

    def __init__(self, condition: Condition, clock: Clock, tell: Tell, lock: Lock) -> None:
        self.condition = condition
        self.lock = lock
        self.off = False
        self.evaluations = self.rejected = self.failures = 0
        self.seconds = 0.0
        self.failure = ""
        self.decide = _compiled(condition.expression)
        self.clock = clock
        self._tell = tell
        self._window = 0
        self._spent = 0.0

    def ask(self, get: Get) -> bool | str | None:
        """What it says of the event whose fields `get` finds, or why it fails; None if it is off. Nothing is counted
        but time."""
        if self.off:
            return None
        begun = self.clock()
        found = self.decide(get)
        self.took(self.clock() - begun)
        return found

    def count(self, found: bool | str | None) -> None:
        """Counts an answer: once for each event."""
        if found is None:
            return
        self.evaluations += 1
        if found is False:
            self.rejected += 1
        elif found is not True:
            self.failures += 1
            self.failure = self.failure or found

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
            failure=self.failure,
        )

    def took(self, seconds: float) -> None:
        """A window ends early if what is spent is too much for the whole of it."""
        self.seconds += seconds
        self._spent += seconds
        self._window += 1
        if self._spent > WINDOW * LIMIT:
            self.off = True
            self._tell(self.condition)
        elif self._window >= WINDOW:
            self._window, self._spent = 0, 0.0


class Asked(NamedTuple):
    """The conditions of one route that wants an event, and what its policies decide; None if the event is cut to that
    already."""

    watched: tuple[Watched, ...]
    decision: Decision | None = None


def keeps_any(asked: Sequence[Asked], find: Get) -> bool:
    """Whether one of these routes keeps an event that is about to be stored for all of them.

    A condition of an output is counted here only if the event ends here, or if there is no other route: the route
    counts it otherwise, when it delivers (`keeps`).
    """
    with asked[0].watched[0].lock:
        return _keeps_alone(asked[0].watched, find) if len(asked) == 1 else _keeps_any(asked, find)


def _keeps_any(asked: Sequence[Asked], find: Get) -> bool:
    said: dict[tuple[Watched, Decision | None], bool | str | None] = {}
    kept = any(_keeps(each, find, said) for each in asked)
    counted = dict.fromkeys(watched for watched, _ in said)
    first = {watched: found for (watched, _), found in reversed(said.items())}
    for watched in counted:
        if not kept or not watched.condition.output:
            watched.count(first[watched])
    return kept


def _keeps_alone(watched: tuple[Watched, ...], find: Get) -> bool:
    """Whether the only route that wants an event keeps it: nearly all events come this way."""
    ended = watched[0].clock()
    for each in watched:
        if not each.off:
            begun, found = ended, each.decide(find)
            ended = each.clock()
            each.took(ended - begun)
            each.count(found)
            if found is False:
                return False
    return True


def _keeps(asked: Asked, find: Get, said: dict[tuple[Watched, Decision | None], bool | str | None]) -> bool:
    get = find if asked.decision is None else seen(find, asked.decision)
    for watched in asked.watched:
        key = (watched, asked.decision)
        if key not in said:
            said[key] = watched.ask(get)
        if said[key] is False:
            return False
    return True


def keeps(watched: Sequence[Watched], find: Get) -> bool:
    """Whether a route keeps an event that was stored for several of them."""
    with watched[0].lock:
        for each in watched:
            found = each.ask(find)
            if each.condition.output:
                each.count(found)
            if found is False:
                return False
        return True


class Conditions:
    """The conditions of a configuration. `clock` gives seconds of CPU time; `tell` is called with one that is switched
    off."""

    def __init__(self, tell: Tell = lambda condition: None, clock: Clock = time.thread_time) -> None:
        self._clock = clock
        self._tell = tell
        self._lock = Lock()
        self._watched: dict[Condition, Watched] = {}

    def of(self, conditions: Sequence[Condition]) -> tuple[Watched, ...]:
        """Those of one route, with all that is known of them."""
        with self._lock:
            for condition in conditions:
                if condition not in self._watched:
                    self._watched[condition] = Watched(condition, self._clock, self._tell, self._lock)
            return tuple(self._watched[condition] for condition in conditions)

    def forget(self, routes: Iterable[Route]) -> None:
        """Forgets the conditions that none of these routes has."""
        wanted = {condition for route in routes for condition in route.conditions}
        with self._lock:
            self._watched = {each: watched for each, watched in self._watched.items() if each in wanted}

    def report(self, routes: Iterable[Route]) -> tuple[ConditionReport, ...]:
        """Returns what is known of the conditions of these routes."""
        wanted = dict.fromkeys(condition for route in routes for condition in route.conditions)
        return tuple(each.report() for each in self.of(tuple(wanted)))


def _compiled(expression: str) -> Decide:
    """The expression as a function. One that cannot be compiled fails on each event: the operator refuses such ones,
    and a receiver that stopped at one would lose events."""
    from auditpipeline.core.conditions.program import compile_expression

    try:
        return compile_expression(expression).decide
    except Invalid as error:
        said = f"it cannot be compiled: {error.message}"
        return lambda _: said
