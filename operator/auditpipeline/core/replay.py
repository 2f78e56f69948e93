"""What a policy would have made of events that were recorded: counted by level and by rule, and against another policy.

A log only holds what the policy of its time recorded, so what a new policy would add beyond that cannot be seen in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from auditpipeline.core.compile import compile_policy
from auditpipeline.core.conditions.model import Condition
from auditpipeline.core.conditions.view import Verdict, is_exempt, seen, verdicts
from auditpipeline.core.event import Head, cut, encode_event, head
from auditpipeline.core.eventlog import Raw
from auditpipeline.core.explain import full_resource
from auditpipeline.core.policy import Attributes, Decision, Level, Policy

_PATHS = "(paths)"


class Sum(NamedTuple):
    """Events, and the bytes of them as JSON lines."""

    events: int = 0
    size: int = 0

    def plus(self, size: int) -> Sum:
        """With one more event of that many bytes."""
        return Sum(self.events + 1, self.size + size)


class Asked(NamedTuple):
    """Events that a condition was asked about: how many it is true and false of, and how many it fails on."""

    true: int = 0
    false: int = 0
    failed: int = 0

    def plus(self, verdict: Verdict) -> Asked:
        """With one more event."""
        found = verdict.found
        return Asked(self.true + (found is True), self.false + (found is False), self.failed + isinstance(found, str))


class Conditions(NamedTuple):
    """The conditions beside a policy: those that are asked and counted, and those that take an event away from it."""

    all: Sequence[Condition] = ()
    deciding: Collection[Condition] = ()


NO_CONDITIONS = Conditions()


class Change(NamedTuple):
    """What two policies make differently of one kind of request; level None: it is not recorded."""

    verb: str
    what: str
    before: str
    after: str


class _Judge:
    """What one policy makes of events."""

    def __init__(self, policy: Policy, conditions: Conditions = NO_CONDITIONS) -> None:
        self.policy = policy
        self.conditions = conditions
        self.asked = dict.fromkeys(conditions.all, Asked())
        self._decide = compile_policy(policy)

    def left(self, event: Raw, captured: Head, size: int) -> tuple[Decision, Level, int]:
        """The decision on an event, the level at which it is recorded, and its size then."""
        found = self._left(event, captured, size)
        decision, level, _ = found
        if level > Level.NONE and self.conditions.all and not is_exempt((self.policy,), captured.request):
            kept = self._keeps(event, decision._replace(level=level))
            return found if kept else (decision, Level.NONE, 0)
        return found

    def _keeps(self, event: Raw, decision: Decision) -> bool:
        """Asks each condition, and counts; whether those that decide are all true."""
        said = verdicts(self.conditions.all, seen(event.get, decision))
        for verdict in said:
            self.asked[verdict.condition] = self.asked[verdict.condition].plus(verdict)
        return all(verdict.keeps for verdict in said if verdict.condition in self.conditions.deciding)

    def _left(self, event: Raw, captured: Head, size: int) -> tuple[Decision, Level, int]:
        decision = self._decide(captured.request)
        level = min(captured.level, decision.level)
        codes = () if decision.rule is None else self.policy.rules[decision.rule].omit_response_codes
        if level == Level.NONE or captured.stage in decision.omit_stages or captured.code in codes:
            return decision, Level.NONE, 0
        if level == captured.level and not decision.omit_managed_fields:
            return decision, level, size
        return decision, level, len(encode_event(cut(event, captured.level, decision._replace(level=level))))


class Replay:
    """The sums over all events that were added. `conditions` are asked about what the policy records;
    those of the policy to compare with are `others`."""

    def __init__(
        self,
        policy: Policy,
        against: Policy | None = None,
        conditions: Conditions = NO_CONDITIONS,
        others: Conditions = NO_CONDITIONS,
    ) -> None:
        self._judge = _Judge(policy, conditions)
        self._other = None if against is None else _Judge(against, others)
        self.read = Sum()
        self.recorded = Sum()
        # Bytes as recorded; for NONE, and for it alone, the bytes that are left out.
        self.by_level: dict[Level, Sum] = dict.fromkeys(sorted(Level, reverse=True), Sum())
        # Events that the rule decides, and what is recorded of them; None: no rule matched.
        self.by_rule: dict[int | None, Sum] = dict.fromkeys(range(len(policy.rules)), Sum())
        self.changes: dict[Change, Sum] = {}
        self.added = Sum()
        self.removed = Sum()

    def add(self, event: Raw, size: int) -> None:
        """Count one event; Permanent where it is none."""
        captured = head(event)
        decision, level, kept = self._judge.left(event, captured, size)
        other = self._other.left(event, captured, size) if self._other else None
        self.read = self.read.plus(size)
        self.by_level[level] = self.by_level[level].plus(kept if level > Level.NONE else size)
        self.by_rule[decision.rule] = self.by_rule.get(decision.rule, Sum()).plus(kept)
        if level > Level.NONE:
            self.recorded = self.recorded.plus(kept)
        if other:
            self._compare(captured.request, other[1:], (level, kept))

    def _compare(self, request: Attributes, old: tuple[Level, int], new: tuple[Level, int]) -> None:
        if old == new:
            return
        (before, was), (after, now) = old, new
        change = Change(request.verb, _what(request), before.title, after.title)
        self.changes[change] = self.changes.get(change, Sum()).plus(now - was)
        if before == Level.NONE:
            self.added = self.added.plus(now)
        elif after == Level.NONE:
            self.removed = self.removed.plus(was)

    @property
    def by_condition(self) -> Mapping[Condition, Asked]:
        """What each condition said of the events that the policy records."""
        return self._judge.asked

    def never_hit(self) -> list[int]:
        """The rules that decided no event."""
        return [rule for rule, total in self.by_rule.items() if rule is not None and not total.events]


def _what(request: Attributes) -> str:
    if request.resource is None:
        return _PATHS
    return f"{full_resource(request)}{'.' + request.group if request.group else ''}"
