"""What redaction takes, for people and for programs: events as a diff, and counts.

A value that is taken is not printed: a terminal, its scrollback and the log of a pipeline are no places for secrets.
Users choose the names and keys that are printed, so control characters are escaped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import click

from auditpipeline.cli.policy_io import shown as name_of
from auditpipeline.cli.policy_io import table
from auditpipeline.cli.redact_counts import Counts, Named
from auditpipeline.core.redaction.diff import GONE, Change, Gone, Part, is_stand_in, parts
from auditpipeline.core.redaction.rewrite import Taken

_MANY = 100
"""Values of an event that are printed one by one."""
_ROWS = 50
_LONGEST = 300
_VALUES = ("before", "after")


class Log(NamedTuple):
    """A log that was gone through; `outcome` is what became of the file, if anything could."""

    counts: Counts
    outcome: str = ""


class Printer(Protocol):
    """Prints what is found, event by event, and the counts of all logs."""

    def event(self, log: str, event: Named, taken: Taken, found: list[Change]) -> None:
        """An event that loses something."""

    def end(self, logs: list[Log]) -> None:
        """Behind the last log."""


class Text:
    """For people."""

    def __init__(self, *, values: bool, events: bool) -> None:
        self._values = values
        self._events = events

    def event(self, log: str, event: Named, taken: Taken, found: list[Change]) -> None:
        """One entry of a diff."""
        if not self._events:
            return
        request = " ".join(word for word in (event.verb, event.path) if word)
        facts = ", ".join(
            _safe(word) for word in (request, event.stage, event.audit_id and f"auditID {event.audit_id}")
        )
        click.secho(f"@@ {_safe(log)}:{taken.line}: {facts.strip(', ')} @@", fg="cyan")
        for change in found[:_MANY]:
            click.echo(f"  {_safe(change.path)}")
            for old, new in self._lines(change):
                click.secho(f"-   {old}", fg="red")
                click.secho(f"+   {new}", fg="green")
        if len(found) > _MANY:
            click.echo(f"  and {len(found) - _MANY} more values")
        if not found:
            click.echo("  (values under keys that stand twice, or other text that comes to the same)")

    def end(self, logs: list[Log]) -> None:
        """The counts of each log."""
        for log in logs:
            click.echo("\n".join(_summary(log)))

    def _lines(self, change: Change) -> Iterator[tuple[str, str]]:
        """What goes, and what stands there instead, of a value or of each part of it."""
        before, after = change.before, change.after
        if not (isinstance(before, str) and isinstance(after, str)):
            yield self._told(before), self._told(after)
            return
        found = parts(before, after)
        for part in found[:_MANY]:
            whole = len(found) == 1 and part == Part(before, after)
            of = "" if whole else f" of {len(before):,}"
            yield self._text(part.before, of), self._text(part.after)

    def _told(self, value: Any) -> str:
        if isinstance(value, Gone):
            return f"({value.value})"
        if isinstance(value, str):
            return self._text(value)
        if value == 0 and not isinstance(value, bool):
            return "0"
        return _short(value) if self._values else f"******** ({_kind(value)})"

    def _text(self, value: str, of: str = "") -> str:
        if is_stand_in(value):
            return json.dumps(value)
        return _short(value) if self._values else f'"********" ({len(value):,}{of} {_characters(len(value))})'


class Json:
    """For programs: one document, `{"events": [...], "files": [...]}`, of which one event is in memory at a time."""

    def __init__(self, *, values: bool, events: bool) -> None:
        self._values = values
        self._events = events
        self._before = '{\n  "events": ['

    def event(self, log: str, event: Named, taken: Taken, found: list[Change]) -> None:
        """One element of `events`."""
        if self._events:
            fields = {
                "file": log,
                "line": taken.line,
                "auditID": event.audit_id,
                "stage": event.stage,
                "verb": event.verb,
                "path": event.path,
                "resource": event.resource,
                "values": taken.values,
                "changes": [self._fields(change) for change in found],
            }
            sys.stdout.write(f"{self._before}\n    {_dumped(fields)}")
            self._before = ","

    def end(self, logs: list[Log]) -> None:
        """`files`, and the end of the document."""
        begun = f"{self._before}]" if self._before != "," else "\n  ]"
        files = ",".join(f"\n    {json.dumps(_file(log))}" for log in logs)
        sys.stdout.write(f'{begun},\n  "files": [{files}\n  ]\n}}\n')
        sys.stdout.flush()

    def _fields(self, change: Change) -> dict[str, Any]:
        before, after = change.before, change.after
        fields: dict[str, Any] = {"path": change.path, "was": _kind(before), "removed": after is GONE}
        if isinstance(before, str):
            fields["was"], fields["characters"] = "a string", len(before)
        if isinstance(before, str) and isinstance(after, str):
            fields["parts"] = [
                {"characters": len(was), "becomes": self._known(now)} for was, now in parts(before, after)
            ]
        if self._values:
            fields |= {"before": _plain(before), "after": _plain(after)}
        return fields

    def _known(self, text: str) -> str | None:
        return text if self._values or is_stand_in(text) else None


def _summary(log: Log) -> Iterator[str]:
    counts = log.counts
    name = _safe(name_of(counts.log))
    found = f"{_count(counts.events, 'event')} read, {counts.changed:,} changed, {_count(counts.values, 'value')} taken"
    yield f"{name}: {found}{log.outcome and f'; {log.outcome}'}"
    if rows := counts.rows():
        cells = [(_safe(row.resource) or "-", _safe(row.place), f"{row.values:,}", f"{row.events:,}") for row in rows]
        yield ""
        yield table(("RESOURCE", "PLACE", "VALUES", "EVENTS"), cells[:_ROWS], right=(2, 3))
        if len(cells) > _ROWS:
            yield f"and {len(cells) - _ROWS} more places: --output json has them all"
        yield ""


def _file(log: Log) -> dict[str, Any]:
    counts = log.counts
    return {
        "file": name_of(counts.log),
        "outcome": log.outcome,
        "events": counts.events,
        "changed": counts.changed,
        "values": counts.values,
        "unread": counts.unread,
        "firstUnread": [each._asdict() for each in counts.first_unread],
        "places": [row._asdict() for row in counts.rows()],
    }


def unread_lines(counts: Counts) -> Iterator[str]:
    """The lines that could not be read, for standard error."""
    name = name_of(counts.log)
    for each in counts.first_unread:
        yield f"{name}:{each.line}: {_safe(each.reason)}"
    if counts.unread:
        what = "1 line or a part of it is not an audit event" if counts.unread == 1 else _many(counts.unread)
        yield f"{name}: {what}: what is not one stays as it is, and may hold secrets"


def _many(unread: int) -> str:
    return f"{unread:,} lines or parts of lines are not audit events"


def _kind(value: Any) -> str:
    match value:
        case str():
            return f"a string of {len(value):,} {_characters(len(value))}"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case dict():
            return f"an object with {_count(len(value), 'field')}"
        case list():
            return f"a list of {_count(len(value), 'item')}"
        case _:
            return value.value if isinstance(value, Gone) else "null"


def _dumped(fields: dict[str, Any]) -> str:
    """The fields as JSON; without values that are too deep for that."""
    try:
        return json.dumps(fields)
    except RecursionError:
        flat = [{key: each for key, each in change.items() if key not in _VALUES} for change in fields["changes"]]
        return json.dumps({**fields, "changes": flat})


def _plain(value: Any) -> Any:
    return None if isinstance(value, Gone) else value


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return f"({_kind(value)}, too deep to be printed)"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def _safe(text: str) -> str:
    """The text for a terminal: nothing that moves its cursor or turns its direction, and not too much of it."""
    escaped = "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text[:_LONGEST])
    return escaped if len(text) <= _LONGEST else f"{escaped}..."


def _characters(number: int) -> str:
    return "character" if number == 1 else "characters"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
