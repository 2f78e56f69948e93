"""JSON taken apart at one level, without a look at what is inside of the parts: no recursion, linear time.

kube-apiserver passes on bodies that no strict parser takes: lone surrogates, bytes that are not UTF-8, ten thousand
levels of nesting. One of them must not cost its neighbours, so what separates events from each other is found without
parsing them. Nothing here decides whether a part is valid JSON; its reader does.

    data      {"a":"x\\"{","b":[[1],[2]]}
    outline   {"a":"x__{","b":[[1],[2]]}      the same length, and no escaped quote: each `"` begins or ends a string
    parts       ^^^^^^^^^^ ^^^^^^^^^^^^^^

A regular expression passes over values of up to `_NESTED` levels within a window; `outlined_end` counts brackets
through anything deeper or larger. Each step looks at `_WINDOW` bytes at most, so that other threads get their turn.
Either bracket closes either: `[}` is one part, and not valid.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import accumulate, count
from typing import NamedTuple

_WINDOW = 2**17
_FIRST_STEP, _STEP = 2**7, 2**14
"""What brackets are counted in: small at first, as most of what is deep is short, and there may be very much of it."""
_NESTED = 64
_OPENING, _CLOSING = b"[{", b"]}"
_STEPS = [(byte in _OPENING) - (byte in _CLOSING) for byte in range(256)]
_step_of = _STEPS.__getitem__
_KEY = re.compile(rb'\s*+"([^"]*+)"\s*+:\s*+')
_SPACE = re.compile(rb"\s*+")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in _OPENING + _CLOSING)


def _value(levels: int) -> bytes:
    """A pattern of values of up to that many levels."""
    within = rb'[^][{}"]++|"[^"]*+"'
    value = rb"[\[{](?:" + within + rb")*+[\]}]"
    for _ in range(levels - 1):
        value = rb"[\[{](?:" + within + rb"|" + value + rb")*+[\]}]"
    return value


_TEXT, _VALUE = rb'"[^"]*+"', _value(_NESTED)
_ANY = rb'(?:[^][{}",]++|' + _TEXT + rb"|" + _VALUE + rb")*+"
"""What may stand before a separator: words, strings and values, as many as there are."""
_RUN = re.compile(_ANY)
_RUNS = re.compile(rb"(?:" + _ANY + rb",)++")
_CONTENT = re.compile(_TEXT + rb"|" + _VALUE)
_FLAT = re.compile(rb'(?:\s*+(?:[^][{}",\s]++|"[^"]*+"|\[\s*+\]|\{\s*+\})?+\s*+,)++')
_STRING = re.compile(_TEXT)


class Part(NamedTuple):
    """An element of an array, or the value of a member: `data[start:end]`, without space around it. Not `whole` if the
    data ends before it does. A `number` of more than 1 stands for a run of elements that nobody looks into: words,
    strings and empty objects, which are no events, or those behind as many as were asked for."""

    start: int
    end: int
    whole: bool = True
    number: int = 1


class Member(NamedTuple):
    """A member of an object; `key` is what stands between its quotes."""

    key: Part
    value: Part


def outline(data: bytes) -> bytes:
    """The data with its escaped quotes and backslashes blanked out; of the same length."""
    if b"\\" not in data:
        return data
    pieces, at = list[bytes](), 0
    while at < len(data):
        piece = data[at : at + _WINDOW]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = data[at : at + len(piece) + 1]  # an escape is not cut in two
        pieces.append(piece.replace(b"\\\\", b"__").replace(b'\\"', b"__"))
        at += len(piece)
    return b"".join(pieces)


def elements(text: bytes, start: int, most: int = sys.maxsize) -> Iterator[Part]:
    """The elements of the array that opens at `start` of an outline; behind the first `most` parts come runs of them.
    The last one is not `whole` if the array has no end."""
    at = start + 1
    for number in count():
        several, content = (_FLAT, _STRING) if number < most else (_RUNS, _CONTENT)
        while found := several.match(text, at, at + _WINDOW):
            yield _several(text, at, found.end() - 1, content)
            at = found.end()
        end = _separator(text, at)
        part = _stripped(text, at, end)
        closes = end < len(text) and text[end] != ord(",")
        if part.start < part.end or not closes:
            yield part
        if closes or not part.whole:
            return
        at = end + 1


def members(text: bytes, start: int) -> Iterator[Member]:
    """The members of the object that opens at `start` of an outline, up to what is none. The last one is not `whole` if
    the object has no end."""
    at = start + 1
    while key := _KEY.match(text, at):
        end = _separator(text, key.end())
        yield Member(Part(*key.span(1)), _stripped(text, key.end(), end))
        if end == len(text) or text[end] != ord(","):
            return
        at = end + 1


def outlined_end(text: bytes, start: int) -> int | None:
    """Where the object or array ends that opens at `start` of an outline: behind its bracket. None if the text ends
    first. Counts brackets outside of strings."""
    level = inside = 0
    at, step = start, _FIRST_STEP
    while at < len(text):
        chunk = text[at : at + step]
        step = min(2 * step, _STEP)
        parts = chunk.split(b'"')
        outside = b"".join(parts[inside::2])
        opened, closed = (sum(map(outside.count, pair)) for pair in ((b"[", b"{"), (b"]", b"}")))
        if at == start or closed >= level:
            end = _end_within(parts, inside, level)
            if end is not None:
                return at + end
        level += opened - closed
        inside ^= (len(parts) - 1) & 1
        at += len(chunk)
    return None


def is_deeper(text: bytes, levels: int) -> bool:
    """Whether an outline has more levels of brackets than that at its deepest place."""
    return sum(map(text.count, (b"[", b"{"))) > levels and depth(text) > levels


def depth(text: bytes) -> int:
    """How many levels of brackets an outline has at its deepest place."""
    most = level = inside = 0
    for at in range(0, len(text), _STEP):
        parts = text[at : at + _STEP].split(b'"')
        brackets = b"".join(parts[inside::2]).translate(None, _NO_BRACKETS)
        levels = list(accumulate(map(_step_of, brackets), initial=level))
        most, level = max(most, *levels), levels[-1]
        inside ^= (len(parts) - 1) & 1
    return most


def first(text: bytes) -> int:
    """Where an outline's first byte is that is not space."""
    found = _SPACE.match(text)
    return found.end() if found else 0


def _several(text: bytes, start: int, end: int, content: re.Pattern[bytes]) -> Part:
    """A run of elements up to its last comma; `content` is what may hold commas within them."""
    part = _stripped(text, start, end)
    return part._replace(number=1 + content.sub(b"", text[start:end]).count(b","))


def _stripped(text: bytes, start: int, end: int) -> Part:
    whole = end < len(text)
    piece = text[start:end]
    left = start + len(piece) - len(piece.lstrip())
    return Part(left, max(left, start + len(piece.rstrip())), whole)


def _separator(text: bytes, at: int) -> int:
    """The first comma or closing bracket of this level; the end of the text if there is none."""
    while at < len(text):
        found = _RUN.match(text, at, at + _WINDOW)
        at = found.end() if found else at
        byte = text[at : at + 1]
        if byte in (b",", b"]", b"}"):
            return at
        if byte == b'"':
            closing = text.find(b'"', at + 1)
            at = closing + 1 if closing >= 0 else len(text)
        elif byte in (b"[", b"{"):
            at = outlined_end(text, at) or len(text)
    return len(text)


def _end_within(parts: list[bytes], inside: int, level: int) -> int | None:
    """Behind the byte of a chunk at which the level becomes 0; `parts` are the chunk's, and those of them that are
    strings are blanked out."""
    blank = [part if number % 2 == inside else bytes(len(part)) for number, part in enumerate(parts)]
    levels = accumulate(map(_step_of, b"_".join(blank)), initial=level)
    next(levels)
    try:
        return list(levels).index(0) + 1
    except ValueError:
        return None
