"""The intact events in a line that is not one event: what a crash, a full disk or a truncation leaves in an audit log.

    <torn>{event}      <torn>\\0...\\0{event}      {event}{event}      \\0...\\0{event}      {event}<torn>

Nobody may forge evidence this way. Text that looks like an event can stand inside of an event: whoever sends a request
chooses what its requestObject holds. Inside of a string it cannot pass for one, as JSON escapes the quotes there. As an
object, in a patch or a custom resource, it can. So a line that is one event is never searched, and in any other line
events are found by where they begin and end:

1. `{"kind":"Event","apiVersion":"audit.k8s.io/` begins an event, as kube-apiserver writes it, unless one of `:` `,` `[`
   stands before it: a nested object always has one of these there.
2. From one such place to the next, or to zeros, or to the end of the line, the text is one intact event, or it is torn
   text. An event has all of level, auditID, stage, requestURI, verb and user.
3. Behind zeros, which may stand for a lost block in the middle of an event, such a text must not end with zeros again.
4. An event may follow text that is torn right behind a `:` `,` or `[`. It is taken only if it ends at the line feed,
   with no zeros before that: behind a nested object, the rest of its parent and the times of the request come first.

In doubt an event is missed, and its text stays in what is torn. What remains possible: an event is torn exactly behind
a nested look-alike, and the next byte written is a line feed, which kube-apiserver never begins with, or (if the first
half was lost as well, exactly before the look-alike) another event. The work is linear in the line. Of rule 4, at most
`_TRIES` places are tried, the last ones first: one who nests more of them can hide his own event, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import Raw, decode_event
from auditpipeline.core.mend import UNPARSED

BLANK = b"\0\r\t "
_START = b'{"kind":"Event","apiVersion":"audit.k8s.io/'
_BEGINS = re.compile(rb"(?<![:,\[])" + re.escape(_START))
_FIELDS = ("level", "auditID", "stage", "requestURI", "verb", "user")
_ZEROS = re.compile(rb"\0+")
_STRICT = msgspec.json.Decoder(Raw)
SMALLEST = 128
"""Bytes of which an event has more: less than that is neither mended nor searched."""
_TRIES = 256
_SEGMENTS = 1000
_RESTS = 16


class Span(NamedTuple):
    """A text in a line, from `start` up to `end`, and whether it is an intact event."""

    start: int
    end: int
    intact: bool


class Found(NamedTuple):
    """Events as they stand in the line, in their order, and the torn texts between them."""

    events: list[bytes]
    rests: list[bytes]


def find(line: bytes, ended: bool = True) -> Found:
    """The intact events in a line, which is given without its line feed, and with its zeros; `ended` is False if it
    never got one.

    There are at most 16 rests: if there were more, the whole line is the one rest.
    """
    if len(line) < SMALLEST:
        return Found([], [line] if line.strip(BLANK) else [])
    events, rests = list[bytes](), list[bytes]()
    for span in spans(line, ended):
        (events if span.intact else rests).append(line[span.start : span.end])
    return Found(events, rests if len(rests) <= _RESTS else [line])


def spans(line: bytes, ended: bool = True) -> Iterator[Span]:
    """Where the texts of `find` stand in the line, in order. None is empty; blanks and zeros are between them."""
    segments = list(_segments(line))
    for number, (start, end) in enumerate(segments):
        last = number == len(segments) - 1
        segment = line[start:end]
        text = segment.strip(BLANK)
        at = start + len(segment) - len(segment.lstrip(BLANK))
        for part in _parted(text, number == 0, last, ended and last):
            if part.start < part.end:
                yield Span(at + part.start, at + part.end, part.intact)


def _segments(line: bytes) -> Iterator[tuple[int, int]]:
    """What stands between zeros."""
    at = 0
    for found in islice(_ZEROS.finditer(line), _SEGMENTS):
        yield at, found.start()
        at = found.end()
    yield at, len(line)


def decode_strictly(line: bytes) -> Raw:
    """One event that needs no mending; Permanent if it is not one."""
    try:
        return _STRICT.decode(line)
    except UNPARSED as error:
        raise Permanent(f"the event cannot be read: {str(error)[:200]}") from None


def is_joined(line: bytes) -> bool:
    """Whether a line holds what one event cannot: zeros, or where another event begins."""
    return b"\0" in line or (line.find(_START, 1) > 0 and _BEGINS.search(line, 1) is not None)


def _parted(text: bytes, first: bool, last: bool, ended: bool) -> Iterator[Span]:
    """The parts of the text of a segment (rules 1 to 4)."""
    begins = [0, *(found.start() for found in _BEGINS.finditer(text) if found.start())]
    for start, end in zip(begins, [*begins[1:], len(text)], strict=True):
        part = text[start:end].rstrip(BLANK)
        behind = start + len(part)
        between_zeros = start == 0 and end == len(text) and not first and not last
        if _is_intact(part) and not between_zeros:
            yield Span(start, behind, intact=True)
        elif ended and end == len(text) and (at := _follows(part)):
            yield Span(start, start + at, intact=False)
            yield Span(start + at, behind, intact=True)
        else:
            yield Span(start, behind, intact=False)


def _is_intact(text: bytes) -> bool:
    if not text.startswith(_START):
        return False
    try:
        event = decode_event(text)
    except Permanent:
        return False
    return all(field in event for field in _FIELDS)


def _follows(text: bytes) -> int | None:
    """Where, in torn text that has its line feed, the event begins that ends there (rule 4)."""
    at = len(text)
    for _ in range(_TRIES):
        at = text.rfind(_START, 0, at + len(_START) - 1)
        if at <= 0:
            return None
        try:
            event = _STRICT.decode(memoryview(text)[at:])
        except UNPARSED:
            continue
        if all(field in event for field in _FIELDS):
            return at
    return None
