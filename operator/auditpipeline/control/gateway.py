"""Reconciles the gateway: every AuditSink of the cluster becomes a route of its one configuration.

The DaemonSet itself belongs to the installation. An AuditSink that cannot be used is left out, said once in the log
and as an Event on it; one whose Service is not there yet is tried again. Rendering happens only when something changed
(`GatewayState.dirty`); in between, the Pods are asked which configuration they run.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import structlog

from auditpipeline.control import desired, names
from auditpipeline.control.desired_gateway import gateway_config, packed, route
from auditpipeline.control.facts import PodFacts, PodReport, Verdict
from auditpipeline.control.gateway_state import changed, route_addresses, route_digests
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import PODS, SECRETS, SERVICES, SINKS
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.control.upstream import PolicyFile
from auditpipeline.control.world import STATIC_KEY, World, ensure, pipeline_key
from auditpipeline.core import config
from auditpipeline.core.errors import AuditPipelineError, Invalid, Retryable
from auditpipeline.core.policy import Policy
from auditpipeline.core.report import StaticPolicy
from auditpipeline.core.spec import Sink, parse_sink, sink_policy

log = structlog.get_logger()

BEHIND, UNRESOLVED = 0.5, 3.0


class _Unresolved(Exception):
    """A sink's Service is not there, and never was as far as anybody knows."""


async def reconcile_gateway(world: World, recorder: Recorder) -> float | None:
    """Bring the gateway up to date; seconds until it wants to be looked at again."""
    if not world.settings.gateway or world.features.sinks != "crd":
        return None
    state = world.gateway
    before = _verdicts(world)
    if not state.history:
        await _recall(world)
    if state.dirty:
        begun = time.monotonic()
        state.dirty = False
        try:
            await _render(world, recorder)
        except BaseException:
            state.dirty = True
            raise
        # With many sinks a rendering takes long: then more changes are gathered before the next one.
        state.patience = max(0.05, 4 * (time.monotonic() - begun))
    await _deliver(world)
    pods = gateway_pods(world)
    await mark(world, pods, desired.mounted([state.digest, await _tls(world)]))
    state.reports = await ask(world, pods, names.GATEWAY_OPS_PORT, _host(world))
    state.looked = True
    world.canary.take("", [entry.report for entry in state.reports if entry.report])
    if world.upstream.take_files(_files(pods, state.reports)):
        world.wake(STATIC_KEY, 0.0)
    for sink in changed(before, _verdicts(world)):
        entry = world.seen.entries.get((SINKS.plural, "", sink))
        if entry and entry.pipeline:
            world.wake(pipeline_key(entry.pipeline), 0.0)
    if state.behind():
        return BEHIND
    return min(UNRESOLVED if state.dirty else world.settings.status_interval, world.settings.status_interval)


def gateway_pods(world: World) -> list[PodFacts]:
    """The gateway's Pods that run."""
    return sorted(
        entry.facts
        for key, entry in world.seen.entries.items()
        if key[0] == PODS.plural and not entry.pipeline and isinstance(entry.facts, PodFacts) and entry.facts.running
    )


async def mark(world: World, pods: list[PodFacts], value: str) -> None:
    """Renew the annotation of Pods that have another one, so that kubelet refreshes what they mount."""
    for pod in pods:
        if pod.running and pod.mounted != value and not pod.deleting:
            body = {"metadata": {"annotations": {names.CONFIG: value}}}
            patched = await world.kube.patch(PODS, pod.name, body, pod.namespace)
            if patched:
                world.seen.put(key_of(PODS.plural, patched), entry_of(PODS.plural, patched))


async def ask(world: World, pods: list[PodFacts], port: int, host: str) -> list[PodReport]:
    """What each running Pod says of itself."""

    async def one(pod: PodFacts) -> PodReport:
        try:
            return PodReport(pod.name, await world.prober.report(pod.ip, port, host))
        except Retryable as error:
            return PodReport(pod.name, None, str(error))

    return list(await asyncio.gather(*(one(pod) for pod in pods if pod.running and pod.ip and not pod.deleting)))


async def _recall(world: World) -> None:
    """After a restart: what the configuration holds that the gateway's Pods run already."""
    stored = await world.kube.get(SECRETS, names.GATEWAY_CONFIG_SECRET, world.settings.namespace)
    body = unpacked(stored or {})
    if body is not None:
        try:
            former = config.decode(body)
            world.gateway.remember(config.digest(body), route_digests(former))
            world.gateway.addresses = route_addresses(former)
        except Invalid:
            log.warning("the gateway's former configuration cannot be read; it is made again")


async def _render(world: World, recorder: Recorder) -> None:
    routes, problems, sources = [], {}, {}
    foreign: dict[str, Policy] = {}
    async for body in world.kube.list(SINKS):
        name = body["metadata"]["name"]
        sources[name] = entry_of(SINKS.plural, body).identity
        try:
            sink = parse_sink(body)
            own = bool(entry_of(SINKS.plural, body).owner)
            if not own:
                foreign[name] = sink_policy(sink.spec.policy)
            routes.append(route(sink, await _address(world, sink), world.canary.user if own else None))
        except _Unresolved as error:
            problems[name] = str(error)
            world.gateway.dirty = True
        except (Invalid, Forbidden) as error:
            problems[name] = str(error)
            if world.gateway.problems.get(name) != str(error):
                await _refused(world, recorder, body, str(error))
    value = gateway_config(routes, world.settings.gateway_spool_bytes, world.canary.user)
    encoded = config.encode(value)
    world.gateway.problems = problems
    world.gateway.addresses = route_addresses(value)
    world.gateway.rendered(config.digest(encoded), encoded, route_digests(value), sources)
    if world.upstream.ask_foreign(foreign):
        world.wake(STATIC_KEY, world.upstream.patience)


async def _refused(world: World, recorder: Recorder, body: dict[str, Any], message: str) -> None:
    meta = body["metadata"]
    log.warning("AuditSink left out", sink=meta["name"], reason=message)
    note = f"events are not sent to this sink: {message}"
    await recorder.event(SINKS, meta, "SinkRefused", note, warning=True, events=world.features.events)


async def _address(world: World, sink: Sink) -> str | None:
    """The ClusterIP of the sink's Service, or the last known one while there is no such Service."""
    service = sink.spec.webhook.client_config.service
    if service is None:
        return None
    entry = world.seen.entries.get((SERVICES.plural, service.namespace, service.name))
    if entry and isinstance(entry.facts, str) and entry.facts:
        return None if entry.facts == "None" else entry.facts
    found = await world.kube.get(SERVICES, service.name, service.namespace)
    if found is not None:
        address = found["spec"].get("clusterIP", "")
        return None if address in ("", "None") else str(address)
    if sink.metadata.name in world.gateway.addresses:
        world.gateway.dirty = True
        return world.gateway.addresses[sink.metadata.name]
    raise _Unresolved(f"there is no Service {service.namespace}/{service.name}")


async def _deliver(world: World) -> None:
    """Write the configuration, if it is not there already."""
    meta = {
        "name": names.GATEWAY_CONFIG_SECRET,
        "namespace": world.settings.namespace,
        "labels": names.gateway_labels(),
    }
    await ensure(world, desired.secret(meta, packed(world.gateway.body)))


async def _tls(world: World) -> str:
    """Write the gateway's certificate, if it is not there already; the digest of what its Pods mount."""
    namespace, host = world.settings.namespace, _host(world)
    leaf = await world.authority.leaf(namespace, names.GATEWAY_TLS_SECRET, names.GATEWAY, (host,), client=True)
    meta = {"name": names.GATEWAY_TLS_SECRET, "namespace": namespace, "labels": names.gateway_labels()}
    manifest = desired.tls_secret(meta, desired.Certified(leaf, world.authority.bundle))
    await ensure(world, manifest)
    return desired.digest(manifest)


def _files(pods: list[PodFacts], reports: list[PodReport]) -> list[PolicyFile]:
    """The static policy files beside the gateway's Pods."""
    addresses = {pod.name: pod.ip for pod in pods}
    found = []
    for pod, report, error in reports:
        said = report.static_policy if report else None
        if said is None:
            said = StaticPolicy(error="its release does not report the file" if report else f"no answer: {error}")
        found.append(PolicyFile(pod, addresses.get(pod, ""), said.text, said.changed_at, said.error))
    return found


def _host(world: World) -> str:
    return names.service_host(names.GATEWAY, world.settings.namespace)


def _verdicts(world: World) -> dict[str, Verdict]:
    sinks = {key[2]: entry.identity for key, entry in world.seen.entries.items() if key[0] == SINKS.plural}
    return {sink: world.gateway.registration(sink, identity) for sink, identity in sinks.items()}


def unpacked(secret: dict[str, Any]) -> bytes | None:
    """The configuration's bytes in a Secret made by `packed`, or None."""
    data = secret.get("data") or {}
    try:
        if "config.json.gz" in data:
            return config.inflate(base64.b64decode(data["config.json.gz"]))
        return base64.b64decode(data["config.json"]) if "config.json" in data else None
    except (AuditPipelineError, ValueError):
        return None
