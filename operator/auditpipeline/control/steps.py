"""The steps of a round that concern the pipeline as a whole: its spec, its place, its AuditSink, what has to go.

A step asks and writes what it is named after, notes in the Facts what it found, and ends the round by `Halt`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog

from auditpipeline.control import desired, desired_pod, names
from auditpipeline.control.facts import Losses, Verdict
from auditpipeline.control.gateway import mark
from auditpipeline.control.gateway_state import Identity, disabled
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.placing import not_granted, not_served
from auditpipeline.control.resources import NAMESPACES, PIPELINES, SECRETS, SINKS
from auditpipeline.control.rounds import PLACE_RETRY, Halt, Round
from auditpipeline.control.seen import key_of
from auditpipeline.control.world import GATEWAY_KEY, STATIC_KEY, World, ensure
from auditpipeline.core.errors import Invalid
from auditpipeline.core.floor import has_floor
from auditpipeline.core.quantity import parse_seconds
from auditpipeline.core.spec import PipelinePolicy, parse_pipeline

log = structlog.get_logger()

SECRET_RETRY = 3.0
LOSS_TOLD = timedelta(hours=24)
_UNSEEN = (
    "a gateway behind a Service (gateway.kind StatefulSet) sees no policy file: let kube-apiserver run with "
    f"policy.yaml of ConfigMap {names.STATIC_POLICY}, or hold its file against the pipelines with "
    "`auditpipeline policy covers`"
)


async def parse(this: Round) -> None:
    """The object as a typed value."""
    try:
        this.parsed = parse_pipeline(this.body)
    except Invalid as error:
        _ask(this, None)
        raise Halt("InvalidSpec", str(error), stalled=True) from None
    this.facts.outputs = tuple(output.name for output in this.pipeline.spec.outputs)
    this.facts.suspended = this.pipeline.spec.suspend
    _ask(this, this.pipeline.spec.policy)


async def expire(this: Round) -> None:
    """A pipeline with `expireAfter` deletes itself when its time is over."""
    after = this.pipeline.spec.expire_after
    if after is None:
        return
    created = datetime.fromisoformat(this.pipeline.metadata.creation_timestamp)
    this.facts.expires = created + timedelta(seconds=parse_seconds(after, "spec.expireAfter"))
    left = (this.facts.expires - this.facts.now).total_seconds()
    if left > 0:
        this.look_again(left)
        return
    log.info("pipeline expired", pipeline=this.name, after=after)
    await this.world.kube.delete(PIPELINES, this.name, uid=this.pipeline.metadata.uid)
    raise Halt("Expired", f"spec.expireAfter ({after}) is over: this AuditPipeline is deleted", stalled=True)


async def place(this: Round) -> None:
    """The receivers' namespace is one that this operator serves."""
    settings = this.world.settings
    if this.namespace in settings.served:
        return
    await namespace_exists(this)
    raise Halt("NamespaceNotServed", not_served(this.namespace, settings), stalled=True, again=PLACE_RETRY)


async def secrets(this: Round) -> None:
    """The Secrets that outputs refer to: not ours, so they are not watched, but looked at again and again."""
    kube, namespace = this.world.kube, this.namespace
    for reference in desired_pod.secret_keys(this.pipeline):
        found = await kube.get(SECRETS, reference.name, namespace)
        if found is None or reference.key not in (found.get("data") or {}):
            what = f"Secret {namespace}/{reference.name}"
            message = f"there is no {what}" if found is None else f"{what} has no key {reference.key}"
            this.facts.missing_secrets.append(f"{message}: create it with key {reference.key}")
            this.look_again(SECRET_RETRY)
        else:
            this.versions.append(found["metadata"]["resourceVersion"])


async def register(this: Round) -> None:
    """The AuditSink is as desired; a suspended pipeline has none."""
    world, features = this.world, this.world.features
    if features.sinks == "absent":
        # Where the kind is gone so is the AuditSink; where it is not, the gateway's place in its spool would go.
        this.kept.add((SINKS.plural, "", names.child(this.name)))
        message = "this cluster has no AuditSink: install crds/auditsinks.yaml (the chart does)"
        this.facts.sink = Verdict("False", "AuditSinkNotServed", message)
        return
    if this.pipeline.spec.suspend:
        return
    token, bundle = sink_token(this), world.authority.bundle
    manifest = desired.audit_sink(this.pipeline, this.namespace, bundle, world.settings, features, token)
    key = key_of(SINKS.plural, manifest)
    this.kept.add(key)
    before = world.applied.get(key)
    try:
        entry = await ensure(world, manifest)
    except Invalid as error:
        raise Halt("InvalidSpec", str(error), stalled=True) from None
    except Forbidden as error:
        raise Halt("Forbidden", str(error), stalled=True, again=PLACE_RETRY) from None
    if world.applied.get(key) != before:
        world.gateway.dirty = True
        world.wake(GATEWAY_KEY, world.gateway.patience)
    this.facts.sink = _registration(world, names.child(this.name), entry.identity)
    this.facts.given_up = sum(output.dropped for output in world.gateway.outputs(names.child(this.name)))


async def upstream(this: Round) -> None:
    """Whether the API servers emit what the policy asks for; where AuditSink is built in, they are asked for it."""
    world = this.world
    if world.features.sinks == "builtin":
        return
    if not world.settings.gateway:
        message = (
            "nobody looks at kube-apiserver's static policy: the gateway is disabled (gateway.enabled of the chart)"
        )
        this.facts.upstream = Verdict("Unknown", "GatewayDisabled", message)
        return
    if world.settings.gateway_kind == "StatefulSet":
        this.facts.upstream = Verdict("Unknown", "StaticPolicyUnknown", _UNSEEN)
        return
    this.facts.upstream = world.upstream.verdict(this.name)


async def losses(this: Round) -> None:
    """What the API servers' audit lost since the pipeline was made; a loss is told for LOSS_TOLD, or acknowledged."""
    world = this.world
    if world.features.sinks == "builtin" or not world.settings.gateway:
        return
    made = datetime.fromisoformat(this.pipeline.metadata.creation_timestamp).timestamp()
    gaps = tuple(gap for gap in world.losses.gaps if gap.ends > made)
    until = max(_acknowledged(this.body), (this.facts.now - LOSS_TOLD).timestamp())
    told = tuple(gap for gap in gaps if gap.events and gap.ends > until)
    this.facts.losses = Losses(gaps, told, world.losses.read)


def _acknowledged(body: dict[str, Any]) -> float:
    """Until when somebody has acknowledged losses; what is no time acknowledges none."""
    text = (body["metadata"].get("annotations") or {}).get(names.ACKNOWLEDGED, "")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return found.timestamp() if found.tzinfo else 0.0


async def prune(this: Round) -> None:
    """An AuditSink that this pipeline owns and no longer wants is gone.

    Nothing in a namespace is ever unwanted, and the operator has no right to delete it: it may hold events, or belong
    to another release."""
    world = this.world
    for key, entry in world.seen.of(this.name).items():
        unwanted = key not in this.kept and entry.owner == this.pipeline.metadata.uid and not entry.deleting
        if unwanted and key[0] == SINKS.plural:
            log.info("pruned", pipeline=this.name, kind=key[0], name=key[2])
            await world.kube.delete(SINKS, key[2], uid=entry.uid)
            world.seen.drop(key, entry.uid)


async def refresh(this: Round) -> None:
    """The Pods are told when something that they mount has changed."""
    await mark(this.world, this.pods(), desired.mounted(this.versions))


async def namespace_exists(this: Round) -> None:
    """Ends the round where the target namespace is not there."""
    try:
        found = await this.world.kube.get(NAMESPACES, this.namespace)
    except Forbidden:
        return
    if found is None:
        message = f"there is no namespace {this.namespace}: create it, or choose another spec.targetNamespace"
        raise Halt("NamespaceMissing", message, stalled=True, again=PLACE_RETRY)


async def forbidden(this: Round, error: Forbidden) -> None:
    """Ends the round where the operator may not write into the target namespace."""
    await namespace_exists(this)
    if "being terminated" in str(error):
        message = f"namespace {this.namespace} is being deleted"
        raise Halt("NamespaceTerminating", message, stalled=False, again=PLACE_RETRY)
    message = f"{error}: {not_granted(this.namespace, this.world.settings)}"
    raise Halt("Forbidden", message, stalled=True, again=PLACE_RETRY)


def sink_token(this: Round) -> str:
    """What kube-apiserver shows where it posts to the receivers itself; "" where the gateway does, by certificate."""
    builtin = this.world.features.sinks == "builtin"
    return this.world.authority.token(this.pipeline.metadata.uid) if builtin else ""


def _ask(this: Round, policy: PipelinePolicy | None) -> None:
    """What the pipeline asks of the static policy; None leaves what it asked for before, which runs on."""
    world = this.world
    effective = policy.effective if policy else None
    if world.upstream.ask(this.name, effective, floored=bool(policy and not has_floor(policy.written))):
        world.wake(STATIC_KEY, world.upstream.patience)


def _registration(world: World, sink: str, now: Identity) -> Verdict:
    if world.features.sinks == "builtin":
        return Verdict("True", "Registered", "kube-apiserver posts events to this pipeline")
    if not world.settings.gateway:
        return disabled()
    return world.gateway.registration(sink, now)
