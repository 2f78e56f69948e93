"""`auditpipeline policy union` and `covers`: what the static policy of kube-apiserver has to hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from auditpipeline.cli.policy_io import FILE, policies_of, policy_of
from auditpipeline.core.explain import sentence
from auditpipeline.core.policyfile import Source, comment
from auditpipeline.core.union import COARSE, Gap, fitting
from auditpipeline.core.union import covers as gaps_of


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
def union(files: tuple[Path, ...]) -> None:
    """Print one policy that records at least what each policy of FILES does.

    It is what the static policy file of kube-apiserver has to hold, for AuditPipelines to get their events. It may
    record more where rules cannot say it exactly, and never less. If there are too many different rules to be joined
    one by one, it is coarse, and says so.

    \b
    Example:
      auditpipeline policy union pipelines/*.yaml > /etc/kubernetes/auditpipeline/policy.yaml
    """
    sources = policies_of(files)
    names = "".join(f"# - {_name(source)}\n" for source in sources)
    found, text = fitting(source.rules for source in sources)
    click.echo(f"# At least what each of these records, made by auditpipeline policy union:\n{names}", nl=False)
    if not found.exact:
        click.echo(comment(COARSE), nl=False)
        click.echo(COARSE, err=True)
    click.echo(text, nl=False)


class _Missing(NamedTuple):
    """A rule of one of the wanted policies that is not met."""

    base: Source
    wanted: Source
    gap: Gap


@click.command()
@click.argument("static", type=FILE)
@click.argument("wanted", nargs=-1, required=True, type=FILE)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def covers(static: Path, wanted: tuple[Path, ...], output: str) -> int:
    """Say which rules of WANTED the policy STATIC does not meet, each with an example; exit code 1 where one is not.

    STATIC is what kube-apiserver has as its static policy; WANTED are AuditPipelines or policies. What the API server
    does not emit, no AuditPipeline can record.

    \b
    Example:
      auditpipeline policy covers /etc/kubernetes/auditpipeline/policy.yaml pipelines/*.yaml
    """
    base = policy_of(static)
    sources = policies_of(wanted)
    found = [_Missing(base, source, gap) for source in sources for gap in gaps_of(base.rules, source.rules)]
    if output == "json":
        click.echo(json.dumps([_fields(missing) for missing in found], indent=2))
    else:
        click.echo("\n".join(_text(base, sources, found)))
    return 1 if found else 0


def _text(base: Source, sources: Sequence[Source], found: Sequence[_Missing]) -> Iterator[str]:
    for _, source, gap in found:
        line, column = source.where(gap.rule)
        name = f"{source.name}, " if source.base else ""
        yield f"{source.file}:{line}:{column}: {name}{source.label(gap.rule)}: {gap.reason}"
        if gap.request:
            yield f"    for example: {sentence(gap.request)}"
            yield f"    decided by {_decided(base, gap)}"
    if not found:
        yield f"{base.file} records all that {', '.join(map(_name, sources))} asks for"


def _decided(base: Source, gap: Gap) -> str:
    if gap.decided_by is None:
        return f"no rule of {base.file}"
    return base.place(gap.decided_by)


def _name(source: Source) -> str:
    return f"{source.file}: {source.name}" if source.base else source.file


def _fields(missing: _Missing) -> dict[str, object]:
    base, source, gap = missing
    return {
        "file": source.file,
        "line": source.line(gap.rule),
        "policy": source.name,
        "rule": source.number(gap.rule),
        "reason": gap.reason,
        "request": gap.request._asdict() if gap.request else None,
        "decidedBy": base.number(gap.decided_by),
    }
