"""`policy test`: expectations next to a policy, and the presets' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.policy.support import POLICIES, call

PRESETS = ["baseline", "compliance", "security", "debug"]
HEAD = "apiVersion: auditpipeline.dev/v1alpha1\nkind: PolicyTest\ncases:\n"
POLICY = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {level: Metadata, verbs: [get]}\n- {level: Request}\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A policy of two rules, and a place for its cases."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    return policy, tmp_path / "cases.yaml"


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_does_what_its_cases_say(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And each of its rules has a case."""
    file, cases = POLICIES / f"{preset}.yaml", POLICIES / f"{preset}.cases.yaml"
    code, out, _ = call("test", str(file), str(cases), "--output", "json", capsys=capsys)
    found = json.loads(out)
    assert code == 0
    assert (found["failed"], found["rulesWithoutCase"]) == ([], [])
    assert found["requests"] > 50


@pytest.mark.parametrize("preset", PRESETS)
def test_each_rule_of_a_preset_has_its_reason(preset: str) -> None:
    """As a comment right above it, or above rules that belong together."""
    lines = (POLICIES / f"{preset}.yaml").read_text().splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("- level:")]
    assert rules
    assert sum(lines[number - 1].startswith("#") for number in rules) >= len(rules) - 3
    assert lines[0].startswith(f"# {preset}: ")


def test_a_difference_is_shown_as_one(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """With the line of the case, the request, what was expected and found, and the rule that decided."""
    policy, cases = files
    cases.write_text(
        f"{HEAD}- name: creating is recorded whole\n"
        "  request: {user: alice, verb: [get, create], resource: pods, namespace: default}\n"
        "  expect: {level: Request, rule: 1}\n"
    )
    code, out, _ = call("test", str(policy), str(cases), capsys=capsys)
    assert code == 1
    assert out.splitlines() == [
        f"{cases}:4:3: creating is recorded whole",
        "    get pods in namespace default by alice (groups: system:authenticated)",
        '  - level: "Request"',
        '  + level: "Metadata"',
        "  - rule: 1",
        "  + rule: 0",
        f"    rule 0 decides ({policy}:4)",
        "1 of 2 requests are decided as expected",
    ]


def test_rules_without_a_case_are_told(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """They are no failure."""
    policy, cases = files
    cases.write_text(f"{HEAD}- {{name: a, request: {{verb: get, path: /x}}, expect: {{level: Metadata}}}}\n")
    code, out, _ = call("test", str(policy), str(cases), capsys=capsys)
    assert (code, out) == (0, "1 of 1 requests are decided as expected; no case for rules 1\n")


def test_only_what_is_expected_is_compared(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Stages as a set; a rule of null means that none matches."""
    policy, cases = files
    policy.write_text(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [Panic, RequestReceived]\nrules:\n"
        "- {level: Metadata, users: [bob]}\n"
    )
    expect = "{level: None, rule: null, omitStages: [RequestReceived, Panic], omitManagedFields: false}"
    cases.write_text(f"{HEAD}- {{name: a, request: {{verb: get, path: /x}}, expect: {expect}}}\n")
    assert call("test", str(policy), str(cases), capsys=capsys)[0] == 0


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("{name: a, request: {verb: get}, expect: {level: None}}", "either a resource or a path"),
        ("{name: a, request: {verb: get, resource: pods, path: /x}, expect: {level: None}}", "either a resource or"),
        ("{name: a, request: {verb: get, path: /x}, expect: {}}", "expect is empty"),
        ("{name: a, request: {verb: [], path: /x}, expect: {level: None}}", "a request has a verb"),
        ("{name: a, request: {verb: get, path: /x}, expect: {level: Everything}}", "cases[0].expect.level"),
        ("{name: a, request: {verb: get, path: /x, who: me}, expect: {level: None}}", "unknown field who"),
        ("{name: a, request: {verb: get, path: /x, namespace: a}, expect: {level: None}}", "/x is a path"),
    ],
)
def test_a_mistake_in_the_cases_is_one_line(
    files: tuple[Path, Path], case: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With file, line and field, and exit code 2."""
    policy, cases = files
    cases.write_text(f"{HEAD}- {case}\n")
    code, _, err = call("test", str(policy), str(cases), capsys=capsys)
    assert code == 2
    assert err.count("\n") == 1
    assert said in err
    assert f"{cases}:4:" in err
