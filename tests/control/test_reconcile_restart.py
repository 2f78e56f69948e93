"""Against a real API server: an operator that takes over leaves alone what is as it should be."""

from __future__ import annotations

import contextlib
import functools

import pytest

from auditpipeline.control import names
from auditpipeline.control.desired_gateway import unpacked
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import PIPELINES, PODS, SECRETS, SERVICES, SINKS, Features
from auditpipeline.core import config
from auditpipeline.core.report import Events, Report
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import WRITES, Operator, eventually, gateway_pod, operator, pod, receivers, until

pytestmark = pytest.mark.controlplane

NAMES = ("a", "b", "c", "d", "e", "f")
CHILDREN = {kind.plural for kind in (*Features().children, SINKS, PODS)} | {"configmaps"}


async def writes(running: Operator) -> dict[str, int]:
    """What was written to children and Pods."""
    found = await running.requests(*WRITES)
    return {what: count for what, count in found.items() if what.partition('resource="')[2].rstrip('"') in CHILDREN}


async def digest(kube: Client, namespace: str, secret: str) -> str:
    """The digest of the configuration in a Secret."""
    return config.digest(unpacked(await kube.get(SECRETS, secret, namespace) or {}) or b"")


async def test_a_new_operator_writes_to_no_child_that_is_as_it_should_be(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Six pipelines whose Pods run, and the gateway: the next operator asks by dry runs, and writes nothing."""
    async with contextlib.AsyncExitStack() as pods:
        async with operator(served.kubeconfig, namespace) as first:
            await gateway_pod(kube, namespace)
            for name in NAMES:
                body = bodies.pipeline(name, webhook={"replicas": 1, "storage": {"ephemeral": True}})
                await kube.create(PIPELINES, body | {"metadata": {"name": name}})
            for name in NAMES:
                await until(kube, name, "WebhookAvailable", "False", "PodsPending")
            for name in NAMES:
                (made,) = await eventually("a Pod", functools.partial(receivers, kube, namespace, name))
                said = report("receiver", name, await digest(kube, namespace, names.config_secret(name)))
                secret = names.tls_secret(name)
                await pods.enter_async_context(
                    pod(kube, namespace, made["metadata"]["name"], secret, names.OPS_PORT, said)
                )
            await eventually("six routes", lambda: _routes(kube, namespace))
            said = report("gateway", "gateway", await digest(kube, namespace, names.GATEWAY_CONFIG_SECRET))
            await pods.enter_async_context(
                pod(kube, namespace, "gateway", names.GATEWAY_TLS_SECRET, names.GATEWAY_OPS_PORT, said)
            )
            for name in NAMES:
                await until(kube, name, "SinkRegistered", "True")

            async def quiet() -> bool:
                return not await first.writes_during(3)

            await eventually("quiet", quiet)
        async with operator(served.kubeconfig, namespace) as second:
            await eventually("looked at", lambda: _looked(second))
            assert await writes(second) == {}
            assert await second.requests("dry-run")
            # And it mends what is not as it should be.
            await kube.patch(SERVICES, "audit-a", {"spec": {"selector": {"app": "other"}}}, namespace)

            async def mended() -> bool:
                found = await kube.get(SERVICES, "audit-a", namespace) or {}
                return "app" not in found["spec"]["selector"]

            await eventually("mended", mended)


def report(plane: str, name: str, digest_: str) -> Report:
    """What a Pod says that runs the configuration with this digest."""
    return Report(plane, name, digest_, Events(), ())


async def _routes(kube: Client, namespace: str) -> bool:
    body = unpacked(await kube.get(SECRETS, names.GATEWAY_CONFIG_SECRET, namespace) or {})
    return body is not None and len(config.decode(body).routes) == len(NAMES)


async def _looked(running: Operator) -> bool:
    """Whether every pipeline, the gateway and the sinks were looked at, several times."""
    before = await running.writes_during(10)
    dry = await running.requests("dry-run")
    return not before and sum(dry.values()) >= len(NAMES)
