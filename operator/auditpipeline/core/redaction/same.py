"""Whether two events are one, written in two ways: with other spaces, or other escapes.

Redaction takes objects apart and puts them together again, so that an event may come out in another spelling although
nothing was taken from it. Such an event stays as it is. A key that stands twice, of which one goes, is a difference.
"""

from __future__ import annotations

import json
from typing import Any

from auditpipeline.core.event import Raw, decode_event, without_envelope

_JSON = ("{", "[")
_UNREADABLE = (ValueError, RecursionError)


def says_the_same(before: bytes, after: bytes) -> bool:
    """Whether nothing but the spelling differs, and what a line has around an event. Permanent if one of the two is not
    an event."""
    old, new = without_envelope(decode_event(before)), without_envelope(decode_event(after))
    try:
        return old.keys() == new.keys() and all(_is_same(name, old, new) for name in old)
    except _UNREADABLE:
        return False


def _is_same(name: str, old: Raw, new: Raw) -> bool:
    before, after = bytes(old[name]), bytes(new[name])
    return before == after or _meant(_read(before)) == _meant(_read(after))


def _read(text: bytes | str) -> Any:
    """JSON with each object as a tuple of its members, and numbers as they are written."""
    return json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str)


def _meant(value: Any) -> Any:
    """The value with JSON in its texts read as well."""
    match value:
        case str() if value.lstrip().startswith(_JSON):
            try:
                return ("text", _meant(_read(value)))
            except _UNREADABLE:
                return value
        case list():
            return [_meant(each) for each in value]
        case tuple():
            return tuple((key, _meant(each)) for key, each in value)
        case _:
            return value
