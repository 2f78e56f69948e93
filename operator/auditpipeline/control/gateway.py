"""Reconciles the gateway: every AuditSink of the cluster becomes a route of its configuration.

The DaemonSet or StatefulSet itself belongs to the installation. An AuditSink that cannot be used is left out, and one
that could be used before it was changed keeps its former route, as in 1.18; either is said once in the log and as an
Event on it. One whose Service is not there yet is tried again. Rendering happens only when something changed
(`GatewayState.dirty`); what lies in which Secret is decided by `shards`, and written by `gateway_secrets`. What the
Pods run, they are asked by `look`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import structlog
from msgspec.structs import replace

from auditpipeline.control import desired, gateway_secrets, names
from auditpipeline.control.desired_gateway import asked_redaction, route, stricter
from auditpipeline.control.facts import PodFacts, PodReport, Verdict
from auditpipeline.control.gateway_nodes import unready
from auditpipeline.control.gateway_state import Standing, changed
from auditpipeline.control.hash_key import NO_KEY, HashKey, hash_key
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.loops import Loop, refuse_loop
from auditpipeline.control.ownership import NameTaken
from auditpipeline.control.published import SinkStatus, decode
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import PODS, SERVICES, SINKS
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.control.upstream import PolicyFile
from auditpipeline.control.world import GATEWAY_KEY, SINKS_KEY, STATIC_KEY, World, ensure, pipeline_key
from auditpipeline.core import config
from auditpipeline.core.errors import Invalid, Retryable
from auditpipeline.core.policy import Policy
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.report import StaticPolicy
from auditpipeline.core.spec import ServiceReference, Sink, sink_policy, stored_sink

log = structlog.get_logger()

BEHIND, FAILING, UNRESOLVED = 0.5, 2.0, 3.0
SILENT = 3
"""Sinks for which the API server does not answer, until a rendering is given up: each may take half a minute."""


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
    if state.stored is None:
        await gateway_secrets.recall(world)
    late = await _rendered(world, recorder) if state.dirty else None
    failed = await _delivered(world)
    _tell(world, before)
    world.wake(SINKS_KEY, 0.0)
    if error := late or failed:
        raise error
    return UNRESOLVED if state.dirty or state.blocked else world.settings.resync


async def _delivered(world: World) -> Exception | None:
    """Write what is not stored as it should be, and have the Pods read it; what failed. `blocked` says so if it is a
    name that somebody else has taken, which is looked at again."""
    state = world.gateway
    failed = await gateway_secrets.store(world)
    parts = [written.digest for written in state.stored or ()]
    parts += [state.key.version] if state.key.value else []
    try:
        await mark(world, gateway_pods(world), desired.mounted([*parts, await _tls(world)]))
    except NameTaken as error:
        failed = error
    former, state.blocked = state.blocked, str(failed) if isinstance(failed, NameTaken) else ""
    if state.blocked and state.blocked != former:
        log.error("the gateway's configuration cannot be written", error=state.blocked)
    return None if state.blocked else failed


async def _rendered(world: World, recorder: Recorder) -> Retryable | None:
    """Render; what kept some sinks from it, if the API server did not answer for them."""
    state, begun = world.gateway, time.monotonic()
    state.dirty = False
    try:
        late = await _render(world, recorder)
    except BaseException:
        state.dirty = True
        raise
    state.dirty = state.dirty or late is not None
    # With many sinks a rendering takes long: then more changes are gathered before the next one.
    state.patience = max(0.05, 4 * (time.monotonic() - begun))
    return late


async def look(world: World) -> float:
    """Ask the gateway's Pods what they run and deliver; seconds until they want to be asked again.

    A Pod that does not answer takes its time, which delays no rendering: that is another key's work."""
    state, there = world.gateway, _pods(world)
    pods = [pod for pod in there if pod.running]
    reports = await ask(world, pods, names.GATEWAY_OPS_PORT, _host(world))
    before, first = _verdicts(world), not state.looked
    aside = await unready(world, [pod for pod in pods if pod.name in _silent(reports)])
    state.watch(there, world.clock().timestamp())
    state.listen(reports, {pod.name: pod.uid for pod in there})
    state.aside = aside
    world.canary.take("", [entry.report for entry in reports if entry.report])
    on_nodes = world.settings.gateway_kind == "DaemonSet"
    # Nothing is known yet of a Pod that does not answer the first time.
    known = not first or all(entry.report for entry in reports)
    if on_nodes and known and not state.replacing and world.upstream.take_files(_files(pods, state.known())):
        world.wake(STATIC_KEY, 0.0)
    if state.settled():
        world.wake(GATEWAY_KEY, 0.0)
    _tell(world, before)
    unsettled = state.behind() or state.replacing
    wanted = BEHIND if unsettled else FAILING if state.failing() else world.settings.status_interval
    return min(wanted, world.settings.status_interval)


def _silent(reports: list[PodReport]) -> set[str]:
    return {entry.pod for entry in reports if entry.report is None}


def _tell(world: World, before: Mapping[str, Verdict | None]) -> None:
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
    """Renew the annotation of Pods that have another one, so that kubelet refreshes what they mount at once.

    Without the right to do so it refreshes them all the same, within a minute or two: the chart grants it only if
    something bounds what else of a Pod could be changed."""
    for pod in pods:
        if pod.running and pod.mounted != value and not pod.deleting:
            await _annotate(world, pod, value)


async def _annotate(world: World, pod: PodFacts, value: str) -> None:
    now, refused = world.clock().timestamp(), world.unmarked.get(pod.namespace)
    if refused is not None and now - refused < world.settings.resync:
        return
    body = {"metadata": {"annotations": {names.CONFIG: value}}}
    try:
        patched = await world.kube.patch(PODS, pod.name, body, pod.namespace)
    except Forbidden as error:
        if refused is None:
            log.info("kubelet refreshes mounted Secrets in its own time", namespace=pod.namespace, reason=str(error))
        world.unmarked[pod.namespace] = now
        return
    world.unmarked.pop(pod.namespace, None)
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


class _Rendering:
    """What a rendering has gathered so far. `silent` are failures of the API server to answer for one sink."""

    def __init__(self) -> None:
        self.routes: dict[str, config.Route] = {}
        self.problems: dict[str, str] = {}
        self.found: dict[str, Standing] = {}
        self.foreign: dict[str, Policy] = {}
        self.silent: list[Retryable] = []
        self.errors: dict[str, Exception] = {}


async def _render(world: World, recorder: Recorder) -> Retryable | None:
    made, state = _Rendering(), world.gateway
    before = state.problems
    own_addresses = await _own_addresses(world)
    async for body in world.kube.list(SINKS):
        await _add(world, made, body, own_addresses)
    state.key = await _key(world, made)
    if not state.key.value:
        made.routes = {name: _masked(route) for name, route in made.routes.items()}
    sources = {name: standing.identity for name, standing in made.found.items()}
    state.stand(made.found)
    state.render(made.routes, sources, made.problems, await gateway_secrets.plan(world, made.routes))
    for name, problem in state.problems.items():
        error = made.errors.get(name)
        # One whose Service is not there may be usable soon.
        if before.get(name) != problem and (error or name in state.plan.refused):
            reason = "UpdateFailed" if name in state.homes else "CreateFailed"
            await _refused(world, recorder, name, problem, reason, error)
    if world.upstream.ask_foreign(made.foreign):
        world.wake(STATIC_KEY, world.upstream.patience)
    return made.silent[0] if made.silent else None


async def _key(world: World, made: _Rendering) -> HashKey:
    if not any(route.taken.hashes for route in made.routes.values()):
        return NO_KEY
    found = await hash_key(world.kube, world.settings.namespace)
    if found.problem and found.problem != world.gateway.key.problem:
        log.warning("sinks that ask for hashes get masked values", error=found.problem)
    return found


def _masked(route: config.Route) -> config.Route:
    return replace(route, redaction=route.redaction.masked) if route.redaction and route.redaction.hashes else route


async def _add(world: World, made: _Rendering, body: dict[str, Any], own_addresses: frozenset[str]) -> None:
    """Take in one sink."""
    name = body["metadata"]["name"]
    made.found[name] = _standing(body)
    redaction = asked_redaction(made.found[name].redaction, world.settings.redaction_opt_out)
    former = world.gateway.former(name, made.found[name].identity[0])
    # Whatever becomes of its spec, an opt-out that has ended ends at once. One that begins may be meant for another
    # destination than the former one, and its author judged by that.
    former = former and replace(former, redaction=stricter(former.redaction, redaction))
    try:
        sink = stored_sink(body)
        own = bool(entry_of(SINKS.plural, body).owner)
        if not own:
            made.foreign[name] = sink_policy(sink.spec.policy)
        made.routes[name] = await _route(world, sink, own_addresses, world.canary.user if own else None, redaction)
    except _Unresolved as error:
        made.problems[name] = str(error)
        world.gateway.dirty = True
    except Retryable as error:
        made.silent.append(error)
        if len(made.silent) >= SILENT:
            raise
        made.routes |= {name: former} if former else {}
    except Exception as error:
        # Whatever it is that one sink brings about: the others get their events.
        made.errors[name], made.problems[name] = error, _said(error)
        if former and not isinstance(error, Loop):
            made.routes[name] = former


def _standing(body: dict[str, Any]) -> Standing:
    meta = body["metadata"]
    entry = entry_of(SINKS.plural, body)
    generation, status = meta.get("generation", 0), decode(body.get("status"), SinkStatus)
    redaction = (meta.get("annotations") or {}).get(names.REDACTION)
    return Standing(
        entry.identity, generation, status, version=entry.version, own=bool(entry.owner), redaction=redaction
    )


def _said(error: Exception) -> str:
    """What a sink's status says of an error; of one that nobody foresaw only the log says more."""
    known = isinstance(error, (Invalid, Forbidden))
    return str(error) if known else f"the operator cannot read it ({type(error).__name__}): see the operator's log"


async def _refused(
    world: World, recorder: Recorder, name: str, problem: str, reason: str, error: Exception | None
) -> None:
    """Told as kube-apiserver 1.18 told it (k8s.io/apiserver/plugin/pkg/audit/dynamic)."""
    trace = None if error is None or isinstance(error, (Invalid, Forbidden)) else error
    log.warning("AuditSink cannot be used", sink=name, reason=reason, error=problem, exc_info=trace)
    note = f"Could not {'update' if reason == 'UpdateFailed' else 'add'} audit sink {name}: {problem}"
    meta = {"name": name, "uid": world.gateway.sources[name][0]}
    await recorder.event(SINKS, meta, reason, note, warning=True, events=world.features.events)


async def _own_addresses(world: World) -> frozenset[str]:
    """The addresses of the Service before the gateway; none where it runs on the control-plane nodes."""
    if world.settings.gateway_kind == "DaemonSet":
        return frozenset()
    found = await world.kube.get(SERVICES, names.GATEWAY, world.settings.namespace)
    spec = (found or {}).get("spec", {})
    return frozenset(spec.get("clusterIPs") or [spec.get("clusterIP", "")]) - {"", "None"}


async def _route(
    world: World, sink: Sink, own_addresses: frozenset[str], canary_user: str | None, redaction: Redaction | None
) -> config.Route:
    """The sink's route; Invalid where it cannot be used."""
    client = sink.spec.webhook.client_config
    found = await _service(world, sink, client.service) if client.service else _Service(None, {})
    nodes = {pod.ip for pod in _pods(world) if pod.ip}
    refuse_loop(client, world.settings.namespace, found.selector, nodes, own_addresses)
    return route(sink, found.address, canary_user, redaction)


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


def _verdicts(world: World) -> dict[str, Verdict | None]:
    sinks = {key[2]: entry.identity for key, entry in world.seen.entries.items() if key[0] == SINKS.plural}
    return {sink: world.gateway.registration(sink, identity) for sink, identity in sinks.items()}
