"""A user's rules as shapes: what paths lead to is taken, in objects, lists, Tables, patches and applied objects."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from auditpipeline.core.redaction.layers import Raw, Shape, is_array, is_object, masked, over_fields, over_items
from auditpipeline.core.redaction.model import Rule, Selector
from auditpipeline.core.redaction.paths import ANY, ONE, Segment, parse
from auditpipeline.core.redaction.places import APPLIED
from auditpipeline.core.redaction.shapes import Each, Fields, Nested, Selective
from auditpipeline.core.redaction.taking import Taker

Path = tuple[Segment, ...]
_HERE: Path = ()


def selects(rule: Rule, group: str, resource: str, subresource: str) -> bool:
    """Whether a rule is for the objects of a resource."""
    return not rule.resources or any(_selects(each, group, resource, subresource) for each in rule.resources)


def _selects(selector: Selector, group: str, resource: str, subresource: str) -> bool:
    """A resource is all of its subresources, too: most of them are answered with the whole object."""
    if selector.group not in ("*", group):
        return False
    if not selector.resources or "*" in selector.resources:
        return True
    named = (resource, f"{resource}/{subresource}", f"{resource}/*") if subresource else (resource,)
    return not selector.resources or any(each in selector.resources for each in named)


_ESCAPED = re.compile(rb"\\u|\\/")
_LONGEST_KEY = 256
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Needles:
    """A quick look whether a rule may take anything of a body: all keys of one of its paths have to be there, in a
    patch in what the patch is for."""

    paths: tuple[tuple[bytes, ...], ...]

    @classmethod
    def of(cls, rule: Rule) -> Needles:
        """Of a key with other characters, the longest part without them."""
        keys = [[segment for segment in parse(path) if isinstance(segment, str)] for path in rule.paths]
        return cls(
            tuple(tuple(max(_PLAIN.findall(key), key=len, default="").encode() for key in path) for path in keys)
        )

    def may_be_in(self, body: Raw) -> bool:
        """Whether they are in the body, or may be, as it is written with escapes."""
        data = bytes(body)
        if any(all(needle in data for needle in path) for path in self.paths):
            return True
        return b"\\" in data and _ESCAPED.search(data) is not None


def shape_of(rule: Rule) -> Shape:
    """What a rule takes of an object."""
    return Whole(Paths(_closed(map(parse, rule.paths)), rule.action == "remove"))


def _closed(paths: Iterable[Path]) -> frozenset[Path]:
    """The paths, and what is left of each if the `**` that it begins with stands for nothing."""
    found = set[Path]()
    for path in paths:
        leading = next((count for count, segment in enumerate(path) if segment is not ANY), len(path))
        found |= {path[count:] for count in range(leading + 1)}
    return frozenset(found)


@dataclass(frozen=True)
class Paths(Selective):
    """Returns what is left of the paths here: an empty one takes what is here, key and all if `removes`. Lists are
    looked through."""

    paths: frozenset[Path]
    removes: bool = False

    @property
    def here(self) -> bool:
        """Whether all that is here goes."""
        return _HERE in self.paths

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The value without what the paths lead to."""
        if self.here:
            return masked(value, taker)
        if not self.paths:
            return value
        if is_object(value):
            return over_fields(value, taker, lambda key, each: self._inner(key, each, taker))
        if is_array(value):
            return over_items(value, taker, lambda each: self.apply(each, taker))
        return value

    def _inner(self, key: str, value: Raw, taker: Taker) -> Raw | None:
        inner = self.at(key)
        if inner.here and self.removes:
            taker.values += 1
            return None
        return inner.apply(value, taker)

    def at(self, key: str) -> Paths:
        """Returns what is left of the paths behind a key."""
        return _at(self, key) if len(key) <= _LONGEST_KEY else self.behind(key)

    def behind(self, key: str) -> Paths:
        """Likewise, without looking whether that was asked before."""
        behind = [path[1:] for path in self.paths if path and path[0] in (key, ONE)]
        return Paths(_closed([*behind, *(path for path in self.paths if path and path[0] is ANY)]), self.removes)

    def member(self, key: str) -> Shape:
        """Behind a key; or behind an index, as lists are looked through."""
        inner = self.at(key)
        return Paths(inner.paths | self.paths, self.removes) if key.isdigit() or key == "-" else inner


@lru_cache(4096)
def _at(paths: Paths, key: str) -> Paths:
    return paths.behind(key)


@dataclass(frozen=True)
class Both(Selective):
    """What one shape takes, and then another one."""

    first: Shape
    then: Shape

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The value without what either takes."""
        return self.then.apply(self.first.apply(value, taker), taker)

    def member(self, key: str) -> Shape:
        """Both, further in."""
        return Both(self.first.member(key), self.then.member(key))


@dataclass(frozen=True)
class Whole(Selective):
    """Says what is taken of an object, and of those in it: of a list, of a Table, or as `kubectl apply` notes them
    down."""

    inner: Paths
    _all: Shape = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        further: dict[str, Shape] = {
            "items": Each(self),
            "rows": Each(Fields({"object": self})),
            "metadata": Fields({"annotations": Fields({key: Nested(self) for key in APPLIED})}),
        }
        object.__setattr__(self, "_all", Both(self.inner, Fields(further)))

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The object, or those in it, changed."""
        return self._all.apply(value, taker)

    def member(self, key: str) -> Shape:
        """Likewise further in."""
        return self._all.member(key)
