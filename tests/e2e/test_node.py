"""From `kubectl apply` to delivered events with real Pods: image, helm install, kubelet and Services."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator

import pytest

from tests.cluster.deployment import NAMESPACE, RECEIVERS, ROOT
from tests.cluster.onnode import NodeDeployment
from tests.cluster.processes import Failed
from tests.e2e.traffic import MINE, asked_for, gone, pipeline, touch, wait_recorded

pytestmark = pytest.mark.node

numbers = itertools.count()
HOST_NETWORK = json.dumps({"spec": {"hostNetwork": True}})
SCRAPE = """
import socket, ssl
context = ssl.create_default_context(cadata='''{ca}''')
with socket.create_connection(("127.0.0.1", 8080)) as plain:
    with context.wrap_socket(plain, server_hostname="{host}") as tls:
        tls.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
        while chunk := tls.recv(65536):
            print(chunk.decode(), end="")
"""


@pytest.fixture
def name(on_node: NodeDeployment) -> Iterator[str]:
    """A name for a pipeline of this test; what it made is deleted afterwards."""
    chosen = f"n{next(numbers)}"
    yield chosen
    on_node.kubectl("delete", "auditpipeline", chosen, "--ignore-not-found", "--wait=false")


def test_the_quickstart_has_its_four_objects_and_delivers(on_node: NodeDeployment) -> None:
    """Webhook Pods, Service, TLS Secret and AuditSink; `kubectl wait` returns; events of three users arrive."""
    on_node.kubectl("apply", "-f", "-", stdin=(ROOT / "manifests/examples/quickstart.yaml").read_text())
    on_node.kubectl("wait", "--for=condition=Ready", "auditpipeline/quickstart", "--timeout=120s")
    for kind in ("statefulset", "service", "pod", "secret", "auditsink"):
        assert "audit-quickstart" in on_node.kubectl("get", kind, "-n", RECEIVERS, "-o", "name")
    made = {touch(on_node, user) for user in ("alice", "bob", "carol")}
    wait_recorded(on_node, "quickstart", made)
    covers = "UpstreamCovers"  # the gateway's user may read the policy file, and nothing else in its folder
    on_node.wait_for(covers, lambda: on_node.condition("quickstart", covers).get("status") == "True")
    on_node.wait_for("a canary", lambda: "canary" in on_node.get("auditpipeline", "quickstart")["status"])
    on_node.kubectl("delete", "auditpipeline", "quickstart", "--timeout=60s")
    on_node.wait_for("nothing left", gone(on_node, "quickstart"), 120)


def test_receivers_run_where_pod_security_is_restricted_and_the_gateway_elsewhere(
    on_node: NodeDeployment, name: str
) -> None:
    """Enforced by the API server: what runs on the node has passed it, and a Pod with any privilege does not."""
    labels = on_node.get("namespace", RECEIVERS)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    on_node.apply(pipeline(name))
    on_node.wait_ready(name)
    wait_recorded(on_node, name, {touch(on_node)})
    assert f"audit-{name}" not in on_node.kubectl("get", "pods", "-n", NAMESPACE, "-o", "name")
    assert "gateway" not in on_node.kubectl("get", "pods", "-n", RECEIVERS, "-o", "name")
    with pytest.raises(Failed, match='violates PodSecurity "restricted'):
        on_node.kubectl("run", "shell", "-n", RECEIVERS, "--image=none", "--overrides", HOST_NETWORK)


def test_the_operators_metrics_come_by_https_under_its_name(on_node: NodeDeployment) -> None:
    """kubelet's probes reach it too, or the Deployment would not be available."""
    ca = on_node.get("secret", "auditpipeline-client", "-n", NAMESPACE)["data"]["ca.crt"]
    program = SCRAPE.format(ca=base64.b64decode(ca).decode(), host=f"auditpipeline-operator.{NAMESPACE}.svc")
    command = ("exec", "-n", NAMESPACE, "deploy/auditpipeline-operator", "--", "python3", "-c", program)
    on_node.wait_for("metrics", lambda: "auditpipeline_reconciles_total" in on_node.kubectl(*command))


def test_a_claim_is_bound_and_goes_with_the_pipeline(on_node: NodeDeployment, name: str) -> None:
    """The spool is on a PersistentVolumeClaim by default, and deleting leaves nothing behind."""
    on_node.apply(pipeline(name))
    on_node.wait_ready(name)
    assert f"data-audit-{name}-0" in on_node.kubectl("get", "pvc", "-n", RECEIVERS, "-o", "name")
    on_node.kubectl("delete", "auditpipeline", name, "--timeout=60s")
    on_node.wait_for("nothing left", gone(on_node, name), 120)


def test_a_changed_policy_reaches_the_pod_without_a_restart(on_node: NodeDeployment, name: str) -> None:
    """kubelet refreshes the mounted Secret because the Pod's annotation changes."""
    on_node.apply(pipeline(name))
    on_node.wait_ready(name)
    pod = on_node.get("pod", f"audit-{name}-0", "-n", RECEIVERS)["metadata"]["uid"]
    on_node.apply(pipeline(name, MINE, {"level": "Metadata", "verbs": ["delete"], "resources": MINE["resources"]}))
    made: set[str] = set()

    def deleted_is_recorded() -> bool:
        marker = touch(on_node)
        made.add(marker)
        on_node.kubectl("delete", "configmap", marker, "-n", "default")
        return any(event["verb"] == "delete" for event in asked_for(on_node, name))

    on_node.wait_for("a deletion in the file", deleted_is_recorded, 30)
    wait_recorded(on_node, name, made)
    assert on_node.get("pod", f"audit-{name}-0", "-n", RECEIVERS)["metadata"]["uid"] == pod


def test_a_service_that_was_deleted_comes_back(on_node: NodeDeployment, name: str) -> None:
    """With another ClusterIP, which the gateway learns."""
    on_node.apply(pipeline(name))
    on_node.wait_ready(name)
    on_node.kubectl("delete", "service", f"audit-{name}", "-n", RECEIVERS)

    def back() -> bool:
        try:
            return bool(on_node.get("service", f"audit-{name}", "-n", RECEIVERS))
        except Failed:
            return False

    on_node.wait_for("the Service again", back, 30)
    wait_recorded(on_node, name, {touch(on_node)})


def test_without_the_operator_events_flow_and_deleting_works(on_node: NodeDeployment, name: str) -> None:
    """No part of the path of an event needs it."""
    on_node.apply(pipeline(name))
    on_node.wait_ready(name)
    on_node.kubectl("scale", "deployment", "auditpipeline-operator", "-n", NAMESPACE, "--replicas=0")
    selector = "app.kubernetes.io/name=auditpipeline-operator"
    on_node.kubectl("wait", "--for=delete", "pod", "-n", NAMESPACE, "-l", selector, "--timeout=60s")
    try:
        wait_recorded(on_node, name, {touch(on_node)})
        on_node.kubectl("delete", "auditpipeline", name, "--timeout=60s")
        on_node.wait_for("nothing left", gone(on_node, name), 120)
    finally:
        on_node.kubectl("scale", "deployment", "auditpipeline-operator", "-n", NAMESPACE, "--replicas=1")
        on_node.kubectl("rollout", "status", "deployment/auditpipeline-operator", "-n", NAMESPACE, "--timeout=120s")


def test_kill_9_of_a_receiver_loses_no_acknowledged_event(on_node: NodeDeployment, name: str) -> None:
    """The container is started again by kubelet, and finds its spool."""
    on_node.apply(pipeline(name))
    on_node.wait_ready(name)
    made = {touch(on_node)}
    wait_recorded(on_node, name, made)
    for _ in range(2):
        before = _restarts(on_node, name)
        made |= {touch(on_node), touch(on_node)}
        on_node.kill(f"audit-{name}-0")
        made |= {touch(on_node), touch(on_node)}
        on_node.wait_for("a restart", lambda before=before: _restarts(on_node, name) > before)  # type: ignore[misc]
    wait_recorded(on_node, name, made, 180)


def _restarts(on_node: NodeDeployment, name: str) -> int:
    statuses = on_node.get("pod", f"audit-{name}-0", "-n", RECEIVERS)["status"].get("containerStatuses", [])
    return sum(status["restartCount"] for status in statuses)
