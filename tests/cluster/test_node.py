"""The node is a real one: Pods run, a Service answers, a claim is bound, the API server reads its audit files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import image
from tests.cluster.node import Node
from tests.cluster.processes import Failed, children

pytestmark = pytest.mark.node

SERVE = "import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=8080)"
FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).status)"


@pytest.fixture(scope="module", autouse=True)
def _loaded(node: Node) -> None:
    node.load_image(image.build())


def test_node_is_a_control_plane_node(node: Node) -> None:
    """What is for control-plane nodes only is scheduled here."""
    assert node.kubectl("get", "nodes", "-l", "node-role.kubernetes.io/control-plane", "-o", "name") == "node/node1\n"


def test_service_answers_pods_and_the_node(node: Node) -> None:
    """A ClusterIP leads to the Pod behind it, from another Pod, from itself and from the node."""
    node.kubectl("create", "-f", "-", input=json.dumps(_pod("server", ["python3", "-c", SERVE])))
    node.kubectl("create", "-f", "-", input=json.dumps(_pod("client", ["sleep", "3600"])))
    node.kubectl("expose", "pod", "server", "--port=80", "--target-port=8080")
    node.kubectl("wait", "--for=condition=Ready", "pod/server", "pod/client", "--timeout=60s")
    address = node.kubectl("get", "service", "server", "-o", "jsonpath={.spec.clusterIP}")
    url = f"http://{address}/"
    node.wait_for("answer of the Service", lambda: _answers(node, "client", url), timeout=30)
    assert _answers(node, "server", url)
    assert node.run("/usr/bin/python3", "-c", FETCH, url) == "200\n"
    assert "GET / HTTP" in node.kubectl("logs", "server")


def test_claim_is_bound_and_a_group_may_write_to_it(node: Node) -> None:
    """A volume is there for a Pod without root, and goes with its claim."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "claim"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    node.kubectl("create", "-f", "-", input=json.dumps(claim))
    pod = _pod("writer", ["sh", "-c", "id -u > /data/uid && sleep 3600"])
    pod["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    node.kubectl("create", "-f", "-", input=json.dumps(pod))
    node.kubectl("wait", "--for=condition=Ready", "pod/writer", "--timeout=60s")
    assert node.kubectl("exec", "writer", "--", "cat", "/data/uid") == "65532\n"
    assert node.kubectl("exec", "writer", "--", "stat", "-c", "%g", "/data") == "65532\n"
    node.kubectl("delete", "pod", "writer", "--now")
    node.kubectl("delete", "pvc", "claim")
    node.wait_for("removal of the volume", lambda: node.kubectl("get", "pv", "-o", "name") == "", timeout=30)


def test_apiserver_restarts_under_running_pods(node: Node) -> None:
    """kube-apiserver may be restarted for new audit files, and Pods do not notice."""
    started = ["get", "node", "node1", "-o", "jsonpath={.metadata.uid}"]
    before = node.kubectl(*started)
    node.restart_apiserver()
    assert node.kubectl(*started) == before
    node.wait_ready()


def test_bootstrap_files_configure_auditing_and_nothing_is_left(tmp_path: Path) -> None:
    """kube-apiserver reads the policy of the bootstrap folder; then no process, cgroup or file is left."""
    rules = [{"level": "None", "users": ["system:apiserver"]}, {"level": "Metadata", "users": ["alice"]}]
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [*rules, {"level": "None"}]}
    (tmp_path / "policy.yaml").write_text(json.dumps(policy))
    cluster = {"name": "gateway", "cluster": {"server": "https://127.0.0.1:9443/", "insecure-skip-tls-verify": True}}
    context = {"name": "gateway", "context": {"cluster": "gateway", "user": "gateway"}}
    webhook = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [{"name": "gateway", "user": {}}],
        "contexts": [context],
        "current-context": "gateway",
    }
    (tmp_path / "webhook.kubeconfig").write_text(json.dumps(webhook))
    log = tmp_path / "audit.log"
    with Node(bootstrap_dir=tmp_path, audit_log=log) as node:
        node.kubectl("get", "nodes", kubeconfig=node.user_kubeconfig("alice", ["system:masters"]))
        node.wait_for("audit event", lambda: log.exists() and '"username":"alice"' in log.read_text(), timeout=10)
        assert node.run("/bin/ls", "/etc/kubernetes/auditpipeline").split() == [
            "audit.log",
            "policy.yaml",
            "webhook.kubeconfig",
        ]
        data, cgroup, pids = node.data, node.sandbox.cgroup, [process.pid for process in node.processes]
        assert all(children(pid) for pid in pids)
    assert not data.exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{cgroup}"))
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def _pod(name: str, command: list[str]) -> dict[str, Any]:
    """A Pod of the project's image that satisfies the restricted Pod Security standard."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": image.NAME,
                    "imagePullPolicy": "Never",
                    "command": command,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": True,
                    },
                }
            ],
            "securityContext": {
                "runAsNonRoot": True,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": 0,
        },
    }


def _answers(node: Node, pod: str, url: str) -> bool:
    try:
        return node.kubectl("exec", pod, "--", "python3", "-c", FETCH, url) == "200\n"
    except Failed:
        return False
