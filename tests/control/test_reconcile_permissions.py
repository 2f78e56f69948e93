"""Against a real API server with RBAC: what the operator needs, verb by verb, and that it is enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from auditpipeline.control import names
from auditpipeline.control import operator as operator_module
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import CONFIG_MAPS, EVENTS, PIPELINES, SERVICES, SINKS
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import eventually, gateway_pod, node, operator, silent_pod, statefulset, until

pytestmark = pytest.mark.controlplane

Rule = tuple[str, str, str]
CLUSTER: list[Rule] = [
    ("auditpipeline.dev", "auditpipelines", "get list watch delete"),
    ("auditpipeline.dev", "auditpipelines/status", "patch"),
    ("auditregistration.k8s.io", "auditsinks", "list watch create patch delete"),
    ("auditregistration.k8s.io", "auditsinks/status", "patch"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "get"),
    ("", "namespaces", "get"),
    ("", "services", "get"),
    ("", "nodes", "get"),
]
TARGET: list[Rule] = [
    ("", "secrets", "get list watch create patch delete"),
    ("", "services", "list watch create patch delete"),
    ("", "serviceaccounts", "list watch create patch delete"),
    ("", "pods", "list watch patch"),
    ("", "persistentvolumeclaims", "list"),
    ("apps", "statefulsets", "list watch create patch delete"),
    ("policy", "poddisruptionbudgets", "list watch create patch delete"),
    ("networking.k8s.io", "networkpolicies", "list watch create patch delete"),
]
PATHS = ["/metrics", "/auditpipeline-canary/*"]
PUBLISHED: list[Rule] = [("", "configmaps", "get create patch")]
API_SERVERS: list[Rule] = [("discovery.k8s.io", "endpointslices", "get")]
LEASES: list[Rule] = [("coordination.k8s.io", "leases", "get create update")]
TOLD: list[Rule] = [("events.k8s.io", "events", "create")]


def grant(user: str, rules: list[Rule], namespace: str | None) -> list[dict[str, Any]]:
    """A role with `rules` and its binding to `user`; for the cluster where there is no namespace."""
    kind = "Role" if namespace else "ClusterRole"
    meta = {"name": user} | ({"namespace": namespace} if namespace else {})
    group = "rbac.authorization.k8s.io"
    granted: list[dict[str, Any]] = [
        {"apiGroups": [api], "resources": [what], "verbs": verbs.split()} for api, what, verbs in rules
    ]
    if not namespace:
        granted.append({"nonResourceURLs": PATHS, "verbs": ["get"]})
    subject = {"kind": "User", "name": user, "apiGroup": group}
    return [
        {"apiVersion": f"{group}/v1", "kind": kind, "metadata": meta, "rules": granted},
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": kind, "name": user},
            "subjects": [subject],
        },
    ]


async def test_these_permissions_are_enough(
    served: ControlPlane, kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To lead, make, mend, make again, suspend, tell and expire; in two namespaces."""
    ahead = timedelta()
    monkeypatch.setattr(operator_module, "_now", lambda: datetime.now(UTC) + ahead)
    user, other = f"least-{namespace}", f"{namespace}-other"
    served.kubectl("create", "namespace", other)
    manifests = [
        *grant(user, CLUSTER, None),
        *grant(user, TARGET + PUBLISHED + LEASES, namespace),
        *grant(user, TARGET, other),
        *grant(user, TOLD + API_SERVERS, "default"),
    ]
    served.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))
    settings: dict[str, Any] = {"watch_namespaces": (other,), "leader_elect": True, "resync": 1.0}
    async with operator(served.user_kubeconfig(user), namespace, **settings) as running:
        body = bodies.pipeline("a", targetNamespace=other, webhook={"replicas": 1, "storage": {"size": "2Gi"}})
        await kube.create(PIPELINES, body | {"metadata": {"name": "a"}})
        await node(kube, namespace, ready=False)
        await gateway_pod(kube, namespace, node=namespace)
        await silent_pod(kube, namespace, "gateway")
        await until(kube, "a", "WebhookAvailable", "False", "ClaimPending")
        await kube.delete(SERVICES, "audit-a", other)
        await eventually("service back", lambda: kube.get(SERVICES, "audit-a", other))
        await _remake(kube, other)
        await kube.patch(PIPELINES, "a", {"spec": {"suspend": True}})
        await until(kube, "a", "Ready", "False", "Suspended")
        assert await kube.get(SINKS, "audit-a") is None
        await kube.create(SINKS, bodies.sink("bad", url="https://siem.example/", caBundle="bm8="))
        await eventually("told", lambda: _told(kube))
        await eventually("a status", lambda: _refused(kube))
        await eventually("published", lambda: kube.get(CONFIG_MAPS, names.STATIC_POLICY, namespace))
        for path in ("metrics", "auditpipeline-canary", "nodes"):
            assert f'resource="{path}"' in await running.get("/metrics")
        ahead = timedelta(minutes=2)
        await kube.patch(PIPELINES, "a", {"spec": {"expireAfter": "1m"}})
        await eventually("expired", lambda: _gone(kube))
        assert "reconcile_errors_total{" not in await running.get("/metrics")


async def _remake(kube: Client, namespace: str) -> None:
    old = (await statefulset(kube, namespace, "a") or {})["metadata"]["uid"]
    await kube.patch(PIPELINES, "a", {"spec": {"webhook": {"storage": {"size": "3Gi"}}}})

    async def remade() -> bool:
        new = await statefulset(kube, namespace, "a")
        return new is not None and new["metadata"]["uid"] != old

    await eventually("made again", remade, 90)


async def _told(kube: Client) -> bool:
    return any([body["reason"] == "CreateFailed" async for body in kube.list(EVENTS, "default")])


async def _refused(kube: Client) -> bool:
    conditions = (await kube.get(SINKS, "bad") or {}).get("status", {}).get("conditions", [])
    return "SinkRefused" in {entry["reason"] for entry in conditions}


async def _gone(kube: Client) -> bool:
    return await kube.get(PIPELINES, "a") is None
