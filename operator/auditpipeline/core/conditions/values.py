"""From an event to the values that an expression asks for: nothing else of it is decoded. Pure.

The variables are a tree, which goes down into the event's raw JSON; each branch of it becomes a function once. What is
absent reads as in Go: a text as "", a number as 0, a list or map as an empty one. An absent part of a body, or time,
has no value.
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

Found = msgspec.Raw | str | None
Get = Callable[[str], Found]
"""A field of an event by its name: raw JSON, or a text that is decoded already; None if it is absent."""
Read = Callable[[Found, dict[str, Any]], int]
"""Adds the values of a field's variables; how many bytes of JSON they have."""
MAX_VALUES = 256 * 2**10
"""Bytes of JSON of all fields that an expression names."""
MAX_EACH = 256
"""Items of a list that is looked through."""
_NULL, _OBJECT = b"null", b"{"
_NONE: Mapping[str, msgspec.Raw] = {}
_UNREAD = (ValueError, RecursionError)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_DECODERS: Mapping[Kind, Callable[[msgspec.Raw], Any]] = {
    Kind.TEXT: msgspec.json.Decoder(str | None).decode,
    Kind.NUMBER: msgspec.json.Decoder(int | None).decode,
    Kind.TEXTS: msgspec.json.Decoder(list[str] | None).decode,
    Kind.PAIRS: msgspec.json.Decoder(dict[str, str] | None).decode,
    Kind.LISTS: msgspec.json.Decoder(dict[str, list[str]] | None).decode,
    Kind.TIME: msgspec.json.Decoder(datetime | None).decode,
    Kind.BODY: msgspec.json.Decoder().decode,
}
_ZERO: Mapping[Kind, Any] = {Kind.TEXT: "", Kind.NUMBER: 0, Kind.TEXTS: [], Kind.PAIRS: {}, Kind.LISTS: {}}
_LARGE = f"the fields that it names have more than {MAX_VALUES} bytes"


@dataclass
class _Branch:
    """The use of one field: its value, whether it is there, and the fields below it."""

    path: Ref
    value: str = ""
    presence: str = ""
    each: bool = False
    below: dict[str, _Branch] = field(default_factory=dict)


class Values:
    """Finds the values of an expression's variables in events."""

    def __init__(self, static: Static) -> None:
        roots: dict[str, _Branch] = {}
        for name, ref in static.variables.items():
            _place(roots, name, ref, each=name in static.each)
        self._readers = [(name, _reader(branch)) for name, branch in roots.items()]

    def of(self, get: Get) -> dict[str, Any]:
        """The values by the names of the variables; Permanent if one cannot be read, or they are too large."""
        found: dict[str, Any] = {}
        size = 0
        for name, read in self._readers:
            size += read(get(name), found)
        if size > MAX_VALUES:
            raise Permanent(_LARGE)
        return found


def _place(branches: dict[str, _Branch], name: str, ref: Ref, *, each: bool) -> None:
    """Puts a variable into the tree."""
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


def _reader(branch: _Branch) -> Read:
    """The branch as a function."""
    parts = list[Read]()
    if branch.presence:
        parts.append(_presence(branch.presence))
    if branch.value:
        parts.append(_value(branch))
    if branch.below:
        parts.append(_below(branch))
    if len(parts) == 1:
        return parts[0]
    return lambda raw, found: sum([part(raw, found) for part in parts])


def _presence(name: str) -> Read:
    def read(raw: Found, found: dict[str, Any]) -> int:
        found[name] = raw is not None and (isinstance(raw, str) or len(raw) != 4 or bytes(raw) != _NULL)
        return 0

    return read


def _value(branch: _Branch) -> Read:
    name, kind, path, each = branch.value, branch.path.kind, branch.path, branch.each
    decode, has_zero, zero, is_body = _DECODERS[kind], kind in _ZERO, _ZERO.get(kind), kind is Kind.BODY

    def read(raw: Found, found: dict[str, Any]) -> int:
        if raw is None:
            if has_zero:
                found[name] = zero
            return 0
        if isinstance(raw, str):
            found[name] = raw
            return len(raw)
        if (size := len(raw)) > MAX_VALUES:
            raise Permanent(_LARGE)
        try:
            value = decode(raw)
        except _UNREAD as error:
            raise Permanent(f"{path} is not of type {kind.value}") from error
        if value is None and not is_body:
            return read(None, found)
        if each:
            _bound(value, path)
        found[name] = value
        return size

    return read


def _below(branch: _Branch) -> Read:
    readers = [(name, _reader(below)) for name, below in branch.below.items()]
    path = branch.path

    def read(raw: Found, found: dict[str, Any]) -> int:
        fields = _NONE
        if raw is not None and not isinstance(raw, str) and bytes(memoryview(raw)[:1]) == _OBJECT:
            try:
                fields = _objects(raw)
            except _UNREAD as error:
                raise Permanent(f"{path} cannot be read") from error
        size = 0
        for name, below in readers:
            size += below(fields.get(name), found)
        return size

    return read


def _bound(value: Any, path: Ref) -> None:
    lists = value.values() if isinstance(value, dict) else (value,)
    if any(len(items) > MAX_EACH for items in lists):
        raise Permanent(f"{path} has more than {MAX_EACH} items")
