"""`auditpipeline spool`: what a spool holds, for the person on call."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditpipeline.cli.policy_io import human, table

if TYPE_CHECKING:
    from auditpipeline.dataplane.inspect import Letter, Summary

SPOOL = click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
_OUTPUT = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="For people, or programs."
)
_WIDE = 72


@click.group()
def spool() -> None:
    """Look into a spool (PATH is spool.sqlite), and put dead letters back.

    ls, show and dead read a spool that a running process uses, and never change it.
    """


@spool.command()
@SPOOL
@_OUTPUT
def ls(path: Path, output: str) -> None:
    """Tell what is stored, how far each output is, and the dead letters by reason.

    \b
    Examples:
      auditpipeline spool ls /var/lib/auditpipeline/spool.sqlite
      kubectl exec audit-siem-0 -- auditpipeline spool ls /var/lib/auditpipeline/spool.sqlite
    """
    from auditpipeline.dataplane.inspect import in_use, summary

    found, used = summary(path), in_use(path)
    if output == "json":
        click.echo(json.dumps({**_fields(found), "inUse": used}, indent=2))
    else:
        click.echo("\n".join(_text(path, found, used, time.time())))


@spool.command()
@SPOOL
@click.option("--from", "start", type=click.IntRange(0), metavar="N", help="First number; default: the oldest stored.")
@click.option("--to", "end", type=click.IntRange(0), metavar="N", help="Last number.")
@click.option("--of", "of", metavar="OUTPUT", help="What that output has not got yet.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many events.")
def show(path: Path, start: int | None, end: int | None, of: str | None, limit: int) -> None:
    """Print stored events, a line of JSON each, as the spool has them: before an output's own policy cuts them.

    \b
    Examples:
      auditpipeline spool show spool.sqlite --of siem | jq .verb
      auditpipeline spool show spool.sqlite --from 405 --to 420
    """
    from auditpipeline.dataplane.inspect import events

    found = events(path, start or 0, None if end is None else end + 1, of)
    shown, last = 0, 0
    for event in islice(found, limit):
        if event.line is None:
            click.echo(f"auditpipeline: event {event.number} cannot be read any more", err=True)
        else:
            sys.stdout.buffer.write(event.line + b"\n")
        shown, last = shown + 1, event.number
    sys.stdout.buffer.flush()
    if shown == limit and next(found, None):
        click.echo(f"auditpipeline: there are more: --from {last + 1}, or a larger --limit", err=True)


@spool.command()
@SPOOL
@click.option("--of", metavar="OUTPUT", help="Of that output; '' for what could not be read.")
@click.option("--id", "ids", type=int, multiple=True, metavar="ID", help="That letter; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, the newest.")
@click.option("--raw", is_flag=True, help="Print what could not be delivered itself, byte for byte, a line end after.")
@_OUTPUT
def dead(path: Path, of: str | None, ids: tuple[int, ...], limit: int, raw: bool, output: str) -> None:
    """List the dead letters, the newest first: what an output refused, and what could not be read.

    \b
    Examples:
      auditpipeline spool dead spool.sqlite
      auditpipeline spool dead spool.sqlite --id 17 --raw | jq .
    """
    from auditpipeline.dataplane.inspect import Chosen, each_dead

    letters = each_dead(path, Chosen(ids, of), limit)
    if raw:
        for letter in letters:
            sys.stdout.buffer.write(letter.data + b"\n")
        sys.stdout.buffer.flush()
    elif output == "json":
        _write_list(letters)
    elif rows := [
        (letter.id, _when(letter.at), letter.output or "(none)", human(len(letter.data)), _short(letter.reason))
        for letter in letters
    ]:
        click.echo(table(("ID", "WHEN", "OUTPUT", "SIZE", "REASON"), rows, right=(0, 3)))
    else:
        click.echo("no dead letters")


@spool.command()
@SPOOL
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--of", metavar="OUTPUT", help="Those of that output; '' for what could not be read.")
@click.option("--id", "ids", type=int, multiple=True, metavar="ID", help="That letter; repeatable.")
def requeue(path: Path, everything: bool, of: str | None, ids: tuple[int, ...]) -> int:
    """Put dead letters back, to be delivered when the process starts: as new events, to their own output alone.

    Refuses while a process has the spool open. Exit code 1 where a letter stays.

    \b
    Examples:
      auditpipeline spool requeue spool.sqlite --of siem
      auditpipeline spool requeue spool.sqlite --id 17 --id 18
    """
    from auditpipeline.dataplane.inspect import Chosen
    from auditpipeline.dataplane.requeue import requeue as put_back

    if everything == bool(ids or of is not None):
        raise click.UsageError("say which: --all, --of OUTPUT, or --id ID")
    done = put_back(path, Chosen(ids, of))
    click.echo(f"put back: {_count(done.letters, 'dead letter')}, {_count(done.events, 'event')}")
    for number, reason in done.left.items():
        click.echo(f"auditpipeline: dead letter {number} stays: {reason}", err=True)
    return 1 if done.left else 0


def _text(path: Path, found: Summary, used: bool | None, now: float) -> Iterator[str]:
    state = {True: "in use", None: "", False: "closed" if found.clean else "not closed cleanly"}[used]
    yield f"{path}{f' ({state})' if state else ''}"
    yield (
        f"events {found.first} to {found.end - 1}: {found.events:,} stored, {human(found.size)}, "
        f"the oldest {_age(found.oldest, now)} old"
        if found.events
        else f"no events stored; the next one is {found.end}"
    )
    rows = [
        (each.name, each.next, f"{each.delivered:,}", f"{each.waiting:,}", _age(each.oldest, now), f"{each.lost:,}")
        for each in found.outputs
    ]
    yield ""
    yield table(("OUTPUT", "CURSOR", "DELIVERED", "WAITING", "LAG", "LOST"), rows, right=(1, 2, 3, 4, 5))
    yield ""
    if found.dead:
        letters = [
            (each.output or "(none)", f"{each.letters:,}", human(each.size), _short(each.reason)) for each in found.dead
        ]
        yield table(("DEAD LETTERS OF", "NUMBER", "SIZE", "REASON"), letters, right=(1, 2))
    else:
        yield "no dead letters"
    if found.dead_removed or found.requeued:
        yield f"dead letters put back: {found.requeued:,}; removed for want of room: {found.dead_removed:,}"


def _fields(found: Summary) -> dict[str, Any]:
    return {
        "first": found.first,
        "end": found.end,
        "events": found.events,
        "bytes": found.size,
        "oldest": found.oldest,
        "newest": found.newest,
        "clean": found.clean,
        "outputs": [each._asdict() for each in found.outputs],
        "deadLetters": [each._asdict() for each in found.dead],
        "lost": [{"output": output, "reason": reason, "events": events} for output, reason, events in found.lost],
        "deadLettersRemoved": found.dead_removed,
        "deadLettersRequeued": found.requeued,
    }


def _write_list(letters: Iterator[Letter]) -> None:
    """The letters as a list of JSON, one in memory at a time."""
    before = "["
    for letter in letters:
        text = json.dumps(_letter(letter), indent=2).replace("\n", "\n  ")
        sys.stdout.write(f"{before}\n  {text}")
        before = ","
    sys.stdout.write("[]\n" if before == "[" else "\n]\n")


def _letter(letter: Letter) -> dict[str, Any]:
    return {**letter._asdict(), "data": letter.data.decode(errors="backslashreplace")}


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _age(since: float | None, now: float) -> str:
    """How long ago, in the two largest units."""
    if since is None:
        return "-"
    seconds = max(0, round(now - since))
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for (unit, size), (below, part) in pairwise(units):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // part}{below}"
    return f"{seconds}s"


def _short(reason: str) -> str:
    text = " ".join(reason.split())
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 3]}..."


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
