"""`policy union` and `policy covers`: what the static policy has to hold, and what it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from auditpipeline.core.policy import Attributes, decide
from auditpipeline.core.policyfile import dump, load
from tests.core import many
from tests.policy.support import POLICIES, call

PRESETS = [str(POLICIES / f"{name}.yaml") for name in ("baseline", "compliance", "security", "debug")]


def test_the_union_of_the_presets_covers_each_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is a policy file that says what it was made of."""
    code, out, _ = call("union", *PRESETS, capsys=capsys)
    assert code == 0
    assert all(f"# - {preset}\n" in out for preset in PRESETS)
    static = tmp_path / "static.yaml"
    static.write_text(out)
    code, out, _ = call("covers", str(static), *PRESETS, capsys=capsys)
    assert (code, out) == (0, f"{static} records all that {', '.join(PRESETS)} asks for\n")


def test_a_policy_is_written_as_it_is_read() -> None:
    """Nothing gets lost in the file."""
    for preset in PRESETS:
        policy = load(Path(preset).read_bytes(), preset).rules
        assert load(dump(policy).encode(), "written").rules == policy


def test_each_gap_has_an_example_and_the_rule_that_decides_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The example is decided as it is told."""
    static, wanted = PRESETS[0], PRESETS[3]
    code, out, _ = call("covers", static, wanted, "--output", "json", capsys=capsys)
    gaps = json.loads(out)
    assert code == 1
    assert gaps
    policy = load(Path(static).read_bytes(), static).rules
    for gap in gaps:
        request = Attributes(**{**gap["request"], "groups": tuple(gap["request"]["groups"])})
        assert decide(policy, request).rule == gap["decidedBy"]
    code, out, _ = call("covers", static, wanted, capsys=capsys)
    assert code == 1
    assert out.count("    for example: ") == len(gaps)
    assert out.startswith(f"{wanted}:{gaps[0]['line']}:3: ")


def test_pipelines_of_one_stream_are_joined(piped: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    """The policies of their outputs do not count: those only narrow."""
    piped(
        "{apiVersion: auditpipeline.dev/v1alpha1, kind: AuditPipeline, metadata: {name: a}, spec: {policy: {rules:"
        " [{level: Metadata, users: [alice]}]}, outputs: [{name: o, policy: {rules: [{level: Request}]}}]}}\n---\n"
        "{apiVersion: auditpipeline.dev/v1alpha1, kind: AuditPipeline, metadata: {name: b}, spec: {policy: {rules:"
        " [{level: Request, users: [bob]}]}}}\n"
    )
    code, out, _ = call("union", "-", capsys=capsys)
    assert code == 0
    assert "# - stdin: a\n# - stdin: b\n" in out
    policy = load(out.encode(), "union").rules
    levels = {rule.users: rule.level for rule in policy.rules if rule.users}
    assert levels == {("alice",): "Metadata", ("bob",): "Request"}


@pytest.mark.parametrize(("count", "coarse"), [(2, False), (300, True)])
def test_a_coarse_union_says_so(count: int, coarse: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the file, for whoever finds it, and on standard error, for whoever made it; it covers each policy."""
    for part in ("users", "namespaces"):
        (tmp_path / f"{part}.yaml").write_text(dump(many.long(count, part)))
    files = [str(tmp_path / f"{part}.yaml") for part in ("users", "namespaces")]
    code, out, err = call("union", *files, capsys=capsys)
    assert code == 0
    assert ("# This policy is coarse: " in out, err.startswith("This policy is coarse: ")) == (coarse, coarse)
    (tmp_path / "static.yaml").write_text(out)
    assert call("covers", str(tmp_path / "static.yaml"), *files, capsys=capsys)[0] == 0
