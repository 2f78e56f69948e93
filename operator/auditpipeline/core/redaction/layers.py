"""JSON one level at a time: what is not changed keeps its bytes, and nothing is built that nobody looks into."""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import is_
from typing import Any, Protocol

import msgspec

from auditpipeline.core.mend import UNPARSED
from auditpipeline.core.redaction.model import MASK, MASK_BASE64
from auditpipeline.core.redaction.taking import Taker

Raw = msgspec.Raw
Object = dict[str, Raw]
_OBJECTS = msgspec.json.Decoder(Object)
_ARRAYS = msgspec.json.Decoder(list[Raw])
_TEXTS = msgspec.json.Decoder(str)
_ANY = msgspec.json.Decoder()
_DOCUMENTS = msgspec.json.Decoder(Raw)
encode = msgspec.json.Encoder().encode
_LARGE = 2**18
UNREADABLE = (*UNPARSED, UnicodeEncodeError, OverflowError)
"""The exceptions that are raised if something is not JSON that can be looked into."""
_MASK = Raw(encode(MASK))


def size(value: Raw) -> int:
    """Bytes of a value."""
    return memoryview(value).nbytes


def is_object(value: Raw) -> bool:
    """Whether it is an object."""
    return memoryview(value)[0] == 123


def is_array(value: Raw) -> bool:
    """Whether it is an array."""
    return memoryview(value)[0] == 91


def is_text(value: Raw) -> bool:
    """Whether it is a string."""
    return memoryview(value)[0] == 34


fields = _OBJECTS.decode
"""The members of an object; of two with one name the last one, as kube-apiserver reads it."""
items = _ARRAYS.decode
"""The elements of an array."""
string = _TEXTS.decode
"""The text of a string."""


def document(text: str) -> Raw:
    """The JSON in a text."""
    return _DOCUMENTS.decode(text)


def made(value: Any) -> Raw:
    """A value as JSON."""
    return Raw(encode(value))


def rebuilt(value: Raw, old: Object | list[Raw], new: Object | list[Raw], taker: Taker) -> Raw:
    """The value with its parts changed; itself if they are the same. A part that is said twice goes, and counts as a
    value."""
    before = old.values() if isinstance(old, dict) else old
    after = new.values() if isinstance(new, dict) else new
    same = len(old) == len(new) and all(map(is_, before, after))
    if same and not taker.twice:
        return value
    found = encode(new)
    if same and found == msgspec.json.format(bytes(value), indent=-1):
        return value
    taker.values += same
    return Raw(found)


class _Twice(Exception):
    """Ends a search."""


def says_twice(value: Raw) -> bool:
    """Whether an object in the value, which somebody wrote by hand, has a key twice: the first one says nothing to an
    API server, and is there to be read all the same. True as well if that cannot be told."""
    if size(value) > _LARGE:
        return True
    try:
        json.loads(bytes(value), object_pairs_hook=_once, parse_int=str, parse_float=str)
    except (_Twice, ValueError, RecursionError):
        return True
    return False


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) < len(pairs):
        raise _Twice


def over_fields(value: Raw, taker: Taker, change: Callable[[str, Raw], Raw | None]) -> Raw:
    """The object with each member changed, or left out if it becomes None; all of it masked if it may not be looked
    into, or cannot be read."""

    def work() -> Raw:
        old = fields(value)
        return rebuilt(value, old, _changed(old, change), taker)

    return _within(value, taker, work)


def _changed(found: Object, change: Callable[[str, Raw], Raw | None]) -> Object:
    return {key: new for key, each in found.items() if (new := change(key, each)) is not None}


def over_members(value: Raw, taker: Taker, shape_of: Callable[[str], Shape]) -> Raw:
    """The object with each member changed by its own shape; likewise. Most members are kept."""

    def change(key: str, each: Raw) -> Raw:
        shape = shape_of(key)
        return each if shape.keeps else shape.apply(each, taker)

    return over_fields(value, taker, change)


class Shape(Protocol):
    """Says what is taken of a value. Immutable; its `repr` says all of it."""

    @property
    def keeps(self) -> bool:
        """Whether nothing is taken at all."""

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The value without what is taken; the same object if that is nothing. Never raises."""

    def member(self, key: str) -> Shape:
        """The shape of what is at a key, or at an index, of a value of this shape."""


def over_items(value: Raw, taker: Taker, change: Callable[[Raw], Raw]) -> Raw:
    """The array with each element changed; likewise."""

    def work() -> Raw:
        old = items(value)
        return rebuilt(value, old, [change(each) for each in old], taker)

    return _within(value, taker, work)


def _within(value: Raw, taker: Taker, work: Callable[[], Raw]) -> Raw:
    if not taker.enter(size(value)):
        return masked_whole(taker)
    try:
        return work()
    except UNREADABLE:
        return masked_whole(taker)
    finally:
        taker.leave()


def masked_whole(taker: Taker) -> Raw:
    """What stands for a value that cannot be looked into."""
    taker.values += 1
    return _MASK


def masked(value: Raw, taker: Taker, in_base64: bool = False) -> Raw:
    """The value with each text and number in it taken; keys, types and shape stay."""
    inner = is_object(value) or is_array(value)
    if inner and not taker.enter(size(value)):
        return masked_whole(taker)
    try:
        found = _ANY.decode(value)
        new = made(_masked(found, taker, in_base64))
    except UNREADABLE:
        return masked_whole(taker)
    finally:
        if inner:
            taker.leave()
    return value if bytes(new) == bytes(value) else new


def _masked(value: Any, taker: Taker, in_base64: bool) -> Any:
    match value:
        case str():
            if value in ("", MASK, MASK_BASE64):
                return value
            return taker.take_base64(value) if in_base64 else taker.take(value)
        case bool() | None:
            return value
        case int() | float():
            taker.values += value != 0
            return 0
        case dict():
            return {key: _masked(each, taker, in_base64) for key, each in value.items()}
        case _:
            return [_masked(each, taker, in_base64) for each in value]
