"""Against a real API server whose etcd is restored from a snapshot under a running operator: resource versions go back.

The operator goes on by itself, within seconds and not at the next resync, while all versions are lower than before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from auditpipeline.control import names
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import CONFIG_MAPS, LEASES, PIPELINES, SECRETS, SERVICES, SINKS
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.conftest import CRDS
from tests.control.running import client, eventually, operator, statefulset

pytestmark = pytest.mark.controlplane

NAMESPACE = "audit"
WRITES = 1500
"""More than this file's tests and the control plane itself make after a restore."""


@pytest.fixture(scope="module")
def restorable() -> Iterator[ControlPlane]:
    """A control plane of this file's own."""
    with ControlPlane() as cluster:
        cluster.kubectl("apply", "-f", str(CRDS))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        cluster.kubectl("create", "namespace", NAMESPACE)
        yield cluster


@pytest.fixture
async def admin(restorable: ControlPlane) -> AsyncIterator[Client]:
    """The administrator's client."""
    async with client(restorable) as made:
        yield made


async def create(kube: Client, name: str) -> None:
    """Create an AuditPipeline."""
    await kube.create(PIPELINES, bodies.pipeline(name) | {"metadata": {"name": name}})


async def version(kube: Client) -> int:
    """The resource version that the API server has come to."""
    return int((await anext(kube.pages(PIPELINES))).version)


async def settled(kube: Client, name: str) -> bool:
    """Whether its children are there and the newest status of the pipeline and of its sink is written."""
    found, sink = await kube.get(PIPELINES, name) or {}, await kube.get(SINKS, names.child(name)) or {}
    generations = [body.get("metadata", {}).get("generation", 0) for body in (found, sink)]
    observed = [body.get("status", {}).get("observedGeneration", -1) for body in (found, sink)]
    return generations == observed and bool(await statefulset(kube, NAMESPACE, name))


async def advance(kube: Client) -> None:
    """Let many resource versions pass."""
    meta = {"name": "busy", "namespace": NAMESPACE}
    for number in range(WRITES):
        await kube.apply(
            CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"n": str(number)}}
        )


async def test_etcd_is_restored_under_a_running_operator(restorable: ControlPlane, admin: Client) -> None:
    """What was made after the snapshot is forgotten, what was changed is put right, and changes are seen: of pipelines,
    children and sinks, by watches, with their statuses."""
    async with operator(restorable.kubeconfig, NAMESPACE, leader_elect=True) as running:
        await create(admin, "a")
        await eventually("a", lambda: settled(admin, "a"))
        stored = (await admin.get(SECRETS, "audit-a-config", NAMESPACE) or {})["data"]
        snapshot = await asyncio.to_thread(restorable.snapshot)
        await create(admin, "late")
        await eventually("late", lambda: settled(admin, "late"))
        await admin.patch(PIPELINES, "a", {"spec": {"policy": {"rules": [{"level": "Request"}]}}})
        await admin.delete(SERVICES, "audit-a", NAMESPACE)
        await eventually("Service back", lambda: admin.get(SERVICES, "audit-a", NAMESPACE))
        await eventually("a again", lambda: settled(admin, "a"))
        await advance(admin)
        before = await version(admin)
        await asyncio.to_thread(restorable.restore, snapshot)

        # A change made before the operator can know of the restore, and one that follows it.
        await admin.patch(PIPELINES, "a", {"spec": {"webhook": {"replicas": 1}}})

        async def followed() -> bool:
            found = await statefulset(admin, NAMESPACE, "a") or {}
            return bool(found.get("spec", {}).get("replicas") == 1)

        await eventually("the change of a", followed)
        assert (await admin.get(SECRETS, "audit-a-config", NAMESPACE) or {})["data"] == stored
        await create(admin, "b")
        await eventually("b", lambda: settled(admin, "b"))

        async def forgotten() -> bool:
            return 'pipeline="late"' not in await running.get("/metrics")

        await eventually("late is forgotten", forgotten)
        for name in ("a", "b"):
            await admin.delete(SERVICES, names.child(name), NAMESPACE)
            await eventually(
                "Service back",
                lambda name=name: admin.get(SERVICES, names.child(name), NAMESPACE),  # type: ignore[misc]
            )
        await admin.delete(PIPELINES, "b")
        await eventually("a with its statuses", lambda: settled(admin, "a"))
        assert await version(admin) < before
        assert not running.ended.done()
        lease = await admin.get(LEASES, names.LEASE, NAMESPACE) or {}
        assert lease["spec"]["holderIdentity"] == running.settings.identity
        await admin.delete(PIPELINES, "a")
