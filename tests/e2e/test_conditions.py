"""Conditions on a real control plane: what is applied decides what is recorded, and the status says how they do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.local import LocalDeployment
from tests.cluster.processes import Failed
from tests.e2e.traffic import MINE, pipeline, recorded, touch, wait_recorded

pytestmark = pytest.mark.controlplane

numbers = itertools.count()
NOT_ALICE = {"name": "not-alice", "expression": "event.user.username != 'alice'"}
FAILS = {"name": "team", "expression": "event.annotations['no-such-annotation'] == 'a'"}
CHANGED = {
    "name": "changed",
    "expression": "!(event.verb in ['update', 'patch'] && has(event.requestObject.metadata.resourceVersion) && "
    "has(event.responseObject.metadata.resourceVersion) && "
    "event.requestObject.metadata.resourceVersion == event.responseObject.metadata.resourceVersion)",
}


@pytest.fixture
def name(local: LocalDeployment) -> Iterator[str]:
    """A name for a pipeline of this test; what it made is deleted afterwards."""
    chosen = f"c{next(numbers)}"
    yield chosen
    local.kubectl("delete", "auditpipeline", chosen, "--ignore-not-found", "--wait=false")


def is_so(local: LocalDeployment, name: str, kind: str, status: str, reason: str) -> None:
    """Waits until a condition of the status says so."""

    def said() -> bool:
        found = local.condition(name, kind)
        return (found.get("status"), found.get("reason")) == (status, reason)

    local.wait_for(f"{kind} {status} {reason}", said)


def test_a_condition_changes_what_is_recorded(local: LocalDeployment, name: str) -> None:
    """It comes, is replaced by one that fails, by one that does not compile, and goes."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    wait_recorded(local, name, {touch(local, "alice")})
    assert local.condition(name, "ConditionsEvaluated") == {}

    local.apply(pipeline(name, matchConditions=[NOT_ALICE]))
    local.wait_ready(name)
    unwanted, wanted = touch(local, "alice"), touch(local, "bob")
    wait_recorded(local, name, {wanted})
    assert unwanted not in recorded(local, name)
    is_so(local, name, "ConditionsEvaluated", "True", "Evaluated")

    local.apply(pipeline(name, matchConditions=[FAILS]))
    local.wait_ready(name)
    wait_recorded(local, name, {touch(local, "alice")})
    is_so(local, name, "ConditionsEvaluated", "True", "SomeEvaluationsFail")
    assert "condition team: a key is not there" in local.condition(name, "ConditionsEvaluated")["message"]
    assert local.condition(name, "Ready")["status"] == "True"

    misspelt = {"name": "not-alice", "expression": "event.usr.username != 'alice'"}
    local.apply(pipeline(name, matchConditions=[NOT_ALICE]))
    local.wait_ready(name)
    local.apply(pipeline(name, matchConditions=[misspelt]))
    is_so(local, name, "Stalled", "True", "InvalidSpec")
    message = local.condition(name, "Stalled")["message"]
    assert "spec.matchConditions[0].expression: at character 1: undefined field 'usr' of event" in message
    unwanted, wanted = touch(local, "alice"), touch(local, "bob")
    wait_recorded(local, name, {wanted})
    assert unwanted not in recorded(local, name)

    local.apply(pipeline(name))
    local.wait_ready(name)
    wait_recorded(local, name, {touch(local, "alice")})
    assert local.condition(name, "ConditionsEvaluated") == {}


def test_a_condition_of_an_output_is_its_own(local: LocalDeployment, name: str) -> None:
    """The other output gets everything."""
    outputs = [
        {"name": "archive", "file": {"path": "/var/log/audit/events.jsonl", "keep": 1}},
        {"name": "few", "file": {"path": "/var/log/audit/few.jsonl", "keep": 1}, "matchConditions": [NOT_ALICE]},
    ]
    local.apply(pipeline(name, outputs=outputs))
    local.wait_ready(name)
    unwanted, wanted = touch(local, "alice"), touch(local, "bob")
    wait_recorded(local, name, {unwanted, wanted})

    def few() -> set[str]:
        return {event["objectRef"]["name"] for event in local.events(name, "/var/log/audit/few.jsonl")}

    local.wait_for("the event of bob", lambda: wanted in few())
    assert unwanted not in few()
    is_so(local, name, "ConditionsEvaluated", "True", "Evaluated")


def test_updates_that_change_nothing_are_left_out(local: LocalDeployment, name: str) -> None:
    """By the resourceVersion that kube-apiserver answers with."""
    accounts = [{"group": "", "resources": ["serviceaccounts"]}]
    rule: dict[str, Any] = {"level": "RequestResponse", "verbs": ["create", "update"], "resources": accounts}
    local.apply(pipeline(name, rule, matchConditions=[CHANGED]))
    local.wait_ready(name)
    account, last = f"account-{name}", f"last-{name}"
    local.kubectl("create", "serviceaccount", account, "-n", "default")
    stored = local.get("serviceaccount", account, "-n", "default")
    replace = ("replace", "-n", "default", "-f", "-")
    local.kubectl(*replace, stdin=json.dumps(stored))
    local.kubectl(*replace, stdin=json.dumps({**stored, "automountServiceAccountToken": False}))
    local.kubectl("create", "serviceaccount", last, "-n", "default")
    wait_recorded(local, name, {account, last})
    events = [event for event in local.events(name) if event.get("objectRef", {}).get("name") == account]
    assert [event["verb"] for event in events] == ["create", "update"]
    assert events[1]["requestObject"]["automountServiceAccountToken"] is False


def test_refused_requests_alone(local: LocalDeployment, name: str) -> None:
    """Anybody who may not do what is tried."""
    refused = {"name": "refused", "expression": "event.responseStatus.code == 403"}
    local.apply(pipeline(name, MINE, matchConditions=[refused]))
    local.wait_ready(name)
    allowed, forbidden = touch(local, "alice"), f"forbidden-{name}"
    kubeconfig = local.cluster.user_kubeconfig("mallory", ["nobody"])
    with pytest.raises(Failed, match="forbidden"):
        local.kubectl("create", "configmap", forbidden, "-n", "default", kubeconfig=kubeconfig)

    def told() -> set[str]:
        return {event["user"]["username"] for event in local.events(name) if "403" in json.dumps(event)}

    local.wait_for("the refused request", lambda: "mallory" in told())
    assert allowed not in recorded(local, name)
