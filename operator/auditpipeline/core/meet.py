"""Which requests match two rules at once, as a rule: the part of policy algebra that knows what conditions mean.

Only conditions count here; levels and stages are none of its business. A request's resource and subresource are
segments of a URL path, so they hold no slash. Group conditions are left to the caller: "a group of these and a group of
those" cannot be said in one rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from auditpipeline.core.policy import GroupResources, Rule

PLAIN = re.compile(r"\*/[^*/]+|[^*/]+/\*|[^*/]*(/[^*/]+)?")


class Met(NamedTuple):
    """The requests of both rules, groups of users aside; where not `exact`, some more of the first rule's."""

    condition: Rule
    exact: bool


def condition_of(rule: Rule) -> Rule:
    """What the rule asks, without what has no effect: nonResourceURLs beside resources, names without resources."""
    resources = tuple(entry if entry.resources else GroupResources(entry.group) for entry in rule.resources)
    urls = () if rule.resources or rule.namespaces else rule.non_resource_urls
    return Rule("", rule.users, rule.user_groups, rule.verbs, resources, rule.namespaces, urls)


def meet(one: Rule, other: Rule) -> Met | None:
    """The requests that match both conditions, or None where there are none."""
    of_resources = bool(one.resources or one.namespaces or other.resources or other.namespaces)
    if of_resources and (one.non_resource_urls or other.non_resource_urls):
        return None
    users = _common(one.users, other.users)
    verbs = _common(one.verbs, other.verbs)
    namespaces = _common(one.namespaces, other.namespaces)
    urls = _both(one.non_resource_urls, other.non_resource_urls, _meet_urls)
    if users is None or verbs is None or namespaces is None or urls is None:
        return None
    resources, exact = one.resources or other.resources, True
    if one.resources and other.resources:
        found = [met for a in one.resources for b in other.resources if (met := _meet_entries(a, b))]
        resources, exact = tuple(dict.fromkeys(entry for entry, _ in found)), all(exact for _, exact in found)
        if not resources:
            return None
    return Met(Rule("", users, (), verbs, resources, namespaces, urls), exact)


def within(one: Rule, other: Rule) -> bool:
    """Whether every request that matches the one condition surely matches the other."""
    for some, others in (
        (one.users, other.users),
        (one.verbs, other.verbs),
        (one.namespaces, other.namespaces),
        (one.user_groups, other.user_groups),
    ):
        if others and some != others and not (some and set(some) <= set(others)):
            return False
    met = meet(one, other)
    if met is None or not met.exact:
        return False
    found = met.condition
    if set(found.non_resource_urls) != set(one.non_resource_urls):
        return False
    return found.resources == one.resources or _spread(found) == _spread(one)


def cost(one: Rule, other: Rule) -> int:
    """How many steps of a budget one question about two conditions is: 1, and more with long lists of resources."""
    return 1 + _values(one) * _values(other) // 8


def _values(condition: Rule) -> int:
    return sum(len(entry.resources) or 1 for entry in condition.resources) + len(condition.non_resource_urls)


def apart(one: Rule, other: Rule) -> bool:
    """Whether no request can match both conditions."""
    return meet(one, other) is None


def _spread(rule: Rule) -> frozenset[tuple[str, str, str | None]]:
    """A rule's resources, one by one: (group, resource, name)."""
    return frozenset(
        (entry.group, resource, name)
        for entry in rule.resources
        for resource in (entry.resources or ("*",))
        for name in (entry.resource_names or (None,))
    )


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...] | None:
    """The values of both lists; likewise."""
    if not one or not other or one == other:
        return one or other
    others = set(other)
    return tuple(dict.fromkeys(value for value in one if value in others)) or None


def _both(
    one: tuple[str, ...], other: tuple[str, ...], pairs: Callable[[str, str], str | None]
) -> tuple[str, ...] | None:
    """What both lists take; an empty list takes everything, and None stands for nothing at all."""
    if not one or not other:
        return one or other
    return _unique(pairs(a, b) for a in one for b in other) or None


def _unique(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _meet_urls(one: str, other: str) -> str | None:
    (a, a_open), (b, b_open) = _url(one), _url(other)
    if a.startswith(b) and (b_open or (a == b and not a_open)):
        return one
    if b.startswith(a) and a_open:
        return other
    return None


def _url(pattern: str) -> tuple[str, bool]:
    return (pattern.rstrip("*"), True) if pattern.endswith("*") else (pattern, False)


def _meet_entries(one: GroupResources, other: GroupResources) -> tuple[GroupResources, bool] | None:
    if one.group != other.group and "*" not in (one.group, other.group):
        return None
    group = other.group if one.group == "*" else one.group
    if not one.resources or not other.resources:
        from_ = one if one.resources else other
        return GroupResources(group, from_.resources, from_.resource_names), True
    names = _common(one.resource_names, other.resource_names)
    resources = _unique(_meet_resources(a, b) for a in one.resources for b in other.resources)
    if names is None or not resources:
        return None
    exact = one.resources == other.resources or all(
        a == b or "*" in (a, b) or (PLAIN.fullmatch(a) and PLAIN.fullmatch(b))
        for a in one.resources
        for b in other.resources
    )
    return GroupResources(group, resources, names), exact


def _meet_resources(one: str, other: str) -> str | None:
    if other in (one, "*"):
        return one
    if one == "*":
        return other
    if not (PLAIN.fullmatch(one) and PLAIN.fullmatch(other)):
        return one
    (a, a_sub), (b, b_sub) = _resource(one), _resource(other)
    resource = a if b is None else b
    if None not in (a, b) and a != b:
        return None
    if a_sub is None or b_sub is None:
        sub = b_sub if a_sub is None else a_sub
    elif a_sub == b_sub:
        sub = a_sub
    else:
        return None
    return f"{resource}/{sub}" if sub else resource


def _resource(pattern: str) -> tuple[str | None, str | None]:
    """(resource, subresource) of a plain pattern; None is any, and no subresource is empty."""
    resource, _, sub = pattern.partition("/")
    return (None if resource == "*" else resource), (None if sub == "*" else sub)
