"""Against a real API server: the status of AuditSinks, ours and foreign ones, and the Events on bad ones."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.desired_gateway import unpacked
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import EVENTS, SECRETS, SERVICES, SINKS
from auditpipeline.core import config
from auditpipeline.core.report import Events, OutputReport, Report
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import eventually, gateway_pod, operator, pod

pytestmark = pytest.mark.controlplane

BAD_BUNDLE = {"url": "https://siem.example/", "caBundle": "bm8="}


async def ready(kube: Client, name: str) -> dict[str, Any]:
    """The condition Ready of a sink, or an empty one."""
    conditions = (await kube.get(SINKS, name) or {}).get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == "Ready"), {})


async def until(kube: Client, name: str, status: str, reason: str) -> dict[str, Any]:
    """Wait until a sink's Ready says so."""

    async def check() -> dict[str, Any] | None:
        found = await ready(kube, name)
        return found if (found.get("status"), found.get("reason")) == (status, reason) else None

    found: dict[str, Any] = await eventually(f"{name} {status} {reason}", check)
    return found


async def rendered(kube: Client, namespace: str) -> config.Config | None:
    """The gateway's configuration."""
    body = unpacked(await kube.get(SECRETS, names.GATEWAY_CONFIG_SECRET, namespace) or {})
    return config.decode(body) if body else None


async def report(kube: Client, namespace: str, *outputs: OutputReport) -> Report:
    """A gateway's report that runs what is rendered now."""
    body = unpacked(await kube.get(SECRETS, names.GATEWAY_CONFIG_SECRET, namespace) or {}) or b""
    return Report("gateway", "gateway", config.digest(body), Events(), outputs)


async def told(kube: Client, name: str) -> set[str]:
    """The reasons of the Events on a sink as it is now."""
    uid = (await kube.get(SINKS, name) or {})["metadata"]["uid"]
    return {body["reason"] async for body in kube.list(EVENTS, "default") if body["regarding"].get("uid") == uid}


async def test_a_foreign_sink_says_how_it_fares(served: ControlPlane, kube: Client, namespace: str) -> None:
    """From nobody running to delivering, failing and recovered, with the figures of the gateway's Pod; when nothing
    changes, nothing is written."""
    async with operator(served.kubeconfig, namespace) as running:
        await kube.create(SINKS, bodies.sink("siem", url="https://siem.example/"))
        await until(kube, "siem", "False", "GatewayNotRunning")
        await gateway_pod(kube, namespace)
        good = OutputReport("siem", delivered=7, dropped=2, lag_seconds=3.5)
        first = await report(kube, namespace, good)
        async with pod(kube, namespace, "gateway", names.GATEWAY_TLS_SECRET, names.GATEWAY_OPS_PORT, first) as gateway:
            await until(kube, "siem", "True", "Registered")
            body = await kube.get(SINKS, "siem") or {}
            figures = {key: body["status"][key] for key in ("lagSeconds", "delivered", "dropped", "lastError")}
            assert figures == {"lagSeconds": 3, "delivered": 7, "dropped": 2, "lastError": ""}
            assert body["status"]["observedGeneration"] == body["metadata"]["generation"]
            failing = OutputReport("siem", "Failing", delivered=7, dropped=2, last_error="answered 500")
            gateway.report = await report(kube, namespace, failing)
            found = await until(kube, "siem", "False", "Failing")
            assert "answered 500" in found["message"]
            gateway.report = first
            await until(kube, "siem", "True", "Registered")

            async def quiet() -> bool:
                return await running.writes_during(3) == {}

            await eventually("nothing written", quiet)


async def test_a_sink_that_cannot_be_used_is_told_as_in_1_18(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """CreateFailed for a new one; UpdateFailed for one that could be used before, and keeps its route."""
    async with operator(served.kubeconfig, namespace):
        await kube.create(SINKS, bodies.sink("bad", **BAD_BUNDLE))
        await kube.create(SINKS, bodies.sink("good", url="https://siem.example/"))
        await until(kube, "bad", "False", "SinkRefused")
        await until(kube, "good", "False", "GatewayNotRunning")
        assert await told(kube, "bad") == {"CreateFailed"}
        await kube.patch(SINKS, "good", {"spec": {"webhook": {"clientConfig": {"caBundle": "bm8="}}}})
        found = await until(kube, "good", "False", "SinkRefused")
        assert "stays in force" in found["message"]
        assert await told(kube, "good") == {"UpdateFailed"}
        kept = await rendered(kube, namespace)
        assert kept is not None
        assert [route.name for route in kept.routes] == ["good"]
        conditions = (await kube.get(SINKS, "good") or {})["status"]["conditions"]
        assert "Stalled" in {entry["type"] for entry in conditions}
    async with operator(served.kubeconfig, namespace):
        await kube.create(SINKS, bodies.sink("more", url="https://siem.example/"))
        await until(kube, "more", "False", "GatewayNotRunning")
        kept = await rendered(kube, namespace)
        assert kept is not None
        assert [route.name for route in kept.routes] == ["good", "more"]


async def test_a_sink_that_points_back_at_the_gateway_is_refused(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """By a Service that selects its Pods, by that Service's name, by loopback and port; and a good one turned into one
    keeps nothing."""
    selector = {names.APP: names.GATEWAY}
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "mirror", "namespace": namespace},
        "spec": {"selector": selector, "ports": [{"port": 443}]},
    }
    await kube.create(SERVICES, body)
    loops: dict[str, dict[str, Any]] = {
        "service": {"service": {"namespace": namespace, "name": "mirror"}},
        "port": {"url": "https://127.0.0.1:9443/"},
        "name": {"url": f"https://{names.GATEWAY}.{namespace}.svc/"},
    }
    async with operator(served.kubeconfig, namespace):
        for name, client in loops.items():
            await kube.create(SINKS, bodies.sink(name, **client))
        await kube.create(SINKS, bodies.sink("agent", url="https://127.0.0.1:9880/"))
        for name in loops:
            found = await until(kube, name, "False", "SinkRefused")
            assert "points back at the gateway" in found["message"]
            assert await told(kube, name) == {"CreateFailed"}
        await until(kube, "agent", "False", "GatewayNotRunning")
        await kube.patch(SINKS, "agent", {"spec": {"webhook": {"clientConfig": {"url": "https://localhost:9443/"}}}})
        await until(kube, "agent", "False", "SinkRefused")
        left = await rendered(kube, namespace)
        assert left is not None
        assert left.routes == ()


async def test_a_sink_that_points_at_the_service_before_the_gateway_is_refused(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """By the reference, by its name in a URL, and by its address, whatever the port."""
    ports = {"ports": [{"port": 443}], "selector": {names.APP: names.GATEWAY}}
    metadata = {"name": names.GATEWAY, "namespace": namespace}
    made = await kube.create(SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": ports})
    loops: dict[str, dict[str, Any]] = {
        "reference": {"service": {"namespace": namespace, "name": names.GATEWAY}},
        "host": {"url": f"https://{names.GATEWAY}.{namespace}.svc.cluster.local/audit"},
        "address": {"url": f"https://{made['spec']['clusterIP']}/audit"},
        "port": {"url": f"https://{made['spec']['clusterIP']}:8443/audit"},
    }
    async with operator(served.kubeconfig, namespace, gateway_kind="StatefulSet"):
        for name, client in loops.items():
            await kube.create(SINKS, bodies.sink(name, **client))
        await kube.create(SINKS, bodies.sink("good", url="https://siem.example/"))
        for name in loops:
            found = await until(kube, name, "False", "SinkRefused")
            assert "points back at the gateway" in found["message"]
        found = await until(kube, "good", "False", "GatewayNotRunning")
        assert "StatefulSet" in found["message"]
        left = await rendered(kube, namespace)
        assert left is not None
        assert [route.name for route in left.routes] == ["good"]
        assert (left.listen.audit, left.static_policy) == ("0.0.0.0:9443", None)


async def test_without_a_gateway_a_sink_says_so(served: ControlPlane, kube: Client, namespace: str) -> None:
    """A status of an operator that had one must not stay."""
    async with operator(served.kubeconfig, namespace, gateway=False):
        await kube.create(SINKS, bodies.sink("siem", url="https://siem.example/"))
        await until(kube, "siem", "Unknown", "GatewayDisabled")


async def test_a_status_that_somebody_takes_away_comes_back(served: ControlPlane, kube: Client, namespace: str) -> None:
    """With the next resync."""
    async with operator(served.kubeconfig, namespace, resync=1.0):
        bundle = base64.b64encode(b"no certificate").decode()
        await kube.create(SINKS, bodies.sink("bad", url="https://siem.example/", caBundle=bundle))
        await until(kube, "bad", "False", "SinkRefused")
        await kube.patch_status(SINKS, "bad", {"conditions": []})
        await until(kube, "bad", "False", "SinkRefused")
