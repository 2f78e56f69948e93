"""Whether one policy records all that another wants: what the API server emits, and what a pipeline asks for.

For each rule of `wanted`, the set of requests that it decides is walked through the rules of `static`, part by part; a
part that is decided with less than is wanted, and that no earlier rule of `wanted` takes, is a gap, and one request of
it is the example. Nothing is guessed: what cannot be looked at in time is reported as a gap without an example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from auditpipeline.core.effect import NOTHING, effect_of, shortfall
from auditpipeline.core.policy import Attributes, Policy
from auditpipeline.core.space import Box, Space, TooLarge

MAX_STEPS = 50_000
"""So many comparisons of sets are made for each rule; about a quarter of a second."""


class Gap(NamedTuple):
    """A rule of the wanted policy that the other does not meet.

    `request` is an example and `decided_by` the rule of the other policy that decides it (None: no rule); without an
    example it could not be shown that the rule is met.
    """

    rule: int
    reason: str
    request: Attributes | None
    decided_by: int | None = None


class _Step(NamedTuple):
    """One part of a rule, and why it does not do for the wanted rule at hand (empty: it does)."""

    rule: int | None
    box: Box
    reason: str


class _TooLong(Exception):
    pass


def covers(static: Policy, wanted: Policy) -> list[Gap]:
    """The rules of `wanted` that `static` does not meet, each once; empty where it records all that is wanted."""
    return list(gaps(static, wanted, range(len(wanted.rules))))


def gaps(static: Policy, wanted: Policy, rules: Iterable[int]) -> Iterator[Gap]:
    """The gaps of these rules of `wanted`, one after the other, each looked for when it is asked for."""
    recording = [i for i in rules if effect_of(wanted, i) is not NOTHING]
    try:
        space = Space([static, wanted])
        boxes = [space.boxes(rule) for rule in wanted.rules]
        static_boxes = [space.boxes(rule) for rule in static.rules]
    except TooLarge:
        yield from (Gap(index, "cannot be shown: the policies name too many resources", None) for index in recording)
        return
    for index in recording:
        if found := _gap(space, static, static_boxes, wanted, boxes, index):
            yield found


def _gap(
    space: Space, static: Policy, static_boxes: list[list[Box]], wanted: Policy, boxes: list[list[Box]], index: int
) -> Gap | None:
    want = effect_of(wanted, index)
    steps = [
        _Step(number, box, shortfall(effect_of(static, number), want))
        for number, parts in enumerate(static_boxes)
        for box in parts
    ]
    earlier = [box for parts in boxes[:index] for box in parts]
    search = _Search(steps, earlier, shortfall(NOTHING, want))
    try:
        for box in boxes[index]:
            if found := search.missing(box):
                part, step = found
                return Gap(index, step.reason, space.example(part), step.rule)
    except _TooLong:
        return Gap(index, "cannot be shown: too many combinations", None)
    return None


class _Search:
    """Looks for a request that is decided with too little; counts what it costs."""

    def __init__(self, steps: Sequence[_Step], earlier: Sequence[Box], reason: str) -> None:
        self._steps, self._earlier, self._reason = steps, earlier, reason
        self._left = MAX_STEPS

    def missing(self, wanted: Box) -> tuple[Box, _Step] | None:
        """A part of the wanted requests that is not recorded as it should be, with the step that decides it."""
        near = [step for step in self._steps if wanted.meet(step.box)]
        waiting = [(wanted, 0)]
        while waiting:
            part, index = waiting.pop()
            step = self._decided(part, near, index, waiting)
            met = part if step.rule is None else part.meet(step.box)
            if step.reason and met and (left := self._outside(met)):
                return left, step
        return None

    def _decided(self, part: Box, near: Sequence[_Step], index: int, waiting: list[tuple[Box, int]]) -> _Step:
        """The first step that decides some of the part; what it does not decide waits for the next."""
        for number in range(index, len(near)):
            self._count()
            step = near[number]
            if part.meet(step.box):
                waiting += [(rest, number + 1) for rest in part.without(step.box)]
                return step
        return _Step(None, part, self._reason)

    def _outside(self, part: Box) -> Box | None:
        """Something of the part that no earlier rule takes."""
        near = [box for box in self._earlier if part.meet(box)]
        waiting = [(part, 0)]
        while waiting:
            left, index = waiting.pop()
            while index < len(near):
                self._count()
                if left.meet(near[index]):
                    waiting += [(rest, index + 1) for rest in left.without(near[index])]
                    break
                index += 1
            else:
                return left
        return None

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooLong
