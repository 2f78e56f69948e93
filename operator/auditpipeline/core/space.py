"""All requests that two policies can tell apart, as a finite space, and sets of requests in it.

A policy compares a request with its own constants only, so that every other value may stand for all the values that it
does not name. Each dimension (user, verb, target, namespace, name) is numbered and a set of its values is the bits of
an integer; a target is a path or a (group, resource, subresource). Groups of users are no dimension, for a user has any
number: a set of requests keeps which groups must not be there, and of which sets at least one must be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from auditpipeline.core.policy import Attributes, Policy, Rule, group_matches, path_matches, resource_matches

MAX_TARGETS = 60_000
"""More combinations of group, resource and subresource than this take too long."""

Target = str | tuple[str, str, str]


class TooLarge(Exception):
    """The policies name too much to look at every combination of it."""


class Box(NamedTuple):
    """A set of requests: a product of five sets; users have no group that is `forbidden`, and one of each `needed`."""

    users: int
    verbs: int
    targets: int
    namespaces: int
    names: int
    forbidden: frozenset[str] = frozenset()
    needed: frozenset[frozenset[str]] = frozenset()

    def meet(self, other: Box) -> Box | None:
        """The requests in both; None where there are none."""
        a, b, c, d, e, forbidden, needed = self
        a, b, c, d, e = a & other[0], b & other[1], c & other[2], d & other[3], e & other[4]
        if not (a and b and c and d and e):
            return None
        forbidden, needed = forbidden | other.forbidden, needed | other.needed
        if any(groups <= forbidden for groups in needed):
            return None
        return Box(a, b, c, d, e, forbidden, needed)

    def without(self, other: Box) -> Iterator[Box]:
        """The requests of this one that are not in the other, which is a rule's: boxes that do not overlap."""
        rest = [self.users, self.verbs, self.targets, self.namespaces, self.names]
        theirs = (other.users, other.verbs, other.targets, other.namespaces, other.names)
        for index in range(5):
            outside = rest[index] & ~theirs[index]
            if outside:
                yield _box([*rest[:index], outside, *rest[index + 1 :]], self.forbidden, self.needed)
            rest[index] &= theirs[index]
            if not rest[index]:
                return
        for groups in other.needed:
            forbidden = self.forbidden | groups
            if not any(wanted <= forbidden for wanted in self.needed):
                yield _box(rest, forbidden, self.needed)


def _box(sets: Sequence[int], forbidden: frozenset[str], needed: frozenset[frozenset[str]]) -> Box:
    users, verbs, targets, namespaces, names = sets
    return Box(users, verbs, targets, namespaces, names, forbidden, needed)


class Space:
    """The values that the policies name, one more that stands for all others, and what rules mean in them."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        rules = [rule for policy in policies for rule in policy.rules]
        entries = [entry for rule in rules for entry in rule.resources]
        self.users: tuple[str | None, ...] = (*_values(user for rule in rules for user in rule.users), None)
        self.verbs = _values(verb for rule in rules for verb in rule.verbs)
        self.namespaces = _values(namespace for rule in rules for namespace in rule.namespaces)
        self.names = _values(name for entry in entries for name in entry.resource_names)
        patterns = {resource for entry in entries for resource in entry.resources}
        # Only `*/*` can tell a resource that is really called `*` from others.
        parts = [pattern.split("/") for pattern in sorted(patterns)]
        wild = () if "*/*" in patterns else ("*",)
        groups = _values(entry.group for entry in entries if entry.group != "*")
        resources = _values(part[0] for part in parts if part[0] not in wild)
        subresources = ("", *_values(part[1] for part in parts if len(part) == 2 and part[1] not in ("", *wild)))
        size = len(resources) * len(subresources)
        if size * len(groups) > MAX_TARGETS or size * len(patterns) > 30 * MAX_TARGETS:
            raise TooLarge
        self._groups = groups
        self._kinds = [(resource, sub) for resource in resources for sub in subresources]
        self._patterns = {pattern: self._kinds_of(pattern) for pattern in patterns}
        self._paths = _paths(url for rule in rules for url in rule.non_resource_urls)
        # Resources first, so that an example is one of them where it can be.
        self._of_resources = (1 << (len(groups) * size)) - 1
        self._of_paths = ((1 << len(self._paths)) - 1) << (len(groups) * size)

    def boxes(self, rule: Rule) -> list[Box]:
        """The requests that match the rule."""
        users = _bits(self.users, rule.users) if rule.users else (1 << len(self.users)) - 1
        if rule.user_groups:
            users &= (1 << len(self.users) - 1) - 1  # who is not authenticated has no groups
        verbs = _bits(self.verbs, rule.verbs) if rule.verbs else (1 << len(self.verbs)) - 1
        namespaces = _bits(self.namespaces, rule.namespaces) if rule.namespaces else (1 << len(self.namespaces)) - 1
        needed = frozenset([frozenset(rule.user_groups)]) if rule.user_groups else frozenset[frozenset[str]]()
        found = (Box(users, verbs, t, namespaces, n, frozenset(), needed) for t, n in self._targets(rule))
        return [box for box in found if box.users and box.targets]

    def example(self, box: Box) -> Attributes:
        """One request of the box."""
        user = self.users[_first(box.users)]
        verb, namespace, name = (
            values[_first(bits)]
            for values, bits in ((self.verbs, box.verbs), (self.namespaces, box.namespaces), (self.names, box.names))
        )
        groups = tuple(sorted({min(groups - box.forbidden) for groups in box.needed}))
        target = _first(box.targets)
        of_resources = len(self._groups) * len(self._kinds)
        if target >= of_resources:
            return Attributes(user, groups, verb, self._paths[target - of_resources])
        group, (resource, sub) = self._groups[target // len(self._kinds)], self._kinds[target % len(self._kinds)]
        return Attributes(user, groups, verb, "", resource, sub, group, namespace, name)

    def _targets(self, rule: Rule) -> Iterator[tuple[int, int]]:
        """(targets, names) whose union the rule takes."""
        all_names = (1 << len(self.names)) - 1
        if rule.resources:
            unnamed = 0
            for entry in rule.resources:
                kinds = 0
                for resource in entry.resources:
                    kinds |= self._patterns[resource]
                targets = self._in_groups(entry.group, kinds if entry.resources else (1 << len(self._kinds)) - 1)
                if entry.resources and entry.resource_names:
                    yield targets, _bits(self.names, entry.resource_names)
                else:
                    unnamed |= targets
            yield unnamed, all_names
        elif rule.namespaces:
            yield self._of_resources, all_names
        elif rule.non_resource_urls:
            size = len(self._groups) * len(self._kinds)
            matching = (
                1 << (size + index)
                for index, path in enumerate(self._paths)
                if any(path_matches(path, spec) for spec in rule.non_resource_urls)
            )
            yield sum(matching), all_names
        else:
            yield self._of_resources | self._of_paths, all_names

    def _kinds_of(self, pattern: str) -> int:
        return sum(1 << i for i, (resource, sub) in enumerate(self._kinds) if resource_matches(pattern, resource, sub))

    def _in_groups(self, wanted: str, kinds: int) -> int:
        size = len(self._kinds)
        return sum(kinds << (i * size) for i, group in enumerate(self._groups) if group_matches(wanted, group))


def _values(named: Iterable[str]) -> tuple[str, ...]:
    """The values, and one that none of them is."""
    found = tuple(dict.fromkeys(named))
    return (*found, next(name for name in _others() if name not in found))


def _others() -> Iterator[str]:
    yield "other"
    number = 1
    while True:
        number += 1
        yield f"other-{number}"


def _paths(patterns: Iterable[str]) -> tuple[str, ...]:
    """Each path that is named, and below each one, and below the root, one that is not."""
    named = {pattern.rstrip("*") if pattern.endswith("*") else pattern for pattern in patterns}
    known = sorted(path for path in named if path.startswith("/"))
    return tuple(dict.fromkeys([*known, *(_below(prefix, known) for prefix in (*known, "/"))]))


def _below(prefix: str, named: Iterable[str]) -> str:
    """A path that starts with the prefix and with no longer one that is named."""
    taken = {name[len(prefix)] for name in named if name.startswith(prefix) and len(name) > len(prefix)}
    letter = next(letter for letter in map(chr, chain([ord("o")], range(0x61, 0xD800))) if letter not in taken)
    return f"{prefix}{letter}ther"


def _bits(values: Sequence[str | None], chosen: Iterable[str]) -> int:
    wanted = set(chosen)
    return sum(1 << index for index, value in enumerate(values) if value in wanted)


def _first(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
