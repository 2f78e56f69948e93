"""Which requests a rule decides, after all the rules before it: found exactly, not by trying.

A policy only ever says yes: it has no "not". So where a rule leaves something open (any user), a value that no rule
mentions is matched by the fewest of the others; where it lists values, each of them is one case. A request is built of
one value for each part (user, group, verb, namespace, target), and each value knows the earlier rules that it
satisfies, as a set of bits. A rule before takes the request if its bit is in every part: the rule is reached exactly
where the bits of all parts have nothing in common.

    user "any"    0 1 1    and    verb "get"    1 0 1    and    target pods    1 1 0    =    0 0 0    reached
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

import msgspec

from auditpipeline.core.policy import Attributes, GroupResources, Policy, Rule, matches

CASES = 100_000  # above these nothing is claimed

# One value for one part of a request, and the earlier rules that it satisfies.
_Choice = tuple[Any, int]


class Target(NamedTuple):
    """What a request is about: a resource, or with `resource` None a path."""

    group: str = ""
    resource: str | None = None
    subresource: str = ""
    name: str = ""
    path: str = ""


def witnesses(
    policy: Policy, index: int, targets: Sequence[Target] = (), verbs: Sequence[str] = ()
) -> Iterator[Attributes]:
    """Requests that rule `index` decides: none where the rules before take all. `targets` and `verbs` narrow them."""
    for case in islice(_cases(policy, index, targets, verbs), CASES):
        bits = (1 << index) - 1
        for _, satisfied in case:
            bits &= satisfied
        if not bits:
            yield _request(*(value for value, _ in case))


def takers(policy: Policy, index: int) -> list[int]:
    """The earlier rules that together take every request from the rule; none where one is left, or none is sure."""
    found: set[int] = set()
    for number, case in enumerate(_cases(policy, index)):
        bits = (1 << index) - 1
        for _, satisfied in case:
            bits &= satisfied
        if not bits or number >= CASES:
            return []
        if not any(bits >> taker & 1 for taker in found):
            found.add((bits & -bits).bit_length() - 1)
    return sorted(found)


def _cases(
    policy: Policy, index: int, targets: Sequence[Target] = (), verbs: Sequence[str] = ()
) -> Iterator[tuple[_Choice, ...]]:
    rule, before = policy.rules[index], policy.rules[:index]
    fresh = unmentioned(policy)
    wanted = [verb for verb in verbs if not rule.verbs or verb in rule.verbs] if verbs else rule.verbs or (fresh,)
    common = (
        _part(before, rule.users or (fresh,), lambda r, v: not r.users or v in r.users),
        _part(before, rule.user_groups or (None,), lambda r, v: not r.user_groups or v in r.user_groups),
        _part(before, wanted, lambda r, v: not r.verbs or v in r.verbs),
    )
    every = [target for target in targets or _targets(rule, fresh) if _takes(rule, target)]
    resources = [target for target in every if target.resource is not None]
    paths = [target for target in every if target.resource is None]
    inside = _part(before, rule.namespaces or (fresh,), lambda r, v: not r.namespaces or v in r.namespaces)
    outside = _part(before, ("",), lambda r, v: True)
    for found, namespaces in ((resources, inside), (paths, outside)):
        target = _part(before, found, _takes)
        yield from product(*common, namespaces, target)


def _part(before: Sequence[Rule], values: Sequence[Any], satisfies: Callable[[Rule, Any], bool]) -> list[_Choice]:
    """The values with their bits; one that satisfies all that another one does, and more, is never needed."""
    found: list[_Choice] = []
    for value in values:
        bits = sum(1 << number for number, rule in enumerate(before) if satisfies(rule, value))
        if not any(bits & other == other for _, other in found):
            found = [(kept, other) for kept, other in found if bits & other != bits]
            found.append((value, bits))
    return found


def _takes(rule: Rule, target: Target) -> bool:
    """Whether the rule takes requests for the target, whoever asks and in whichever namespace."""
    if rule.namespaces and target.resource is None:
        return False
    urls = () if rule.namespaces else rule.non_resource_urls
    return matches(Rule(resources=rule.resources, non_resource_urls=urls), _request(None, None, "", "", target))


def _targets(rule: Rule, fresh: str) -> Iterator[Target]:
    """What the rule is about, one target for each way in which an earlier rule may take it or not."""
    if not rule.resources and not rule.namespaces:
        for url in rule.non_resource_urls or ("*",):
            yield Target(path=url.rstrip("*") + fresh if url.endswith("*") else url)
    if not rule.non_resource_urls or rule.resources or rule.namespaces:
        for entry in rule.resources or (GroupResources(group="*"),):
            yield from _entry_targets(entry, fresh)


def _entry_targets(entry: GroupResources, fresh: str) -> Iterator[Target]:
    group = fresh if entry.group == "*" else entry.group
    for wanted in entry.resources or ("*",):
        resource, _, subresource = wanted.partition("/")
        resource = fresh if resource == "*" else resource
        subresources = ("", fresh) if subresource == "*" or wanted == "*" else (subresource,)
        for name in (entry.resources and entry.resource_names) or (fresh,):
            for each in subresources:
                yield Target(group, resource, each, name)


def _request(user: str | None, group: str | None, verb: str, namespace: str, target: Target) -> Attributes:
    return Attributes(
        user=user,
        groups=() if group is None else (group,),
        verb=verb,
        path=target.path,
        resource=target.resource,
        subresource=target.subresource,
        group=target.group,
        namespace=namespace,
        name=target.name,
    )


def unmentioned(policy: Policy) -> str:
    """A character that the policy does not hold anywhere."""
    text = set(msgspec.json.encode(policy).decode())
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)
