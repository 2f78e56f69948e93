"""An audit log, with what redaction takes from its events, and else byte for byte what it was.

    line of an event                       replaced, if it loses something
    line of an EventList                   its items are replaced, each in its place
    lines of a container runtime           the pieces are joined; their headers stay
    torn line with intact events in it     these are replaced, in their places
    one body over several lines            likewise, and so is an export of CloudWatch Logs
    anything else                          stays, and is reported: it may hold secrets

Memory is bounded by the longest line (`MOST`): what is longer passes through in parts, and is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple, Protocol

import msgspec

from auditpipeline.core import split
from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import ENVELOPE, Raw, as_item, decode_event, encode_line
from auditpipeline.core.framing import foreign_object, foreign_text, frame_of, reframed
from auditpipeline.core.intact import BLANK, SMALLEST, is_joined, spans
from auditpipeline.core.mend import UNPARSED
from auditpipeline.core.redaction.diff import lost
from auditpipeline.core.redaction.redactor import Redacted
from auditpipeline.core.redaction.same import says_the_same
from auditpipeline.core.split import Part

MOST = 64 * 2**20
"""Bytes of a line, of the lines of a runtime that make one, and of a body over several lines."""
_LIST = b'"EventList"'
_BRACE = 1024
"""Bytes of a line that holds a brace alone."""
_ZEROS = re.compile(rb"\0+")
_TOO_LONG = f"a line of more than {MOST // 2**20} MiB"
_REASONS = {
    "component": "a line of kube-apiserver's own log",
    "legacy": "the legacy format of audit logs, which --audit-log-format=json replaces",
    "other": "a JSON object that is not an audit event",
}


class Applies(Protocol):
    """What `redactor.Redactor` does."""

    def line(self, line: bytes) -> Redacted:
        """The event without its secrets; Permanent if it cannot be read."""


class Taken(NamedTuple):
    """An event that loses something, as it was and as it becomes; `line` is the number of its line, from 1."""

    line: int
    before: bytes
    after: bytes
    values: int


class Unread(NamedTuple):
    """What stays because it is not an event that can be read."""

    line: int
    reason: str


class _Piece(NamedTuple):
    """A line with its line end, or a part of one that is too long; what is not to be read has a reason, or is blank."""

    data: bytes
    number: int
    read: bool = True
    reason: str = ""


class Rewriter:
    """Applies a redactor to one log; calls `taken` and `unread` for what it finds, in the order of the log. `events` is
    how many events it has read."""

    def __init__(self, redactor: Applies, taken: Callable[[Taken], None], unread: Callable[[Unread], None]) -> None:
        self._redactor = redactor
        self._taken = taken
        self._unread = unread
        self._frames = _Frames(self._text, unread)
        self.events = 0

    def rewritten(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The log that is read in these blocks without its secrets, in parts."""
        source = iter(blocks)
        begun = _gathered(source, lambda text: b"\n" in text or len(text) > _BRACE)
        if begun.partition(b"\n")[0].strip() == b"{":
            begun += _gathered(source, lambda text: len(begun) + len(text) > MOST)
            if len(begun) <= MOST and (new := self._document(begun)):
                yield new
                return
        yield from self._lines(_pieces(chain((begun,), source)))

    def _lines(self, pieces: Iterator[_Piece]) -> Iterator[bytes]:
        for piece in pieces:
            if piece.read:
                yield from self._frames.add(piece.data, piece.number)
                continue
            if piece.reason:
                self._unread(Unread(piece.number, piece.reason))
            yield from self._frames.rest()
            yield piece.data
        yield from self._frames.rest()

    def _document(self, whole: bytes) -> bytes:
        """One body over several lines without its secrets; empty if it is not one."""
        try:
            compact = msgspec.json.format(whole, indent=-1)
        except UNPARSED:
            return b""
        return self._exported(whole) or self._body_of(whole, compact)

    def _body_of(self, whole: bytes, compact: bytes) -> bytes:
        items = _items(whole)
        if items:
            return self._list(whole, items, 1)
        new = self._text(compact, ended=True, stderr=False, number=1)
        return whole if new == compact else new + b"\n"

    def _exported(self, whole: bytes) -> bytes:
        """An export of CloudWatch Logs, as `aws logs get-log-events` prints it; empty if it is not one."""
        try:
            export = msgspec.json.decode(whole, type=Raw)
            records = msgspec.json.decode(export.get("events", b"0"), type=list[Raw])
            messages = [msgspec.json.decode(record.get("message", b"0"), type=str).encode() for record in records]
        except UNPARSED:
            return b""
        found = [self._text(text, ended=True, stderr=False, number=at) for at, text in enumerate(messages, 1)]
        if found == messages:
            return whole
        events = [{**record, "message": text.decode()} for record, text in zip(records, found, strict=True)]
        return msgspec.json.format(msgspec.json.encode({**export, "events": events}), indent=2) + b"\n"

    def _text(self, text: bytes, ended: bool, stderr: bool, number: int) -> bytes:
        """A line, as kube-apiserver wrote it and without its line feed, without its secrets."""
        data = text.strip(BLANK)
        kind = "component" if stderr else foreign_text(data)
        if not data or kind:
            if data:
                self._unread(Unread(number, _REASONS[kind or "other"]))
            return text
        try:
            new = self._object(data, number)
        except Permanent as error:
            return self._torn(text, ended, number, str(error))
        return text if new is data else text.replace(data, new, 1)

    def _object(self, data: bytes, number: int) -> bytes:
        """An Event or an EventList without its secrets; Permanent if it is neither."""
        if is_joined(data):
            raise Permanent("the line is torn")
        try:
            event = decode_event(data)
        except Permanent:
            if _LIST in data and (items := _items(data)):
                return self._list(data, items, number)
            raise
        if bytes(event.get("kind", b"")).strip() == _LIST and (items := _items(data)):
            return self._list(data, items, number)
        if kind := foreign_object(event):
            self._unread(Unread(number, _REASONS[kind]))
            return data
        return self._event(data, number)

    def _event(self, data: bytes, number: int) -> bytes:
        """An event without its secrets, and without bodies that no parser takes: they may hold some."""
        after, values = self._redactor.line(data)
        self.events += 1
        if after == data or (not values and says_the_same(data, after)):
            if not (gone := lost(data, event := decode_event(data))):
                return data
            after, values = encode_line(event), len(gone)
        self._taken(Taken(number, data, after, values))
        return after

    def _torn(self, text: bytes, ended: bool, number: int, reason: str) -> bytes:
        """A line that is not one event, without the secrets of intact events in it."""
        if len(text) < SMALLEST:
            self._unread(Unread(number, reason))
            return text
        found, at = list[bytes](), 0
        for span in spans(text, ended):
            part = text[span.start : span.end]
            new = part
            if not span.intact:
                self._unread(Unread(number, reason))
            else:
                new = self._or_unread(part, number)
            if new is not part:
                found += [text[at : span.start], new]
                at = span.end
        return b"".join([*found, text[at:]])

    def _list(self, data: bytes, items: Part, number: int) -> bytes:
        """An EventList without the secrets of its events; `items` is where its items are."""
        found, at = list[bytes](), 0
        for part in split.elements(split.outline(data), items.start):
            item = data[part.start : part.end]
            if part.number > 1 or not item.startswith(b"{"):
                self._unread(Unread(number, "an item of an EventList that is not an event"))
                continue
            new = self._or_unread(item, number)
            if new is not item:
                found += [data[at : part.start], new if item.startswith(ENVELOPE) else as_item(new)]
                at = part.end
        return b"".join([*found, data[at:]])

    def _or_unread(self, data: bytes, number: int) -> bytes:
        """One event among others without its secrets; as it is if it cannot be read."""
        try:
            flat = _flat(data)
            new = self._event(flat, number)
        except Permanent as error:
            self._unread(Unread(number, str(error)))
            return data
        return data if new is flat else new


def _flat(data: bytes) -> bytes:
    """The JSON on one line."""
    if b"\n" not in data and b"\r" not in data:
        return data
    try:
        return msgspec.json.format(data, indent=-1)
    except UNPARSED as error:
        raise Permanent(f"the event cannot be read: {str(error)[:200]}") from None


def _items(data: bytes) -> Part | None:
    """Where the items of an EventList are; None if the data is not one."""
    text, items, kind = split.outline(data), None, b""
    start = split.first(text)
    if text[start : start + 1] != b"{":
        return None
    for key, value in split.members(text, start):
        name = data[key.start : key.end]
        if name == b"kind":
            kind = data[value.start : value.end]
        elif name == b"items" and data[value.start : value.start + 1] == b"[":
            items = value
    return items if kind == _LIST else None


class _Frames:
    """Lines of container runtimes, held until what they hold is whole; other lines go through."""

    def __init__(self, text: Callable[[bytes, bool, bool, int], bytes], unread: Callable[[Unread], None]) -> None:
        self._text = text
        self._unread = unread
        self._held = list[bytes]()
        self._open = dict[str, list[int]]()
        self._numbers = dict[str, int]()
        self._size = 0

    def add(self, line: bytes, number: int) -> list[bytes]:
        """The lines that are done with this one, in their order; each has its line end, if it had one."""
        ended = line.endswith(b"\n")
        content = line[:-1] if ended else line
        frame = frame_of(content)
        self._held.append(line)
        if frame is None:
            self._held[-1] = self._text(content, ended, False, number) + line[len(content) :]
        else:
            self._open.setdefault(frame.stream, []).append(len(self._held) - 1)
            self._numbers.setdefault(frame.stream, number)
            if not (frame.partial and ended):
                self._finish(frame.stream, ended)
        self._size += len(line)
        if self._open and self._size > MOST:
            return self.rest()
        return [] if self._open else self._released()

    def rest(self) -> list[bytes]:
        """The lines that are held; those that were not joined to their end stay as they are."""
        for stream in self._open:
            self._unread(Unread(self._numbers[stream], "a line of a container runtime without its end"))
        self._open.clear()
        self._numbers.clear()
        return self._released()

    def _released(self) -> list[bytes]:
        found, self._held, self._size = self._held, [], 0
        return found

    def _finish(self, stream: str, ended: bool) -> None:
        """Puts what became of a whole line in the place of its pieces."""
        places, number = self._open.pop(stream), self._numbers.pop(stream)
        lines = [self._held[place].removesuffix(b"\n") for place in places]
        frames = [frame for line in lines if (frame := frame_of(line))]
        text = b"".join(frame.data for frame in frames)
        new = self._text(text, ended, stream == "stderr", number)
        if new == text:
            return
        for place, line in zip(places, reframed(lines, new), strict=True):
            self._held[place] = line + (b"\n" if self._held[place].endswith(b"\n") else b"")


def _gathered(blocks: Iterator[bytes], enough: Callable[[bytearray], bool]) -> bytes:
    """The next blocks, until it is enough, or the end."""
    found = bytearray()
    for block in blocks:
        found += block
        if enough(found):
            break
    return bytes(found)


def _pieces(blocks: Iterable[bytes]) -> Iterator[_Piece]:
    """The lines of a log. Zeros before a line come by themselves: a log that is cut off under its writer has a hole."""
    held, size, number, long = list[bytes](), 0, 1, False
    for block in blocks:
        at = 0
        while at < len(block):
            if not size and not long and (zeros := _ZEROS.match(block, at)):
                yield _Piece(zeros[0], number, read=False)
                at = zeros.end()
                continue
            end = block.find(b"\n", at) + 1
            held.append(block[at : end or len(block)])
            size += len(held[-1])
            if end or size > MOST:
                whole = b"".join(held)
                too_long = long or size > MOST
                yield _Piece(whole, number, not too_long, "" if long or not too_long else _TOO_LONG)
                held, size, long = [], 0, not end
                number += bool(end)
            at = end or len(block)
    if size:
        yield _Piece(b"".join(held), number, not long)
