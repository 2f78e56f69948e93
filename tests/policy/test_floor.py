"""The tools say of an AuditPipeline what really happens: the floor stands before its first rule."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.policy.support import call

NOTHING = """
apiVersion: auditpipeline.dev/v1alpha1
kind: AuditPipeline
metadata: {name: quiet}
spec:
  policy:
    rules:
    - {level: None, verbs: [get]}
    - {level: None}
  outputs:
  - {name: console, stdout: {}, policy: {rules: [{level: None}]}}
"""
CASES = """
apiVersion: auditpipeline.dev/v1alpha1
kind: PolicyTest
cases:
- name: a change of auditing is recorded
  request: {user: mallory, verb: delete, resource: auditpipelines, name: security}
  expect: {level: RequestResponse, rule: null}
- name: the first rule is rule 0
  request: {user: mallory, verb: get, resource: auditpipelines, name: security}
  expect: {level: None, rule: 0}
"""
EVENT = {
    "level": "RequestResponse",
    "auditID": "1",
    "stage": "ResponseComplete",
    "verb": "delete",
    "user": {"username": "mallory"},
    "objectRef": {"resource": "auditsinks", "name": "a", "apiGroup": "auditregistration.k8s.io"},
}


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    """An AuditPipeline that records nothing."""
    path = tmp_path / "quiet.yaml"
    path.write_text(NOTHING)
    return str(path)


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A change of auditing and a look at it."""
    path = tmp_path / "audit.log"
    path.write_text("".join(json.dumps(EVENT | {"verb": verb}) + "\n" for verb in ("delete", "get")))
    return str(path)


@pytest.mark.parametrize("name", ["quiet", "quiet/console"])
def test_explain_names_the_floor(pipeline: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the pipeline and of its output; and numbers the rules as they stand in the file."""
    request = ("delete", "auditpipelines/security", "--as", "mallory", "--policy", name)
    _, out, _ = call("explain", pipeline, *request, capsys=capsys)
    assert "level     RequestResponse\ndecided   by the floor" in out
    assert "earlier" not in out
    _, out, _ = call("explain", pipeline, *request, "--output", "json", capsys=capsys)
    found = json.loads(out)
    assert (found["level"], found["rule"], found["line"], found["earlier"]) == ("RequestResponse", None, None, [])
    _, out, _ = call("explain", pipeline, "list", "pods", "--policy", "quiet", capsys=capsys)
    assert f"decided   rule 1 ({pipeline}:9): None: everything" in out
    assert f"earlier   these rules did not match:\n          rule 0 ({pipeline}:8): verbs" in out


def test_explain_of_a_log_keeps_what_the_floor_keeps(
    pipeline: str, log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule is null, since none of the policy decided; recorded says what comes of it."""
    _, out, _ = call("explain", pipeline, "--events", log, "--output", "json", capsys=capsys)
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["level"], each["rule"], each["recorded"]) for each in found] == [
        ("RequestResponse", None, True),
        ("None", 0, False),
    ]
    _, out, _ = call("explain", pipeline, "--events", log, capsys=capsys)
    assert [line.split("  ")[-1].strip() for line in out.splitlines()] == ["the floor", "rule 0"]


def test_cases_meet_the_floor(pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the floor is no rule that would need a case."""
    cases = tmp_path / "cases.yaml"
    cases.write_text(CASES)
    code, out, _ = call("test", pipeline, str(cases), capsys=capsys)
    assert (code, out) == (0, "2 of 2 requests are decided as expected; no case for rules 1\n")
    cases.write_text(CASES.replace("RequestResponse", "None"))
    code, out, _ = call("test", pipeline, str(cases), capsys=capsys)
    assert code == 1
    assert "    the floor decides\n" in out


def test_replay_counts_the_floor(pipeline: str, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a row of its own, and a rule that was not hit keeps its number."""
    _, out, _ = call("replay", pipeline, log, capsys=capsys)
    assert re.search(r"^floor +1  50\.0 % .* changes to AuditPipelines and AuditSinks$", out, re.MULTILINE)
    assert "never hit: rule 1" in out
    _, out, _ = call("replay", pipeline, log, "--output", "json", capsys=capsys)
    found = json.loads(out)
    assert [(each["rule"], each.get("floor", False), each["events"]) for each in found["rules"]] == [
        (None, True, 1),
        (0, False, 1),
        (1, False, 0),
    ]
    assert found["neverHit"] == [1]


def test_covers_asks_for_the_floor(pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A static policy that says nothing of it is short of it, and the union is not."""
    static = tmp_path / "static.yaml"
    static.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
    code, out, _ = call("covers", str(static), pipeline, capsys=capsys)
    assert code == 1
    assert f"{pipeline}:6:3: quiet, the floor: recorded at Metadata, wanted at RequestResponse" in out
    _, out, _ = call("union", pipeline, capsys=capsys)
    static.write_text(out)
    assert call("covers", str(static), pipeline, capsys=capsys)[0] == 0


PRESET = """
apiVersion: auditpipeline.dev/v1alpha1
kind: AuditPipeline
metadata: {name: preset}
spec:
  policy:
    preset: baseline
  outputs:
  - {name: console, stdout: {}}
"""


def test_the_tools_look_into_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rules stand where the pipeline names it; the floor is its first rule already."""
    path = tmp_path / "preset.yaml"
    path.write_text(PRESET)
    assert call("lint", str(path), capsys=capsys)[0] == 0
    _, out, _ = call("explain", str(path), "get", "/healthz", capsys=capsys)
    assert f"decided   rule 1 of preset baseline ({path}:7): None: paths" in out
    _, out, _ = call("explain", str(path), "delete", "auditsinks", capsys=capsys)
    assert f"decided   rule 0 of preset baseline ({path}:7)" in out


@pytest.mark.parametrize(
    ("written", "line", "said"),
    [
        ("preset: baselin", 7, "there is no preset 'baselin'\n    write: baseline"),
        ("preset: debug, omitStages: [Panic]", 7, "a preset is a whole policy: nothing can stand beside it"),
        ("preset: debug, rules: [{level: None}]", 7, "a preset is a whole policy: nothing can stand beside it"),
        ("preset: [debug]", 7, "there is no preset \"['debug']\"\n    write: debug"),
    ],
)
def test_a_preset_that_cannot_be_used_is_told(
    tmp_path: Path, written: str, line: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the API server refuses it."""
    path = tmp_path / "preset.yaml"
    path.write_text(PRESET.replace("preset: baseline", f"{{{written}}}"))
    code, out, _ = call("lint", str(path), capsys=capsys)
    assert code == 1
    assert f"{path}:{line}:" in out
    assert f"error AP006 {said}" in out


def test_a_policy_file_knows_no_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kube-apiserver would forget the field and start with no rules."""
    path = tmp_path / "policy.yaml"
    path.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\npreset: baseline\n")
    code, out, _ = call("lint", str(path), capsys=capsys)
    assert code == 1
    assert "AP002 unknown field 'preset'" in out
