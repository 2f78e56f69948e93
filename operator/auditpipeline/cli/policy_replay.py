"""`auditpipeline policy replay`: what a policy would have recorded of a log, and what a change of it does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from auditpipeline.cli.policy_io import FILE, human, lines_of, policy_name, policy_of, share, shown, table
from auditpipeline.core.errors import Permanent
from auditpipeline.core.eventlog import Broken, events
from auditpipeline.core.explain import summary
from auditpipeline.core.policy import Level
from auditpipeline.core.policyfile import Source
from auditpipeline.core.replay import Change, Conditions, Replay, Sum

_TOLD = 5
_WIDE = 72


@click.command()
@click.argument("file", type=FILE)
@click.argument("log", type=FILE, metavar="AUDIT.log")
@click.option("--against", type=FILE, metavar="OTHER", help="The policy of today: what would FILE add and remove?")
@click.option("--top", default=20, show_default=True, type=click.IntRange(1), help="Rows of the table of changes.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@policy_name
def replay(file: Path, log: Path, against: Path | None, top: int, output: str, name: str | None) -> None:
    """Count what a policy records of an audit log: by level and by rule, and against another policy.

    A line of AUDIT.log holds one Event or one EventList (the body that a webhook gets), and may be one that a container
    runtime wrote; gzip, xz and zstd are unpacked, - is standard input. Broken lines are counted and passed over. A log
    only holds what its own policy recorded.

    \b
    Examples:
      auditpipeline policy replay policy.yaml /var/log/kubernetes/audit.log
      auditpipeline policy replay new.yaml audit.log.gz --against policy.yaml
    """
    source = policy_of(file, name)
    other = policy_of(against) if against else None
    conditions = Conditions(source.conditions, source.deciding)
    if other:
        found = Replay(source.rules, other.rules, conditions, Conditions(other.conditions, other.deciding))
    else:
        found = Replay(source.rules, None, conditions)
    broken = _count(found, log)
    if output == "json":
        click.echo(json.dumps(_fields(found, broken, source, compared=other is not None), indent=2))
    else:
        click.echo("\n".join(_text(found, broken, source, shown(log))))
        if against:
            click.echo("\n".join(_changes(found, shown(against), top)))


def _count(found: Replay, log: Path) -> int:
    """Add every event of the log; the number of those that are none."""
    broken = 0

    def pass_over(line: Broken) -> None:
        nonlocal broken
        broken += 1
        if broken <= _TOLD:
            click.echo(f"auditpipeline: {shown(log)}:{line.line}:{line.column}: {line.message}", err=True)

    with lines_of(log, progress=True) as lines:
        for line in events(lines, pass_over):
            try:
                found.add(line.event, line.size)
            except Permanent as error:
                pass_over(Broken(line.number, 1, str(error)))
    if broken > _TOLD:
        click.echo(f"auditpipeline: {shown(log)}: and {broken - _TOLD} more broken lines", err=True)
    return broken


def _text(found: Replay, broken: int, source: Source, log: str) -> Iterator[str]:
    lines = "1 broken line" if broken == 1 else f"{broken} broken lines"
    passed = f"; {lines} passed over" if broken else ""
    yield f"{log}: {_sum(found.read)}{passed}"
    yield f"{source.file} records {_sum(found.recorded)}: {share(found.recorded.size, found.read.size) or '0 %'} of it"
    yield ""
    rows = [
        ("not recorded" if level == Level.NONE else level.title, *_numbers(total, found.read))
        for level, total in found.by_level.items()
    ]
    yield table(("LEVEL", "EVENTS", "", "BYTES", ""), rows, right=(1, 2, 3, 4))
    yield ""
    yield table(
        ("RULE", "LINE", "EVENTS", "", "BYTES", "", "WHAT"), list(_rules(found, source)), right=(0, 1, 2, 3, 4, 5)
    )
    if found.by_condition:
        yield ""
        asked = [
            (condition.name, condition.output or "-", f"{said.true:,}", f"{said.false:,}", f"{said.failed:,}")
            for condition, said in found.by_condition.items()
        ]
        yield table(("CONDITION", "OUTPUT", "TRUE", "FALSE", "FAILED"), asked, right=(2, 3, 4))
    if rules := _never_hit(found, source):
        yield ""
        yield f"never hit: {'rule' if len(rules) == 1 else 'rules'} {', '.join(map(str, rules))}"


def _rules(found: Replay, source: Source) -> Iterator[tuple[object, ...]]:
    for rule, total in found.by_rule.items():
        number, line, what = "-", "", "no rule matches: not recorded"
        if source.is_floor(rule):
            number, what = "floor", "changes to AuditPipelines and AuditSinks"
        elif rule is not None:
            number, line = str(source.number(rule)), str(source.line(rule))
            what = summary(source.rules.rules[rule])
        shortened = what if len(what) <= _WIDE else f"{what[: _WIDE - 3]}..."
        yield (number, line, *_numbers(total, found.read), shortened)


def _never_hit(found: Replay, source: Source) -> list[int]:
    numbers = (source.number(rule) for rule in found.never_hit())
    return [number for number in numbers if number is not None]


def _changes(found: Replay, against: str, top: int) -> Iterator[str]:
    yield ""
    yield f"against {against}: adds {_sum(found.added)}, removes {_sum(found.removed)}"
    ranked = sorted(found.changes.items(), key=lambda item: (-item[1].events, item[0]))
    if ranked:
        yield ""
        yield table(
            ("VERB", "RESOURCE", "BEFORE", "NOW", "EVENTS", "BYTES"),
            [
                (change.verb or "-", *change[1:], f"{total.events:,}", _signed(total.size))
                for change, total in ranked[:top]
            ],
            right=(4, 5),
        )
    if len(ranked) > top:
        yield f"and {len(ranked) - top} more: --top {len(ranked)}"


def _signed(size: int) -> str:
    return f"+{human(size)}" if size > 0 else human(size)


def _sum(total: Sum) -> str:
    return f"{total.events:,} {'event' if total.events == 1 else 'events'}, {human(total.size)}"


def _numbers(total: Sum, whole: Sum) -> tuple[str, str, str, str]:
    return (
        f"{total.events:,}",
        share(total.events, whole.events),
        human(total.size),
        share(total.size, whole.size),
    )


def _fields(found: Replay, broken: int, source: Source, *, compared: bool) -> dict[str, object]:
    fields: dict[str, object] = {
        "read": _json(found.read),
        "recorded": _json(found.recorded),
        "brokenLines": broken,
        "levels": {level.title: _json(total) for level, total in found.by_level.items()},
        "rules": [_rule(source, rule, total) for rule, total in found.by_rule.items()],
        "neverHit": _never_hit(found, source),
    }
    if found.by_condition:
        fields["conditions"] = [
            {"name": condition.name, "output": condition.output, **asked._asdict()}
            for condition, asked in found.by_condition.items()
        ]
    if compared:
        fields["added"], fields["removed"] = _json(found.added), _json(found.removed)
        fields["changes"] = [_change(change, total) for change, total in sorted(found.changes.items())]
    return fields


def _rule(source: Source, rule: int | None, total: Sum) -> dict[str, object]:
    floor = {"floor": True} if source.is_floor(rule) else {}
    return {"rule": source.number(rule), **floor, **_json(total)}


def _change(change: Change, total: Sum) -> dict[str, object]:
    return {**change._asdict(), **_json(total)}


def _json(total: Sum) -> dict[str, int]:
    return {"events": total.events, "bytes": total.size}
