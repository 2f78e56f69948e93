"""`auditpipeline policy`: tools to check, explain, test and combine audit policies, without any cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from auditpipeline.cli.policy_cases import test
from auditpipeline.cli.policy_explain import explain
from auditpipeline.cli.policy_io import FILE, read_bytes, shown
from auditpipeline.cli.policy_replay import replay
from auditpipeline.cli.policy_union import covers, union
from auditpipeline.core.errors import Invalid
from auditpipeline.core.finding import CHECKS, Finding
from auditpipeline.core.lint import lint as findings_of
from auditpipeline.core.policyfile import Source, read


@click.group()
def policy() -> None:
    """Check, explain, test, replay and combine audit policies; no cluster is needed.

    FILE is a Policy (audit.k8s.io/v1), an AuditPipeline, or several of them in one file; - is standard input.

    \b
    Completion in bash (zsh_source and fish_source for the others):
      eval "$(_AUDITPIPELINE_COMPLETE=bash_source auditpipeline)"
    """


@policy.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--output", type=click.Choice(["text", "json", "github"]), default="text", show_default=True)
@click.option(
    "--ignore", multiple=True, metavar="CODE", type=click.Choice(sorted(CHECKS)), help="Leave out; repeatable."
)
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
def lint(files: tuple[Path, ...], output: str, ignore: tuple[str, ...], strict: bool) -> int:
    """Find what is valid in an audit policy and surely wrong, and what kube-apiserver would refuse.

    Objects of other kinds are passed over, so the output of kustomize or helm can be piped in. Exit code 1 where there
    is an error.

    \b
    Examples:
      auditpipeline policy lint policy.yaml
      kustomize build | auditpipeline policy lint -
      auditpipeline policy lint --output github manifests/*.yaml
    """
    sources = [source for path in files for source in read(read_bytes(path), shown(path))]
    if not sources:
        names = ", ".join(map(shown, files))
        raise Invalid(names, "no policy in it: expected a Policy (audit.k8s.io/v1) or an AuditPipeline")
    found = [each for each in _placed(sources) if each.finding.code not in ignore]
    errors = sum(each.finding.severity == "error" for each in found)
    if output == "json":
        click.echo(json.dumps([_fields(each) for each in found], indent=2))
    else:
        for each in found:
            click.echo(_github(each) if output == "github" else _text(each))
        click.echo(_total(errors, len(found) - errors, sources), err=True)
    return 1 if errors or (strict and found) else 0


class Placed(NamedTuple):
    """A finding with the place of it."""

    source: Source
    line: int
    column: int
    finding: Finding


def _placed(sources: Sequence[Source]) -> Iterator[Placed]:
    """All findings: what cannot be loaded first, then in the order of the file."""
    for source in sources:
        linted = findings_of(source.policy, source.outer) if source.policy else []
        for each in (source.findings, sorted(linted, key=lambda finding: source.position(finding.path))):
            for finding in each:
                yield Placed(source, *source.position(finding.path), finding)


def _text(found: Placed) -> str:
    finding = found.finding
    where = "" if finding.rule is None else f"rule {finding.rule}: "
    head = f"{found.source.file}:{found.line}:{found.column}: {finding.severity} {finding.code}"
    return f"{head} {where}{finding.message}\n    write: {finding.fix}"


def _fields(found: Placed) -> dict[str, object]:
    source, finding = found.source, found.finding
    return {
        "file": source.file,
        "line": found.line,
        "column": found.column,
        "policy": source.name,
        "code": finding.code,
        "severity": finding.severity,
        "rule": finding.rule,
        "path": source.path(finding.path),
        "message": finding.message,
        "fix": finding.fix,
    }


def _github(found: Placed) -> str:
    """Source: docs.github.com, workflow commands; properties may hold no comma and no colon either."""
    finding = found.finding
    file = _escaped(found.source.file).replace(":", "%3A").replace(",", "%2C")
    title = f"{finding.code} {CHECKS[finding.code].title}"
    message = _escaped(f"{finding.message}; write: {finding.fix}")
    return f"::{finding.severity} file={file},line={found.line},col={found.column},title={title}::{message}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _total(errors: int, warnings: int, sources: Sequence[Source]) -> str:
    said = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((errors, "error"), (warnings, "warning"))]
    policies = "1 policy" if len(sources) == 1 else f"{len(sources)} policies"
    return f"{' and '.join(said)} in {policies}" if errors or warnings else f"nothing found in {policies}"


for command in (explain, test, replay, union, covers):
    policy.add_command(command)
