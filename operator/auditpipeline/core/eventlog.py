"""The events of an audit log, a line each: what kube-apiserver writes, or bodies that a webhook was sent.

A line holds one Event or one EventList; a log may also be a single body that is spread over several lines. What is
broken is told with line and column, and passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import msgspec

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import decode_event, encode_event
from auditpipeline.core.eventlist import decode_body

Raw = dict[str, msgspec.Raw]

_LIST = b'"EventList"'
_BYTE = "(byte "


class Line(NamedTuple):
    """An event, its size as a line of JSON, and the number of the line that it stands in, from 1."""

    event: Raw
    size: int
    number: int


class Broken(NamedTuple):
    """A line that is no event; line and column from 1."""

    line: int
    column: int
    message: str


def events(lines: Iterable[bytes], broken: Callable[[Broken], None]) -> Iterator[Line]:
    """The events of a log; for what is none, `broken` is called. Empty lines do not count."""
    for number, line in enumerate(_joined(iter(lines)), 1):
        text = line.strip()
        if not text:
            continue
        try:
            event = decode_event(text)
            if bytes(event.get("kind", b"")).strip() == _LIST:
                yield from (Line(item, len(encode_event(item)), number) for item in decode_body(text))
            else:
                yield Line(event, len(text), number)
        except Permanent as error:
            broken(Broken(number, _column(line, str(error)), str(error)))


def _joined(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines; a log that opens with a brace alone is one body, and becomes one line where it can be read."""
    first = next(lines, b"")
    if first.strip() != b"{":
        yield from chain((first,), lines)
        return
    whole = first + b"".join(lines)
    try:
        yield msgspec.json.format(whole, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield from whole.splitlines()


def _column(line: bytes, message: str) -> int:
    """Where in the line the decoder gave up: its message has the byte, or the line ends too early."""
    start = len(line) - len(line.lstrip())
    if _BYTE in message:
        digits = message.partition(_BYTE)[2].partition(")")[0]
        return start + int(digits) + 1 if digits.isdigit() else start + 1
    return len(line.rstrip()) + 1 if "truncated" in message else start + 1
