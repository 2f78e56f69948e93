"""Whether one policy records all that another wants: what the API server emits, and what a pipeline asks for.

For each rule of `wanted` the rules of `static` are looked at in their order. Mostly each of them that may decide one of
its requests records enough, until one takes them all: then nothing is missing. Else the set of requests is walked
through the rules part by part; a part that is decided with less than is wanted, and that no earlier rule of `wanted`
takes, is a gap, and one request of it is the example. Nothing is guessed: what is too much to look at is reported as a
gap without an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from auditpipeline.core.budget import Budget, TooMany
from auditpipeline.core.effect import NOTHING, Effect, effect_of, shortfall
from auditpipeline.core.meet import apart, condition_of, cost, within
from auditpipeline.core.nearby import Index, bits_of
from auditpipeline.core.policy import Attributes, Policy, Rule, decide
from auditpipeline.core.samples import samples
from auditpipeline.core.space import Box, Space, TooLarge

MAX_STEPS = 50_000
"""So many comparisons of sets are made for each rule; about a quarter of a second."""
MAX_TOTAL = 150_000
"""And so many for all rules together, with what it takes to begin."""
SAMPLES = 200
"""So many requests are tried where the steps are not enough; each is decided by both policies."""
TOO_MANY, TOO_LARGE = (
    "cannot be shown: too many combinations",
    "cannot be shown: the policies name too many resources",
)


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


def covers(static: Policy, wanted: Policy) -> list[Gap]:
    """The rules of `wanted` that `static` does not meet, each once; empty where it records all that is wanted."""
    return list(Comparison(static, wanted, Budget(MAX_TOTAL)).gaps(range(len(wanted.rules))))


class Comparison:
    """Two policies, and what was worked out of them; everything is paid for from one budget."""

    def __init__(self, static: Policy, wanted: Policy, budget: Budget) -> None:
        self._static, self.wanted, self._budget = static, wanted, budget
        self._boxes: dict[tuple[bool, int], list[Box]] = {}
        self._samples = SAMPLES

    def gaps(self, rules: Iterable[int]) -> Iterator[Gap]:
        """The gaps of these rules of `wanted`, one after the other, each looked for when it is asked for."""
        for index in rules:
            want = effect_of(self.wanted, index)
            if want is not NOTHING and (found := self._gap(index, want)):
                yield found

    def _gap(self, index: int, want: Effect) -> Gap | None:
        try:
            if self._plainly(index, want):
                return None
            # One rule does not take the steps of all: the next one may be simpler.
            return self._searched(index, want, self._budget.used + MAX_STEPS)
        except TooMany:
            return self._unshown(index, want, TOO_MANY)

    def _plainly(self, index: int, want: Effect) -> bool:
        """Whether each rule that may decide one of the requests records enough, until one takes all of them."""
        condition = self._asked[index]
        for number in bits_of(self._index.near(condition)):
            other = self._decided[number]
            self._budget.spend(cost(condition, other))
            if shortfall(self._effects[number], want):
                if not apart(condition, other):
                    return False
            elif within(condition, other):
                return True
        return False

    def _searched(self, index: int, want: Effect, most: int) -> Gap | None:
        if self._space is None:
            return self._unshown(index, want, TOO_LARGE)
        pay = self._pay(most)
        search = _Search(lambda: self._earlier(index), shortfall(NOTHING, want), pay)
        for box in self._of(wanted=True, rule=index):
            if found := search.missing(box, self._steps(index, want, box, pay)):
                part, step = found
                return Gap(index, step.reason, self._space.example(part), step.rule)
        return None

    def _unshown(self, index: int, want: Effect, why: str) -> Gap:
        """A gap that a few requests show, tried one by one; without an example if none of them does."""
        for request in islice(samples(self.wanted.rules[index]), self._samples):
            self._samples -= 1
            rule = decide(self._static, request).rule
            reason = shortfall(effect_of(self._static, rule), want)
            if reason and decide(self.wanted, request).rule == index:
                return Gap(index, reason, request, rule)
        return Gap(index, why, None)

    def _pay(self, most: int) -> Callable[[], None]:
        def pay() -> None:
            if self._budget.used >= most:
                raise TooMany
            self._budget.spend()

        return pay

    def _steps(self, index: int, want: Effect, wanted: Box, pay: Callable[[], None]) -> Iterator[_Step]:
        """The parts of rules that may decide some of the wanted requests."""
        for number in bits_of(self._index.near(self._asked[index])):
            reason = shortfall(self._effects[number], want)
            for box in self._of(wanted=False, rule=number):
                pay()
                if wanted.meet(box):
                    yield _Step(number, box, reason)

    def _earlier(self, index: int) -> Iterator[Box]:
        """What rules of `wanted` before this one take."""
        for number in bits_of(self._asking.near(self._asked[index]) & ((1 << index) - 1)):
            yield from self._of(wanted=True, rule=number)

    def _of(self, *, wanted: bool, rule: int) -> list[Box]:
        """The requests of a rule of either policy."""
        found = self._boxes.get((wanted, rule))
        if found is None:
            assert self._space  # noqa: S101 - `_searched` looked
            self._budget.spend()
            policy = self.wanted if wanted else self._static
            found = self._boxes[wanted, rule] = []
            for box in self._space.boxes(policy.rules[rule]):
                self._budget.spend(1 + box.size // 10_000)
                found.append(box)
        return found

    @cached_property
    def _asked(self) -> list[Rule]:
        return [condition_of(rule) for rule in self.wanted.rules]

    @cached_property
    def _decided(self) -> list[Rule]:
        return [condition_of(rule) for rule in self._static.rules]

    @cached_property
    def _effects(self) -> list[Effect]:
        return [effect_of(self._static, index) for index in range(len(self._static.rules))]

    @cached_property
    def _index(self) -> Index:
        return Index(self._decided)

    @cached_property
    def _asking(self) -> Index:
        return Index(self._asked)

    @cached_property
    def _space(self) -> Space | None:
        self._budget.spend(5 * (len(self._static.rules) + len(self.wanted.rules)))
        try:
            return Space([self._static, self.wanted])
        except TooLarge:
            return None


class _Search:
    """Looks for a request that is decided with too little; `pay` is called before each comparison."""

    def __init__(self, earlier: Callable[[], Iterator[Box]], reason: str, pay: Callable[[], None]) -> None:
        self._earlier, self._reason, self._pay = earlier, reason, pay

    def missing(self, wanted: Box, steps: Iterator[_Step]) -> tuple[Box, _Step] | None:
        """A part of the wanted requests that is not recorded as it should be, with the step that decides it."""
        near = _Read(steps)
        waiting = [(wanted, 0)]
        while waiting:
            part, index = waiting.pop()
            step = self._decided(part, near, index, waiting)
            met = part if step.rule is None else part.meet(step.box)
            if step.reason and met and (left := self._outside(met)):
                return left, step
        return None

    def _decided(self, part: Box, near: _Read, index: int, waiting: list[tuple[Box, int]]) -> _Step:
        """The first step that decides some of the part; what it does not decide waits for the next."""
        while step := near.get(index):
            self._pay()
            index += 1
            if part.meet(step.box):
                waiting += [(rest, index) for rest in part.without(step.box)]
                return step
        return _Step(None, part, self._reason)

    def _outside(self, part: Box) -> Box | None:
        """Something of the part that no earlier rule takes."""
        near = list(self._near(part))
        waiting = [(part, 0)]
        while waiting:
            left, index = waiting.pop()
            while index < len(near):
                self._pay()
                if left.meet(near[index]):
                    waiting += [(rest, index + 1) for rest in left.without(near[index])]
                    break
                index += 1
            else:
                return left
        return None

    def _near(self, part: Box) -> Iterator[Box]:
        for box in self._earlier():
            self._pay()
            if part.meet(box):
                yield box


class _Read:
    """What an iterator has, by place, read no further than is asked for."""

    def __init__(self, steps: Iterator[_Step]) -> None:
        self._steps, self._known = steps, list[_Step]()

    def get(self, place: int) -> _Step | None:
        """The step there; None behind the last one."""
        while len(self._known) <= place:
            step = next(self._steps, None)
            if step is None:
                return None
            self._known.append(step)
        return self._known[place]
