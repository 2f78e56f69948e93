"""What the tests of the policy tools share."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditpipeline.cli import main as command_line
from auditpipeline.core.finding import Finding
from auditpipeline.core.lint import lint
from auditpipeline.core.policyfile import read

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "manifests" / "policies"
EVENTS = ROOT / "tests" / "data" / "audit-events.jsonl"


def call(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `auditpipeline policy`."""
    with pytest.raises(SystemExit) as caught:
        command_line.main(("policy", *arguments))
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def findings(text: str, file: str = "policy.yaml") -> list[tuple[int, Finding]]:
    """Line and finding, of everything in the text."""
    return [
        (source.position(finding.path).line, finding)
        for source in read(text.encode(), file)
        for finding in (*source.findings, *(lint(source.policy, source.outer) if source.policy else ()))
    ]
