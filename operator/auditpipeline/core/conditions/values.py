"""From an event to the values that an expression asks for: nothing else of it is decoded. Pure.

The variables are a tree, which goes down into the event's raw JSON. What is absent reads as in Go: a text as "", a
number as 0, a list or map as an empty one. An absent part of a body, or time, has no value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from auditpipeline.core.conditions.fields import Kind
from auditpipeline.core.conditions.static import Ref, Static
from auditpipeline.core.errors import Permanent

Get = Callable[[str], msgspec.Raw | str | None]
"""A field of an event by its name: raw JSON, or a text that is decoded already; None if it is absent."""
MAX_VALUES = 256 * 2**10
"""Bytes of JSON of all fields that an expression names."""
MAX_EACH = 256
"""Items of a list that is looked through."""
_NULL = b"null"
_UNREAD = (ValueError, RecursionError)
_OBJECTS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DECODERS: Mapping[Kind, Callable[[msgspec.Raw], Any]] = {
    Kind.TEXT: msgspec.json.Decoder(str | None).decode,
    Kind.NUMBER: msgspec.json.Decoder(int | None).decode,
    Kind.TEXTS: msgspec.json.Decoder(list[str] | None).decode,
    Kind.PAIRS: msgspec.json.Decoder(dict[str, str] | None).decode,
    Kind.LISTS: msgspec.json.Decoder(dict[str, list[str]] | None).decode,
    Kind.TIME: msgspec.json.Decoder(datetime | None).decode,
    Kind.BODY: msgspec.json.Decoder().decode,
}
_ZERO: Mapping[Kind, Callable[[], Any]] = {
    Kind.TEXT: str,
    Kind.NUMBER: int,
    Kind.TEXTS: list,
    Kind.PAIRS: dict,
    Kind.LISTS: dict,
}


@dataclass
class _Branch:
    """What is asked of one field: its value, whether it is there, and the fields below it."""

    path: Ref
    value: str = ""
    presence: str = ""
    each: bool = False
    below: dict[str, _Branch] = field(default_factory=dict)


class Values:
    """Finds the values of an expression's variables in events."""

    def __init__(self, static: Static) -> None:
        self._roots: dict[str, _Branch] = {}
        for name, ref in static.variables.items():
            _place(self._roots, name, ref, name in static.each)

    def of(self, get: Get) -> dict[str, Any]:
        """The values by the names of the variables; Permanent if one cannot be read, or they are too large."""
        found: dict[str, Any] = {}
        left = MAX_VALUES
        for name, branch in self._roots.items():
            left = _read(get(name), branch, found, left)
        return found


def _place(branches: dict[str, _Branch], name: str, ref: Ref, each: bool) -> None:
    for depth, step in enumerate(ref.path, 1):
        kind = ref.kind if depth == len(ref.path) else Kind.BODY
        branch = branches.setdefault(step, _Branch(Ref(ref.path[:depth], kind)))
        branches = branch.below
    branch.path = ref
    branch.each = branch.each or each
    if ref.presence:
        branch.presence = name
    else:
        branch.value = name


def _read(raw: msgspec.Raw | str | None, branch: _Branch, found: dict[str, Any], left: int) -> int:
    """Adds what is asked of a field; how many bytes may still be decoded."""
    if branch.presence:
        found[branch.presence] = raw is not None and (isinstance(raw, str) or bytes(raw) != _NULL)
    if branch.value:
        left = _decode(raw, branch, found, left)
    if branch.below:
        fields = _fields(raw, branch)
        for name, below in branch.below.items():
            left = _read(fields.get(name), below, found, left)
    return left


def _decode(raw: msgspec.Raw | str | None, branch: _Branch, found: dict[str, Any], left: int) -> int:
    kind = branch.path.kind
    if isinstance(raw, str):
        found[branch.value] = raw
        return left - len(raw)
    if raw is not None:
        left -= len(raw)
        if left < 0:
            raise Permanent(f"the fields that it names have more than {MAX_VALUES} bytes")
        try:
            value = _DECODERS[kind](raw)
        except _UNREAD as error:
            raise Permanent(f"{branch.path} is not of type {kind.value}") from error
        if branch.each:
            _bound(value, branch)
        if value is not None or kind is Kind.BODY:
            found[branch.value] = value
            return left
    if kind in _ZERO:
        found[branch.value] = _ZERO[kind]()
    return left


def _bound(value: Any, branch: _Branch) -> None:
    lists = value.values() if isinstance(value, dict) else (value or (),)
    if any(len(items) > MAX_EACH for items in lists):
        raise Permanent(f"{branch.path} has more than {MAX_EACH} items")


def _fields(raw: msgspec.Raw | str | None, branch: _Branch) -> dict[str, msgspec.Raw]:
    """The fields of an object; none of what is something else."""
    if raw is None or isinstance(raw, str) or bytes(memoryview(raw)[:1]) != b"{":
        return {}
    try:
        return _OBJECTS.decode(raw)
    except _UNREAD as error:
        raise Permanent(f"{branch.path} cannot be read") from error
