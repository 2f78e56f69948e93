"""What a policy would have made of events that were recorded: counted by level and by rule, and against another policy.

A log only holds what the policy of its time recorded, so what a new policy would add beyond that cannot be seen in it.
"""

from __future__ import annotations

from typing import NamedTuple

from auditpipeline.core.compile import compile_policy
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


class Change(NamedTuple):
    """What two policies make differently of one kind of request; level None: it is not recorded."""

    verb: str
    what: str
    before: str
    after: str


class _Judge:
    """What one policy makes of events."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._decide = compile_policy(policy)

    def left(self, event: Raw, captured: Head, size: int) -> tuple[Decision, Level, int]:
        """The decision on an event, the level at which it is recorded, and its size then."""
        decision = self._decide(captured.request)
        level = min(captured.level, decision.level)
        codes = () if decision.rule is None else self.policy.rules[decision.rule].omit_response_codes
        if level == Level.NONE or captured.stage in decision.omit_stages or captured.code in codes:
            return decision, Level.NONE, 0
        if level == captured.level and not decision.omit_managed_fields:
            return decision, level, size
        return decision, level, len(encode_event(cut(event, captured.level, decision._replace(level=level))))


class Replay:
    """The sums over all events that were added."""

    def __init__(self, policy: Policy, against: Policy | None = None) -> None:
        self._judge = _Judge(policy)
        self._other = None if against is None else _Judge(against)
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

    def never_hit(self) -> list[int]:
        """The rules that decided no event."""
        return [rule for rule, total in self.by_rule.items() if rule is not None and not total.events]


def _what(request: Attributes) -> str:
    if request.resource is None:
        return _PATHS
    return f"{full_resource(request)}{'.' + request.group if request.group else ''}"
