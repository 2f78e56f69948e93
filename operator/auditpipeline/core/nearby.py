"""Which of many conditions may have a request in common with one: found by their values, not by trying each.

    users:       alice 0101   (any user) 0010       a rule for alice     ->  0111
    namespaces:  prod  0100   (anywhere) 0011       a rule in prod       ->  0111    and both  ->  0111

The answer is the bits of an integer, one a condition. It may name a condition too many, which `meet` then tells, and
never leaves one out. Groups of users tell nothing: a user has any number of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from auditpipeline.core.policy import Rule

_Values = frozenset[str] | None
"""The values that one part of a condition asks for; None is any."""


class Index:
    """Conditions, as `meet.condition_of` makes them, by their values."""

    def __init__(self, conditions: Sequence[Rule]) -> None:
        self._all = (1 << len(conditions)) - 1
        self._open = [0] * 7
        self._named: list[dict[str, int]] = [defaultdict(int) for _ in range(7)]
        for number, condition in enumerate(conditions):
            for part, values in enumerate(_parts(condition)):
                if values is None:
                    self._open[part] |= 1 << number
                for value in values or ():
                    self._named[part][value] |= 1 << number

    def near(self, condition: Rule) -> int:
        """The conditions that may match a request of this one."""
        found = self._all
        for part, values in enumerate(_parts(condition)):
            if values is not None:
                named, bits = self._named[part], self._open[part]
                for value in values:
                    bits |= named.get(value, 0)
                found &= bits
        return found


def bits_of(number: int) -> Iterator[int]:
    """The places of the bits that are set, the lowest first."""
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


def _parts(condition: Rule) -> Iterator[_Values]:
    for values in (condition.users, condition.verbs, condition.namespaces):
        yield frozenset(values) or None
    yield _kinds(condition)
    yield _named(_head(url) for url in condition.non_resource_urls)
    entries = condition.resources
    yield _named(entry.group for entry in entries)
    yield (
        None
        if any(not entry.resources for entry in entries)
        else _named(_base(resource) for entry in entries for resource in entry.resources)
    )


def _kinds(condition: Rule) -> _Values:
    if condition.resources or condition.namespaces:
        return frozenset(["resources"])
    return frozenset(["paths"]) if condition.non_resource_urls else None


def _named(values: Iterable[str]) -> _Values:
    found = frozenset(values)
    return None if "*" in found or not found else found


def _head(url: str) -> str:
    """The first segment of a path; `*` if more than one is meant."""
    head, slash, _ = url[1:].partition("/")
    return "*" if "*" in head or (url.endswith("*") and not slash) else head


def _base(pattern: str) -> str:
    """The resource of a pattern; `*` is any, and stands for a pattern of more than one slash too."""
    resource, _, sub = pattern.partition("/")
    odd = "*" in resource or "/" in sub or (sub != "*" and "*" in sub) or (not sub and resource != pattern)
    return "*" if odd or not resource else resource
