"""Request bodies: an EventList, or a single Event, of audit.k8s.io/v1 or v1beta1. What comes out is v1.

    decode_body     quick and strict: all of the body, or Permanent
    read_body       what `decode_body` refuses: item by item (`split`), each mended if it has to be (`mend`)

One odd item never costs its neighbours. The rest is reported as `Unreadable`: an item that should be an event by
itself, up to MOST_ALONE of them; everything else of a body together, with a count.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from auditpipeline.core import split
from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import BETA, VERSION, Raw, decode_event, decode_odd, without_envelope
from auditpipeline.core.mend import MAX_FIELDS, UNPARSED
from auditpipeline.core.split import Part

HEAD = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['
"""What a body begins with; items with commas between them follow, and then `]}`."""
MOST_ALONE = 100
_LIST, _EVENT = "EventList", "Event"
KEPT_BYTES, _KEPT_ITEMS = 2**20, 10_000
"""Of what is no event, so much is kept."""
_MOST_LISTS = 100
"""Lists that may follow each other in a body."""
_CLOSING = re.compile(rb"\s*+\}\s*+")
_SMALLEST, _FEW = 64, 1000
"""Bytes of which an event has more: a body has no more events than it has bytes for, but for a few that are none."""
_MANY, _LARGE = 20_000, 2**21
"""Objects and bytes of a body: objects and fields of a few bytes each take a hundred bytes of memory each."""


class Unreadable(NamedTuple):
    """What no event could be made of, and for how many events it stands, as far as they can be counted."""

    reason: str
    data: bytes
    events: int = 1


class Body(NamedTuple):
    """The events of a body, and the rest of it."""

    events: list[Raw]
    unreadable: list[Unreadable]


class _List(msgspec.Struct):
    kind: str = ""
    api_version: str = msgspec.field(default="", name="apiVersion")
    items: list[Raw] | None = None


class _Top(NamedTuple):
    """An object of a body; `inner` is where its last member ends, `end` where what follows it begins. It is not `whole`
    if that member has no end."""

    kind: str
    version: str
    items: Part | None
    inner: int
    end: int
    whole: bool


_LISTS = msgspec.json.Decoder(_List)
_WORDS = msgspec.json.Decoder(str)


def encode_body(items: list[bytes]) -> bytes:
    """An EventList of these items, each a JSON object."""
    return HEAD + b",".join(items) + b"]}"


def is_event(item: Raw) -> bool:
    """Whether the object is an event at all: one of these two fields stands in each."""
    return "auditID" in item or "level" in item


def is_crowded(body: bytes) -> bool:
    """Whether the body may hold so many items or fields that it has to be read one by one."""
    return len(body) > _LARGE or body.count(b"{") > _MANY


def decode_body(body: bytes) -> list[Raw]:
    """The events of a body that any strict parser takes. Permanent if it is not an EventList or an Event of a version
    that is known, or if one of its items cannot be read."""
    try:
        found = _LISTS.decode(body)
    except UNPARSED as error:
        raise Permanent(f"the body cannot be read: {str(error)[:200]}") from None
    _check(found.kind, found.api_version)
    if found.kind == _EVENT:
        return [without_envelope(decode_event(body))]
    beta = found.api_version == BETA
    return [without_envelope(event, beta) for event in found.items or ()]


def read_body(body: bytes) -> Body:
    """The events of any body, and what is left of it. Takes up to 0.1 s for each MB, and 0.25 s if every event has a
    body of hundreds of levels; raises nothing."""
    text = split.outline(body)
    found, at = Body([], []), split.first(text)
    for _ in range(_MOST_LISTS):
        try:
            top = _top(body, text, at)
            _check(top.kind, top.version)
            read = _items(body, text, top) if top.kind == _LIST else _single(body[at : top.end])
        except Permanent as error:
            found.unreadable.append(Unreadable(str(error), body[at:]))
            return found
        found.events.extend(read.events)
        found.unreadable.extend(read.unreadable)
        at = top.end
        if at == len(body):
            return found if any(found) else _nothing(body)
    found.unreadable.append(Unreadable(f"the body goes on behind {_MOST_LISTS} lists", body[at:]))
    return found


def _nothing(body: bytes) -> Body:
    """A body without an event: an empty list, or brackets that hide what is there."""
    try:
        return Body(decode_body(body), [])
    except Permanent as error:
        return Body([], [Unreadable(str(error), body)])


def _check(kind: str, version: str) -> None:
    if version not in (VERSION, BETA) or kind not in (_LIST, _EVENT):
        raise Permanent(f"not an audit.k8s.io/v1 EventList or Event: {version[:64]}/{kind[:64]}")


def _top(body: bytes, text: bytes, start: int) -> _Top:
    """The object that opens at `start`. Permanent if none does, or if its items are not an array."""
    if text[start : start + 1] != b"{":
        raise Permanent("the body cannot be read: it is not a JSON object")
    words, items, end, whole = {b"kind": "", b"apiVersion": ""}, None, start + 1, True
    for number, (key, value) in enumerate(split.members(text, start)):
        if number == MAX_FIELDS:
            raise Permanent(f"the body cannot be read: it has more than {MAX_FIELDS} fields")
        name, content, end, whole = _key(body[key.start : key.end]), text[value.start : value.start + 64], *value[1:3]
        if name in words:
            words[name] = _word(content[: value.end - value.start])
        elif name == b"items":
            items = value if body[value.start : value.end] != b"null" else None
            if items and content[:1] != b"[":
                raise Permanent("the body cannot be read: its items are not an array")
    closing = _CLOSING.match(text, end)
    return _Top(words[b"kind"], words[b"apiVersion"], items, end, closing.end() if closing else len(text), whole)


def _single(data: bytes) -> Body:
    return Body([without_envelope(decode_odd(data))], [])


def _items(body: bytes, text: bytes, top: _Top) -> Body:
    """The items of an EventList. What stands behind them and is not a member is unreadable too."""
    if not top.items and not top.whole:
        raise Permanent("the body cannot be read: it ends before its items")
    found, behind = Body([], []), body[top.inner : top.end]
    if top.items:
        found = _sorted(body, text, top.items.start, top.version == BETA)
        behind += body[split.outlined_end(text, top.items.start) or len(text) : top.items.end]
    if behind.translate(None, b"]} \t\r\n"):
        found.unreadable.append(Unreadable("the body cannot be read behind its items", behind))
    return found


def _key(name: bytes) -> bytes:
    """The name of a member, which may be spelt with escapes."""
    return _word(b'"' + name + b'"').encode() if b"\\" in name and len(name) <= 64 else name


def _word(content: bytes) -> str:
    try:
        return _WORDS.decode(content)
    except UNPARSED:
        return ""


def _sorted(body: bytes, text: bytes, start: int, beta: bool) -> Body:
    """Tells events from the rest, in the array that opens at `start`. Only so many items are looked into as the body
    can have events."""
    events, alone, rest, left = list[Raw](), list[Unreadable](), Rest(), _FEW + len(body) // _SMALLEST
    for part in split.elements(text, start, left):
        item, left = body[part.start : part.end], left - 1
        tiny = len(item) < _SMALLEST and len(alone) >= MOST_ALONE
        if part.number > 1 or left < 0 or item[:1] != b"{" or tiny:
            rest.add(item, part.number)
            continue
        try:
            event = decode_odd(item)
        except Permanent as error:
            if len(alone) < MOST_ALONE:
                alone.append(Unreadable(str(error), item))
            else:
                rest.add(item)
            continue
        if is_event(event):
            events.append(without_envelope(event, beta))
        else:
            rest.add(item)
    return Body(events, [*alone, *rest.unreadable()])


class Rest:
    """Items that are reported together: all of them are counted, the first ones kept."""

    def __init__(self) -> None:
        self._kept = list[bytes]()
        self._size = 0
        self._count = 0

    def add(self, item: bytes, count: int = 1) -> None:
        """Takes `count` items in; of no item there is none."""
        if not item:
            return
        self._count += count
        if self._size < KEPT_BYTES and len(self._kept) < _KEPT_ITEMS:
            self._kept.append(item[:KEPT_BYTES])
            self._size += len(item)

    def unreadable(self) -> list[Unreadable]:
        """One for all of them, or none."""
        if not self._count:
            return []
        reason = f"{self._count} items of a body are not events"
        return [Unreadable(reason, b",".join(self._kept), self._count)]
