"""`policy lint`: which files are looked into, what it prints, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.policy.support import ROOT, call, findings

MISTAKE = ROOT / "tests" / "data" / "lint" / "AP202-singular.yaml"
PIPELINE = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {rules: none}}
- apiVersion: auditpipeline.dev/v1alpha1
  kind: AuditPipeline
  metadata: {name: security}
  spec:
    policy:
      rules:
      - level: Metadata
        verbs: [GET]
      - level: Metadata
        omitResponseCodes: [404]
    outputs:
    - name: siem
      policy:
        rules:
        - level: Metadata
          users: ["*"]
---
apiVersion: auditregistration.k8s.io/v1alpha1
kind: AuditSink
metadata: {name: old}
spec:
  policy:
    level: Metadata
    rules:
    - {level: Nothing}
---
apiVersion: kyverno.io/v1
kind: Policy
spec: {rules: []}
"""


def test_policies_are_found_wherever_they_are() -> None:
    """In pipelines, their outputs, sinks and lists; objects of other kinds are passed over."""
    assert [(line, finding.code) for line, finding in findings(PIPELINE)] == [
        (13, "AP209"),
        (21, "AP208"),
        (30, "AP006"),
    ]


def test_the_exit_code_says_whether_there_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings count with --strict, and what is ignored never does."""
    file = tmp_path / "policy.yaml"
    file.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n  verbs: [get]\n")
    code, out, err = call("lint", str(file), capsys=capsys)
    assert (code, err) == (0, "0 errors and 1 warning in 1 policy\n")
    assert out.startswith(f"{file}:4:3: warning AP103 rule 0: ")
    assert call("lint", "--strict", str(file), capsys=capsys)[0] == 1
    assert call("lint", "--strict", "--ignore", "AP103", str(file), capsys=capsys)[0] == 0
    assert call("lint", str(file), str(MISTAKE), capsys=capsys)[0] == 1


def test_json_has_every_field(capsys: pytest.CaptureFixture[str], piped: Any) -> None:
    """With the path in the whole object, from standard input too."""
    piped(PIPELINE)
    code, out, _ = call("lint", "-", "--output", "json", capsys=capsys)
    assert code == 1
    first = json.loads(out)[0]
    assert first.pop("message")
    assert first == {
        "file": "stdin",
        "line": 13,
        "column": 17,
        "policy": "security",
        "code": "AP209",
        "severity": "error",
        "rule": 0,
        "path": "items[1].spec.policy.rules[0].verbs[0]",
        "fix": "get",
    }


def test_github_gets_one_command_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what a workflow command may not hold escaped."""
    file = tmp_path / "a,b.yaml"
    file.write_text(
        'apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n  users: ["100%\\n*"]\n- level: None\n'
    )
    _, out, _ = call("lint", str(file), "--output", "github", capsys=capsys)
    assert out.startswith(f"::error file={tmp_path}/a%2Cb.yaml,line=5,col=11,title=AP208 ")
    assert "100%25" in out
    assert out.count("\n") == 1
