"""Against a real API server: what is somebody else's stays as it is, whatever it is called."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from auditpipeline.control import desired, names
from auditpipeline.control.additions import Additions, additions
from auditpipeline.control.kube import Client, Conflict, NoUpsert
from auditpipeline.control.ownership import ABSENT
from auditpipeline.control.resources import (
    ACCOUNTS,
    BUDGETS,
    CONFIG_MAPS,
    NETWORK_POLICIES,
    PIPELINES,
    PODS,
    SECRETS,
    SERVICES,
    SINKS,
    STATEFULSETS,
    Resource,
)
from auditpipeline.control.settings import Settings
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import Operator, eventually, gateway_pod, operator, until

pytestmark = pytest.mark.controlplane

Body = dict[str, Any]
FOREIGN: dict[str, tuple[Resource, str, Body]] = {
    "account": (ACCOUNTS, "audit-shop", {"automountServiceAccountToken": True}),
    "config": (SECRETS, "audit-shop-config", {"data": {"password": "eA=="}}),
    "tls": (SECRETS, "audit-shop-tls", {"data": {"password": "eA=="}}),
    "service": (SERVICES, "audit-shop", {"spec": {"selector": {"app": "shop"}, "ports": [{"port": 80}]}}),
    "networkpolicy": (NETWORK_POLICIES, "audit-shop", {"spec": {"podSelector": {}}}),
    "budget": (BUDGETS, "audit-shop", {"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "shop"}}}}),
    "statefulset": (
        STATEFULSETS,
        "audit-shop",
        {
            "spec": {
                "replicas": 0,
                "serviceName": "shop",
                "selector": {"matchLabels": {"app": "shop"}},
                "template": {
                    "metadata": {"labels": {"app": "shop"}},
                    "spec": {"containers": [{"name": "shop", "image": "shop"}]},
                },
            }
        },
    ),
    "sink": (SINKS, "audit-shop", {"spec": bodies.sink("x", url="https://siem.example/")["spec"]}),
}


async def create(kube: Client, name: str = "shop", **spec: Any) -> Body:
    """Create an AuditPipeline."""
    return await kube.create(PIPELINES, bodies.pipeline(name, **spec) | {"metadata": {"name": name}})


async def foreign(kube: Client, which: str, namespace: str, **meta: Any) -> Body:
    """Make an object of somebody else's that has the name of a child of pipeline `shop`."""
    kind, name, body = FOREIGN[which]
    place = {"namespace": namespace} if kind.namespaced else {}
    made = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name, **place, **meta}}
    return await kube.create(kind, made | body)


async def same(kube: Client, which: str, namespace: str, before: Body) -> None:
    """It is as it was made, but for its status."""
    kind, name, _ = FOREIGN[which]
    after = await kube.get(kind, name, namespace if kind.namespaced else None) or {}
    assert without(after) == without(before)


def without(body: Body) -> Body:
    """An object without what its controllers and the gateway write into its status."""
    meta = {key: value for key, value in body["metadata"].items() if key not in ("managedFields", "resourceVersion")}
    return {**body, "metadata": meta, "status": None}


@pytest.mark.parametrize("which", FOREIGN)
async def test_what_somebody_else_made_stays_as_it_is(
    served: ControlPlane, kube: Client, namespace: str, which: str
) -> None:
    """The pipeline says which object that is and what to do, and works once its name is free."""
    before = await foreign(kube, which, namespace)
    kind, name, _ = FOREIGN[which]
    async with operator(served.kubeconfig, namespace, resync=1.0):
        await create(kube)
        stalled = await until(kube, "shop", "Stalled", "True", "NameTaken")
        place = f"{namespace}/" if kind.namespaced else ""
        assert stalled["message"].startswith(f"{kind.kind} {place}{name} exists")
        assert "delete or rename that object" in stalled["message"]
        await same(kube, which, namespace, before)
        for other, (kind_, name_, _) in FOREIGN.items():
            if other != which:  # all or nothing
                assert await kube.get(kind_, name_, namespace if kind_.namespaced else None) is None
        await kube.patch(PIPELINES, "shop", {"spec": {"suspend": True}})
        await kube.delete(kind, name, namespace if kind.namespaced else None)
        await until(kube, "shop", "Ready", "False", "Suspended")


async def test_labels_like_ours_and_another_owner_are_no_proof(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """A StatefulSet with all our labels that another pipeline owns: neither changed nor pruned nor marked."""
    other = await create(kube, "other")
    reference = names.owner(bodies.parsed(other | {"spec": bodies.pipeline()["spec"]}))
    before = await foreign(kube, "statefulset", namespace, labels=names.labels("shop"), ownerReferences=[reference])
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await until(kube, "shop", "Stalled", "True", "NameTaken")
        await same(kube, "statefulset", namespace, before)


async def test_a_pod_that_is_not_of_our_statefulset_is_not_marked(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Whatever its labels; ours is."""
    meta = {"name": "theirs", "namespace": namespace, "labels": names.labels("shop")}
    spec = {"containers": [{"name": "x", "image": "x"}]}
    await kube.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    async with operator(served.kubeconfig, namespace):
        await create(kube, webhook={"replicas": 1, "storage": {"ephemeral": True}})
        await eventually("a Pod", lambda: kube.get(PODS, "audit-shop-0", namespace))
        for name in ("theirs", "audit-shop-0"):
            await kube.patch_status(PODS, name, {"phase": "Running"}, namespace)

        async def marked() -> bool:
            found = await kube.get(PODS, "audit-shop-0", namespace) or {}
            return names.CONFIG in found["metadata"].get("annotations", {})

        await eventually("marked", marked)
        await kube.patch(PIPELINES, "shop", {"spec": {"policy": {"rules": [{"level": "Request"}]}}})
        await eventually("another level", lambda: _level(kube, "Request"))
        theirs = await kube.get(PODS, "theirs", namespace) or {}
        assert "annotations" not in theirs["metadata"]


async def _level(kube: Client, level: str) -> bool:
    return bool((await kube.get(SINKS, "audit-shop") or {})["spec"]["policy"]["level"] == level)


async def test_what_a_pipeline_left_that_was_made_again_is_waited_for(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Its children have the old UID until the garbage collector is there; then the new ones come by themselves."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await until(kube, "shop", "WebhookAvailable", "False", "PodsPending")
        old = (await kube.get(SERVICES, "audit-shop", namespace) or {})["metadata"]["uid"]
        await kube.delete(PIPELINES, "shop")
        await create(kube)

        async def again() -> bool:
            stalled = await stalls(kube)
            assert not stalled, stalled
            found = await kube.get(SERVICES, "audit-shop", namespace)
            return found is not None and found["metadata"]["uid"] != old

        await eventually("made again", again, 90)
        await until(kube, "shop", "WebhookAvailable", "False", "PodsPending", 90)


async def stalls(kube: Client) -> list[Body]:
    """The conditions that say that pipeline `shop` is stalled."""
    status = (await kube.get(PIPELINES, "shop") or {}).get("status") or {}
    return [entry for entry in status.get("conditions", ()) if entry["type"] == "Stalled"]


async def test_a_pipeline_costs_no_more_requests_than_its_children(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """One apply for each, and no look before it: what is absent is created under a condition."""
    async with operator(served.kubeconfig, namespace) as running:
        await create(kube)
        await until(kube, "shop", "WebhookAvailable", "False", "PodsPending")
        await eventually("sink", lambda: kube.get(SINKS, "audit-shop"))
        made = await running.requests("apply", "get")
        kinds = (ACCOUNTS, SERVICES, NETWORK_POLICIES, BUDGETS, STATEFULSETS, SINKS)
        for what in (kind.plural for kind in kinds):
            assert made[f'resource="{what}",verb="apply"'] == 1
            # A Service is looked up by the gateway, whosever it is.
            assert what == "services" or f'resource="{what}",verb="get"' not in made


async def test_an_apply_under_a_condition_touches_no_other_object(kube: Client, namespace: str) -> None:
    """What `ensure` relies on, of the API server itself: absent means absent, and a UID is that object's alone."""
    kind, name, _ = FOREIGN["config"]
    meta = {"name": name, "namespace": namespace}
    mine = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"config.json": "e30="}}

    def on(**condition: str) -> Body:
        return mine | {"metadata": meta | condition}

    unknown = "11111111-2222-3333-4444-555555555555"
    with pytest.raises(Conflict):
        await kube.apply(kind, on(uid=unknown))
    assert await kube.get(kind, name, namespace) is None
    await kube.rehearse(kind, on(resourceVersion=ABSENT))
    assert await kube.get(kind, name, namespace) is None
    before = await foreign(kube, "config", namespace)
    for condition in ({"resourceVersion": ABSENT}, {"uid": unknown}):
        for write in (kube.apply, kube.rehearse):
            with pytest.raises(Conflict):
                await write(kind, on(**condition))
    assert await kube.get(kind, name, namespace) == before
    await kube.delete(kind, name, namespace)
    made = await kube.apply(kind, on(resourceVersion=ABSENT))
    assert [entry["operation"] for entry in made["metadata"]["managedFields"]] == ["Apply"]
    assert (await kube.apply(kind, on(uid=made["metadata"]["uid"])))["metadata"] == made["metadata"]


async def test_an_api_server_that_creates_nothing_under_a_condition_is_given_two_more_requests(
    kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 1.18 does of Services. What is there stays as it is; of what is made, ours is ours by Apply alone."""
    apply = Client._apply

    async def former(self: Client, kind: Resource, body: Body, verb: str, **options: str) -> Body:
        if body["metadata"].get("resourceVersion") == ABSENT:
            raise NoUpsert("HTTP 500 resourceVersion should not be set on objects to be created")
        return await apply(self, kind, body, verb, **options)

    monkeypatch.setattr(Client, "_apply", former)
    pipeline = bodies.parsed(bodies.pipeline("shop"))
    manifest = desired.service(pipeline, namespace, Settings())
    on = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": ABSENT}}
    before = await foreign(kube, "service", namespace)
    with pytest.raises(Conflict):
        await kube.apply(SERVICES, on)
    await same(kube, "service", namespace, before)
    await kube.delete(SERVICES, "audit-shop", namespace)
    made = await kube.apply(SERVICES, on)
    assert [entry["operation"] for entry in made["metadata"]["managedFields"]] == ["Apply"]
    assert made["spec"]["selector"] == manifest["spec"]["selector"]
    assert additions(made) == Additions()


OWN = {
    "gateway config": (SECRETS, names.GATEWAY_CONFIG_SECRET),
    "gateway tls": (SECRETS, names.GATEWAY_TLS_SECRET),
    "client": (SECRETS, names.CLIENT_SECRET),
    "readings": (CONFIG_MAPS, names.READINGS),
    "static policy": (CONFIG_MAPS, names.STATIC_POLICY),
}


@pytest.mark.parametrize("which", OWN)
async def test_an_object_that_is_not_the_operators_is_left_alone(
    served: ControlPlane, kube: Client, namespace: str, which: str
) -> None:
    """Whatever it is called; pipelines are made all the same, and those that need it say so."""
    kind, name = OWN[which]
    body = {"apiVersion": "v1", "kind": kind.kind, "metadata": {"name": name, "namespace": namespace}}
    before = await kube.create(kind, body | {"data": {"theirs": "eA=="}})
    async with operator(served.kubeconfig, namespace, canary_interval=0.2):
        await create(kube)
        await until(kube, "shop", "WebhookAvailable", "False", "PodsPending")
        await gateway_pod(kube, namespace)
        if which.startswith("gateway"):
            await eventually("told", lambda: _told(kube, name))
        await eventually("another one", lambda: kube.get(*_another(which), namespace))
        assert await kube.get(kind, name, namespace) == before


def _another(which: str) -> tuple[Resource, str]:
    """An object of the operator's own that is made after, or without, the one that is taken."""
    return OWN["readings" if which == "static policy" else "static policy"]


async def _told(kube: Client, name: str) -> bool:
    conditions = (await kube.get(PIPELINES, "shop") or {}).get("status", {}).get("conditions", [])
    return any(name in entry["message"] for entry in conditions if entry["type"] == "SinkRegistered")


async def test_an_authority_that_is_not_the_operators_is_not_used(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """The operator ends with an error that says so."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": names.CA_SECRET, "namespace": namespace}}
    before = await kube.create(SECRETS, body)
    async with operator(served.kubeconfig, namespace) as running:
        with pytest.raises(Exception, match=f"Secret {namespace}/{names.CA_SECRET} exists and is not the operator's"):
            await asyncio.wait_for(running.ended, 30)
    assert await kube.get(SECRETS, names.CA_SECRET, namespace) == before


@pytest.mark.parametrize("which", ["client", "readings", "gateway tls"])
async def test_what_is_the_operators_own_comes_back(
    served: ControlPlane, kube: Client, namespace: str, which: str
) -> None:
    """With what it held."""
    kind, name = OWN[which]
    async with operator(served.kubeconfig, namespace, canary_interval=0.2):
        first = await eventually("made", lambda: kube.get(kind, name, namespace))
        await kube.delete(kind, name, namespace)
        again = await eventually("back", lambda: kube.get(kind, name, namespace))
        assert again["metadata"]["uid"] != first["metadata"]["uid"]
        if kind is SECRETS:
            assert again["data"] == first["data"]


async def test_who_forces_our_fields_again_and_again_is_given_way(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Forty writes of the selector lead to a few applies; another pipeline is mended at once meanwhile."""
    async with operator(served.kubeconfig, namespace) as running:
        for name in ("shop", "calm"):
            await create(kube, name)
            await until(kube, name, "WebhookAvailable", "False", "PodsPending")
        before = await applies(running)
        for count in range(40):
            change = {"spec": {"selector": {"app": f"other-{count}"}}}
            await kube.patch(SERVICES, "audit-shop", change, namespace)
            await running.writes_during(1)
        assert 3 <= await applies(running) - before <= 8
        said = await until(kube, "shop", "Reconciling", "True", "Disputed")
        assert f"services {namespace}/audit-shop" in said["message"]
        await kube.patch(SERVICES, "audit-calm", {"spec": {"selector": {"app": "other"}}}, namespace)
        for name in ("calm", "shop"):
            await eventually(f"{name} mended", functools.partial(mended, kube, namespace, name), 90)
        await until(kube, "shop", "Reconciling", "True", "PodsPending")


async def applies(running: Operator) -> int:
    """How often a Service was applied."""
    return (await running.requests("apply")).get('resource="services",verb="apply"', 0)


async def mended(kube: Client, namespace: str, name: str) -> bool:
    """Whether the Service selects what it should."""
    found = await kube.get(SERVICES, f"audit-{name}", namespace) or {}
    return bool("app" not in found["spec"]["selector"])
