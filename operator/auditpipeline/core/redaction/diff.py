"""What redaction took from an event, found by comparing it before and after: a path for each value.

    requestObject.data.password                                           a key in a key
    requestObject.spec.containers[0].env[2].value                         an element of a list
    requestObject.metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"].data.password
                                                                          JSON in a string is looked into
    requestURI?token                                                      an argument of a URL

Nothing here knows what a secret is. A comparison has no recursion, and takes time and memory by the size of the event.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from auditpipeline.core import split
from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import Raw, decode_event
from auditpipeline.core.mend import ANNOTATION as TRUNCATED
from auditpipeline.core.mend import BODIES, UNPARSED, mended
from auditpipeline.core.redaction.model import ANNOTATION, HASH, HASHED, MASK, MASK_BASE64

_ENVELOPE = frozenset({"kind", "apiVersion", "metadata", "timestamp"})
"""What a line has around an event: `event.with_envelope` sets it, whatever redaction does."""
_OURS = frozenset({ANNOTATION, TRUNCATED})
_PLAIN = re.compile(r"[\w$/-]+", re.ASCII)
_NUMBERED = re.compile(r"^(patch|mutation)\.webhook\.admission\.k8s\.io/round_\d+_index_\d+$")
_STAND_IN = re.compile(rf"{HASHED}|{base64.b64encode(HASH.encode()).decode()}[A-Za-z0-9+/]{{43}}=|{MASK}|{MASK_BASE64}")
"""Masks and hashes (`taking`), as they are and in base64."""
_MAPS = frozenset({"data", "stringData", "binaryData"})
_EMPTY = msgspec.Raw(b"{}")
_JSON = ("{", "[")


class Gone(Enum):
    """What stands for a value that is not there."""

    GONE = "nothing"
    UNREADABLE = "a body that cannot be read"


GONE: Final = Gone.GONE
UNREADABLE: Final = Gone.UNREADABLE


class _Step(NamedTuple):
    """A key, an index or, with `argument`, an argument of a URL; `above` leads to what it is in."""

    above: _Step | None
    key: str | int
    argument: bool = False


class Change(NamedTuple):
    """A value that is not what it was. `before` and `after` are decoded JSON, or GONE; `place` is the path without
    what differs between two objects of a kind (indexes, and the keys of a Secret's data)."""

    path: str
    place: str
    before: Any
    after: Any


class Part(NamedTuple):
    """A part of a text that was taken, and what stands there now."""

    before: str
    after: str


def changes(before: bytes, after: bytes) -> Iterator[Change]:
    """What differs between an event and what redaction made of it. Permanent if one of the two is not an event."""
    old, new = decode_event(before), decode_event(after)
    for name in lost(before, new):
        if name in old:
            continue
        yield _change(_Step(None, name), UNREADABLE, GONE)
    for name, value in old.items():
        if name in _ENVELOPE or bytes(value) == bytes(new.get(name, b"")):
            continue
        step = _Step(None, name)
        if name not in new and name != "annotations":
            yield _change(step, _decoded(value), GONE)
        else:
            yield from _within(step, _decoded(value), _decoded(new.get(name, _EMPTY)))


def parts(before: str, after: str) -> list[Part]:
    """The parts of a text that were taken; the whole text as one part if they cannot be found."""
    kept = _STAND_IN.split(after)
    put = _STAND_IN.findall(after)
    if not put or kept == ["", ""] or not before.startswith(kept[0]):
        return [Part(before, after)]
    found, at = list[Part](), len(kept[0])
    for number, (stand_in, literal) in enumerate(zip(put, kept[1:], strict=True), 1):
        last = number == len(put)
        end = _end(before, at, literal, last)
        if end < 0:
            return [Part(before, after)]
        if before[at:end] != stand_in:
            found.append(Part(before[at:end], stand_in))
        at = end + len(literal)
    return found


def is_stand_in(text: str) -> bool:
    """Whether redaction puts this text where a value was."""
    return bool(_STAND_IN.fullmatch(text))


def _end(text: str, at: int, literal: str, last: bool) -> int:
    """Where a part ends that begins at `at` and has `literal` behind it; -1 if it does not."""
    if last:
        end = len(text) - len(literal)
        return end if end >= at and text.endswith(literal) else -1
    return text.find(literal, at) if literal else len(text)


def lost(data: bytes, event: Raw) -> list[str]:
    """The bodies that are in the data, and not in what became of it."""
    gone = [name for name in BODIES if name not in event]
    if not any(name.encode() in data for name in gone):
        return []
    text = split.outline(data)
    keys = {data[member.key.start : member.key.end] for member in split.members(text, split.first(text))}
    return [name for name in gone if name.encode() in keys]


def _decoded(value: msgspec.Raw) -> Any:
    """The value; mended, if only that makes it one."""
    try:
        return msgspec.json.decode(value)
    except UNPARSED:
        pass
    try:
        return msgspec.json.decode(mended(b'{"_":' + bytes(value) + b"}")["_"])
    except (Permanent, *UNPARSED):
        return UNREADABLE


def _within(step: _Step, before: Any, after: Any) -> Iterator[Change]:
    """Each value below `step` that differs, in the order of the event."""
    waiting = [(step, before, after)]
    while waiting:
        step, old, new = waiting.pop()
        if isinstance(old, str) and isinstance(new, str):
            old, new = _opened(step, old, new)
        children = _children(step, old, new)
        if children is None:
            if old != new:
                yield _change(step, old, new)
        else:
            waiting += reversed(children)


def _children(step: _Step, old: Any, new: Any) -> list[tuple[_Step, Any, Any]] | None:
    """The parts of two values of one kind that differ, or may; None if they are to be compared as they are."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        fields = ((key, old.get(key, GONE), new.get(key, GONE)) for key in keys if key not in _OURS)
        return [(_Step(step, key), value, other) for key, value, other in fields if _may_differ(value, other)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [(_Step(step, number), *pair) for number, pair in pairs if _may_differ(*pair)]
    if isinstance(old, _Query) and isinstance(new, _Query):
        return _arguments(step, old, new)
    return None


def _may_differ(old: Any, new: Any) -> bool:
    return isinstance(old, dict | list) or old != new


class _Query(NamedTuple):
    """A URL, taken apart."""

    path: str
    arguments: list[tuple[str, str]]


def _opened(step: _Step, old: str, new: str) -> tuple[Any, Any]:
    """The content of two texts: JSON, or the arguments of a URL; the texts themselves if they hold neither."""
    if step.above is None and step.key == "requestURI" and "?" in old:
        url, other = _url(old), _url(new)
        return (url, other) if len(url.arguments) == len(other.arguments) else (old, new)
    if old.lstrip().startswith(_JSON) and new.lstrip().startswith(_JSON):
        try:
            return msgspec.json.decode(old), msgspec.json.decode(new)
        except UNPARSED:
            pass
    return old, new


def _url(uri: str) -> _Query:
    path, _, query = uri.partition("?")
    pairs = (argument.partition("=") for argument in query.split("&"))
    return _Query(path, [(name, value) for name, _, value in pairs])


def _arguments(step: _Step, old: _Query, new: _Query) -> list[tuple[_Step, Any, Any]]:
    found: list[tuple[_Step, Any, Any]] = [(step, old.path, new.path)] if old.path != new.path else []
    names, seen = Counter(name for name, _ in new.arguments), Counter[str]()
    for (_, value), (name, other) in zip(old.arguments, new.arguments, strict=True):
        seen[name] += 1
        if value != other:
            argument = _Step(step, name, argument=True)
            found.append((_Step(argument, seen[name] - 1) if names[name] > 1 else argument, value, other))
    return found


def _change(step: _Step, before: Any, after: Any) -> Change:
    steps = list[_Step]()
    at: _Step | None = step
    while at:
        steps.append(at)
        at = at.above
    steps.reverse()
    return Change(_path(steps), _path(_general(steps)), before, after)


def _general(steps: list[_Step]) -> Iterator[_Step]:
    """The steps of a place: without indexes, and with `*` for keys that users choose."""
    above: str | int = ""
    for step in steps:
        if isinstance(step.key, int):
            yield _Step(None, -1)
        elif above in _MAPS:
            yield _Step(None, "*")
        elif match := _NUMBERED.match(step.key):
            yield _Step(None, f"{match[1]}.webhook.admission.k8s.io/*")
        else:
            yield step
        above = step.key


def _path(steps: Iterator[_Step] | list[_Step]) -> str:
    return "".join(map(_written, steps)).lstrip(".")


def _written(step: _Step) -> str:
    if isinstance(step.key, int):
        return "[]" if step.key < 0 else f"[{step.key}]"
    if step.argument:
        return f"?{step.key}"
    if step.key == "*" or _PLAIN.fullmatch(step.key):
        return f".{step.key}"
    return f"[{msgspec.json.encode(step.key).decode()}]"
