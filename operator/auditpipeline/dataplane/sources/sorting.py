"""What becomes of the lines of an audit log.

    lines --joined (core.framing)--> texts --> events     together as an EventList, as if a webhook had been sent them
                                          --> lists      each as it is
                                          --> dead       torn events, and what is not an event between events
                                          --> foreign    kube-apiserver's own log, and what is no audit log: counted

Each line is read by itself: lines that are broken must not spoil, or complete, each other. Of a line that is not one
event the intact events in it are taken (core.intact). Bytes of zero, which a writer leaves that does not append after
its file was cut off, are passed over.

If lines are short on average, those in a row that are too short for an event are kept as one: junk costs what it is
long, however many lines it has.

A line of unknown text is buried only if it may belong to an audit log: once an event was seen, or if it may be a part
of one. What follows a line of klog without being an event goes on with that line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import Raw, decode_event, delivery_key
from auditpipeline.core.eventlist import encode_body
from auditpipeline.core.framing import Foreign, Joiner, Text, foreign_object, foreign_text, may_be_torn
from auditpipeline.core.intact import BLANK, SMALLEST, Found, decode_strictly, find, is_joined
from auditpipeline.core.mend import UNPARSED
from auditpipeline.dataplane.store import NO_OUTPUT, Dead

_LIST_KIND = b'"EventList"'
_LETTERS = 100
_SHORT = 64
"""Bytes of a line; junk is looked for if the lines are shorter than that on average."""
# Shorter than the header of any line of klog or CRI; of docker's lines the first bytes tell.
_JUNK = re.compile(rb'^(?:(?!\{"log")[^\n]{0,20}+\n){2,}+', re.MULTILINE)
_FILLED = re.compile(rb"^[\0\r\t ]*+[^\n]", re.MULTILINE)
_TORN = re.compile(rb'^[\0\r\t ]*+\{|\}[\0\r\t ]*+$|"auditID"|audit\.k8s\.io/|"stageTimestamp"', re.MULTILINE)


class _Identity(msgspec.Struct):
    audit_id: str = msgspec.field(name="auditID")
    kind: str = ""


_IDENTITIES = msgspec.json.Decoder(_Identity)


class Sorted(NamedTuple):
    """Bodies that `take_events` takes, what is buried, how many lines there were and how many events they hold, and how
    many lines are foreign, by what they are."""

    bodies: list[bytes]
    dead: list[Dead]
    lines: int
    events: int
    foreign: Counter[Foreign]


class _Found:
    """What was found so far. What is `strange`, not an event at all, waits for whether there is one."""

    def __init__(self) -> None:
        self.events = list[bytes]()
        self.lists = list[bytes]()
        self.listed = 0
        self.letters = list[tuple[Dead, bool]]()
        self.foreign = Counter[Foreign]()
        self.lines = 0

    def bury(self, data: bytes, reason: str, strange: bool = False, lines: int = 1) -> None:
        """Makes a dead letter of it; if it is strange, only beside an event."""
        self.letters.append((letter(data, reason)._replace(events=lines), strange))

    def sorted(self, seen: bool) -> Sorted:
        """All of it; `seen` says whether there was an event, now or before."""
        dead = [each for each, strange in self.letters if seen or not strange]
        if not seen and (others := sum(each.events for each, strange in self.letters if strange)):
            self.foreign["other"] += others
        bodies = [encode_body(self.events)] if self.events else []
        return Sorted(bodies + self.lists, _bounded(dead), self.lines, len(self.events) + self.listed, self.foreign)


class Sorter:
    """Sorts the lines of one log, in their order; `most` is how many bytes a line may have that is joined. `seen` says
    whether there was an event."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._aside = False
        self.seen = False

    def sort(self, data: bytes) -> Sorted:
        """What becomes of lines; of the last one also if it never got its end."""
        found, joiner = _Found(), Joiner(self._most)
        for text, is_junk in _parted(data):
            if is_junk:
                self._take_junk(text, found)
            else:
                self._take_lines(text, joiner, found)
        self._take(joiner.rest(), found)
        return found.sorted(self.seen)

    def _take_lines(self, data: bytes, joiner: Joiner, found: _Found) -> None:
        *whole, last = data.split(b"\n")
        for line in whole:
            if _is_plain_event(line):
                self.seen, self._aside = True, False
                found.lines += 1
                found.events.append(line)
            else:
                self._take(joiner.add(line), found)
        if last:
            self._take(joiner.add(last, ended=False), found)

    def _take_junk(self, data: bytes, found: _Found) -> None:
        lines, torn = len(_FILLED.findall(data)), _TORN.search(data) is not None
        found.lines += lines
        if self._aside and not torn:
            found.foreign["component"] += lines
        elif lines:
            found.bury(data, "these lines are too short to be audit events", strange=not torn, lines=lines)

    def _take(self, texts: Iterable[Text], found: _Found) -> None:
        for text in texts:
            if data := text.data.strip(BLANK):
                found.lines += 1
                kind = "component" if text.stderr else self._place(data, text, found)
                self._aside = self._aside or (kind == "component" and not text.stderr)
                if kind:
                    found.foreign[kind] += 1

    def _place(self, data: bytes, text: Text, found: _Found) -> Foreign | None:
        """Puts a text where it belongs; what it is, if it is foreign."""
        if not data.startswith(b"{") and (kind := foreign_text(data)):
            return kind
        try:
            decode = decode_strictly if len(data) < SMALLEST or is_joined(data) else decode_event
            event = decode(data)
        except Permanent as error:
            return self._place_broken(data, text, str(error), found)
        kind = None
        if bytes(event.get("kind", b"")).strip() == _LIST_KIND:
            found.lists.append(data)
            found.listed += _number(event)
        elif (kind := foreign_object(event)) is None:
            found.events.append(data)
        elif kind == "other":
            found.bury(data, "the line is not an audit event", strange=True)
            return None
        if kind is None:
            self.seen, self._aside = True, False
        return kind

    def _place_broken(self, data: bytes, text: Text, reason: str, found: _Found) -> Foreign | None:
        # What goes on with a message may repeat a user's words: it is kept, and no event is looked for in it.
        repeats = self._aside and not data.startswith(b"{")
        intact = Found([], [data]) if repeats else find(text.data, text.ended)
        if intact.events:
            self.seen, self._aside = True, False
            found.events += intact.events
            for rest in intact.rests:
                found.bury(rest, "the line is torn: this is not a whole event")
            return None
        torn = may_be_torn(data)
        if self._aside and not torn:
            return "component"
        found.bury(data, reason, strange=not torn)
        return None


def _parted(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """The lines in parts, each with whether it is junk."""
    at, lines = 0, data.count(b"\n")
    if lines > _LETTERS and lines * _SHORT > len(data):
        for found in _JUNK.finditer(data):
            yield data[at : found.start()], False
            yield found[0], True
            at = found.end()
    yield data[at:], False


def _is_plain_event(line: bytes) -> bool:
    """Whether a line is an event as kube-apiserver writes it, which nearly all are: nothing is to be looked for."""
    if not (line.startswith(b"{") and line.endswith(b"}")):
        return False
    try:
        return _IDENTITIES.decode(line).kind in ("Event", "")
    except UNPARSED:
        return False


def letter(data: bytes, reason: str) -> Dead:
    """What cannot be read, as a dead letter."""
    return Dead(NO_OUTPUT, reason, data, delivery_key(data))


def _bounded(dead: list[Dead]) -> list[Dead]:
    """At most `_LETTERS`: those that are too many become one that stands for all of them."""
    if len(dead) <= _LETTERS:
        return dead
    rest = dead[_LETTERS - 1 :]
    data = b"\n".join(each.data for each in rest)
    return [
        *dead[: _LETTERS - 1],
        Dead(NO_OUTPUT, "many lines are not audit events", data, events=sum(each.events for each in rest)),
    ]


def _number(event: Raw) -> int:
    """How many events an EventList has."""
    try:
        return len(msgspec.json.decode(event.get("items", b"[]"), type=list[msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 1
