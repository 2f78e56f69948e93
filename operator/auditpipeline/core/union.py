"""One policy that records at least what each of several records: what the API server's static policy file should hold.

Every pair of rules becomes one rule for the requests that match both, in the order of the pairs, with the lesser
demand raised to the greater:

    P: p0 p1 (nothing)   Q: q0 (nothing)   ->   p0q0  p0  p1q0  p1  q0

The first pair that matches is made of the first rules that match, so the result is exact, wherever a policy can say it.
What it cannot say is "a group of these and a group of those": such a rule then takes a little more than the pair, and
records what any rule after it could want of that (never less). Above MAX_RULES, rules are sorted by level instead:
still never less, but what a rule for None left out comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

import msgspec

from auditpipeline.core.covers import Gap, covers
from auditpipeline.core.effect import NOTHING, Effect, effect_of, join
from auditpipeline.core.floor import FINAL_STAGES, FLOOR, with_floor
from auditpipeline.core.meet import apart, condition_of, meet, within
from auditpipeline.core.policy import STAGES, Level, Policy, Rule

__all__ = ["FLOOR", "MAX_RULES", "Gap", "covers", "union", "with_floor"]

MAX_RULES = 400
"""More rules than this in an exact union are not worth their cost on every request of an API server."""

_Step = tuple[Rule, Effect]
_ANY = Rule()


def union(policies: Iterable[Policy]) -> Policy:
    """The policy that records at least what each of them does, the floor first.

    Level, stages and managedFields are all counted. kube-apiserver knows no `omitResponseCodes`, so none are in it.
    """
    steps = reduce(_either, [_steps(policy) for policy in policies], [(_ANY, NOTHING)])
    return _policy(_simple(steps))


def _steps(policy: Policy) -> list[_Step]:
    plain = msgspec.structs.replace(
        policy, rules=tuple(msgspec.structs.replace(rule, omit_response_codes=()) for rule in policy.rules)
    )
    steps = [(condition_of(rule), effect_of(plain, index)) for index, rule in enumerate(plain.rules)]
    return _simple([*steps, (_ANY, NOTHING)])


def _either(some: list[_Step], others: list[_Step]) -> list[_Step]:
    if len(some) * len(others) > MAX_RULES**2:
        return _by_level([*some, *others])
    found = _simple([step for step in some for step in _row(step, others)])
    return found if len(found) <= MAX_RULES else _by_level([*some, *others])


def _row(step: _Step, others: Sequence[_Step]) -> Iterator[_Step]:
    """The pairs of one rule with each rule of the other policy."""
    condition, effect = step
    for index, (other, wanted) in enumerate(others):
        met = meet(condition, other)
        if met is None:
            continue
        if not met.exact:
            yield _with_groups(met.condition, condition.user_groups), _most(met.condition, effect, others[index:])
            continue
        yield from _with_both_groups(met.condition, step, (other, wanted), others[index:])
        if within(condition, other):
            return


def _with_both_groups(met: Rule, step: _Step, other: _Step, later: Sequence[_Step]) -> Iterator[_Step]:
    """The pair where both ask for groups: exact as far as it can be said, and then as little more as can be."""
    some, others = step[0].user_groups, other[0].user_groups
    effect = join(step[1], other[1])
    if not some or not others:
        yield _with_groups(met, some or others), effect
        return
    common = tuple(group for group in some if group in others)
    if common:
        yield _with_groups(met, common), effect
    if len(set(common)) < min(len(set(some)), len(set(others))):
        rest = tuple(group for group in some if group not in others)
        yield _with_groups(met, rest), _most(met, step[1], later)


def _most(condition: Rule, effect: Effect, later: Iterable[_Step]) -> Effect:
    """What records enough, whichever of the later rules should have decided."""
    return reduce(join, (wanted for other, wanted in later if not apart(condition, other)), effect)


def _with_groups(condition: Rule, groups: tuple[str, ...]) -> Rule:
    return Rule(
        "",
        condition.users,
        groups,
        condition.verbs,
        condition.resources,
        condition.namespaces,
        condition.non_resource_urls,
    )


def _by_level(steps: Iterable[_Step]) -> list[_Step]:
    """Everything that is recorded by somebody, the highest level first, with the stages and fields that all leave out.

    The first rule that matches is at the highest level that any matching rule has.
    """
    recorded = sorted((step for step in steps if step[1] is not NOTHING), key=lambda step: -step[1].level)
    least = reduce(join, (effect for _, effect in recorded), NOTHING)
    managed = all(effect.omit_managed_fields for _, effect in recorded if effect.level >= Level.REQUEST)
    alike = [
        (condition, least._replace(level=effect.level, omit_managed_fields=managed and effect.level >= Level.REQUEST))
        for condition, effect in recorded
    ]
    return _simple([*dict.fromkeys(alike), (_ANY, NOTHING)])


def _simple(steps: Sequence[_Step]) -> list[_Step]:
    """The same decisions with fewer rules: no rule that is never reached, none that a later one makes needless."""
    reached: list[_Step] = []
    for step in steps:
        if not any(within(step[0], earlier) for earlier, _ in reached):
            reached.append(step)
    kept: list[_Step] = []
    for index in range(len(reached) - 1, -1, -1):
        if not _needless(reached[index], reversed(kept)):
            kept.append(reached[index])
    return kept[::-1]


def _needless(step: _Step, later: Iterable[_Step]) -> bool:
    """Whether a later rule does the same to all its requests, and none between them does anything else."""
    condition, effect = step
    for other, wanted in later:
        if wanted == effect and within(condition, other):
            return True
        if wanted != effect and not apart(condition, other):
            return False
    return False


def _policy(steps: Sequence[_Step]) -> Policy:
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
