"""The result of one pass over a log: counts by resource and place, and the lines that could not be read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from auditpipeline.cli.policy_io import shown as name_of
from auditpipeline.core.errors import Invalid
from auditpipeline.core.redaction.diff import Change, changes
from auditpipeline.core.redaction.rewrite import Applies, Rewriter, Taken, Unread

_PLACES = 1000
_MORE = ("", "(more places)")
_LINES = 5
_LONGEST = 500


class _Reference(msgspec.Struct, rename="camel"):
    resource: str = ""
    subresource: str = ""
    api_group: str = ""


class Named(msgspec.Struct, rename="camel"):
    """What an event is called by."""

    audit_id: str = msgspec.field(default="", name="auditID")
    stage: str = ""
    verb: str = ""
    request_uri: str = msgspec.field(default="", name="requestURI")
    object_ref: _Reference | None = None

    @property
    def path(self) -> str:
        """The path of the URI, without its arguments."""
        return self.request_uri.partition("?")[0]

    @property
    def resource(self) -> str:
        """As in `deployments.apps/scale`; empty if the request is not for a resource."""
        if self.object_ref is None:
            return ""
        name, group, sub = self.object_ref.resource, self.object_ref.api_group, self.object_ref.subresource
        return name + (f".{group}" if group else "") + (f"/{sub}" if sub else "")


class Row(NamedTuple):
    """A place, and how often something was taken there."""

    resource: str
    place: str
    values: int
    events: int


_BINARY = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")
_HEAD = 1024


def _not_a_log(head: bytes) -> str:
    """What begins like this, if it is surely not a log; empty otherwise. Zeros may be a hole."""
    if head.startswith(b"SQLite format 3\0"):
        return "it is a spool or another database (see `auditpipeline spool`)"
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    return "it begins with binary data" if _BINARY.search(head[:_HEAD]) else ""


_named = msgspec.json.Decoder(Named).decode


def named(event: bytes) -> Named:
    """What the event is called by; as far as it says so."""
    try:
        return _named(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Named()


class Counts:
    """One pass over one log, which is rewritten by the way."""

    def __init__(self, log: Path, redactor: Applies) -> None:
        self.log = log
        self.changed = self.values = self.unread = 0
        self.first_unread = list[Unread]()
        self._values, self._events = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        self._rewriter = Rewriter(redactor, self._take, self._pass_over)

    @property
    def events(self) -> int:
        """How many events were read."""
        return self._rewriter.events

    def rewritten(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The log without its secrets; Invalid if it is an archive or a database, which a changed line would break."""
        return self._rewriter.rewritten(self._checked(iter(blocks)))

    def _checked(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        first = next(blocks, b"")
        if kind := _not_a_log(first):
            raise Invalid(name_of(self.log), f"{kind}, and not a log")
        yield first
        yield from blocks

    def rows(self) -> list[Row]:
        """The places, those with the most values first."""
        found = (Row(*key, values, self._events[key]) for key, values in self._values.items())
        return sorted(found, key=lambda row: (-row.values, row))

    def shown(self, event: Named, taken: Taken, found: list[Change]) -> None:
        """Called for each event that loses something; `found` is what it loses, by path."""

    def _take(self, taken: Taken) -> None:
        event = named(taken.after)
        found = list(changes(taken.before, taken.after))
        self.changed += 1
        self.values += taken.values
        places = Counter(self._key(event.resource, change.place) for change in found)
        self._values.update(places)
        self._events.update(places.keys())
        self.shown(event, taken, found)

    def _key(self, resource: str, place: str) -> tuple[str, str]:
        key = (resource[:_LONGEST], place[:_LONGEST])
        return key if key in self._values or len(self._values) < _PLACES else _MORE

    def _pass_over(self, unread: Unread) -> None:
        self.unread += 1
        again = bool(self.first_unread) and self.first_unread[-1].line == unread.line
        if len(self.first_unread) < _LINES and not again:
            self.first_unread.append(unread)
