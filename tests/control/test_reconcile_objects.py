"""Against a real API server: an AuditPipeline becomes objects, which stay as they should be, and go with it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import kopf
import pytest

from auditpipeline.control import access, names
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import (
    ACCOUNTS,
    BUDGETS,
    NETWORK_POLICIES,
    PIPELINES,
    SECRETS,
    SERVICES,
    SINKS,
    STATEFULSETS,
    Resource,
)
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import WRITES, eventually, operator, receivers, statefulset, until

pytestmark = pytest.mark.controlplane

COLLECTED = 90.0
"""Seconds: the garbage collector learns of new kinds every half minute, and does nothing else meanwhile."""
CHILDREN = [
    (ACCOUNTS, "audit-a"),
    (SECRETS, "audit-a-config"),
    (SECRETS, "audit-a-tls"),
    (SERVICES, "audit-a"),
    (NETWORK_POLICIES, "audit-a"),
    (BUDGETS, "audit-a"),
    (STATEFULSETS, "audit-a"),
    (SINKS, "audit-a"),
]


async def create(kube: Client, **spec: Any) -> None:
    """Create the AuditPipeline `a`."""
    body = bodies.pipeline("a", **spec)
    await kube.create(PIPELINES, body | {"metadata": {"name": "a"}})


async def there(kube: Client, namespace: str, kind: Resource, name: str) -> dict[str, Any] | None:
    """A child, unless it is being deleted."""
    found = await kube.get(kind, name, namespace if kind.namespaced else None)
    return found if found and "deletionTimestamp" not in found["metadata"] else None


async def all_there(kube: Client, namespace: str) -> bool:
    """Whether every child is there."""
    return all([await there(kube, namespace, *child) for child in CHILDREN])


async def test_a_pipeline_becomes_its_objects(served: ControlPlane, kube: Client, namespace: str) -> None:
    """All of them, owned by it, within seconds; what is not known to work is not called Ready."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await eventually("children", lambda: all_there(kube, namespace))
        owner = (await kube.get(PIPELINES, "a") or {})["metadata"]["uid"]
        for child in CHILDREN:
            found = await there(kube, namespace, *child)
            assert [reference["uid"] for reference in (found or {})["metadata"]["ownerReferences"]] == [owner]
        await until(kube, "a", "CertificateReady", "True")
        await until(kube, "a", "Ready", "False", "PodsPending")


async def test_deleting_a_pipeline_removes_everything_without_an_operator(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Nothing blocks it: no finalizer of ours is anywhere."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await eventually("children", lambda: all_there(kube, namespace))
    await kube.delete(PIPELINES, "a")
    for child in CHILDREN:

        async def gone(child: tuple[Resource, str] = child) -> bool:
            return await there(kube, namespace, *child) is None

        await eventually(f"{child} gone", gone, COLLECTED)


async def test_a_child_deleted_by_hand_is_back(served: ControlPlane, kube: Client, namespace: str) -> None:
    """Each kind, within seconds and not at the next resync."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await eventually("children", lambda: all_there(kube, namespace))
        for kind, name in CHILDREN:
            old = (await there(kube, namespace, kind, name) or {})["metadata"]["uid"]
            await kube.delete(kind, name, namespace if kind.namespaced else None)

            async def back(kind: Resource = kind, name: str = name, old: str = old) -> bool:
                found = await there(kube, namespace, kind, name)
                return found is not None and found["metadata"]["uid"] != old

            await eventually(f"{kind.plural} back", back)


async def test_a_child_deleted_before_its_watch_began_is_back(
    served: ControlPlane, kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No watch tells of it. The watches begin late here, as on a machine with much else to do."""
    deleted, connect = threading.Event(), access.connection

    async def late(*arguments: Any) -> kopf.AiohttpSession:
        await asyncio.to_thread(deleted.wait)
        return await connect(*arguments)

    monkeypatch.setattr(access, "connection", late)
    await create(kube)
    async with operator(served.kubeconfig, namespace):
        await eventually("children", lambda: all_there(kube, namespace))
        for kind, name in CHILDREN:
            await kube.delete(kind, name, namespace if kind.namespaced else None)
        deleted.set()
        await eventually("children again", lambda: all_there(kube, namespace))


EDITS: list[tuple[Resource, str, dict[str, Any], str]] = [
    (SERVICES, "audit-a", {"spec": {"selector": {"app": "other"}}}, "spec"),
    (SECRETS, "audit-a-config", {"data": {"config.json": "e30="}}, "data"),
    (SECRETS, "audit-a-tls", {"data": {"tls.crt": "e30="}}, "data"),
    (STATEFULSETS, "audit-a", {"spec": {"replicas": 7}}, "spec"),
    (NETWORK_POLICIES, "audit-a", {"spec": {"ingress": [{}]}}, "spec"),
    (BUDGETS, "audit-a", {"spec": {"maxUnavailable": 5}}, "spec"),
    (SINKS, "audit-a", {"spec": {"policy": {"level": "None"}}}, "spec"),
    (SERVICES, "audit-a", {"metadata": {"ownerReferences": []}}, "owners"),
    (SERVICES, "audit-a", {"metadata": {"labels": None}}, "labels"),
]


def looked_at(body: dict[str, Any] | None, part: str) -> Any:
    """The part of an object that an edit is about."""
    meta = (body or {})["metadata"]
    return {"owners": meta.get("ownerReferences"), "labels": meta.get("labels")}.get(part, (body or {}).get(part))


async def test_a_child_edited_by_hand_is_as_it_was(served: ControlPlane, kube: Client, namespace: str) -> None:
    """Fields, owners and labels; server-side apply takes them back."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await eventually("children", lambda: all_there(kube, namespace))
        for kind, name, edit, part in EDITS:
            where = namespace if kind.namespaced else None
            before = looked_at(await kube.get(kind, name, where), part)
            edited = looked_at(await kube.patch(kind, name, edit, where), part)
            assert edited != before

            async def mended(kind: Resource = kind, name: str = name, part: str = part, before: Any = before) -> bool:
                return bool(
                    looked_at(await kube.get(kind, name, namespace if kind.namespaced else None), part) == before
                )

            await eventually(f"{kind.plural} mended", mended)


SPY = {"name": "spy", "image": "spy", "volumeMounts": [{"name": "data", "mountPath": "/x"}]}
RESTARTED = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}


def spied(body: dict[str, Any]) -> dict[str, Any]:
    """A merge patch that puts a container beside the receiver's, and a variable and a volume into it."""
    pod = body["spec"]["template"]["spec"]
    (receiver,) = pod["containers"]
    changed = receiver | {"env": [{"name": "X", "value": "x"}]}
    host = {"name": "host", "hostPath": {"path": "/"}}
    return {"containers": [changed, SPY], "volumes": [*pod["volumes"], host], "hostNetwork": True}


async def test_what_is_added_to_a_child_by_hand_goes(served: ControlPlane, kube: Client, namespace: str) -> None:
    """Ways in and ways out that we do not speak of: server-side apply alone leaves them. A restart is left to kubectl,
    and labels and annotations to whoever put them there."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await eventually("children", lambda: all_there(kube, namespace))
        before = {
            key: await kube.get(*key, namespace) or {} for key in ((SERVICES, "audit-a"), (STATEFULSETS, "audit-a"))
        }
        tracked = {"metadata": {"labels": {"team": "a"}, "annotations": {"argocd.argoproj.io/tracking-id": "x"}}}
        await kube.patch(SERVICES, "audit-a", {"spec": {"externalIPs": ["192.0.2.7"]}} | tracked, namespace)
        await kube.patch(SECRETS, "audit-a-config", {"data": {"more": "e30="}}, namespace)
        template = {"metadata": {"annotations": RESTARTED}, "spec": spied(before[STATEFULSETS, "audit-a"])}
        await kube.patch(STATEFULSETS, "audit-a", {"spec": {"template": template}}, namespace)

        async def as_before() -> bool:
            service = await kube.get(SERVICES, "audit-a", namespace) or {}
            workload = await kube.get(STATEFULSETS, "audit-a", namespace) or {}
            secret = await kube.get(SECRETS, "audit-a-config", namespace) or {}
            assert workload["spec"]["template"]["metadata"].pop("annotations") == RESTARTED
            specs = {(SERVICES, "audit-a"): service, (STATEFULSETS, "audit-a"): workload}
            same = [body["spec"] == before[key]["spec"] for key, body in specs.items()]
            meta = service["metadata"]
            assert (meta["labels"]["team"], len(meta["annotations"])) == ("a", 1)
            return all(same) and list(secret["data"]) == ["config.json"]

        await eventually("as before", as_before)


async def test_a_resync_writes_nothing(served: ControlPlane, kube: Client, namespace: str) -> None:
    """Several of them, one after the other; what they read is one object a pipeline and one list a kind."""
    async with operator(served.kubeconfig, namespace, resync=0.5) as running:
        await create(kube)
        await until(kube, "a", "SinkRegistered", "False", "GatewayNotRunning")

        async def settled() -> bool:
            return await lists() > seen + 2

        async def lists() -> int:
            return sum((await running.requests("list")).values())

        seen = await lists() + 30
        await eventually("three resyncs", settled)
        writes, seen = await running.requests(*WRITES), await lists() + 30
        await eventually("three more", settled)
        assert await running.requests(*WRITES) == writes


async def test_a_suspended_pipeline_has_no_sink_and_keeps_its_pods(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """They drain; taking the suspension back registers it again."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await eventually("children", lambda: all_there(kube, namespace))
        await kube.patch(PIPELINES, "a", {"spec": {"suspend": True}})
        await until(kube, "a", "Ready", "False", "Suspended")
        assert await kube.get(SINKS, "audit-a") is None
        assert await statefulset(kube, namespace, "a")
        await kube.patch(PIPELINES, "a", {"spec": {"suspend": False}})
        await eventually("children", lambda: all_there(kube, namespace))


async def test_a_changed_policy_is_rendered_and_restarts_nothing(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """The configuration and the AuditSink change, the StatefulSet does not."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await eventually("children", lambda: all_there(kube, namespace))
        before = await statefulset(kube, namespace, "a") or {}
        config = await kube.get(SECRETS, "audit-a-config", namespace) or {}
        await kube.patch(PIPELINES, "a", {"spec": {"policy": {"rules": [{"level": "Request"}]}}})

        async def rendered() -> bool:
            sink = await kube.get(SINKS, "audit-a") or {}
            secret = await kube.get(SECRETS, "audit-a-config", namespace) or {}
            return bool(sink["spec"]["policy"]["level"] == "Request" and secret["data"] != config["data"])

        await eventually("rendered", rendered)
        after = await statefulset(kube, namespace, "a") or {}
        assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_another_storage_makes_the_statefulset_again_around_its_pods(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Claim templates cannot be changed: the Pods are orphaned and adopted, not deleted."""
    async with operator(served.kubeconfig, namespace):
        await create(kube, webhook={"replicas": 1, "storage": {"size": "2Gi"}})

        async def one_pod() -> bool:
            return len(await receivers(kube, namespace, "a")) == 1

        await eventually("a Pod", one_pod)
        old = (await statefulset(kube, namespace, "a") or {})["metadata"]["uid"]
        (pod,) = await receivers(kube, namespace, "a")
        await kube.patch(PIPELINES, "a", {"spec": {"webhook": {"storage": {"size": "3Gi"}}}})

        async def adopted() -> bool:
            new = await statefulset(kube, namespace, "a")
            if not new or new["metadata"]["uid"] == old:
                return False
            (kept,) = await receivers(kube, namespace, "a")
            owners = [reference["uid"] for reference in kept["metadata"].get("ownerReferences", ())]
            return owners == [new["metadata"]["uid"]] and kept["metadata"]["uid"] == pod["metadata"]["uid"]

        await eventually("adopted", adopted, COLLECTED)


async def test_nothing_of_ours_is_put_on_the_users_object(served: ControlPlane, kube: Client, namespace: str) -> None:
    """No finalizer, no annotation."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await until(kube, "a", "Ready", "False")
        body = await kube.get(PIPELINES, "a") or {}
        assert {"finalizers", "annotations", "labels"}.isdisjoint(body["metadata"])
        assert names.MANAGER in {entry["manager"] for entry in body["metadata"]["managedFields"]}
