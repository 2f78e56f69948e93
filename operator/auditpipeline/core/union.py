"""One policy that records at least what each of several records: what the API server's static policy file should hold.

Every pair of rules becomes one rule for the requests that match both, in the order of the pairs, with the lesser
demand raised to the greater:

    P: p0 p1 (nothing)   Q: q0 (nothing)   ->   p0q0  p0  p1q0  p1  q0

The first pair that matches is made of the first rules that match, so the result is exact, wherever a policy can say it.
What it cannot say is "a group of these and a group of those": such a rule then takes a little more than the pair, and
records what any rule after it could want of that (never less).

What it costs is bounded before it begins, whatever users write: only different policies count; above MAX_POLICIES,
MAX_RULES different rules, MAX_STEPS comparisons or MAX_SIZE bytes the union is made by level instead (`coarse.py`).
More than a FEW policies are joined as a tree, whose branches follow from the content of policies: with a Memory, one
policy more or less costs the branch that it is in, and the result is the same as without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import msgspec

from auditpipeline.core.budget import Budget, TooMany
from auditpipeline.core.coarse import ANY, Step, coarse
from auditpipeline.core.covers import Gap, covers
from auditpipeline.core.effect import NOTHING, Effect, effect_of
from auditpipeline.core.floor import FINAL_STAGES, FLOOR
from auditpipeline.core.meet import condition_of, within
from auditpipeline.core.pairs import either, simple
from auditpipeline.core.policy import STAGES, Level, Policy, Rule
from auditpipeline.core.policyfile import dump

__all__ = [
    "COARSE",
    "FLOOR",
    "MAX_RULES",
    "Gap",
    "Memory",
    "United",
    "covers",
    "fitting",
    "union",
    "unite",
]

MAX_RULES = 400
"""More rules than this in an exact union are not worth their cost on every request of an API server."""
MAX_POLICIES = 256
MAX_STEPS = 100_000
"""Different policies, and comparisons of conditions, in an exact union: up to a second."""
MAX_COARSE = 5_000
MAX_SIZE = 600_000
MAX_TEXT = 1_000_000
"""Rules of any union, and its bytes as JSON and as a file: a ConfigMap holds 1 MiB."""
COARSE = (
    "This policy is coarse: there is too much to join rule by rule, so that it may record more than anybody asks for. "
    "Fewer different policies, or fewer different rules in them, make it exact."
)
FEW = 8
"""So many policies are joined in the order in which they are given."""


class United(NamedTuple):
    """A union, and whether it is `exact`, which it also is where groups of users cost a little more."""

    policy: Policy
    exact: bool
    steps: int


class Memory:
    """The branches of the former union: what they are of, their rules, and what they cost to make."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, ...], tuple[list[Step], int]] = {}
        self._now: dict[tuple[str, ...], tuple[list[Step], int]] = {}

    def begin(self) -> None:
        """What the union before the last one was made of is forgotten."""
        if self._now:
            self._before, self._now = self._now, {}

    def get(self, key: tuple[str, ...]) -> tuple[list[Step], int] | None:
        """The branch of these policies."""
        found = self._now.get(key) or self._before.get(key)
        if found:
            self._now[key] = found
        return found

    def put(self, key: tuple[str, ...], steps: list[Step], spent: int) -> None:
        """Keep a branch."""
        self._now[key] = steps, spent


def fitting(
    policies: Iterable[Policy], memory: Memory | None = None, stopped: Callable[[], bool] = lambda: False
) -> tuple[United, str]:
    """The union and its text, a policy file of at most MAX_TEXT bytes. Raises Stopped."""
    different, size = list(policies), MAX_SIZE
    while True:
        found = unite(different, memory, stopped, size)
        text = dump(found.policy)
        if len(text.encode()) <= MAX_TEXT:
            return found, text
        size //= 2


def union(policies: Iterable[Policy]) -> Policy:
    """The policy that records at least what each of them does, the floor first.

    Level, stages and managedFields are all counted. kube-apiserver knows no `omitResponseCodes`, so none are in it.
    """
    return unite(policies).policy


def unite(
    policies: Iterable[Policy],
    memory: Memory | None = None,
    stopped: Callable[[], bool] = lambda: False,
    size: int = 0,
) -> United:
    """The union, of at most `size` bytes as JSON (0: MAX_SIZE), and how it was made. Raises Stopped."""
    different = list(dict.fromkeys(policies))
    steps = [_steps(policy) for policy in different]
    budget = Budget(MAX_STEPS, stopped)

    def fits(found: Sequence[Step]) -> bool:
        return len(found) <= MAX_COARSE and len(msgspec.json.encode(_policy(found))) <= (size or MAX_SIZE)

    found = _exact(different, steps, memory or Memory(), budget)
    if found is not None and fits(found):
        return United(_policy(found), exact=True, steps=budget.used)
    rough = Budget(MAX_STEPS, stopped)
    return United(_policy(_small(coarse(steps, fits, rough), rough)), exact=False, steps=budget.used + rough.used)


def _steps(policy: Policy) -> list[Step]:
    plain = msgspec.structs.replace(
        policy, rules=tuple(msgspec.structs.replace(rule, omit_response_codes=()) for rule in policy.rules)
    )
    return [(condition_of(rule), effect_of(plain, index)) for index, rule in enumerate(plain.rules)]


def _exact(
    policies: Sequence[Policy], steps: Sequence[Sequence[Step]], memory: Memory, budget: Budget
) -> list[Step] | None:
    """The union pair by pair; None where that is too much."""
    if len(policies) > MAX_POLICIES or len({step for each in steps for step in each}) > MAX_RULES:
        return None
    leaves = [_Leaf(_digest(policy), each) for policy, each in zip(policies, steps, strict=True)]
    memory.begin()
    try:
        return _branch(leaves, 0, memory, budget)
    except TooMany:
        return None


class _Leaf(NamedTuple):
    """One policy: the name of its content, and its rules."""

    digest: str
    steps: Sequence[Step]


def _digest(policy: Policy) -> str:
    return hashlib.blake2b(msgspec.json.encode(policy, order="deterministic"), digest_size=16).hexdigest()


def _branch(leaves: Sequence[_Leaf], depth: int, memory: Memory, budget: Budget) -> list[Step]:
    """The union of these policies, which share the first `depth` bits of their digests."""
    key = tuple(leaf.digest for leaf in leaves)
    known = memory.get(key)
    if known:
        budget.spend(known[1])
        return known[0]
    before = budget.used
    if len(leaves) <= FEW:
        each = [simple(list(dict.fromkeys([*leaf.steps, (ANY, NOTHING)])), budget) for leaf in leaves]
        found = reduce(lambda some, others: either(some, others, budget, MAX_RULES), each, [(ANY, NOTHING)])
    else:
        halves = [[leaf for leaf in leaves if _bit(leaf, depth) == side] for side in (0, 1)]
        parts = [_branch(half, depth + 1, memory, budget) for half in halves if half]
        found = reduce(lambda some, others: either(some, others, budget, MAX_RULES), parts)
    memory.put(key, found, budget.used - before)
    return found


def _bit(leaf: _Leaf, depth: int) -> int:
    return int(leaf.digest[depth // 4], 16) >> (3 - depth % 4) & 1


def _small(steps: list[Step], budget: Budget) -> list[Step]:
    """Likewise with fewer rules, where that costs little."""
    try:
        return simple(steps, budget) if len(steps) <= MAX_RULES else steps
    except TooMany:
        return steps


def _policy(steps: Sequence[Step]) -> Policy:
    recorded = [effect for _, effect in steps if effect is not NOTHING]
    common = frozenset(STAGES) - frozenset(FINAL_STAGES) if recorded else frozenset[str]()
    for effect in recorded:
        common &= effect.omit_stages
    rules = [_rule(condition, effect, common) for condition, effect in steps]
    while rules and rules[-1].level == Level.NONE.title:
        rules.pop()
    reached = [rule for rule in rules if not within(condition_of(rule), condition_of(FLOOR))]
    return Policy((FLOOR, *reached), _in_order(common))


def _rule(condition: Rule, effect: Effect, common: frozenset[str]) -> Rule:
    return Rule(
        effect.level.title,
        condition.users,
        condition.user_groups,
        condition.verbs,
        condition.resources,
        condition.namespaces,
        condition.non_resource_urls,
        _in_order(effect.omit_stages - common),
        True if effect.omit_managed_fields else None,
    )


def _in_order(stages: frozenset[str]) -> tuple[str, ...]:
    return tuple(stage for stage in STAGES if stage in stages)
