"""From `kubectl apply` to delivered events, on a real control plane: kube-apiserver -> gateway -> receiver -> file."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

import pytest
import yaml

from tests.cluster.deployment import NAMESPACE, RECEIVERS
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import Failed
from tests.e2e.traffic import (
    MINE,
    asked_for,
    count,
    gone,
    pipeline,
    recorded,
    restart_apiserver,
    touch,
    wait_recorded,
)

pytestmark = pytest.mark.controlplane

numbers = itertools.count()


@pytest.fixture
def name(local: LocalDeployment) -> Iterator[str]:
    """A name for a pipeline of this test; what it made is deleted afterwards."""
    chosen = f"t{next(numbers)}"
    yield chosen
    local.kubectl("delete", "auditpipeline", chosen, "--ignore-not-found", "--wait=false")


def restarted(local: LocalDeployment, pod: str, before: int) -> bool:
    return local.kubelet.pod(pod).restarts > before


def test_events_of_several_users_arrive(local: LocalDeployment, name: str) -> None:
    """The whole way, and the status says Ready only when it is true."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    made = {touch(local, user) for user in ("alice", "bob", "carol")}
    wait_recorded(local, name, made)
    users = {event["user"]["username"] for event in local.events(name)}
    assert {"alice", "bob", "carol"} <= users
    local.wait_for("Delivering", lambda: local.condition(name, "Delivering").get("status") == "True")
    local.wait_for("Redacted", lambda: local.condition(name, "Redacted").get("status") == "True")
    status = local.get("auditpipeline", name)["status"]
    assert {condition["type"] for condition in status["conditions"] if condition["status"] == "True"} >= {
        *("Ready", "CertificateReady", "WebhookAvailable", "SinkRegistered", "Delivering")
    }
    local.wait_for("counts", lambda: local.get("auditpipeline", name)["status"]["events"]["delivered"] >= 3)
    assert status["outputs"][0]["name"] == "archive"


def test_kubectl_wait_returns(local: LocalDeployment, name: str) -> None:
    """kstatus and kubectl agree."""
    local.apply(pipeline(name))
    local.kubectl("wait", "--for=condition=Ready", f"auditpipeline/{name}", "--timeout=60s")


def test_a_changed_policy_changes_what_is_recorded_and_loses_nothing(local: LocalDeployment, name: str) -> None:
    """Within ten seconds, with markers made all the time; no Pod is restarted for it."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    before = touch(local)
    wait_recorded(local, name, {before})
    pod = local.get("pod", f"audit-{name}-0", "-n", RECEIVERS)["metadata"]["uid"]
    local.apply(pipeline(name, MINE, {"level": "Metadata", "verbs": ["delete"], "resources": MINE["resources"]}))
    made: set[str] = set()

    def deleted_is_recorded() -> bool:
        made.add(touch(local))
        local.kubectl("delete", "configmap", max(made, key=lambda text: int(text.split("-")[1])), "-n", "default")
        return any(event["verb"] == "delete" for event in asked_for(local, name))

    local.wait_for("a deletion in the file", deleted_is_recorded, 20)
    wait_recorded(local, name, made)
    assert local.get("pod", f"audit-{name}-0", "-n", RECEIVERS)["metadata"]["uid"] == pod


@pytest.mark.parametrize("kind", ["service", "statefulset", "networkpolicy", "poddisruptionbudget", "serviceaccount"])
def test_a_child_that_was_deleted_comes_back(local: LocalDeployment, name: str, kind: str) -> None:
    """Drift is mended from the watch, not from the next resync."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    old = local.get(kind, f"audit-{name}", "-n", RECEIVERS)["metadata"]["uid"]
    local.kubectl("delete", kind, f"audit-{name}", "-n", RECEIVERS, "--wait=false")

    def back() -> bool:
        try:
            return bool(local.get(kind, f"audit-{name}", "-n", RECEIVERS)["metadata"]["uid"] != old)
        except Failed:
            return False

    local.wait_for(f"{kind} again", back, 20)
    local.wait_ready(name)


def test_a_child_that_was_edited_is_put_right(local: LocalDeployment, name: str) -> None:
    """Somebody points the Service elsewhere: an open door, closed within seconds."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    before = local.get("service", f"audit-{name}", "-n", RECEIVERS)["spec"]
    patch = json.dumps({"spec": {"selector": {"app": "other"}}})
    local.kubectl("patch", "service", f"audit-{name}", "-n", RECEIVERS, "-p", patch)

    def mended() -> bool:
        found = local.get("service", f"audit-{name}", "-n", RECEIVERS)
        return bool(found["spec"]["selector"] == before["selector"])

    local.wait_for("the Service's selector as it was", mended, 20)


def test_deleting_the_pipeline_leaves_nothing(local: LocalDeployment, name: str) -> None:
    """Owner references do it."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    local.kubectl("delete", "auditpipeline", name, "--timeout=30s")
    local.wait_for("nothing left", gone(local, name))


def test_without_the_operator_events_flow_and_deleting_works(local: LocalDeployment, name: str) -> None:
    """The operator is no part of the path of an event, and no finalizer waits for it."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    local.operator.stop(signal.SIGTERM)
    try:
        marker = touch(local)
        local.cluster.wait_for("the event", lambda: marker in recorded(local, name), 30)
        local.kubectl("delete", "auditpipeline", name, "--timeout=30s")
        local.cluster.wait_for("nothing left", gone(local, name), 60)
    finally:
        local.operator.start()


def test_an_operator_killed_in_the_middle_goes_on_where_it_was(local: LocalDeployment, name: str) -> None:
    """Reconcile is level-triggered: half of the children there is a state like any other."""
    local.apply(pipeline(name))
    os.kill(local.operator.pid, signal.SIGKILL)
    local.operator.stop()
    local.operator.start()
    local.wait_ready(name)


@pytest.mark.parametrize("victim", ["receiver", "gateway"])
def test_kill_9_loses_no_acknowledged_event(local: LocalDeployment, name: str, victim: str) -> None:
    """What kube-apiserver's own log has is in the file afterwards, whoever was killed meanwhile."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    made = {touch(local)}
    wait_recorded(local, name, made)
    selector = f"app.kubernetes.io/name=auditpipeline-{victim}"
    pods = local.kubectl("get", "pods", "-A", "-l", selector, "-o", "name").split()
    pod = next(found.removeprefix("pod/") for found in pods if victim == "gateway" or name in found)
    for _ in range(3):
        made |= {touch(local), touch(local)}
        restarts = local.kubelet.pod(pod).restarts
        local.kubelet.kill(pod)
        made |= {touch(local), touch(local)}
        local.wait_for("a restart", partial(restarted, local, pod, restarts))
    wait_recorded(local, name, made, 120)


def test_a_missing_secret_is_told_and_mended_when_it_comes(local: LocalDeployment, name: str) -> None:
    """The message names the Secret, and nobody has to touch the pipeline afterwards."""
    http = {"url": "https://127.0.0.1:1/", "bearerTokenSecretRef": {"name": f"{name}-token", "key": "token"}}
    archive = {"name": "archive", "file": {"path": "/var/log/audit/events.jsonl"}}
    local.apply(pipeline(name, outputs=[archive, {"name": "siem", "http": http, "delivery": "BestEffort"}]))
    local.wait_for(
        "a message", lambda: f"{name}-token" in json.dumps(local.get("auditpipeline", name).get("status", {}))
    )
    assert local.condition(name)["status"] != "True"
    local.kubectl("create", "secret", "generic", f"{name}-token", "-n", RECEIVERS, "--from-literal=token=hunter2")

    def told() -> bool:
        text = json.dumps(local.get("auditpipeline", name)["status"])
        assert "hunter2" not in text
        return f"{name}-token" not in text

    local.wait_for("no more message", told)
    local.wait_for("a sink", lambda: local.condition(name, "SinkRegistered").get("status") == "True")
    marker = touch(local)
    wait_recorded(local, name, {marker})


def test_a_target_namespace_that_is_not_served_is_told(local: LocalDeployment, name: str) -> None:
    """Stalled, with what to do; it is not tried for ever at full speed."""
    local.apply(pipeline(name, targetNamespace="nowhere"))
    local.wait_for("Stalled", lambda: local.condition(name, "Stalled").get("status") == "True")
    assert "nowhere" in local.condition(name, "Stalled")["message"]


def test_two_pipelines_may_write_the_same_path(local: LocalDeployment, name: str) -> None:
    """Each has its own Pods and volumes: neither sees the other's events."""
    other = f"{name}-other"
    deletions = {"level": "Metadata", "verbs": ["delete"], "resources": MINE["resources"]}
    local.apply(pipeline(name), pipeline(other, deletions))
    local.wait_ready(name)
    local.wait_ready(other)
    marker = touch(local)
    local.kubectl("delete", "configmap", marker, "-n", "default")
    wait_recorded(local, name, {marker})
    wait_recorded(local, other, {marker})
    assert {event["verb"] for event in asked_for(local, name)} == {"create"}
    assert {event["verb"] for event in asked_for(local, other)} == {"delete"}
    local.kubectl("delete", "auditpipeline", other, "--wait=false")


def test_the_api_server_may_go_away(local: LocalDeployment, name: str) -> None:
    """Operator and data plane wait for it, and go on."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    restart_apiserver(local)
    marker = touch(local)
    wait_recorded(local, name, {marker})
    local.kubectl("delete", "service", f"audit-{name}", "-n", RECEIVERS)
    local.wait_for("the Service again", lambda: f"audit-{name}" in local.kubectl("get", "services", "-A"), 60)


def test_a_suspended_pipeline_takes_no_new_events(local: LocalDeployment, name: str) -> None:
    """The sink goes and the Pods stay; it goes on when it is resumed."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    local.apply(pipeline(name, suspend=True))
    local.wait_for("no sink", lambda: f"audit-{name}" not in local.kubectl("get", "auditsinks", "-o", "name"))
    local.apply(pipeline(name))
    local.wait_ready(name)
    marker = touch(local)
    wait_recorded(local, name, {marker})


def test_a_debug_pipeline_says_when_it_ends(local: LocalDeployment, name: str) -> None:
    """In a column of `kubectl get`, as a time: kubectl's own type for times shows the future as <invalid>."""
    local.apply(pipeline(name, expireAfter="2h"))
    local.wait_for("a time", lambda: "expiresAt" in local.get("auditpipeline", name).get("status", {}))
    body = local.get("auditpipeline", name)
    made, ends = body["metadata"]["creationTimestamp"], body["status"]["expiresAt"]
    assert datetime.fromisoformat(ends) - datetime.fromisoformat(made) == timedelta(hours=2)
    head, row = local.kubectl("get", "auditpipeline", name).splitlines()
    assert "EXPIRES" in head
    assert ends in row
    local.apply(pipeline(name))
    local.wait_for("no time", lambda: not local.get("auditpipeline", name)["status"].get("expiresAt"))
    assert ends not in local.kubectl("get", "auditpipeline", name)


def test_a_debug_pipeline_removes_itself(local: LocalDeployment, name: str) -> None:
    """After expireAfter, with everything it had."""
    local.apply(pipeline(name, expireAfter="1m"))
    local.wait_for(
        "an end",
        lambda: name not in local.kubectl("get", "auditpipelines", "-o", "name").replace("/", " ").split(),
        timeout=120,
    )
    local.wait_for("nothing left", gone(local, name))


def test_a_pipeline_that_wants_more_than_the_static_policy_emits_is_told(local: LocalDeployment, name: str) -> None:
    """UpstreamCovers=False names the rule; with the policy of the ConfigMap and a restart it turns True by itself."""
    file = local.bootstrap / "policy.yaml"
    before = file.read_text()
    secrets = {"level": "Request", "verbs": ["create"], "resources": [{"group": "", "resources": ["secrets"]}]}
    local.apply(pipeline(name))
    local.wait_for("Covered", lambda: local.condition(name, "UpstreamCovers").get("reason") == "Covered")
    local.apply(pipeline(name, MINE, secrets))
    local.wait_for("False", lambda: local.condition(name, "UpstreamCovers").get("status") == "False")
    found = local.condition(name, "UpstreamCovers")
    assert found["reason"] == "RulesNotMet"
    assert "rule 1 (Request: verbs create; resources secrets" in found["message"]
    assert "auditpipeline-static-policy" in found["message"]
    local.wait_for("not Ready", lambda: local.condition(name).get("reason") == "RulesNotMet")
    published = local.get("configmap", "auditpipeline-static-policy", "-n", NAMESPACE)["data"]["policy.yaml"]
    try:
        # The second rule of what the pipeline wants is in it, and nothing that any other pipeline has.
        assert [rule for rule in yaml.safe_load(published)["rules"] if rule.get("verbs") == ["create"]]
        file.write_text(published)
        local.wait_for(
            "RestartNeeded", lambda: local.condition(name, "UpstreamCovers").get("reason") == "RestartNeeded"
        )
        restart_apiserver(local)
        local.wait_for("True", lambda: local.condition(name, "UpstreamCovers").get("status") == "True")
        local.wait_ready(name)
        made = f"secret-{name}"
        local.kubectl("create", "secret", "generic", made, "-n", "default", "--from-literal=a=b")
        wait_recorded(local, name, {made})
        assert any(event["level"] == "Request" and "requestObject" in event for event in local.events(name))
    finally:
        file.write_text(before)
        local.wait_for("the old file", lambda: local.condition(name, "UpstreamCovers").get("status") == "True")
        restart_apiserver(local)


def test_canaries_prove_the_way_of_a_quiet_pipeline(local: LocalDeployment, name: str) -> None:
    """They arrive, and are delivered only where the policy asks for them."""
    nothing = {"level": "Metadata", "verbs": ["create"], "resources": [{"group": "", "resources": ["bindings"]}]}
    wanting, canaries = f"{name}-all", {"level": "Metadata", "nonResourceURLs": ["/auditpipeline-canary/*"]}
    local.apply(pipeline(name, nothing), pipeline(wanting, canaries))
    try:
        # Changes of pipelines are recorded whatever a policy says: an event of another one may have come already.
        reasons = ("CanarySeen", "Delivering")
        local.wait_for("events", lambda: local.condition(name, "Delivering").get("reason") in reasons)
        local.wait_for("a canary", lambda: "canary" in local.get("auditpipeline", name)["status"])
        local.wait_ready(name)
        assert local.get("auditpipeline", name)["status"]["canary"]["latencySeconds"] >= 0
        local.wait_for("a canary in a file", lambda: any(asked_for(local, wanting)))
        (event, *_) = asked_for(local, wanting)
        assert event["responseStatus"]["code"] == 404
        assert event["user"]["username"] == f"system:serviceaccount:{NAMESPACE}:auditpipeline-operator"
        assert asked_for(local, name) == []
    finally:
        local.kubectl("delete", "auditpipeline", wanting, "--wait=false")


def test_an_api_server_that_posts_nothing_is_found_out_by_the_canary(local: LocalDeployment, name: str) -> None:
    """Gateway and receivers are well and say so: only what does not come can tell. It mends by itself."""
    local.apply(pipeline(name))
    local.wait_for("a canary", lambda: "canary" in local.get("auditpipeline", name)["status"])
    webhook = local.bootstrap / "webhook.kubeconfig"
    before = webhook.read_text()
    try:
        webhook.write_text(before.replace(local.address, "127.0.0.1:1"))
        restart_apiserver(local)
        local.wait_for("CanaryMissing", lambda: local.condition(name, "Delivering").get("reason") == "CanaryMissing")
        local.wait_for("not Ready", lambda: local.condition(name).get("reason") == "CanaryMissing")
        assert local.condition(name, "SinkRegistered")["status"] == "True"
    finally:
        webhook.write_text(before)
        restart_apiserver(local)
    local.wait_ready(name)
    wait_recorded(local, name, {touch(local)})


def test_a_foreign_auditsink_is_served_too(local: LocalDeployment, name: str) -> None:
    """A manifest of 1.18 that points at a Service by name: the sink of a pipeline itself is one of these."""
    local.apply(pipeline(name))
    local.wait_ready(name)
    sink = yaml.safe_load(local.kubectl("get", "auditsink", f"audit-{name}", "-o", "yaml"))
    foreign = {
        "apiVersion": sink["apiVersion"],
        "kind": "AuditSink",
        "metadata": {"name": f"{name}-foreign"},
        "spec": {
            "policy": {"level": "Metadata", "stages": ["ResponseComplete"]},
            "webhook": {"clientConfig": sink["spec"]["webhook"]["clientConfig"]},
        },
    }
    local.apply(foreign)
    try:
        local.wait_for("an event twice", lambda: count(local, name, touch(local)) == 2)
    finally:
        local.kubectl("delete", "auditsink", f"{name}-foreign")
