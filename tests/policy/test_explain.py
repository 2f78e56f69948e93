"""`policy explain` says what the evaluator decides, and gives reasons that hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from auditpipeline.core.event import decode_event, head
from auditpipeline.core.explain import explain, identity, reason, request_for
from auditpipeline.core.policy import STAGES, Attributes, Level, Policy, Rule, decide, matches
from auditpipeline.core.policyfile import load
from tests.policy.strategies import policies, requests, rules
from tests.policy.support import EVENTS, POLICIES, call

BASELINE = POLICIES / "baseline.yaml"


@given(rules, requests)
@settings(max_examples=500)
def test_there_is_a_reason_exactly_where_a_rule_does_not_match(rule: Rule, request_: Attributes) -> None:
    """And it names a field that the rule has."""
    said = reason(rule, request_)
    assert (said == "") is matches(rule, request_)
    if said:
        fields = {"users", "userGroups", "verbs", "namespaces", "resources", "resourceNames", "nonResourceURLs"}
        assert said.partition(":")[0] in fields


@given(policies, requests)
def test_every_earlier_rule_has_its_reason(policy: Policy, request_: Attributes) -> None:
    """As many as there are before the one that decides, and none is empty."""
    found = explain(policy, request_)
    assert found.decision == decide(policy, request_)
    assert len(found.reasons) == (len(policy.rules) if found.decision.rule is None else found.decision.rule)
    assert all(found.reasons)


@pytest.mark.parametrize("name", ["baseline", "compliance", "security", "debug"])
def test_explaining_a_log_equals_the_evaluator(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Conformance: every event of a real log, one line each, in order."""
    file = POLICIES / f"{name}.yaml"
    policy = load(file.read_bytes(), str(file)).rules
    code, out, _ = call("explain", str(file), "--events", str(EVENTS), "--output", "json", capsys=capsys)
    assert code == 0
    lines = EVENTS.read_bytes().splitlines()
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == len(lines)
    for line, answer in zip(lines, answers, strict=True):
        event = head(decode_event(line))
        decision = decide(policy, event.request)
        level = min(event.level, decision.level)
        assert answer == {
            "auditID": event.audit_id,
            "stage": event.stage,
            "level": level.title,
            "rule": decision.rule,
            "omitStages": [stage for stage in STAGES if stage in decision.omit_stages],
            "omitManagedFields": decision.omit_managed_fields,
            "recorded": level > Level.NONE and event.stage not in decision.omit_stages,
        }


def test_a_request_is_named_as_kubectl_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    """With the level, the deciding rule and its line, and why no earlier rule decided."""
    arguments = ["create", "secrets/db", "-n", "default", "--as", "alice", "--group", "dev"]
    code, out, _ = call("explain", str(BASELINE), *arguments, capsys=capsys)
    assert code == 0
    assert "create secrets db in namespace default by alice (groups: dev, system:authenticated)" in out
    assert "level     Metadata\n" in out
    assert f"decided   rule 5 ({BASELINE}:37): Metadata: resources secrets" in out
    assert "rule 2 " in out
    assert "userGroups: none of dev, system:authenticated is one of system:nodes" in out


@pytest.mark.parametrize(
    ("arguments", "level", "rule"),
    [
        (["get", "/healthz/etcd"], "None", 1),
        (["get", "pods/web", "--subresource", "exec", "-n", "default", "--as", "alice"], "Metadata", 6),
        (["patch", "roles.rbac.authorization.k8s.io/x", "-n", "default", "--as", "alice"], "RequestResponse", 9),
        (["patch", "roles/x", "-n", "default", "--as", "alice"], "RequestResponse", 9),
        (["patch", "roles/x", "--api-group", "example.com", "-n", "default", "--as", "alice"], "Metadata", 10),
        (["list", "pods", "--as", "system:serviceaccount:kube-system:dns"], "None", 8),
    ],
)
def test_three_kinds_of_request_have_their_rule(
    arguments: list[str], level: str, rule: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paths, resources with and without their group, and subresources."""
    _, out, _ = call("explain", str(BASELINE), *arguments, "--output", "json", capsys=capsys)
    found = json.loads(out)
    assert (found["level"], found["rule"]) == (level, rule)
    assert [each["rule"] for each in found["earlier"]] == list(range(rule))


def test_an_event_is_explained_by_its_original_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Impersonation does not count; a body that is spread over lines can be read; the level is what is left."""
    event = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "stage": "ResponseComplete",
        "auditID": "a",
        "requestURI": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "verb": "create",
        "user": {"username": "alice"},
        "impersonatedUser": {"username": "system:kube-scheduler"},
        "objectRef": {"resource": "clusterroles", "apiGroup": "rbac.authorization.k8s.io"},
    }
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event, indent=2))
    _, out, _ = call("explain", str(BASELINE), "--event", str(file), capsys=capsys)
    assert "by alice" in out
    assert "captured at Metadata, stage ResponseComplete: recorded at Metadata" in out
    assert "level     RequestResponse" in out
    _, out, _ = call("explain", str(BASELINE), "--event", str(file), "--output", "json", capsys=capsys)
    assert json.loads(out)["level"] == "Metadata"


def test_a_name_that_looks_like_a_subresource_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The slash is for names, as it is for kubectl."""
    _, _, err = call("explain", str(BASELINE), "get", "pods/log", capsys=capsys)
    assert "for the subresource write pods --subresource log" in err


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        (None, (), (None, ())),
        ("alice", (), ("alice", ("system:authenticated",))),
        ("alice", ("dev",), ("alice", ("dev", "system:authenticated"))),
        ("system:anonymous", (), ("system:anonymous", ("system:unauthenticated",))),
        (
            "system:serviceaccount:a:b",
            (),
            (
                "system:serviceaccount:a:b",
                ("system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"),
            ),
        ),
    ],
)
def test_a_user_is_in_the_groups_that_kube_apiserver_adds(
    user: str | None, groups: tuple[str, ...], expected: tuple[str | None, tuple[str, ...]]
) -> None:
    """As for `kubectl --as`."""
    assert identity(user, groups) == expected


def test_a_resource_without_its_group_is_looked_up() -> None:
    """In what Kubernetes itself serves; unknown ones are in the core group."""
    assert request_for("get", "deployments").group == "apps"
    assert request_for("get", "deployments.extensions").group == "extensions"
    assert request_for("get", "events").group == ""
    assert request_for("get", "widgets").group == ""
    assert request_for("get", "widgets", group="example.com").group == "example.com"


def test_an_outputs_policy_is_chosen_by_name(piped: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name it is the pipeline's own."""
    pipeline = """
    apiVersion: auditpipeline.dev/v1alpha1
    kind: AuditPipeline
    metadata: {name: security}
    spec:
      policy: {rules: [{level: Request}]}
      outputs: [{name: siem, policy: {rules: [{level: Metadata}]}}]
    """
    for name, level in ((None, "Request"), ("security", "Request"), ("security/siem", "Metadata")):
        piped(pipeline)
        chosen = ("--policy", name) if name else ()
        _, out, _ = call("explain", "-", "get", "pods", *chosen, capsys=capsys)
        assert f"level     {level}\n" in out
    piped(pipeline)
    assert (
        "choose one of: security, security/siem"
        in call("explain", "-", "get", "pods", "--policy", "x", capsys=capsys)[2]
    )
