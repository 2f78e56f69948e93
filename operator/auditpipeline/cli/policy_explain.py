"""`auditpipeline policy explain`: what a policy decides, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

from auditpipeline.cli.policy_io import FILE, lines_of, policy_name, policy_of, shown
from auditpipeline.core import explain as why
from auditpipeline.core.conditions.view import Verdict, is_exempt, seen, verdicts
from auditpipeline.core.errors import Invalid, Permanent
from auditpipeline.core.event import Head, Raw, head
from auditpipeline.core.eventlog import Broken, events
from auditpipeline.core.policy import Attributes, Decision, Level
from auditpipeline.core.policyfile import Source


@click.command()
@click.argument("file", type=FILE)
@click.argument("verb", required=False)
@click.argument("target", required=False, metavar="[RESOURCE[/NAME] | PATH]")
@click.option("--as", "user", metavar="USER", help="Who asks; absent: a request without a user.")
@click.option("--group", "groups", metavar="GROUP", multiple=True, help="A group of the user; repeatable.")
@click.option("-n", "--namespace", help="The namespace; absent: none.")
@click.option("--subresource", help="As log in pods/log.")
@click.option("--api-group", help="Absent: behind a dot (deployments.apps), or looked up in Kubernetes' own.")
@click.option("--event", type=FILE, metavar="EVENT.json", help="Explain one audit event.")
@click.option("--events", "log", type=FILE, metavar="FILE.jsonl", help="One line for each event of a log.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@policy_name
def explain(
    file: Path,
    verb: str | None,
    target: str | None,
    event: Path | None,
    log: Path | None,
    output: str,
    name: str | None,
    **request: Any,
) -> None:
    """Say at which level a request is recorded, which rule decides, and why no earlier one did.

    The request is named in the way of kubectl auth can-i, or it is an audit event. As kube-apiserver does, every user
    is put into system:authenticated (or system:unauthenticated), and a ServiceAccount into the groups of its namespace.

    \b
    Examples:
      auditpipeline policy explain policy.yaml create secrets/db -n default --as alice --group dev
      auditpipeline policy explain policy.yaml get pods/web --subresource log -n default --as alice
      auditpipeline policy explain policy.yaml get /healthz
      auditpipeline policy explain policy.yaml --event event.json
      auditpipeline policy explain policy.yaml --events audit.log --output json
    """
    if sum((bool(verb), event is not None, log is not None)) != 1 or bool(verb) != bool(target):
        raise click.UsageError("name a request (VERB and RESOURCE or PATH), an --event, or --events: one of the three")
    if not verb and any(request.values()):
        raise click.UsageError("--as, --group, -n, --subresource and --api-group describe a request, not an event")
    source = policy_of(file, name)
    if log is not None:
        for each in _captured(log):
            answer, said = _answered(source, each)
            click.echo(json.dumps(_answer(source, answer, said)) if output == "json" else _line(source, answer, said))
        return
    captured = next(_captured(event), None) if event is not None else None
    if event is not None and captured is None:
        raise Invalid(shown(event), "no event in it")
    asked = captured.head.request if captured else _request(str(verb), str(target), **request)
    found = why.explain(source.rules, asked)
    if output == "json":
        click.echo(json.dumps(_fields(source, found, captured), indent=2))
    else:
        click.echo("\n".join(_text(source, found, captured)))


class Captured(NamedTuple):
    """One event: its fields, and what decisions need of it."""

    event: Raw
    head: Head


def _request(
    verb: str,
    target: str,
    user: str | None,
    groups: tuple[str, ...],
    namespace: str | None,
    subresource: str | None,
    api_group: str | None,
) -> Attributes:
    if groups and not user:
        raise click.UsageError("--group needs --as: only a user is in a group")
    found = why.request_for(
        verb,
        target,
        user=user,
        groups=groups,
        namespace=namespace or "",
        subresource=subresource or "",
        group=api_group,
    )
    if why.likely_subresource(found):
        note = f"{found.name} is taken as a name: for the subresource write {found.resource} --subresource {found.name}"
        click.echo(f"auditpipeline: {note}", err=True)
    return found


def _captured(path: Path) -> Iterator[Captured]:
    """Each event; a broken line ends it with file, line and column."""

    def broken(line: Broken) -> NoReturn:
        raise Invalid(f"{shown(path)}:{line.line}:{line.column}", line.message)

    with lines_of(path, progress=False) as lines:
        for line in events(lines, broken):
            try:
                yield Captured(line.event, head(line.event))
            except Permanent as error:
                broken(Broken(line.number, 1, str(error)))


def _answered(source: Source, captured: Captured) -> tuple[why.Answer, list[Verdict]]:
    """Returns what is left of an event, and what the conditions say of it: they are asked if the policy records it."""
    answer = why.answer(source.rules, captured.head)
    if not answer.recorded or is_exempt((source.rules,), captured.head.request):
        return answer, []
    left = Decision(Level.parse(answer.level), frozenset(), answer.omit_managed_fields, answer.rule)
    said = verdicts(source.conditions, seen(captured.event.get, left))
    return answer._replace(recorded=_deciding(source, said) is None), said


def _deciding(source: Source, said: Sequence[Verdict]) -> Verdict | None:
    """The first condition that takes the event away from everybody whom the policy is for."""
    return next((each for each in said if not each.keeps and each.condition in source.deciding), None)


def _answer(source: Source, answer: why.Answer, said: Sequence[Verdict]) -> dict[str, object]:
    fields = answer._replace(rule=source.number(answer.rule)).fields()
    if source.conditions:
        fields["conditions"] = [
            {"name": each.condition.name, "output": each.condition.output, **_found(each)} for each in said
        ]
    return fields


def _found(verdict: Verdict) -> dict[str, object]:
    return {"true": None, "error": verdict.found} if isinstance(verdict.found, str) else {"true": verdict.found}


def _line(source: Source, answer: why.Answer, said: Sequence[Verdict]) -> str:
    recorded = answer.level if answer.recorded else "not recorded"
    false = _deciding(source, said)
    by = f"condition {false.condition.name}" if false else source.label(answer.rule)
    return f"{answer.audit_id:36}  {answer.stage:16}  {recorded:15}  {by}"


def _conditions(source: Source, said: Sequence[Verdict], captured: Captured | None) -> Iterator[str]:
    """What each condition says; of a request that is named, and of no event, nothing can be said."""
    if source.conditions and captured is None:
        yield "asked     no condition: they need an event (--event)"
    for condition, found in said:
        whose = f" of output {condition.output}" if condition.output else ""
        kept = "the event is kept" if found is not False else "the event is not recorded"
        what = f"fails: {found}" if isinstance(found, str) else str(found).lower()
        if condition.output and found is False:
            kept = f"output {condition.output} does not get the event"
        yield f"condition {condition.name}{whose}: {what}; {kept}"


def _text(source: Source, found: why.Explanation, captured: Captured | None) -> Iterator[str]:
    decision = found.decision
    yield f"request   {why.sentence(found.request)}"
    said: list[Verdict] = []
    if captured:
        answer, said = _answered(source, captured)
        recorded = f"recorded at {answer.level}" if answer.recorded else "not recorded"
        yield f"event     captured at {captured.head.level.title}, stage {captured.head.stage}: {recorded}"
    yield f"level     {decision.level.title}"
    if decision.rule is None:
        yield "decided   by no rule: what no rule matches is not recorded"
    elif source.is_floor(decision.rule):
        yield "decided   by the floor: changes to AuditPipelines and AuditSinks are recorded whatever the policy says"
    else:
        yield f"decided   {source.place(decision.rule)}: {why.summary(source.rules.rules[decision.rule])}"
    omitted = [*why.ordered(decision.omit_stages), *(["managedFields"] if decision.omit_managed_fields else [])]
    if omitted:
        yield f"omitted   {', '.join(omitted)}"
    yield from _conditions(source, said, captured)
    earlier = [(rule, reason) for rule, reason in enumerate(found.reasons) if not source.is_floor(rule)]
    if earlier:
        yield "earlier   these rules did not match:"
    for rule, reason in earlier:
        yield f"          {source.place(rule)}: {reason}"


def _fields(source: Source, found: why.Explanation, captured: Captured | None) -> dict[str, object]:
    decision = found.decision
    fields: dict[str, object] = {
        "level": decision.level.title,
        "rule": source.number(decision.rule),
        "omitStages": list(why.ordered(decision.omit_stages)),
        "omitManagedFields": decision.omit_managed_fields,
    }
    if captured:
        fields = _answer(source, *_answered(source, captured))
    line = None if decision.rule is None or source.is_floor(decision.rule) else source.line(decision.rule)
    reasons = [
        {"rule": source.number(rule), "reason": reason}
        for rule, reason in enumerate(found.reasons)
        if not source.is_floor(rule)
    ]
    return {"request": found.request._asdict(), **fields, "line": line, "earlier": reasons}
