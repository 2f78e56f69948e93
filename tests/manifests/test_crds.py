"""crds/ on a real API server: accepted within its cost budgets, and every bad object refused with words that help."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.cluster.processes import Failed
from tests.manifests.objects import (
    BAD_PIPELINES,
    BAD_SINKS,
    GOOD_SINKS,
    HTTPS,
    PIPELINE,
    REMOVED,
    SINK,
    Bad,
    Good,
    Object,
    at,
    changed,
    named,
)

pytestmark = pytest.mark.controlplane


def created(cluster: ControlPlane, obj: Object) -> Object:
    """The object as the API server would store it: checked and defaulted, but not kept."""
    answer = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(obj))
    found: Object = json.loads(answer)
    return found


def refusal(cluster: ControlPlane, obj: Object) -> str:
    """The API server's words on an object that it refuses."""
    with pytest.raises(Failed) as refused:
        created(cluster, obj)
    return str(refused.value)


@pytest.mark.parametrize("case", BAD_PIPELINES, ids=named)
def test_a_bad_pipeline_is_refused_with_the_reason(crds: ControlPlane, case: Bad) -> None:
    """One difference from a good one, and what the API server says to it."""
    assert case.says in refusal(crds, changed(PIPELINE, case.path, case.value))


@pytest.mark.parametrize("case", BAD_SINKS, ids=named)
def test_a_bad_sink_is_refused_with_the_reason(crds: ControlPlane, case: Bad) -> None:
    """As Kubernetes 1.18 refused it."""
    assert case.says in refusal(crds, changed(SINK, case.path, case.value))


def test_a_pipeline_that_says_everything_is_taken_as_it_is(crds: ControlPlane) -> None:
    """No field is pruned, no value changed."""
    stored = created(crds, PIPELINE)
    assert stored["spec"] == PIPELINE["spec"] | {
        "outputs": [*with_delivery(PIPELINE)],
        "policy": stored["spec"]["policy"],
    }
    assert stored["spec"]["policy"]["rules"] == PIPELINE["spec"]["policy"]["rules"]


def with_delivery(pipeline: Object) -> list[Any]:
    """The outputs with the defaults that PIPELINE leaves to them."""
    return [{"delivery": "Guaranteed"} | output for output in pipeline["spec"]["outputs"]]


def test_the_smallest_pipeline_gets_the_defaults(crds: ControlPlane) -> None:
    """Policy and one output are enough; and nothing looks finished before the operator has looked."""
    spec = {
        "policy": {"rules": [{"level": "Metadata"}]},
        "outputs": [
            {"name": "a", "file": {"path": "/var/log/audit/a.jsonl"}},
            {"name": "b", "http": {"url": "https://siem.example"}},
        ],
    }
    stored = created(crds, PIPELINE | {"spec": spec})
    assert stored["spec"] == {
        "policy": {"rules": [{"level": "Metadata"}]},
        "outputs": [
            {
                "name": "a",
                "file": {
                    "path": "/var/log/audit/a.jsonl",
                    "maxSize": "100Mi",
                    "keep": 10,
                    "compression": "none",
                    "fsync": "batch",
                },
                "delivery": "Guaranteed",
            },
            {"name": "b", "http": HTTPS, "delivery": "Guaranteed"},
        ],
        "webhook": {
            "replicas": 2,
            "storage": {"size": "10Gi", "ephemeral": False},
            "spool": {"backpressure": "reject"},
        },
        "throttle": {"qps": 10, "burst": 15},
        "suspend": False,
    }
    assert stored["status"] == {"observedGeneration": -1}


def test_a_preset_is_stored_as_its_name(crds: ControlPlane) -> None:
    """And nothing is put beside it, which the next update would be refused for."""
    preset = {"preset": "baseline"}
    spec = {"policy": preset, "outputs": [{"name": "a", "stdout": {}, "policy": preset}]}
    stored = created(crds, PIPELINE | {"spec": spec})["spec"]
    assert (stored["policy"], stored["outputs"][0]["policy"]) == (preset, preset)


@pytest.mark.parametrize("case", GOOD_SINKS, ids=named)
def test_a_sink_of_1_18_is_taken_and_gets_the_defaults_of_1_18(crds: ControlPlane, case: Good) -> None:
    """Throttle 10 and 15, each by itself, and port 443; nothing else is changed."""
    stored = created(crds, changed(SINK, case.path, case.value))
    assert at(stored, case.path) == (case.value if case.stored is None else case.stored)


def test_the_largest_policies_are_within_the_cost_budget(crds: ControlPlane) -> None:
    """A thousand rules, and in each of sixteen outputs another thousand: checked, not refused for the effort."""
    rules = [{"level": "Metadata", "resources": [{"resources": ["pods"], "resourceNames": ["a"]}]}] * 1000
    outputs = [
        {"name": f"o{number}", "file": {"path": f"/var/log/audit/{number}.jsonl"}, "policy": {"rules": rules}}
        for number in range(16)
    ]
    stored = created(crds, PIPELINE | {"spec": {"policy": {"rules": rules}, "outputs": outputs}})
    assert len(stored["spec"]["outputs"][15]["policy"]["rules"]) == 1000


@pytest.mark.parametrize("value", ["elsewhere", REMOVED], ids=["changed", "removed"])
def test_the_target_namespace_cannot_be_changed(crds: ControlPlane, value: Any) -> None:
    """Neither to another one nor to none; anything else can."""
    crds.kubectl("apply", "-f", "-", input=json.dumps(PIPELINE))
    try:
        crds.kubectl("replace", "-f", "-", input=json.dumps(changed(PIPELINE, "spec.suspend", True)))
        with pytest.raises(Failed, match="delete the AuditPipeline and create it again"):
            crds.kubectl("replace", "-f", "-", input=json.dumps(changed(PIPELINE, "spec.targetNamespace", value)))
    finally:
        crds.kubectl("delete", "auditpipeline", "security")


STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "reason": "Delivering",
            "message": "",
        }
    ],
    "outputsReady": "1/1",
    "outputs": [{"name": "archive", "state": "Idle", "lagSeconds": 0.5, "delivered": 7, "lastError": ""}],
    "events": {"received": 7, "delivered": 7, "dropped": 0},
}


def test_kubectl_get_shows_what_matters(crds: ControlPlane) -> None:
    """Ready, Reason, Outputs, Events, Expires and Age; by short name and by category; the whole status is kept."""
    crds.kubectl("apply", "-f", "-", input=json.dumps(PIPELINE))
    try:
        crds.kubectl(
            *["patch", "ap", "security", "--subresource=status", "--type=merge", "-p", json.dumps({"status": STATUS})]
        )
        header, row = crds.kubectl("get", "ap").splitlines()
        assert header.split() == ["NAME", "READY", "REASON", "OUTPUTS", "EVENTS", "EXPIRES", "AGE"]
        assert row.split()[:5] == ["security", "True", "Delivering", "1/1", "7"]
        assert "security" in crds.kubectl("get", "audit")
        assert json.loads(crds.kubectl("get", "ap", "security", "-o", "json"))["status"] == STATUS
    finally:
        crds.kubectl("delete", "auditpipeline", "security")


SINK_STATUS = {
    "observedGeneration": 1,
    "conditions": STATUS["conditions"],
    "lagSeconds": 4,
    "delivered": 7,
    "dropped": 1,
    "lastError": "answered 500",
}


def test_kubectl_get_shows_how_a_sink_fares(crds: ControlPlane) -> None:
    """Ready, Lag and Age, beside what it says; the whole status is kept, and only by way of the subresource."""
    crds.kubectl("apply", "-f", "-", input=json.dumps(SINK | {"status": SINK_STATUS}))
    name = SINK["metadata"]["name"]
    try:
        assert json.loads(crds.kubectl("get", "auditsink", name, "-o", "json"))["status"] == {"observedGeneration": -1}
        patch = json.dumps({"status": SINK_STATUS})
        crds.kubectl("patch", "auditsink", name, "--subresource=status", "--type=merge", "-p", patch)
        header, row = crds.kubectl("get", "auditsinks").splitlines()
        assert header.split() == ["NAME", "READY", "LAG", "LEVEL", "NAMESPACE", "SERVICE", "AGE"]
        assert row.split()[:4] == [name, "True", "4", "Metadata"]
        assert json.loads(crds.kubectl("get", "auditsink", name, "-o", "json"))["status"] == SINK_STATUS
    finally:
        crds.kubectl("delete", "auditsink", name)


def test_kubectl_explain_knows_the_fields(crds: ControlPlane) -> None:
    """The descriptions reach the user."""
    told = crds.kubectl("explain", "auditpipeline.spec.outputs.file.path")
    assert "A file in a folder below /var/log" in told
