"""The chart as a release on a real API server: install, upgrade, uninstall, install again."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.manifests.objects import PIPELINE
from tests.manifests.render import CHART, NAMESPACE, RECEIVERS, run

pytestmark = pytest.mark.controlplane

Helm = Callable[..., str]


@pytest.fixture(scope="module")
def on_cluster(empty: ControlPlane, helm: str) -> Helm:
    """helm against that control plane, in the operator's namespace."""

    def call(*arguments: str) -> str:
        return run(helm, *arguments, "--namespace", NAMESPACE, "--kubeconfig", str(empty.kubeconfig))

    return call


def names(cluster: ControlPlane, kind: str, *arguments: str) -> set[str]:
    """The names of the objects of a kind that are ours."""
    listed = cluster.kubectl("get", kind, *arguments, "-o", "jsonpath={.items[*].metadata.name}").split()
    return {name for name in listed if "audit" in name}


RECEIVER = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {
        "name": "audit-old",
        "namespace": NAMESPACE,
        "labels": {"app.kubernetes.io/name": "auditpipeline-receiver"},
    },
    "spec": {
        "replicas": 0,
        "serviceName": "audit-old",
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
    },
}


def served(cluster: ControlPlane) -> set[str]:
    """The namespaces in which the operator may change receivers."""
    listed = cluster.kubectl(
        *("get", "roles", "-A", "--field-selector=metadata.name=auditpipeline-operator"),
        *("-o", "jsonpath={.items[*].metadata.namespace}"),
    )
    return set(listed.split())


def test_a_release_comes_changes_goes_and_comes_again(empty: ControlPlane, on_cluster: Helm) -> None:
    """One story, since each step starts from the one before."""
    crds = {"auditpipelines.auditpipeline.dev", "auditsinks.auditregistration.k8s.io"}

    told = on_cluster("install", "auditpipeline", str(CHART), "--create-namespace")
    assert "auditpipeline bootstrap files" in told
    assert names(empty, "crds") == crds
    assert names(empty, "daemonsets", "-n", NAMESPACE) == {"auditpipeline-gateway"}
    assert len(names(empty, "validatingadmissionpolicies")) == 5
    assert names(empty, "namespaces") == {NAMESPACE, RECEIVERS}
    assert served(empty) == {RECEIVERS}

    # The gateway goes behind a Service.
    behind = on_cluster("upgrade", "auditpipeline", str(CHART), "--set", "gateway.kind=StatefulSet")
    assert "auditpipeline bootstrap secret" in behind
    assert "redact" not in behind

    # Without the policies, the notes say what becomes of an opt-out.
    without = ("upgrade", "auditpipeline", str(CHART), "--dry-run=server", "--set", "admissionPolicy.enabled=false")
    assert "The operator refuses opt-outs" in on_cluster(*without)
    assert "can switch redaction off" in on_cluster(*without, "--set", "redaction.allowOptOut=true")
    assert names(empty, "daemonsets,statefulsets", "-n", NAMESPACE) == {"auditpipeline-gateway"}
    assert names(empty, "services,poddisruptionbudgets", "-n", NAMESPACE) == {"auditpipeline-gateway"}
    assert names(empty, "daemonsets", "-n", NAMESPACE) == set()

    # The API serves our AuditSink now: `auto` must not take it for a built-in one. A namespace more, the gateway less.
    empty.kubectl("create", "namespace", "audit")
    on_cluster("upgrade", "auditpipeline", str(CHART), "--set", "targetNamespaces={audit},gateway.enabled=false")
    assert names(empty, "crds") == crds
    assert served(empty) == {RECEIVERS, "audit"}
    assert names(empty, "daemonsets", "-n", NAMESPACE) == set()

    # Receivers of a release that made them in its own namespace: an upgrade finds them, and finds that they are gone.
    empty.kubectl("apply", "-f", "-", input=json.dumps(RECEIVER))
    on_cluster("upgrade", "auditpipeline", str(CHART), "--reset-values")
    assert served(empty) == {RECEIVERS, NAMESPACE}
    assert "receivers of an earlier release" in on_cluster("get", "notes", "auditpipeline")
    empty.kubectl("delete", "statefulset", "audit-old", "-n", NAMESPACE)
    on_cluster("upgrade", "auditpipeline", str(CHART), "--reset-values")
    assert served(empty) == {RECEIVERS}

    empty.kubectl("apply", "-f", "-", input=json.dumps(PIPELINE))
    on_cluster("uninstall", "auditpipeline")
    assert names(empty, "deployments,roles,rolebindings,serviceaccounts", "-A") == set()
    assert names(empty, "clusterroles,clusterrolebindings,validatingadmissionpolicies") == set()
    assert empty.kubectl("get", "auditpipelines", "-o", "name").strip() == "auditpipeline.auditpipeline.dev/security"

    assert RECEIVERS in names(empty, "namespaces")

    on_cluster("install", "auditpipeline", str(CHART))
    assert names(empty, "deployments", "-n", NAMESPACE) == {"auditpipeline-operator"}
