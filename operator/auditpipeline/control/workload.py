"""The steps of a round that concern the receivers: their objects in the target namespace, and what their Pods do."""

from __future__ import annotations

import time

import structlog

from auditpipeline.control import certificates, desired, generation, names
from auditpipeline.control.acceptance import is_fixed
from auditpipeline.control.canary import CanaryFacts
from auditpipeline.control.claims import CLAIM_RETRY, expand_claims
from auditpipeline.control.facts import Facts, Heard, PodFacts, PodReport, Workload, hear
from auditpipeline.control.gateway import ask
from auditpipeline.control.hash_key import KEY_RETRY
from auditpipeline.control.kube import Forbidden, NotFound, Refused
from auditpipeline.control.left import LeftState, find_left
from auditpipeline.control.ownership import NameTaken
from auditpipeline.control.refusals import find_refusal
from auditpipeline.control.rendering import rendered
from auditpipeline.control.resources import CLAIMS, SECRETS, STATEFULSETS
from auditpipeline.control.rounds import PLACE_RETRY, SETTLING, Halt, Round
from auditpipeline.control.seen import key_of
from auditpipeline.control.steps import forbidden, namespace_exists
from auditpipeline.control.turns import has_turn
from auditpipeline.control.world import CANARY_KEY, World, ensure
from auditpipeline.core import config
from auditpipeline.core.errors import Invalid

log = structlog.get_logger()

PROOF_RETRY = 1.0
"""Seconds between canaries while a new pipeline waits for its first: Ready waits with it."""
PROBES_A_SECOND = 20.0


async def children(this: Round) -> None:
    """Everything in the target namespace is as desired."""
    made = await rendered(this)
    try:
        await _keep_generation(this)
        taken = [error for manifest in made.children if (error := await _child(this, manifest))]
        await expand_claims(this)
    except NotFound:
        await namespace_exists(this)
        raise
    except Forbidden as error:
        await forbidden(this, error)
    except Invalid as error:
        raise Halt("InvalidSpec", str(error), stalled=True) from None
    if taken:
        raise Halt("NameTaken", str(taken[0]), stalled=True, again=PLACE_RETRY)
    tls = made.tls
    this.facts.unhashed = made.key.problem
    if made.key.problem:
        this.look_again(KEY_RETRY)
    this.facts.certificate = certificates.not_after(tls.leaf.certificate)
    this.facts.config = config.digest(made.body)
    this.versions += [
        this.facts.config,
        desired.digest({"tls": tls.leaf.certificate, "ca": tls.bundle, "token": tls.token}),
        *([made.key.version] if made.key.value else []),
    ]


async def observe(this: Round) -> None:
    """What the Pods do: the StatefulSet's own status, claims that do not bind, and each Pod's report."""
    world, facts = this.world, this.facts
    if not this.is_placed or this.namespace in world.closed:
        return
    pods = facts.pods = this.pods()
    entry = world.seen.entries.get((STATEFULSETS.plural, this.namespace, names.child(this.name)))
    ours = entry is not None and entry.owner == this.pipeline.metadata.uid
    facts.workload = entry.facts if entry and ours and isinstance(entry.facts, Workload) else None
    await find_refusal(this)
    facts.reports = await _asked(this, pods)
    world.canary.take(this.name, [entry.report for entry in facts.reports if entry.report])
    facts.canary = _canary(this)
    known = world.reports.setdefault(this.name, {})
    _hear(known, world.unheard.setdefault(this.name, {}), facts)
    await _forget_unwanted(this, known)
    facts.last_reports = {pod: heard.report for pod, heard in known.items()}
    if facts.workload and not facts.workload.ready and not any(pod.running for pod in pods):
        facts.claims = await _pending_claims(this)
    _plan_next_look(this)


async def _asked(this: Round, pods: list[PodFacts]) -> list[PodReport]:
    """What the Pods say; how long those that say nothing let one wait is noted."""
    begun = time.monotonic()
    found = await ask(this.world, pods, names.OPS_PORT, names.service_host(names.child(this.name), this.namespace))
    this.world.waits.pop(this.name, None)
    if any(entry.report is None for entry in found):
        this.world.waits[this.name] = time.monotonic() - begun
    return found


async def _forget_unwanted(this: Round, known: dict[str, Heard]) -> None:
    """A Pod that is gone for good no longer counts, but for what it left; one that is away for a moment does."""
    spec = this.pipeline.spec
    left = this.world.left.setdefault(this.name, LeftState())
    guaranteed = frozenset(output.name for output in spec.outputs if output.delivery == "Guaranteed")
    for pod in set(known) - {f"{names.child(this.name)}-{index}" for index in range(spec.webhook.replicas)}:
        left.gone(pod, known.pop(pod).report, guaranteed)
    await find_left(this, left)


def _hear(known: dict[str, Heard], unheard: dict[str, int], facts: Facts) -> None:
    """One look may be missed: by a Pod that ran what is wanted when it was last heard, and by one that this process
    asks for the first time. `unheard` counts the looks that Pods have missed that were never heard, by UID."""
    uids = {pod.name: pod.uid for pod in facts.pods}
    reports = facts.reports or []
    silent = hear(known, reports, uids)
    facts.forgiven = frozenset(pod for pod in silent if known[pod].report.config == facts.config)
    missed = {uids[entry.pod]: entry.pod for entry in reports if entry.report is None and entry.pod not in known}
    for uid in set(unheard) - missed.keys():
        del unheard[uid]
    unheard.update({uid: unheard.get(uid, 0) + 1 for uid in missed})
    facts.unheard = frozenset(pod for uid, pod in missed.items() if unheard[uid] == 1)


def _canary(this: Round) -> CanaryFacts:
    """Nothing is claimed where nobody posts events."""
    world = this.world
    starts = {reading.server.name: reading.start for reading in world.upstream.readings if not reading.error}
    asked = world.features.sinks == "crd" and world.settings.gateway
    emitting = world.upstream.emitting | world.canary.proven(starts) if asked else frozenset[str]()
    registered = this.facts.sink is not None and this.facts.sink.status == "True"
    now = this.facts.now.timestamp()
    found = world.canary.look(
        this.name, registered=registered, emitting=emitting, now=now, period=world.settings.canary_interval
    )
    if asked and registered and not found.seen and world.canary.is_new(this.name, now):
        world.wake(CANARY_KEY, PROOF_RETRY)
    return found._replace(undecided=found.undecided and asked and (bool(emitting) or not world.upstream.ran))


async def _keep_generation(this: Round) -> None:
    """Keep the generation in force over a restart. If that fails, a note says so, and everything runs all the same."""
    if this.accepted is None:
        return
    manifest = generation.secret(this.pipeline, this.namespace, this.accepted, this.world.authority.seal)
    if manifest is None:
        this.facts.notes.append("this generation is too large to be kept: a newer one that is refused leaves none")
        return
    this.kept.add(key_of(SECRETS.plural, manifest))
    try:
        await ensure(this.world, manifest)
    except (NameTaken, Invalid, Refused) as error:
        this.facts.notes.append(f"this generation is not kept, and would be lost with a newer one: {error}")


async def _child(this: Round, manifest: desired.Manifest) -> NameTaken | None:
    """Have one child be as desired. That its name is taken keeps no other child from that: it is returned."""
    key = key_of(this.world.features.resource(manifest).plural, manifest)
    this.kept.add(key)
    if key in this.held:
        return None
    if manifest["kind"] == STATEFULSETS.kind and not await has_turn(this, key):
        return None
    try:
        await ensure(this.world, manifest)
    except NameTaken as error:
        return error
    except Invalid as error:
        if manifest["kind"] != STATEFULSETS.kind:
            raise
        await _replace_statefulset(this, manifest, error)
    return None


async def _replace_statefulset(this: Round, manifest: desired.Manifest, error: Invalid) -> None:
    """Claim templates cannot be changed: the StatefulSet is deleted without its Pods, and made again around them."""
    key = key_of(STATEFULSETS.plural, manifest)
    entry = this.world.seen.entries.get(key)
    if entry is None or not is_fixed(error):
        raise error
    log.info("statefulset made again", pipeline=this.name, reason="its claim templates changed")
    await this.world.kube.delete(STATEFULSETS, key[2], key[1], uid=entry.uid, propagation="Orphan")
    raise Halt("Replacing", "the StatefulSet is made again for another storage", stalled=False, again=SETTLING)


async def _pending_claims(this: Round) -> list[str]:
    storage = this.pipeline.spec.webhook.storage
    if storage.ephemeral:
        return []
    found = [
        claim["metadata"]["name"]
        async for claim in this.world.kube.list(CLAIMS, this.namespace, f"{names.PIPELINE}={this.name}")
        if claim.get("status", {}).get("phase") == "Pending" and "deletionTimestamp" not in claim["metadata"]
    ]
    if not found:
        return []
    this.look_again(CLAIM_RETRY)
    kind = storage.storage_class_name
    why = f"no volume of StorageClass {kind}" if kind else "no volume, and maybe no default StorageClass"
    hint = (
        "set spec.webhook.storage.storageClassName to a class of this cluster, or spec.webhook.storage.ephemeral: true"
    )
    return [f"claim {', '.join(sorted(found))} in namespace {this.namespace} is not bound ({why}): {hint}"]


def _plan_next_look(this: Round) -> None:
    """Pods are asked again soon while they settle, else every `status_interval`, and never too many in a second."""
    reports, settings = this.facts.reports or [], this.world.settings
    if not reports:
        return
    asked = sum(len(known) for known in this.world.reports.values())
    settled = all(entry.report and entry.report.config == this.facts.config for entry in reports)
    quiet = settled and any(entry.report.events.received for entry in reports if entry.report)
    wanted = settings.status_interval if quiet else min(settings.status_interval, 2.0)
    this.look_again(max(wanted if settled else SETTLING, asked / PROBES_A_SECOND))
    if this.again is not None and any(entry.report is None for entry in reports):
        this.again = max(this.again, _pause(this.world, this.name))


def _pause(world: World, name: str) -> float:
    """Seconds between two looks at Pods that let one wait: whoever waits is one of a few workers, of which half are for
    others, however many pipelines have such Pods."""
    return 2 * sum(world.waits.values()) / world.settings.workers - world.waits.get(name, 0.0)
