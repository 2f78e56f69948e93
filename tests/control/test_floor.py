"""Changes to auditing are recorded whatever a pipeline and its outputs say: from the object to the stored line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from auditpipeline.control import desired, desired_gateway
from auditpipeline.control.resources import Features
from auditpipeline.core.event import as_item
from auditpipeline.core.spec import parse_sink
from auditpipeline.dataplane.filter import Filter, Wanted, narrow_line
from tests.control import bodies
from tests.control.test_desired import OLD, SETTINGS, TLS

NOTHING: dict[str, Any] = {"rules": [{"level": "None"}]}
SILENT: dict[str, Any] = {"rules": [{"level": "Metadata"}], "omitStages": ["ResponseComplete", "Panic"]}
HIDDEN: dict[str, Any] = {
    "rules": [{"level": "None", "resources": [{"group": "*", "resources": ["*"]}]}, {"level": "Metadata"}],
    "omitStages": ["RequestReceived"],
}
POLICIES = {"nothing": NOTHING, "no final stage": SILENT, "hidden": HIDDEN}


def event(resource: str, group: str, verb: str = "delete", stage: str = "ResponseComplete") -> dict[str, Any]:
    """What kube-apiserver's static policy emits at RequestResponse."""
    return {
        "level": "RequestResponse",
        "auditID": f"{verb}-{resource}-{stage}",
        "stage": stage,
        "requestURI": f"/apis/{group}/v1alpha1/{resource}/a",
        "verb": verb,
        "user": {"username": "mallory", "groups": ["system:masters"]},
        "objectRef": {"resource": resource, "name": "a", "apiGroup": group},
        "requestObject": {"kind": "DeleteOptions"},
        "responseObject": {"kind": "Status"},
    }


CHANGES = [event("auditpipelines", "auditpipeline.dev"), event("auditsinks", "auditregistration.k8s.io", "patch")]
OTHERS = [event("auditsinks", "auditregistration.k8s.io", "get"), event("pods", "")]
BODY = json.dumps(
    {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": CHANGES + OTHERS}, separators=(",", ":")
).encode()


@pytest.mark.parametrize("inner", [None, NOTHING, SILENT, HIDDEN], ids=["alone", *POLICIES])
@pytest.mark.parametrize("outer", POLICIES.values(), ids=POLICIES)
def test_no_policy_and_no_output_removes_the_floor(outer: dict[str, Any], inner: dict[str, Any] | None) -> None:
    """What the receivers store and each output gets: the changes whole, and nothing else."""
    outputs = [{"name": "console", "stdout": {}} | ({"policy": inner} if inner else {})]
    config = desired.receiver_config(bodies.parsed(bodies.pipeline(policy=outer, outputs=outputs)))
    (route,) = config.routes
    taken = Filter(Wanted(route.policies) for route in config.routes).take(BODY)
    assert [json.loads(as_item(line)) for line in taken.lines] == CHANGES
    assert [narrow_line(line, route.policies, None) for line in taken.lines] == taken.lines


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_gateway_sends_the_floor_to_every_pipeline(policy: dict[str, Any]) -> None:
    """The AuditSink asks for it, in its rules and its stages."""
    value = bodies.parsed(bodies.pipeline(policy=policy))
    sink = parse_sink(desired.audit_sink(value, "audit", "", SETTINGS, Features()))
    route = desired_gateway.route(sink, "10.0.0.1")
    assert [json.loads(as_item(line)) for line in Filter([Wanted(route.policies)]).take(BODY).lines] == CHANGES


@pytest.mark.parametrize(
    ("policy", "level"),
    [(NOTHING, "Metadata"), (SILENT, "Metadata"), ({"rules": [{"level": "Request"}]}, "Request")],
    ids=["nothing", "Metadata", "Request"],
)
def test_where_no_rules_can_be_sent_the_floor_raises_no_level(policy: dict[str, Any], level: str) -> None:
    """kube-apiserver 1.18 would send the bodies of all events; that a change was made arrives all the same."""
    value = bodies.parsed(bodies.pipeline(policy=policy))
    wanted = desired.audit_sink(value, "audit", TLS.bundle, SETTINGS, OLD)["spec"]["policy"]
    assert wanted["level"] == level
    assert {"ResponseComplete", "Panic"} <= set(wanted["stages"])


def test_an_audit_sink_of_somebody_else_is_taken_at_its_word() -> None:
    """Manifests of 1.18 mean what they meant."""
    sink = parse_sink(bodies.sink("theirs", url="https://siem.example/audit"))
    route = desired_gateway.route(sink, None)
    assert [json.loads(line)["level"] for line in Filter([Wanted(route.policies)]).take(BODY).lines] == ["Metadata"] * 4
