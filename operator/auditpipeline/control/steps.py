"""The steps of a round that concern the pipeline as a whole: its spec, its place, its AuditSink, what has to go.

A step asks and writes what it is named after, notes in the Facts what it found, and ends the round by `Halt`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from auditpipeline.control import desired, desired_pod, names
from auditpipeline.control.accepted import fall_back, is_refused_opt_out
from auditpipeline.control.facts import Losses, Problem, Verdict
from auditpipeline.control.gateway import mark
from auditpipeline.control.gateway_state import Identity, disabled
from auditpipeline.control.kube import Forbidden, Refused
from auditpipeline.control.ownership import NameTaken
from auditpipeline.control.placing import not_granted, not_served
from auditpipeline.control.published import Acknowledged, conditions
from auditpipeline.control.rendering import rendered
from auditpipeline.control.resources import NAMESPACES, PIPELINES, SECRETS, SINKS, STATEFULSETS
from auditpipeline.control.rounds import PLACE_RETRY, Halt, Round
from auditpipeline.control.seen import key_of
from auditpipeline.control.world import STATIC_KEY, World, disputed, ensure, render_gateway
from auditpipeline.core.errors import Invalid
from auditpipeline.core.floor import has_floor
from auditpipeline.core.quantity import parse_seconds
from auditpipeline.core.spec import PipelinePolicy, stored_pipeline

log = structlog.get_logger()

SECRET_RETRY = 3.0
LOSS_TOLD = timedelta(hours=24)
LEAST_LIFETIME, LONGEST_LIFETIME = 60.0, 8760 * 3600.0
"""Seconds: a pipeline that is gone before anybody sees it, and times that no clock can tell, are slips of the pen."""
_UNSEEN = (
    "a gateway behind a Service (gateway.kind StatefulSet) sees no policy file: let kube-apiserver run with "
    f"policy.yaml of ConfigMap {names.STATIC_POLICY}, or hold its file against the pipelines with "
    "`auditpipeline policy covers`"
)
_OPT_OUT = (
    "spec.redaction.default is false, and this operator lets no pipeline keep secrets in its events: "
    "leave it out, or see redaction.allowOptOut of the chart"
)


async def parse(this: Round) -> None:
    """The object as a typed value."""
    this.facts.absent = _absent(this.world)
    this.facts.needs_proof = this.world.features.sinks != "builtin"
    try:
        this.take(stored_pipeline(this.body))
    except Invalid as error:
        await fall_back(this, Problem("InvalidSpec", str(error)))


def asks(this: Round) -> None:
    """What the generation that is in force asks of the static policy. If there is none, what was asked for before runs
    on; but that the pipeline was looked at has to be known."""
    _ask(this, this.pipeline.spec.policy if this.parsed else None)


async def expire(this: Round) -> None:
    """A pipeline with `expireAfter` deletes itself when its time is over."""
    after = this.pipeline.spec.expire_after
    if after is None or this.is_former:  # the newest, which cannot be read, may say another time
        return
    created = datetime.fromisoformat(this.pipeline.metadata.creation_timestamp)
    seconds = parse_seconds(after, "spec.expireAfter")
    lifetime = min(max(seconds, LEAST_LIFETIME), LONGEST_LIFETIME)
    if lifetime != seconds:
        taken = "1m" if lifetime == LEAST_LIFETIME else "8760h"
        this.facts.notes.append(f"spec.expireAfter ({after}) is taken as {taken}: say 1m to 8760h")
    this.facts.expires = (created + timedelta(seconds=lifetime)).replace(microsecond=0)
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
        this.is_placed = True
        return
    await namespace_exists(this)
    raise Halt("NamespaceNotServed", not_served(this.namespace, settings), stalled=True, again=PLACE_RETRY)


async def opted_out(this: Round) -> None:
    """A pipeline keeps secrets in its events only if this operator may let it; otherwise the last generation that does
    not stays in force."""
    if not is_refused_opt_out(this.world, this.pipeline):
        return
    await fall_back(this, Problem("OptOutRefused", _OPT_OUT))


async def leave(this: Round) -> None:
    """Ends the round of a pipeline that is being deleted and is held by a finalizer: its children go with it, and are
    not made again."""
    message = "this AuditPipeline is being deleted, so that nothing of it is maintained: see its metadata.finalizers"
    raise Halt("BeingDeleted", message, stalled=False)


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
        return
    manifest = (await rendered(this)).sink
    if manifest is None:
        return
    key = key_of(SINKS.plural, manifest)
    this.kept.add(key)
    if key in this.held:
        return
    try:
        await ensure(world, manifest)
    except NameTaken as error:
        raise Halt("NameTaken", str(error), stalled=True, again=PLACE_RETRY) from None
    except (Invalid, Refused) as error:
        raise Halt("InvalidSpec", str(error), stalled=True) from None
    except Forbidden as error:
        raise Halt("Forbidden", str(error), stalled=True, again=PLACE_RETRY) from None


async def undisputed(this: Round) -> None:
    """Nobody else writes to the children again and again; if somebody does, they are not as they should be."""
    found = disputed(this.world, this.kept, this.facts.now.timestamp())
    if found:
        objects = ", ".join(f"{plural} {namespace}/{name}".replace(" /", " ") for plural, namespace, name in found)
        message = f"somebody else writes to {objects} again and again, so that it is left alone for now: find out who"
        this.facts.waiting = Problem("Disputed", f"{message} (kubectl get --show-managed-fields -o yaml)")


async def registered(this: Round) -> None:
    """Whether whoever posts the events knows of this pipeline's AuditSink as it is."""
    world, sink = this.world, names.child(this.name)
    this.facts.given_up = sum(output.dropped for output in world.gateway.outputs(sink))
    this.facts.has_gateway = world.features.sinks == "crd" and world.settings.gateway
    this.facts.unredacting = world.gateway.unredacting()
    if world.features.sinks == "absent":
        message = "this cluster has no AuditSink: install crds/auditsinks.yaml (the chart does)"
        this.facts.sink = Verdict("False", "AuditSinkNotServed", message)
        return
    entry = world.seen.entries.get((SINKS.plural, "", sink))
    if entry is None or entry.owner != this.pipeline.metadata.uid:
        return
    this.facts.sink = _registration(world, sink, entry.identity)
    if this.was_true("SinkRegistered") and world.gateway.excuses(this.facts.sink, sink, entry.identity):
        this.facts.sink = None
    if this.facts.sink is None:
        this.facts.pending.add("SinkRegistered")
    this.facts.has_gateway = world.features.sinks == "crd" and world.settings.gateway
    this.facts.unredacting = world.gateway.unredacting()


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
    guess = world.upstream.is_guess(this.name) and _was_met(this)
    this.facts.upstream = None if guess else world.upstream.verdict(this.name)
    if this.facts.upstream is None:
        this.facts.pending.add("UpstreamCovers")


def _was_met(this: Round) -> bool:
    """Whether a former process saw that the policy in force records what this generation asks for."""
    former = conditions(this.previous).get("UpstreamCovers")
    return former is not None and (former.status, former.observed_generation) == ("True", this.facts.generation)


async def losses(this: Round) -> None:
    """What the API servers' audit lost since the pipeline was made; a loss is told for LOSS_TOLD, or acknowledged."""
    world = this.world
    if "AuditLoss" in this.facts.absent:
        return
    if not world.losses.recalled:
        this.facts.pending.add("AuditLoss")
        return
    made = datetime.fromisoformat(this.pipeline.metadata.creation_timestamp).timestamp()
    gaps = tuple(gap for gap in world.losses.gaps if gap.ends > made)
    until = max(_acknowledged(this), (this.facts.now - LOSS_TOLD).timestamp())
    told = tuple(gap for gap in gaps if gap.events and gap.ends > until)
    if not told and world.losses.is_excused(this.facts.now.timestamp()):
        this.facts.pending.add("AuditLoss")
    this.facts.losses = Losses(gaps, told, world.losses.read)


def _acknowledged(this: Round) -> float:
    """Until when somebody has acknowledged losses; what is no time acknowledges none. Nobody knows of what is yet to
    come: of a time in the future counts when it was first seen, which the status keeps."""
    text = (this.body["metadata"].get("annotations") or {}).get(names.ACKNOWLEDGED, "")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    if not found.tzinfo:
        return 0.0
    known, now = this.previous.loss_acknowledged, this.facts.now.replace(microsecond=0)
    if known is None or known.annotation != text:
        if found <= now:
            return found.timestamp()
        known = Acknowledged(text, now)
    this.facts.acknowledged = known
    return known.until.timestamp()


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
            # It is dropped here, so that the watch will tell nothing new; the gateway must not post to it any more.
            world.seen.drop(key, entry.uid)
            render_gateway(world)


async def refresh(this: Round) -> None:
    """The Pods are told when something that they mount has changed: those that our StatefulSet made, whatever labels
    others have."""
    entry = this.world.seen.entries.get((STATEFULSETS.plural, this.namespace, names.child(this.name)))
    if entry and entry.owner == this.pipeline.metadata.uid:
        ours = [pod for pod in this.pods() if pod.controller == entry.uid]
        await mark(this.world, ours, desired.mounted(this.versions))


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
    if isinstance(error, Refused):
        raise Halt("InvalidSpec", str(error), stalled=True, again=PLACE_RETRY)
    if "being terminated" in str(error):
        message = f"namespace {this.namespace} is being deleted"
        raise Halt("NamespaceTerminating", message, stalled=False, again=PLACE_RETRY)
    message = f"{error}: {not_granted(this.namespace, this.world.settings)}"
    raise Halt("Forbidden", message, stalled=True, again=PLACE_RETRY)


def _ask(this: Round, policy: PipelinePolicy | None) -> None:
    """What the pipeline asks of the static policy; None leaves what it asked for before, which runs on."""
    world = this.world
    effective = policy.effective if policy else None
    if world.upstream.ask(this.name, effective, floored=bool(policy and not has_floor(policy.written))):
        world.wake(STATIC_KEY, world.upstream.patience)


def _absent(world: World) -> frozenset[str]:
    """The conditions of which there is nothing to say on this cluster."""
    if world.features.sinks == "builtin":
        return frozenset({"UpstreamCovers", "AuditLoss"})
    return frozenset() if world.settings.gateway else frozenset({"AuditLoss"})


def _registration(world: World, sink: str, now: Identity) -> Verdict | None:
    if world.features.sinks == "builtin":
        return Verdict("True", "Registered", "kube-apiserver posts events to this pipeline")
    if not world.settings.gateway:
        return disabled()
    return world.gateway.registration(sink, now)
