"""The events of an audit log, a line each: what kube-apiserver writes, or bodies that a webhook was sent.

A line holds one Event or one EventList; a log may also be a single body, or an export of CloudWatch Logs, that is
spread over several lines. What the log source of the data plane reads is read here too: lines that a container runtime
wrote (`framing`), and intact events in torn lines (`intact`). What is broken is told with line and column, and passed
over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import msgspec

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import decode_event, encode_event
from auditpipeline.core.eventlist import decode_body
from auditpipeline.core.framing import Joiner, Text, foreign_object, foreign_text, may_be_torn
from auditpipeline.core.intact import BLANK, Found, find, is_joined
from auditpipeline.core.mend import UNPARSED

Raw = dict[str, msgspec.Raw]

_LIST = b'"EventList"'
_BYTE = "(byte "
_LONGEST = 64 * 2**20


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


class _Message(msgspec.Struct):
    message: str


class _Export(msgspec.Struct):
    events: list[_Message]


def events(lines: Iterable[bytes], broken: Callable[[Broken], None]) -> Iterator[Line]:
    """The events of a log; for what is none, `broken` is called. Empty lines do not count, nor does what kube-apiserver
    logs of itself."""
    reading, joiner, number = _Reading(broken), Joiner(_LONGEST), 0
    for number, line in enumerate(_joined(iter(lines)), 1):
        for text in joiner.add(line.removesuffix(b"\n"), ended=line.endswith(b"\n")):
            yield from reading.of(text, number)
    for text in joiner.rest():
        yield from reading.of(text, number)


class _Reading:
    """Tells events from the rest. What follows a line of kube-apiserver's own log goes on with that."""

    def __init__(self, broken: Callable[[Broken], None]) -> None:
        self._broken = broken
        self._aside = False

    def of(self, text: Text, number: int) -> Iterator[Line]:
        """The events of one line."""
        data = text.data.strip(BLANK)
        kind = "component" if text.stderr else foreign_text(data)
        if not data or kind == "component":
            self._aside = self._aside or bool(data and not text.stderr)
            return
        try:
            if kind == "legacy":
                raise Permanent("this is the legacy format: kube-apiserver needs --audit-log-format=json")
            if is_joined(data):
                raise Permanent("the line is torn")
            event = decode_event(data)
        except Permanent as error:
            yield from self._of_broken(text, data, number, str(error))
            return
        self._aside = foreign_object(event) == "component"
        if bytes(event.get("kind", b"")).strip() == _LIST:
            yield from self._of_list(data, number)
        elif not self._aside:
            yield Line(event, len(data), number)

    def _of_list(self, data: bytes, number: int) -> Iterator[Line]:
        try:
            yield from (Line(item, len(encode_event(item)), number) for item in decode_body(data))
        except Permanent as error:
            self._broken(Broken(number, _column(data, str(error)), str(error)))

    def _of_broken(self, text: Text, data: bytes, number: int, message: str) -> Iterator[Line]:
        repeats = self._aside and not data.startswith(b"{")
        intact = Found([], [data]) if repeats else find(text.data, text.ended)
        yield from (Line(decode_event(event), len(event), number) for event in intact.events)
        self._aside = self._aside and not intact.events
        if self._aside and not may_be_torn(data):
            return
        for rest in intact.rests:
            column = text.data.find(rest) + 1 if intact.events else _column(text.data, message)
            self._broken(Broken(number, column, message))


def _joined(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines; a log that opens with a brace alone is one body, and becomes one line where it can be read."""
    first = next(lines, b"")
    if first.strip() != b"{":
        yield from chain((first,), lines)
        return
    whole = first + b"".join(lines)
    if exported := _exported(whole):
        yield from exported
        return
    try:
        yield msgspec.json.format(whole, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield from whole.splitlines()


def _exported(whole: bytes) -> list[bytes]:
    """The lines in an export of CloudWatch Logs, as `aws logs get-log-events` prints it; none if it is not one."""
    try:
        found = msgspec.json.decode(whole, type=_Export)
    except UNPARSED:
        return []
    return [record.message.encode() + b"\n" for record in found.events]


def _column(line: bytes, message: str) -> int:
    """Where in the line the decoder gave up: its message has the byte, or the line ends too early."""
    start = len(line) - len(line.lstrip())
    if _BYTE in message:
        digits = message.partition(_BYTE)[2].partition(")")[0]
        return start + int(digits) + 1 if digits.isdigit() else start + 1
    return len(line.rstrip()) + 1 if "truncated" in message else start + 1
