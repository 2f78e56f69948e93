"""Two lists of rules as one, pair by pair, and with as few rules as that takes; all paid for from a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

from auditpipeline.core.budget import Budget, TooMany
from auditpipeline.core.coarse import Step, packed
from auditpipeline.core.effect import Effect, join
from auditpipeline.core.meet import apart, cost, meet, within
from auditpipeline.core.nearby import Index, bits_of
from auditpipeline.core.policy import Rule

MANY = 64
"""So many rules are left as they are."""


def either(some: Sequence[Step], others: Sequence[Step], budget: Budget, most: int) -> list[Step]:
    """The exact union of two; raises TooMany for more than `most` rules, or where the budget is not enough."""
    index, found = Index([condition for condition, _ in others]), list[Step]()
    for step in some:
        found += simple(list(_row(step, others, index, budget)), budget)
    found = simple(found, budget)
    if len(found) > MANY:
        found = packed(found)
    if len(found) > most:
        raise TooMany
    return found


def _row(step: Step, others: Sequence[Step], index: Index, budget: Budget) -> Iterator[Step]:
    """The pairs of one rule with each rule of the other policy."""
    condition, effect = step
    near = index.near(condition)
    for number in bits_of(near):
        other, wanted = others[number]
        budget.spend(cost(condition, other))
        met = meet(condition, other)
        if met is None:
            continue
        later = [others[place] for place in bits_of(near >> number << number)] if _vague(met.exact, step, other) else []
        budget.spend(len(later))
        if not met.exact:
            yield _with_groups(met.condition, condition.user_groups), _most(met.condition, effect, later)
            continue
        yield from _with_both_groups(met.condition, step, (other, wanted), later)
        if within(condition, other):
            return


def _vague(exact: bool, step: Step, other: Rule) -> bool:
    """Whether the pair may be said with more than it is, so that the rules after it count."""
    return not exact or bool(step[0].user_groups and other.user_groups)


def _with_both_groups(met: Rule, step: Step, other: Step, later: Sequence[Step]) -> Iterator[Step]:
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


def _most(condition: Rule, effect: Effect, later: Iterable[Step]) -> Effect:
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


def simple(steps: Sequence[Step], budget: Budget) -> list[Step]:
    """The same decisions with fewer rules: no rule that is never reached, none that a later one makes needless."""
    if len(steps) < 2:
        return list(steps)
    near = _neighbours(steps)
    reached = kept = 0
    for number in range(len(steps)):
        if not _taken(number, near[number] & reached, steps, budget):
            reached |= 1 << number
    for number in reversed(list(bits_of(reached))):
        if not _needless(number, near[number] & kept, steps, budget):
            kept |= 1 << number
    return [steps[number] for number in bits_of(kept)]


def _neighbours(steps: Sequence[Step]) -> list[int]:
    """For each rule, those that it may have a request in common with."""
    index = Index([condition for condition, _ in steps])
    return [index.near(condition) for condition, _ in steps]


def _taken(number: int, earlier: int, steps: Sequence[Step], budget: Budget) -> bool:
    """Whether an earlier rule takes all requests of this one."""
    condition = steps[number][0]
    for other in bits_of(earlier):
        budget.spend(cost(condition, steps[other][0]))
        if within(condition, steps[other][0]):
            return True
    return False


def _needless(number: int, later: int, steps: Sequence[Step], budget: Budget) -> bool:
    """Whether a later rule does the same to all its requests, and none between them does anything else."""
    condition, effect = steps[number]
    for place in bits_of(later):
        other, wanted = steps[place]
        budget.spend(cost(condition, other))
        if wanted == effect and within(condition, other):
            return True
        if wanted != effect and not apart(condition, other):
            return False
    return False
