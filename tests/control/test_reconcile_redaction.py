"""Against a real API server: who may opt out, what the gateway's routes take, and where the key of hashes is."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from structlog.testing import capture_logs

from auditpipeline.control import names
from auditpipeline.control.desired_gateway import unpacked
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import CONFIG_MAPS, EVENTS, PIPELINES, PODS, SECRETS, SINKS, STATEFULSETS
from auditpipeline.core import config
from auditpipeline.core.redaction.model import KEY_BYTES, Redaction
from auditpipeline.core.report import Events, OutputReport, Report
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import condition, eventually, gateway_pod, operator, pod, receivers, until

pytestmark = pytest.mark.controlplane

Body = dict[str, Any]
ONE = {"replicas": 1, "storage": {"ephemeral": True}}
OPT_OUT = {"redaction": {"default": False}, "policy": {"rules": [{"level": "Request"}]}}
WHOLE, HASHED = Redaction(default=False), Redaction(method="hash")


async def create(kube: Client, **spec: Any) -> None:
    """Create the AuditPipeline `a`, and wait until it has an AuditSink."""
    await kube.create(PIPELINES, bodies.pipeline("a", webhook=ONE, **spec) | {"metadata": {"name": "a"}})
    await until(kube, "a", "CertificateReady", "True")
    await eventually("a sink", lambda: kube.get(SINKS, "audit-a"))


async def annotate(kube: Client, sink: str, value: str | None) -> None:
    """Write the annotation of an AuditSink as a user does, or take it away."""
    await kube.patch(SINKS, sink, {"metadata": {"annotations": {names.REDACTION: value}}})


async def annotation(kube: Client, sink: str) -> str | None:
    """The annotation as it is."""
    notes = (await kube.get(SINKS, sink) or {})["metadata"].get("annotations") or {}
    found: str | None = notes.get(names.REDACTION)
    return found


async def configured(kube: Client, namespace: str, secret: str) -> config.Config | None:
    """A rendered configuration."""
    body = unpacked(await kube.get(SECRETS, secret, namespace) or {})
    return config.decode(body) if body else None


async def routed(kube: Client, namespace: str, secret: str, route: str, redaction: Redaction | None) -> None:
    """Wait until a route asks for this redaction."""

    async def asks() -> bool:
        found = await configured(kube, namespace, secret)
        return found is not None and [each.redaction for each in found.routes if each.name == route] == [redaction]

    await eventually(f"{route} in {secret}: {redaction}", asks)


async def in_force(kube: Client, namespace: str) -> list[Any]:
    """What says what is recorded and what is taken from it."""
    secret, sink = await kube.get(SECRETS, "audit-a-config", namespace), await kube.get(SINKS, "audit-a")
    assert secret is not None
    assert sink is not None
    return [secret["data"], sink["spec"], await annotation(kube, "audit-a")]


async def redacted(kube: Client, sink: str, status: str, reason: str) -> Body:
    """Wait until the condition Redacted of an AuditSink says so."""

    async def check() -> Body | None:
        stored = (await kube.get(SINKS, sink) or {}).get("status", {}).get("conditions", ())
        found: Body = next((entry for entry in stored if entry["type"] == "Redacted"), {})
        return found if (found.get("status"), found.get("reason")) == (status, reason) else None

    found: Body = await eventually(f"{sink} {status} {reason}", check)
    return found


async def test_an_opt_out_that_is_refused_leaves_the_last_good_generation_in_force(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """All of the generation is refused, also by the next operator; without the opt-out it is taken."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        before = await in_force(kube, namespace)
        await kube.patch(PIPELINES, "a", {"spec": OPT_OUT})
        said = await until(kube, "a", "Stalled", "True", "OptOutRefused")
        assert "spec.redaction.default" in said["message"]
        assert "generation 1 stays in force" in said["message"]
        assert await in_force(kube, namespace) == before
    async with operator(served.kubeconfig, namespace):
        await kube.patch(PIPELINES, "a", {"spec": {"throttle": {"qps": 20}}})

        async def seen() -> bool:
            body = await kube.get(PIPELINES, "a") or {}
            return bool(body["status"]["observedGeneration"] == body["metadata"]["generation"] == 3)

        await eventually("the third generation", seen)
        assert (await condition(kube, "a", "Stalled"))["reason"] == "OptOutRefused"
        assert await in_force(kube, namespace) == before
        await kube.patch(PIPELINES, "a", {"spec": {"redaction": {"default": True}}})
        await routed(kube, namespace, "audit-a-config", "archive", Redaction())

        async def well() -> bool:
            return not await condition(kube, "a", "Stalled")

        await eventually("not stalled", well)


async def test_of_a_new_pipeline_that_may_not_opt_out_nothing_is_made(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """And nothing is claimed of its events."""
    async with operator(served.kubeconfig, namespace):
        body = bodies.pipeline("a", webhook=ONE, redaction={"default": False})
        await kube.create(PIPELINES, body | {"metadata": {"name": "a"}})
        await until(kube, "a", "Stalled", "True", "OptOutRefused")
        assert (await condition(kube, "a", "Redacted"))["status"] == "Unknown"
        assert await kube.get(SINKS, "audit-a") is None
        assert await kube.get(SECRETS, "audit-a-config", namespace) is None


async def test_an_opt_out_is_told_and_ends_when_it_is_no_longer_allowed(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """The accepted generation opts out itself then. It is maintained without that, and whole again once it may be."""
    async with operator(served.kubeconfig, namespace, redaction_opt_out="allow"):
        await create(kube, redaction={"default": False})
        said = await until(kube, "a", "Redacted", "False", "OptedOut")
        assert "stored at the gateway and the receivers" in said["message"]
        await routed(kube, namespace, names.GATEWAY_CONFIG_SECRET, "audit-a", WHOLE)
        await routed(kube, namespace, "audit-a-config", "archive", WHOLE)
        before = await in_force(kube, namespace)
    async with operator(served.kubeconfig, namespace):
        said = await until(kube, "a", "Stalled", "True", "OptOutRefused")
        assert "generation 1 stays in force, but for its opt-out" in said["message"]
        await routed(kube, namespace, names.GATEWAY_CONFIG_SECRET, "audit-a", None)
        await routed(kube, namespace, "audit-a-config", "archive", Redaction())
        assert await annotation(kube, "audit-a") is None
    async with operator(served.kubeconfig, namespace, redaction_opt_out="allow"):
        await routed(kube, namespace, "audit-a-config", "archive", WHOLE)
        await routed(kube, namespace, names.GATEWAY_CONFIG_SECRET, "audit-a", WHOLE)
        assert await in_force(kube, namespace) == before


async def test_the_annotation_of_a_foreign_sink_reaches_the_gateway_without_a_new_generation(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """The next resync is ten minutes away. Nobody but its user writes the annotation."""
    async with operator(served.kubeconfig, namespace, redaction_opt_out="allow"):
        await kube.create(SINKS, bodies.sink("siem", url="https://siem.example/"))
        await routed(kube, namespace, names.GATEWAY_CONFIG_SECRET, "siem", None)
        for value, redaction in (("none", WHOLE), ("hash", HASHED), ("nothing", None), ("none", WHOLE), (None, None)):
            await annotate(kube, "siem", value)
            await routed(kube, namespace, names.GATEWAY_CONFIG_SECRET, "siem", redaction)
            assert await annotation(kube, "siem") == value
        assert (await kube.get(SINKS, "siem") or {})["metadata"]["generation"] == 1


async def test_an_annotation_that_has_no_effect_says_so(served: ControlPlane, kube: Client, namespace: str) -> None:
    """Once the gateway's Pod has the route that masks; a Pod of the release before takes nothing."""
    async with operator(served.kubeconfig, namespace) as running:
        await gateway_pod(kube, namespace)
        await kube.create(SINKS, bodies.sink("siem", url="https://siem.example/"))
        await annotate(kube, "siem", "none")
        await routed(kube, namespace, names.GATEWAY_CONFIG_SECRET, "siem", None)
        await redacted(kube, "siem", "Unknown", "GatewayNotRunning")
        body = unpacked(await kube.get(SECRETS, names.GATEWAY_CONFIG_SECRET, namespace) or {}) or b""
        old = Report("gateway", "gateway", config.digest(body), Events(), (OutputReport("siem"),))
        async with pod(kube, namespace, "gateway", names.GATEWAY_TLS_SECRET, names.GATEWAY_OPS_PORT, old) as gateway:
            await redacted(kube, "siem", "False", "ReleaseBefore")
            gateway.report = Report("gateway", "gateway", old.config, Events(), old.outputs, redacts=True)
            said = await redacted(kube, "siem", "True", "OptOutRefused")
            assert "redaction.allowOptOut" in said["message"]
            await running.stop()  # nobody connects to a listener that ends


async def test_what_others_write_on_the_sink_of_a_pipeline_is_taken_back(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Whether they add the annotation, change it or take it away; other annotations are theirs."""
    async with operator(served.kubeconfig, namespace, redaction_opt_out="allow"):
        await create(kube)
        await kube.patch(SINKS, "audit-a", {"metadata": {"annotations": {names.REDACTION: "none", "mine": "x"}}})

        async def is_now(value: str | None) -> bool:
            return await annotation(kube, "audit-a") == value

        await eventually("the annotation gone", lambda: is_now(None))
        await kube.patch(PIPELINES, "a", {"spec": {"redaction": {"method": "hash"}}})
        await eventually("hash", lambda: is_now("hash"))
        await annotate(kube, "audit-a", "none")
        await eventually("hash again", lambda: is_now("hash"))
        await annotate(kube, "audit-a", None)
        await eventually("hash once more", lambda: is_now("hash"))
        await routed(kube, namespace, names.GATEWAY_CONFIG_SECRET, "audit-a", HASHED)
        assert (await kube.get(SINKS, "audit-a") or {})["metadata"]["annotations"]["mine"] == "x"


async def everything(kube: Client, namespace: str) -> str:
    """Every object that an operator writes, but Secrets."""
    kinds = ((CONFIG_MAPS, namespace), (STATEFULSETS, namespace), (PODS, namespace), (EVENTS, "default"))
    found = [body for kind, place in kinds async for body in kube.list(kind, place)]
    found += [body for kind in (PIPELINES, SINKS) async for body in kube.list(kind)]
    return str(found)


async def test_the_key_is_made_once_and_is_in_secrets_alone(served: ControlPlane, kube: Client, namespace: str) -> None:
    """The same in every configuration that hashes, and after a restart; not in an object that others may read, nor in
    the log. Nothing is written for it a second time."""
    with capture_logs() as logged:
        async with operator(served.kubeconfig, namespace):
            await create(kube, redaction={"method": "hash"})
            await routed(kube, namespace, names.GATEWAY_CONFIG_SECRET, "audit-a", HASHED)
            made = await kube.get(SECRETS, names.REDACTION_SECRET, namespace) or {}
        async with operator(served.kubeconfig, namespace) as running:
            await kube.patch(PIPELINES, "a", {"spec": {"policy": {"rules": [{"level": "Request"}]}}})

            async def newest() -> bool:
                return bool((await kube.get(SINKS, "audit-a") or {})["spec"]["policy"]["level"] == "Request")

            await eventually("the newest", newest)

            async def quiet() -> bool:
                return await running.writes_during(3) == {}

            await eventually("nothing written", quiet)
    key = base64.b64decode(made["data"]["key"])
    assert len(key) == KEY_BYTES
    assert (await kube.get(SECRETS, names.REDACTION_SECRET, namespace) or {})["metadata"] == made["metadata"]
    for secret in ("audit-a-config", names.GATEWAY_CONFIG_SECRET):
        found = await configured(kube, namespace, secret)
        assert found is not None
        assert found.redaction_key_file is not None
        file = found.redaction_key_file.removeprefix(f"{names.CONFIG_FOLDER}/")
        assert (await kube.get(SECRETS, secret, namespace) or {})["data"][file] == made["data"]["key"]
    told = f"{await everything(kube, namespace)} {logged}"
    assert not [form for form in (made["data"]["key"], key.hex(), repr(key)[2:-1]) if form in told]


async def test_a_key_that_cannot_be_used_is_told_and_a_good_one_is_taken(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Values are masked meanwhile. Once the Pods run what was rendered, the pipeline says what its events lose. A key
    that is deleted is followed by another one, and nothing is left of the first."""
    meta = {"name": names.REDACTION_SECRET, "namespace": namespace}
    short = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"key": "c2hvcnQ="}}
    await kube.create(SECRETS, short)
    async with operator(served.kubeconfig, namespace, gateway=False) as running:
        await create(kube, redaction={"method": "hash"})

        async def one_pod() -> bool:
            return len(await receivers(kube, namespace, "a")) == 1

        await eventually("a Pod", one_pod)
        masks = await configured(kube, namespace, "audit-a-config")
        assert masks is not None
        assert masks.redaction_key_file is None
        assert masks.routes[0].redaction == Redaction()
        said = Report("receiver", "a", config.digest(config.encode(masks)), Events(), (), redacts=True)
        async with pod(kube, namespace, "audit-a-0", "audit-a-tls", names.OPS_PORT, said) as receiver:
            told = await until(kube, "a", "Redacted", "True", "KeyMissing")
            assert "has 5 bytes" in told["message"]
            await kube.patch(SECRETS, names.REDACTION_SECRET, {"data": {"key": "eHh4" * 16}}, namespace)
            await kube.patch(PIPELINES, "a", {"metadata": {"labels": {"look": "now"}}})

            async def hashes() -> config.Config | None:
                found = await configured(kube, namespace, "audit-a-config")
                return found if found and found.redaction_key_file else None

            found: config.Config = await eventually("a key", hashes)
            digest = config.digest(config.encode(found))
            receiver.report = Report("receiver", "a", digest, Events(), (), redacts=True)
            await until(kube, "a", "Redacted", "True", "Default")
            await kube.delete(SECRETS, names.REDACTION_SECRET, namespace)
            await kube.patch(PIPELINES, "a", {"metadata": {"labels": {"look": "again"}}})

            async def another() -> bool:
                newest = await hashes()
                return newest is not None and newest.redaction_key_file != found.redaction_key_file

            await eventually("another key", another)
            made = await kube.get(SECRETS, names.REDACTION_SECRET, namespace) or {}
            copied = (await kube.get(SECRETS, "audit-a-config", namespace) or {})["data"]
            assert set(copied.values()) >= {made["data"]["key"]}
            assert len(copied) == 2
            await running.stop()
