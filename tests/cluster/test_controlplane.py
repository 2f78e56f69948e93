"""The control plane is a real one: it comes up, decides by RBAC, audits by its policy, and goes without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.cluster.processes import Failed, wait_for

pytestmark = pytest.mark.controlplane

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- {level: Request, users: ["alice"], verbs: ["create"], resources: [{resources: ["configmaps"]}]}
- {level: None}
"""


def test_service_has_a_loopback_address(control_plane: ControlPlane) -> None:
    """A listener on a ClusterIP is that Service, without kube-proxy."""
    control_plane.kubectl("create", "service", "clusterip", "loopback", "--tcp=443:8443")
    address = control_plane.kubectl("get", "service", "loopback", "-o", "jsonpath={.spec.clusterIP}")
    assert address.startswith("127.96.")


def test_user_may_do_only_what_rbac_grants(control_plane: ControlPlane) -> None:
    """Any user can be had, and has no right until it or its group is given one."""
    control_plane.kubectl("create", "namespace", "granted")
    carol = control_plane.user_kubeconfig("carol", ["readers"])
    with pytest.raises(Failed, match='User "carol" cannot list resource "configmaps"'):
        control_plane.kubectl("get", "configmaps", "-n", "granted", kubeconfig=carol)
    control_plane.kubectl("create", "rolebinding", "r", "-n", "granted", "--clusterrole=view", "--group=readers")
    # The authorizer sees a new binding within moments, not at once.
    control_plane.wait_for("granted right", lambda: _may_read(control_plane, carol), timeout=10)


def _may_read(cluster: ControlPlane, kubeconfig: Path) -> bool:
    try:
        return "kube-root-ca.crt" in cluster.kubectl("get", "configmaps", "-n", "granted", kubeconfig=kubeconfig)
    except Failed:
        return False


def test_owner_takes_its_dependents_along(control_plane: ControlPlane) -> None:
    """The garbage collector runs, so that owner references can be relied on in tests."""
    control_plane.kubectl("create", "configmap", "owner")
    uid = control_plane.kubectl("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    dependent = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "dependent", "namespace": "default", "ownerReferences": [owner]},
    }
    control_plane.kubectl("create", "-f", "-", input=json.dumps(dependent))
    control_plane.kubectl("delete", "configmap", "owner")
    control_plane.kubectl("wait", "--for=delete", "secret/dependent", "--timeout=30s")


def test_audit_policy_is_honoured_and_nothing_is_left(tmp_path: Path) -> None:
    """Of two users' writes the policy records one; after a restart too; then no process and no file is left."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    log = tmp_path / "audit.log"
    with ControlPlane(audit_policy=policy, audit_log=log) as cluster:
        for user in ("alice", "bob"):
            kubeconfig = cluster.user_kubeconfig(user, ["system:masters"])
            cluster.kubectl("create", "configmap", f"by-{user}", kubeconfig=kubeconfig)
        wait_for("an audit event", lambda: log.exists() and bool(log.read_text()), timeout=10)
        cluster.restart_apiserver()
        cluster.kubectl("get", "configmap", "by-alice")
        data, groups = cluster.data, [process.pid for process in cluster.processes]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(event["user"]["username"], event["level"]) for event in events] == [("alice", "Request")]
    assert events[0]["requestObject"]["metadata"]["name"] == "by-alice"
    assert not data.exists()
    assert not [group for group in groups if _alive(group)]


def test_killed_parent_takes_the_cluster_along(tmp_path: Path) -> None:
    """A test run that is killed leaves no process behind."""
    script = (
        f"import sys, time; from {ControlPlane.__module__} import ControlPlane; cluster = ControlPlane();"
        "cluster.start(); print(cluster.data, *(process.pid for process in cluster.processes), flush=True);"
        "time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout
    _, *groups = parent.stdout.readline().split()
    assert len(groups) == 3
    parent.kill()
    parent.communicate()
    wait_for("end of every process", lambda: not [group for group in groups if _alive(int(group))], timeout=10)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
