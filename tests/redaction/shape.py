"""What redaction must leave: the same keys, types and lengths of lists, and every value that holds no secret.

Marks stand only in secrets, so that a value may change if, and only if, there is a mark in it. JSON within JSON is
compared likewise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from auditpipeline.core.event import ENVELOPE, decode_event
from auditpipeline.core.mend import ANNOTATION as TRUNCATED
from auditpipeline.core.mend import BODIES
from auditpipeline.core.redaction.model import ANNOTATION, MASK
from tests.redaction.marks import marks_in

_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})|\\+([/\"'])|%(?:25)*([2-7][0-9a-fA-F])")
_WHOLE = "a value that is too deep went whole"
Value = Any


def loaded(line: bytes) -> dict[str, Value]:
    """The event as it is read after it was mended; without the envelope of a line."""
    fields = {name: json.loads(bytes(value).decode(errors="replace")) for name, value in decode_event(line).items()}
    return {name: value for name, value in fields.items() if name not in ("kind", "apiVersion")}


def problems(before: bytes, after: bytes, odd: bool = False) -> list[str]:
    """What has changed that must not; `odd` if a body may be gone."""
    old, new = loaded(before), loaded(after)
    notes = old.setdefault("annotations", {}), new.setdefault("annotations", {})
    counted = notes[1].pop(ANNOTATION, "")
    gone = notes[1].pop(TRUNCATED, "").split(",")
    notes[0].pop(TRUNCATED, None)
    if odd:
        for name in BODIES:
            if name not in new and name in gone:
                old.pop(name, None)
    found = [f"{at}: {what}" for at, what in _compared(old, new, "") if not (odd and what == _WHOLE)]
    if not re.fullmatch("[1-9][0-9]*", counted) and not any(name in BODIES for name in gone):
        found.append(f"annotations: {ANNOTATION} is {counted!r}")
    return found


def _compared(old: Value, new: Value, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        if old.keys() != new.keys():
            yield at, f"other keys: {sorted(old.keys() ^ new.keys())}"
        for key in old.keys() & new.keys():
            yield from _compared(old[key], new[key], f"{at}.{key}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield at, f"{len(old)} items became {len(new)}"
        for number, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from _compared(one, other, f"{at}[{number}]")
    elif old != new:
        yield from _changed(old, new, at)


def _changed(old: Value, new: Value, at: str) -> Iterator[tuple[str, str]]:
    inner = _nested(old), _nested(new)
    if None not in inner:
        yield from _compared(*inner, f"{at}!")
    elif not marks_in(json.dumps(old).encode()):
        yield at, f"{old!r} became {new!r}, and held no secret"
    elif isinstance(old, dict | list) or isinstance(new, dict | list | None):
        yield at, _WHOLE if new == MASK else f"{type(old).__name__} became {type(new).__name__}"
    elif isinstance(old, str) and not isinstance(new, str):
        yield at, f"text became {new!r}"


def _nested(value: Value) -> Value:
    """Returns what is in a text that is JSON."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return None
    try:
        return json.loads(value)
    except ValueError:
        return None


def readable(line: bytes) -> str:
    """All that can be read in a line, whatever the spelling."""
    plain = _ESCAPE.sub(lambda found: found[2] or chr(int(found[1] or found[3], 16)), line.decode(errors="replace"))
    return plain + "\n" + plain.replace("+", " ")


def as_line(item: bytes) -> bytes:
    """An item of an EventList as a line."""
    return ENVELOPE + item[1:]
