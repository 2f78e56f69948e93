"""The operator with the rights of manifests/install and nothing more, on a real API server that writes down each
request: nothing is missing, and there is no right that nobody used.

Whoever gives the operator another right has it used here: by a step more of the life cycle or, if only something rare
needs it, by a line in SHOWN_ELSEWHERE that names the test.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from auditpipeline.control import names
from auditpipeline.control import operator as operator_module
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import (
    ACCOUNTS,
    BUDGETS,
    CLAIMS,
    CONFIG_MAPS,
    EVENTS,
    NETWORK_POLICIES,
    PIPELINES,
    PODS,
    SERVICES,
    SINKS,
    STATEFULSETS,
    STORAGE_CLASSES,
    Resource,
)
from auditpipeline.core.report import Events, Report
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.rights import AUDIT_POLICY, Right, granted, installed, refusals, unused, used
from tests.control.running import client, eventually, gateway_pod, operator, pod, statefulset, until
from tests.manifests.render import INSTALL, NAMESPACE, RECEIVERS

pytestmark = pytest.mark.controlplane

SHARDS = "tests/control/test_reconcile_shards.py"
REFUSALS, TOLD = "tests/control/test_refusals.py", "test_pods_that_an_admission_plugin_refuses_are_told_in_its_words"
SHOWN_ELSEWHERE: dict[Right, str] = {
    Right("", "", "nodes", "get"): f"{SHARDS}::test_a_gateway_that_does_not_answer_is_named_and_the_others_count",
    Right(RECEIVERS, "", "events", "list"): f"{REFUSALS}::{TOLD}",
}
"""Rights that the life cycle below may not need, each with the test that shows its use, as `FILE::FUNCTION`."""
ROOT = Path(__file__).parents[2]
CLAIM = "data-audit-a-0"
VOLUMES = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
BOUND = (("Role", "r"), ("ClusterRole", "c"))
SAID = Report("receiver", "a", "", Events(), ())


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, Path]]:
    """A control plane with manifests/install, and the log of what the operator asks of it."""
    folder = tmp_path_factory.mktemp("audited")
    policy, log = folder / "policy.yaml", folder / "audit.log"
    policy.write_text(yaml.safe_dump(AUDIT_POLICY))
    with ControlPlane(audit_policy=policy, audit_log=log) as cluster:
        cluster.kubectl("apply", "--server-side", "-k", str(INSTALL))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield cluster, log


@pytest.fixture
async def admin(audited: tuple[ControlPlane, Path]) -> AsyncIterator[Client]:
    """The administrator's client."""
    async with client(audited[0]) as made:
        yield made


def test_rights_that_are_shown_elsewhere_are_granted_and_shown() -> None:
    """No exception outlives its right or its test."""
    assert set(SHOWN_ELSEWHERE) <= granted(installed())
    for test in SHOWN_ELSEWHERE.values():
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text()


def test_a_right_that_nobody_used_is_found(tmp_path: Path) -> None:
    """By verb, by name and by namespace; a refused request is no use, and a creation by apply is one of `create`."""
    apply = {"verb": "patch", "objectRef": {"resource": "secrets", "namespace": "a", "name": "x"}}
    events = [
        apply | {"responseStatus": {"code": 201}},
        {"verb": "list", "objectRef": {"resource": "pods", "namespace": "a"}, "responseStatus": {"code": 403}},
        {"verb": "get", "requestURI": "/metrics/1?x=y"},
    ]
    log = tmp_path / "audit.log"
    log.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x", "y"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"nonResourceURLs": ["/metrics/*", "/livez"], "verbs": ["get"]},
    ]
    roles = [{"kind": "Role", "metadata": {"name": "r", "namespace": place}, "rules": rules[:3]} for place in "ab"]
    roles += [{"kind": "ClusterRole", "metadata": {"name": name}, "rules": rules[3:]} for name in ("c", "of others")]
    roles += [{"kind": f"{kind}Binding", "roleRef": {"kind": kind, "name": name}} for kind, name in BOUND]
    found = {right for right in unused(granted(roles), used(log)) if right.namespace != "b"}
    assert found == {
        Right("a", "", "secrets", "delete"),
        Right("a", "", "secrets", "patch", "y"),
        Right("a", "", "pods", "list"),
        Right("", "", "/livez", "get"),
    }
    assert refusals(log) == {Right("a", "", "pods", "list")}


async def test_every_right_is_used_and_none_is_missing(
    audited: tuple[ControlPlane, Path], admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To lead, make, mend, make again, refresh, suspend, tell and expire."""
    cluster, log = audited
    ahead = timedelta()
    monkeypatch.setattr(operator_module, "_now", lambda: datetime.now(UTC) + ahead)
    settings = {"receivers_namespace": RECEIVERS, "leader_elect": True, "resync": 1.0, "canary_interval": 0.5}
    async with operator(_token(cluster), NAMESPACE, **settings) as running:
        await _live(admin)
        ahead = timedelta(minutes=2)
        await eventually("expired", lambda: _gone(admin))
        assert "reconcile_errors_total{" not in await running.get("/metrics")
    assert refusals(log) == set()
    assert unused(granted(installed()), used(log)) - set(SHOWN_ELSEWHERE) == set()


def _token(cluster: ControlPlane) -> Path:
    """A kubeconfig with the token of the operator's ServiceAccount."""
    file = cluster.data / "operator.kubeconfig"
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "auditpipeline-operator", "-n", NAMESPACE, "--duration=24h").strip()
    document["users"][0]["user"] = {"token": token}
    file.write_text(yaml.safe_dump(document))
    return file


async def _live(admin: Client) -> None:
    """The life of the pipeline `a`, from its creation on until its time is over, and of what is around it."""
    await gateway_pod(admin, NAMESPACE)
    await admin.create(STORAGE_CLASSES, bodies.storage_class("grows", grows=True))
    storage = {"size": "2Gi", "storageClassName": "grows"}
    await _create(admin, "a", webhook={"replicas": 1, "storage": storage}, expireAfter="1m")
    await _create(admin, "elsewhere", targetNamespace="kube-public")
    await until(admin, "elsewhere", "Stalled", "True", "NamespaceNotServed")
    await admin.create(SINKS, bodies.sink("audit-taken", url="https://siem.example/"))
    await _create(admin, "taken")
    await until(admin, "taken", "Stalled", "True", "NameTaken")
    await until(admin, "a", "WebhookAvailable", "False", "ClaimPending")
    await _run_pods(admin)
    await admin.delete(SERVICES, "audit-a", RECEIVERS)
    await eventually("service back", lambda: admin.get(SERVICES, "audit-a", RECEIVERS))
    for kind in (ACCOUNTS, SERVICES, NETWORK_POLICIES, BUDGETS, STATEFULSETS, SINKS):
        await _unlabel(admin, kind)
    await _remake(admin)
    await _tell_of_sinks(admin)
    for name in (names.STATIC_POLICY, names.READINGS):
        await eventually(name, lambda name=name: admin.get(CONFIG_MAPS, name, NAMESPACE))  # type: ignore[misc]
    await admin.patch(PIPELINES, "a", {"spec": {"suspend": True}})
    await until(admin, "a", "Ready", "False", "Suspended")
    assert await admin.get(SINKS, "audit-a") is None


async def _unlabel(admin: Client, kind: Resource) -> None:
    """Without its label no watch shows a child: it has to be read, and gets it back."""
    namespace = RECEIVERS if kind.namespaced else None
    await admin.patch(kind, "audit-a", {"metadata": {"labels": {names.MANAGED_BY: None}}}, namespace)

    async def labelled() -> bool:
        found = await admin.get(kind, "audit-a", namespace) or {}
        return bool(found["metadata"]["labels"].get(names.MANAGED_BY) == names.MANAGER)

    await eventually(f"{kind.plural} labelled", labelled)


async def _create(admin: Client, name: str, **spec: object) -> None:
    await admin.create(PIPELINES, bodies.pipeline(name, **spec) | {"metadata": {"name": name}})


async def _run_pods(admin: Client) -> None:
    """A receiver (whose Pod the real controller made, where Pod Security is restricted) and a gateway run."""
    await eventually("a receiver", lambda: admin.get(PODS, "audit-a-0", RECEIVERS))
    receiver = pod(admin, RECEIVERS, "audit-a-0", names.tls_secret("a"), names.OPS_PORT, SAID)
    gateway = pod(admin, NAMESPACE, "gateway", names.GATEWAY_TLS_SECRET, names.GATEWAY_OPS_PORT, SAID)
    async with receiver, gateway:
        await eventually("receiver marked", lambda: _marked(admin, "audit-a-0", RECEIVERS))
        await eventually("gateway marked", lambda: _marked(admin, "gateway", NAMESPACE))


async def _marked(admin: Client, name: str, namespace: str) -> bool:
    body = await admin.get(PODS, name, namespace) or {}
    return names.CONFIG in body.get("metadata", {}).get("annotations", {})


async def _remake(admin: Client) -> None:
    """Another size: the StatefulSet is made again, and the claim grows."""
    await admin.create(VOLUMES, bodies.volume("grows", "grows", CLAIM, RECEIVERS))
    await eventually("bound", lambda: _bound(admin))
    old = (await statefulset(admin, RECEIVERS, "a") or {})["metadata"]["uid"]
    await admin.patch(PIPELINES, "a", {"spec": {"webhook": {"storage": {"size": "3Gi"}}}})

    async def remade() -> bool:
        new = await statefulset(admin, RECEIVERS, "a")
        return new is not None and new["metadata"]["uid"] != old

    await eventually("made again", remade, 90)

    async def grown() -> bool:
        claim = await admin.get(CLAIMS, CLAIM, RECEIVERS) or {}
        return bool(claim["spec"]["resources"]["requests"]["storage"] == "3Gi")

    await eventually("grown", grown)


async def _bound(admin: Client) -> bool:
    claim = await admin.get(CLAIMS, CLAIM, RECEIVERS) or {}
    return bool(claim.get("status", {}).get("phase") == "Bound")


async def _tell_of_sinks(admin: Client) -> None:
    """Somebody's AuditSinks: one that cannot be used, one whose Service has to be looked up."""
    await admin.create(SINKS, bodies.sink("bad", url="https://siem.example/", caBundle="bm8="))
    await admin.create(SINKS, bodies.sink("theirs", service={"namespace": "default", "name": "kubernetes"}))

    async def told() -> bool:
        return any([body["reason"] == "CreateFailed" async for body in admin.list(EVENTS, "default")])

    async def refused() -> bool:
        conditions = (await admin.get(SINKS, "bad") or {}).get("status", {}).get("conditions", [])
        return "SinkRefused" in {entry["reason"] for entry in conditions}

    await eventually("told", told)
    await eventually("a status", refused)


async def _gone(admin: Client) -> bool:
    return await admin.get(PIPELINES, "a") is None
