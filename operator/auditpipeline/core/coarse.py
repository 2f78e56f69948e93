"""A policy that records enough, made of many others in a time that grows as they do.

    front     what many policies say alike, where all of them together want less than the most: no bodies of Secrets,
              none of what probes and controllers read. At most FRONT rules.
    by level  everything that somebody records, the highest level first: the first rule that matches is at the highest
              level of all that match. What a lower rule took out of a higher one comes back.

Rules that stand beside each other and do the same are one rule if they differ in one kind of condition. What is still
too large loses its conditions, one kind after the other; in the end one rule records everything. Each of these only
ever adds to what is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import reduce
from itertools import groupby
from typing import Any, Literal

import msgspec

from auditpipeline.core.budget import Budget, TooMany
from auditpipeline.core.effect import NOTHING, Effect, join
from auditpipeline.core.meet import apart, cost, within
from auditpipeline.core.policy import GroupResources, Level, Rule

Step = tuple[Rule, Effect]
ANY = Rule()
FRONT = 16
_PARTS = ("users", "namespaces", "resources", "verbs", "non_resource_urls", "user_groups")
_WIDENED = (("users", "user_groups"), ("namespaces",), ("verbs",), ("resources", "non_resource_urls"))
"""What is given up first costs least: who and where are many values, and what is asked for tells most."""


def coarse(policies: Sequence[Sequence[Step]], fits: Callable[[Sequence[Step]], bool], budget: Budget) -> list[Step]:
    """Steps that record at least what each of the policies does; the first form of them that fits, or the last."""
    leveled = by_level(step for policy in policies for step in policy)
    head = front(policies, leveled[0][1] if leveled else NOTHING, budget)
    found = [*head, *_reached(packed(leveled))]
    for parts in _WIDENED:
        if fits(found):
            break
        leveled = [(msgspec.structs.replace(rule, **dict.fromkeys(parts, ())), effect) for rule, effect in leveled]
        leveled = _reached(packed(list(dict.fromkeys(leveled))))
        found = [*head, *leveled]
    return [*(found if fits(found) else leveled), (ANY, NOTHING)]


def by_level(steps: Iterable[Step]) -> list[Step]:
    """Everything that somebody records, the highest level first, with the stages and fields that all leave out."""
    recorded = sorted((step for step in dict.fromkeys(steps) if step[1] != NOTHING), key=lambda step: -step[1].level)
    least = reduce(join, dict.fromkeys(effect for _, effect in recorded), NOTHING)
    managed = all(effect.omit_managed_fields for _, effect in recorded if effect.level >= Level.REQUEST)
    alike = {
        level: least._replace(level=level, omit_managed_fields=managed and level >= Level.REQUEST) for level in Level
    }
    return list(dict.fromkeys((condition, alike[effect.level]) for condition, effect in recorded))


def front(policies: Sequence[Sequence[Step]], most: Effect, budget: Budget) -> list[Step]:
    """The conditions that a quarter of the policies or more name, with what all policies together want of them, if
    that is less than `most`; the least first. What the budget is not enough for is left out."""
    named = Counter(condition for policy in policies for condition in {rule: None for rule, _ in policy})
    often = [rule for rule, count in named.most_common(FRONT) if count > 1 and 4 * count >= len(policies)]
    found: dict[Rule, Effect | None] = {}
    with suppress(TooMany):
        found.update((rule, _wanted(policies, rule, most, budget)) for rule in often if rule != ANY)
    return sorted(((rule, effect) for rule, effect in found.items() if effect), key=lambda step: step[1].level)


def _wanted(policies: Sequence[Sequence[Step]], condition: Rule, most: Effect, budget: Budget) -> Effect | None:
    """What records enough of the requests of a condition for all policies; None if that is no less than `most`."""
    effect = NOTHING
    known: dict[Rule, str] = {}
    for policy in policies:
        for other, wanted in policy:
            place = known.get(other) or known.setdefault(other, _place(condition, other, budget))
            if place == "apart":
                continue
            effect = join(effect, wanted)
            if effect.level >= most.level:
                return None
            if place == "within":
                break
    return effect


def _place(condition: Rule, other: Rule, budget: Budget) -> Literal["apart", "within", "across"]:
    budget.spend(cost(condition, other))
    if apart(condition, other):
        return "apart"
    return "within" if within(condition, other) else "across"


def packed(steps: Sequence[Step]) -> list[Step]:
    """The same decisions with fewer rules: those of a run that do the same, and differ in one kind of condition."""
    found: list[Step] = []
    for effect, run in groupby(steps, key=lambda step: step[1]):
        rules = [rule for rule, _ in run]
        for part in _PARTS:
            rules = list(_joined(rules, part))
        found += [(rule, effect) for rule in rules]
    return found


def _joined(rules: Sequence[Rule], part: str) -> Iterator[Rule]:
    """Rules that differ in this part alone become the first of them, with the values of all."""
    if len(rules) < 2:
        yield from rules
        return
    alike: dict[object, list[Rule]] = {}
    for rule in rules:
        alike.setdefault(_but(rule, part), []).append(rule)
    for group in alike.values():
        if len(group) == 1:
            yield group[0]
            continue
        values = tuple(dict.fromkeys(value for rule in group for value in getattr(rule, part)))
        changed: dict[str, Any] = {part: _entries(values) if part == "resources" else values}
        yield msgspec.structs.replace(group[0], **changed)


def _but(rule: Rule, part: str) -> object:
    """All that the rule asks besides; a rule that asks nothing of the part, or paths, is joined with its like only."""
    others = tuple(frozenset(getattr(rule, other)) for other in _PARTS if other != part)
    return others, bool(getattr(rule, part))


def _entries(entries: tuple[GroupResources, ...]) -> tuple[GroupResources, ...]:
    """The same resources in fewer entries."""
    names: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    whole = [entry for entry in entries if not entry.resources]
    for entry in entries:
        if entry.resources:
            names.setdefault((entry.group, entry.resource_names), {}).update(dict.fromkeys(entry.resources))
    return (*whole, *(GroupResources(group, tuple(found), named) for (group, named), found in names.items()))


def _reached(steps: Sequence[Step]) -> list[Step]:
    """Without rules that ask for what an earlier one takes that asks for one thing only."""
    taken: dict[str, set[object]] = {part: set() for part in _PARTS}
    found: list[Step] = []
    for rule, effect in steps:
        asked = [part for part in _PARTS if getattr(rule, part)]
        if any(values and taken[part].issuperset(values) for part in asked if (values := _values(rule, part))):
            continue
        found.append((rule, effect))
        if not asked:
            break
        if len(asked) == 1:
            taken[asked[0]].update(_values(rule, asked[0]))
    return found


def _values(rule: Rule, part: str) -> list[object]:
    if part != "resources":
        return list(getattr(rule, part))
    return [
        (entry.group, resource, name)
        for entry in rule.resources
        for resource in (entry.resources or (None,))
        for name in ((entry.resource_names if entry.resources else ()) or (None,))
    ]
