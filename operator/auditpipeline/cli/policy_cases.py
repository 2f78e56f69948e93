"""`auditpipeline policy test`: expectations about a policy, kept next to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from auditpipeline.cli.policy_io import FILE, policy_name, policy_of, read_bytes, shown
from auditpipeline.core.explain import sentence
from auditpipeline.core.policycases import Outcome, read, run
from auditpipeline.core.policyfile import Source
from auditpipeline.core.yamlfile import Document


@click.command()
@click.argument("file", type=FILE)
@click.argument("cases", type=FILE, metavar="CASES.yaml")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@policy_name
def test(file: Path, cases: Path, output: str, name: str | None) -> int:
    """Hold a policy against its expectations; exit code 1 where one is not met, with the difference.

    The rules that no case reaches are told, too.

    \b
    Example:
      auditpipeline policy test policy.yaml policy.cases.yaml

    \b
      apiVersion: auditpipeline.dev/v1alpha1
      kind: PolicyTest
      cases:
      - name: who touched a Secret is recorded, and never what it holds
        request: {user: alice, verb: [get, create], resource: secrets, namespace: default, name: db}
        expect: {level: Metadata}
    """
    source = policy_of(file, name)
    document, expected = read(read_bytes(cases), shown(cases))
    outcomes = run(source.rules, expected, source.number)
    failed = [outcome for outcome in outcomes if outcome.differences]
    tried = {source.number(outcome.rule) for outcome in outcomes}
    numbers = (source.number(rule) for rule in range(len(source.rules.rules)))
    untried = [number for number in numbers if number is not None and number not in tried]
    if output == "json":
        fields = {
            "requests": len(outcomes),
            "failed": [_fields(each, document, source) for each in failed],
            "rulesWithoutCase": untried,
        }
        click.echo(json.dumps(fields, indent=2))
    else:
        for outcome in failed:
            click.echo("\n".join(_difference(outcome, document, source)))
        click.echo(_total(outcomes, failed, untried))
    return 1 if failed else 0


def _difference(outcome: Outcome, document: Document, source: Source) -> Iterator[str]:
    line, column = document.position(f"cases[{outcome.case}]")
    yield f"{document.file}:{line}:{column}: {outcome.name}"
    yield f"    {sentence(outcome.request)}"
    for difference in outcome.differences:
        yield f"  - {difference.field}: {json.dumps(difference.expected)}"
        yield f"  + {difference.field}: {json.dumps(difference.found)}"
    if outcome.rule is None:
        yield "    no rule matches"
    else:
        place = "" if source.is_floor(outcome.rule) else f" ({source.file}:{source.line(outcome.rule)})"
        yield f"    {source.label(outcome.rule)} decides{place}"


def _total(outcomes: Sequence[Outcome], failed: Sequence[Outcome], untried: Sequence[int]) -> str:
    said = f"{len(outcomes) - len(failed)} of {len(outcomes)} requests are decided as expected"
    return f"{said}; no case for rules {', '.join(map(str, untried))}" if untried else said


def _fields(outcome: Outcome, document: Document, source: Source) -> dict[str, object]:
    return {
        "case": outcome.name,
        "line": document.position(f"cases[{outcome.case}]").line,
        "request": outcome.request._asdict(),
        "rule": source.number(outcome.rule),
        "differences": [difference._asdict() for difference in outcome.differences],
    }
