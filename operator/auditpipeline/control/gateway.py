"""Reconciles the gateway: every AuditSink of the cluster becomes a route of its one configuration.

The DaemonSet or StatefulSet itself belongs to the installation. An AuditSink that cannot be used is left out, and one
that could be used before it was changed keeps its former route, as in 1.18; either is said once in the log and as an
Event on it. One whose Service is not there yet is tried again. Rendering happens only when something changed
(`GatewayState.dirty`); which configuration the Pods run, they are asked by `look`.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import structlog

from auditpipeline.control import desired, names
from auditpipeline.control.desired_gateway import gateway_config, packed, route
from auditpipeline.control.facts import PodFacts, PodReport, Verdict
from auditpipeline.control.gateway_state import Standing, changed, route_addresses, route_digests
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.loops import Loop, refuse_loop
from auditpipeline.control.published import SinkStatus, decode
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import PODS, SECRETS, SERVICES, SINKS
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.control.upstream import PolicyFile
from auditpipeline.control.world import SINKS_KEY, STATIC_KEY, World, ensure, pipeline_key
from auditpipeline.core import config
from auditpipeline.core.errors import AuditPipelineError, Invalid, Retryable
from auditpipeline.core.policy import Policy
from auditpipeline.core.report import StaticPolicy
from auditpipeline.core.spec import ServiceReference, Sink, parse_sink, sink_policy

log = structlog.get_logger()

BEHIND, FAILING, UNRESOLVED = 0.5, 2.0, 3.0


class _Unresolved(Exception):
    """A sink's Service is not there, and never was as far as anybody knows."""


async def reconcile_gateway(world: World, recorder: Recorder) -> float | None:
    """Bring the gateway's configuration up to date; seconds until it wants to be looked at again."""
    if world.features.sinks != "crd":
        return None
    if not world.settings.gateway:
        world.gateway.stand({body["metadata"]["name"]: _standing(body) async for body in world.kube.list(SINKS)})
        world.wake(SINKS_KEY, 0.0)
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
    await mark(world, gateway_pods(world), desired.mounted([state.digest, await _tls(world)]))
    _tell(world, before)
    world.wake(SINKS_KEY, 0.0)
    return UNRESOLVED if state.dirty else world.settings.resync


async def look(world: World) -> float:
    """Ask the gateway's Pods what they run and deliver; seconds until they want to be asked again.

    A Pod that does not answer takes its time, which delays no rendering: that is another key's work."""
    state, there = world.gateway, _pods(world)
    pods = [pod for pod in there if pod.running]
    reports = await ask(world, pods, names.GATEWAY_OPS_PORT, _host(world))
    before, first = _verdicts(world), not state.looked
    state.listen(reports, {pod.name: pod.uid for pod in there})
    world.canary.take("", [entry.report for entry in reports if entry.report])
    on_nodes = world.settings.gateway_kind == "DaemonSet"
    # Of who does not answer the first time, nothing is known yet.
    known = not first or all(entry.report for entry in reports)
    if on_nodes and known and world.upstream.take_files(_files(pods, state.counting())):
        world.wake(STATIC_KEY, 0.0)
    _tell(world, before)
    wanted = BEHIND if state.behind() else FAILING if state.failing() else world.settings.status_interval
    return min(wanted, world.settings.status_interval)


def _tell(world: World, before: Mapping[str, Verdict]) -> None:
    """Have each pipeline looked at whose sink is spoken of otherwise than before."""
    for sink in changed(before, _verdicts(world)):
        entry = world.seen.entries.get((SINKS.plural, "", sink))
        if entry and entry.pipeline:
            world.wake(pipeline_key(entry.pipeline), 0.0)


def gateway_pods(world: World) -> list[PodFacts]:
    """The gateway's Pods that run."""
    return [pod for pod in _pods(world) if pod.running]


def _pods(world: World) -> list[PodFacts]:
    return sorted(
        entry.facts
        for key, entry in world.seen.entries.items()
        if key[0] == PODS.plural and not entry.pipeline and isinstance(entry.facts, PodFacts)
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
            world.gateway.body = body
            world.gateway.remember(config.digest(body), route_digests(former))
            world.gateway.addresses = route_addresses(former)
        except Invalid:
            log.warning("the gateway's former configuration cannot be read; it is made again")


async def _render(world: World, recorder: Recorder) -> None:
    routes, problems, found = [], {}, {}
    foreign: dict[str, Policy] = {}
    own_addresses = await _own_addresses(world)
    async for body in world.kube.list(SINKS):
        name = body["metadata"]["name"]
        found[name] = _standing(body)
        try:
            sink = parse_sink(body)
            own = bool(entry_of(SINKS.plural, body).owner)
            if not own:
                foreign[name] = sink_policy(sink.spec.policy)
            routes.append(await _route(world, sink, own_addresses, world.canary.user if own else None))
        except _Unresolved as error:
            problems[name] = str(error)
            world.gateway.dirty = True
        except Retryable:
            raise
        except Exception as error:
            # Whatever it is that one sink brings about: the others get their events.
            former = None if isinstance(error, Loop) else world.gateway.former(name, found[name].identity[0])
            routes += [former] if former else []
            said = _said(error)
            problems[name] = f"{said}; what it said before stays in force" if former else said
            if world.gateway.problems.get(name) != problems[name]:
                reason = "UpdateFailed" if former else "CreateFailed"
                await _refused(world, recorder, body, problems[name], reason, error)
    settings = world.settings
    value = gateway_config(routes, settings.gateway_spool_bytes, world.canary.user, settings.gateway_kind)
    encoded = config.encode(value)
    world.gateway.problems = problems
    world.gateway.addresses = route_addresses(value)
    sources = {name: standing.identity for name, standing in found.items()}
    world.gateway.rendered(config.digest(encoded), encoded, route_digests(value), sources)
    world.gateway.stand(found)
    if world.upstream.ask_foreign(foreign):
        world.wake(STATIC_KEY, world.upstream.patience)


def _standing(body: dict[str, Any]) -> Standing:
    meta = body["metadata"]
    entry = entry_of(SINKS.plural, body)
    generation, status = meta.get("generation", 0), decode(body.get("status"), SinkStatus)
    return Standing(entry.identity, generation, status, version=entry.version, own=bool(entry.owner))


def _said(error: Exception) -> str:
    """What a sink's status says of an error; of one that nobody foresaw only the log says more."""
    known = isinstance(error, (Invalid, Forbidden))
    return str(error) if known else f"the operator cannot read it ({type(error).__name__}): see the operator's log"


async def _refused(
    world: World, recorder: Recorder, body: dict[str, Any], message: str, reason: str, error: Exception
) -> None:
    """Told as kube-apiserver 1.18 told it (k8s.io/apiserver/plugin/pkg/audit/dynamic)."""
    meta = body["metadata"]
    trace = None if isinstance(error, (Invalid, Forbidden)) else error
    log.warning("AuditSink cannot be used", sink=meta["name"], reason=reason, error=message, exc_info=trace)
    note = f"Could not {'update' if reason == 'UpdateFailed' else 'add'} audit sink {meta['name']}: {message}"
    await recorder.event(SINKS, meta, reason, note, warning=True, events=world.features.events)


async def _own_addresses(world: World) -> frozenset[str]:
    """The addresses of the Service before the gateway; none where it runs on the control-plane nodes."""
    if world.settings.gateway_kind == "DaemonSet":
        return frozenset()
    found = await world.kube.get(SERVICES, names.GATEWAY, world.settings.namespace)
    spec = (found or {}).get("spec", {})
    return frozenset(spec.get("clusterIPs") or [spec.get("clusterIP", "")]) - {"", "None"}


async def _route(world: World, sink: Sink, own_addresses: frozenset[str], canary_user: str | None) -> config.Route:
    """The sink's route; Invalid where it cannot be used."""
    client = sink.spec.webhook.client_config
    found = await _service(world, sink, client.service) if client.service else _Service(None, {})
    nodes = {pod.ip for pod in _pods(world) if pod.ip}
    refuse_loop(client, world.settings.namespace, found.selector, nodes, own_addresses)
    return route(sink, found.address, canary_user)


class _Service(NamedTuple):
    """What is needed of a sink's Service; `address` is None where it has no ClusterIP."""

    address: str | None
    selector: Mapping[str, str]


async def _service(world: World, sink: Sink, service: ServiceReference) -> _Service:
    """The sink's Service as it is, or its last known address while there is no such Service."""
    entry = world.seen.entries.get((SERVICES.plural, service.namespace, service.name))
    if entry and entry.pipeline and isinstance(entry.facts, str) and entry.facts:  # of ours: it selects receivers
        return _Service(None if entry.facts == "None" else entry.facts, {})
    found = await world.kube.get(SERVICES, service.name, service.namespace)
    if found is not None:
        address = found["spec"].get("clusterIP", "")
        return _Service(None if address in ("", "None") else str(address), found["spec"].get("selector") or {})
    if sink.metadata.name in world.gateway.addresses:
        world.gateway.dirty = True
        return _Service(world.gateway.addresses[sink.metadata.name], {})
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
