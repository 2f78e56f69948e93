"""All requests that two policies can tell apart, as a finite space, and sets of requests in it.

A policy compares a request with its own constants only, so that every other value may stand for all the values that it
does not name. Each dimension (user, verb, target, namespace, name) is numbered and a set of its values is the bits of
an integer; a target is a path or a (group, resource, subresource). Groups of users are no dimension, for a user has any
number: a set of requests keeps which groups must not be there, and of which sets at least one must be.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from auditpipeline.core.meet import PLAIN
from auditpipeline.core.policy import Attributes, Policy, Rule, group_matches, resource_matches

MAX_TARGETS = 60_000
"""More combinations of group, resource and subresource than this take too long."""
MAX_VALUES = 100_000
"""And so do more users, namespaces, names or paths."""
MAX_BITS = 180_000_000
"""So many bits say which targets patterns take; those that have to be tried one by one count a hundred times."""

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

    @property
    def size(self) -> int:
        """Its size in bits."""
        return sum(bits.bit_length() for bits in self[:5])

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
        self._users = _Values((user for rule in rules for user in rule.users), unauthenticated=True)
        self._verbs = _Values(verb for rule in rules for verb in rule.verbs)
        self._namespaces = _Values(namespace for rule in rules for namespace in rule.namespaces)
        self._names = _Values(name for entry in entries for name in entry.resource_names)
        patterns = {resource for entry in entries for resource in entry.resources}
        # Only `*/*` can tell a resource that is really called `*` from others.
        parts = [pattern.split("/") for pattern in sorted(patterns)]
        wild = () if "*/*" in patterns else ("*",)
        self._groups = _Values(entry.group for entry in entries if entry.group != "*").all
        resources = _Values(part[0] for part in parts if part[0] not in wild).all
        named = _Values(part[1] for part in parts if len(part) == 2 and part[1] not in ("", *wild))
        self._subresources = {sub: place for place, sub in enumerate(("", *named.all))}
        self._resources = {resource: place for place, resource in enumerate(resources)}
        size = len(resources) * len(self._subresources)
        odd = [pattern for pattern in patterns if not PLAIN.fullmatch(pattern)]
        bits = size * (100 * len(odd) + len(patterns))
        if size * len(self._groups) > MAX_TARGETS or bits > MAX_BITS:
            raise TooLarge
        self._kinds = [(resource, sub) for resource in resources for sub in self._subresources]
        self._patterns = {pattern: self._kinds_of(str(pattern)) for pattern in patterns}
        self._paths = _paths(url for rule in rules for url in rule.non_resource_urls)
        # Resources first, so that an example is one of them where it can be.
        self._of_resources = (1 << (len(self._groups) * size)) - 1
        self._of_paths = ((1 << len(self._paths)) - 1) << (len(self._groups) * size)

    def boxes(self, rule: Rule) -> list[Box]:
        """The requests that match the rule."""
        users = self._users.bits(rule.users)
        if rule.user_groups:
            users &= (1 << len(self._users.all) - 1) - 1  # who is not authenticated has no groups
        verbs, namespaces = self._verbs.bits(rule.verbs), self._namespaces.bits(rule.namespaces)
        needed = frozenset([frozenset(rule.user_groups)]) if rule.user_groups else frozenset[frozenset[str]]()
        found = (Box(users, verbs, t, namespaces, n, frozenset(), needed) for t, n in self._targets(rule))
        return [box for box in found if box.users and box.targets]

    def example(self, box: Box) -> Attributes:
        """One request of the box."""
        user = self._users.first(box.users)
        verb, namespace, name = (
            values.first(bits) or ""
            for values, bits in (
                (self._verbs, box.verbs),
                (self._namespaces, box.namespaces),
                (self._names, box.names),
            )
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
        all_names = self._names.bits(())
        if rule.resources:
            unnamed = 0
            for entry in rule.resources:
                kinds = 0
                for resource in entry.resources:
                    kinds |= self._patterns[resource]
                targets = self._in_groups(entry.group, kinds if entry.resources else (1 << len(self._kinds)) - 1)
                if entry.resources and entry.resource_names:
                    yield targets, self._names.bits(entry.resource_names)
                else:
                    unnamed |= targets
            yield unnamed, all_names
        elif rule.namespaces:
            yield self._of_resources, all_names
        elif rule.non_resource_urls:
            size = len(self._groups) * len(self._kinds)
            matching = 0
            for spec in rule.non_resource_urls:
                matching |= self._matching(spec)
            yield matching << size, all_names
        else:
            yield self._of_resources | self._of_paths, all_names

    def _matching(self, spec: str) -> int:
        """The paths that a nonResourceURL takes: beside each other, as they are sorted."""
        prefix = spec.rstrip("*") if spec.endswith("*") else spec
        begin = end = bisect_left(self._paths, prefix)
        if spec.endswith("*"):
            end = bisect_left(self._paths, True, begin, key=lambda path: not path.startswith(prefix))
        elif self._paths[begin : begin + 1] == (spec,):
            end += 1
        return ((1 << (end - begin)) - 1) << begin

    def _kinds_of(self, pattern: str) -> int:
        if not PLAIN.fullmatch(pattern):
            found = (i for i, (resource, sub) in enumerate(self._kinds) if resource_matches(pattern, resource, sub))
            return sum(1 << place for place in found)
        resource, _, sub = pattern.partition("/")
        width, count = len(self._subresources), len(self._resources)
        every = (1 << width) - 1 if sub == "*" else 1 << self._subresources[sub]
        if resource != "*":
            return every << (self._resources[resource] * width)
        return sum(every << (place * width) for place in range(count))

    def _in_groups(self, wanted: str, kinds: int) -> int:
        size = len(self._kinds)
        return sum(kinds << (i * size) for i, group in enumerate(self._groups) if group_matches(wanted, group))


class _Values:
    """The values that are named, and one that none of them is; `unauthenticated` adds None."""

    def __init__(self, named: Iterable[str], *, unauthenticated: bool = False) -> None:
        found = dict.fromkeys(named)
        if len(found) > MAX_VALUES:
            raise TooLarge
        other = next(name for name in _others() if name not in found)
        self.all: tuple[Any, ...] = (*found, other, *((None,) if unauthenticated else ()))
        self._places = {value: place for place, value in enumerate(self.all)}

    def bits(self, chosen: Iterable[str]) -> int:
        """The set of these; all of them where none is chosen."""
        if not chosen:
            return (1 << len(self.all)) - 1
        found = bytearray(len(self.all) // 8 + 1)
        for value in chosen:
            place = self._places[value]
            found[place // 8] |= 1 << place % 8
        return int.from_bytes(found, "little")

    def first(self, bits: int) -> Any:
        """The first value of a set."""
        return self.all[_first(bits)]


def _others() -> Iterator[str]:
    yield "other"
    number = 1
    while True:
        number += 1
        yield f"other-{number}"


def _paths(patterns: Iterable[str]) -> tuple[str, ...]:
    """Each path that is named, and below each one, and below the root, one that is not; sorted."""
    named = {pattern.rstrip("*") if pattern.endswith("*") else pattern for pattern in patterns}
    if len(named) > MAX_VALUES:
        raise TooLarge
    known = sorted({path for path in named if path.startswith("/")})
    taken: dict[str, set[str]] = {path: set() for path in (*known, "/")}
    above: list[str] = ["/"]
    for path in known:
        while not path.startswith(above[-1]):
            above.pop()
        # What stands further above knows the letter already: by the path between.
        if path != above[-1]:
            taken[above[-1]].add(path[len(above[-1])])
            above.append(path)
    return tuple(sorted({*known, *(_below(prefix, letters) for prefix, letters in taken.items())}))


def _below(prefix: str, taken: set[str]) -> str:
    """A path that starts with the prefix and with no longer one that is named."""
    letter = next(letter for letter in map(chr, chain([ord("o")], range(0x61, 0xD800))) if letter not in taken)
    return f"{prefix}{letter}ther"


def _first(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
