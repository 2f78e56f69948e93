"""What a running controller works with: the API, what was seen and applied, and how to have a key looked at again.

Everything here belongs to one event loop. It is all made again after a restart: nothing in it is needed to be right,
only to be quick.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog

from auditpipeline.control import desired, names
from auditpipeline.control.additions import additions
from auditpipeline.control.authority import Authority
from auditpipeline.control.canary import CanaryState
from auditpipeline.control.claims import ClaimState
from auditpipeline.control.egress import EgressState
from auditpipeline.control.facts import Heard
from auditpipeline.control.fights import Fights
from auditpipeline.control.gateway_state import GatewayState
from auditpipeline.control.generation import Accepted
from auditpipeline.control.kube import Conflict, Kube, NoDryRun, NotFound
from auditpipeline.control.left import LeftState
from auditpipeline.control.loss import LossState
from auditpipeline.control.ownership import ABSENT, Whose, owner, taken, whose
from auditpipeline.control.probe import Prober
from auditpipeline.control.published import PipelineStatus
from auditpipeline.control.refusals import RefusalState
from auditpipeline.control.resources import SINKS, Features, Resource
from auditpipeline.control.rollout import Rollout
from auditpipeline.control.seen import Entry, Key, Seen, entry_of, key_of
from auditpipeline.control.settings import Settings
from auditpipeline.control.upstream import UpstreamState
from auditpipeline.core.errors import Invalid, Retryable

if TYPE_CHECKING:
    from auditpipeline.control.acceptance import Refusal

log = structlog.get_logger()

GATEWAY_KEY = "gateway"
SINKS_KEY = "sinks"
AUTHORITY_KEY = "authority"
RESYNC_KEY = "resync"
RELIST_KEY = "relist"
STATIC_KEY = "static"
API_SERVERS_KEY = "apiservers"
CANARY_KEY = "canary"

ADOPT_RETRY = 10.0
"""Seconds until it is asked again whether an object is as it should be, if nobody could say."""
T = TypeVar("T")
TRIES = 3
"""How often in a row an object may turn out to be another one than was seen before `ensure` gives up."""


class BeingDeleted(Retryable):
    """The former object of a child's name is not gone yet."""


class Applied(NamedTuple):
    """What was last applied: the digest of the manifest, the fingerprint that it left ("" if others' additions stayed),
    the UID of the object, and that of the AuditPipeline that owns it."""

    digest: str
    fingerprint: str
    uid: str
    owner: str


def pipeline_key(name: str) -> str:
    """The work queue's key of a pipeline."""
    return f"pipeline/{name}"


@dataclass
class World:
    """`applied` holds what was last applied of each object. `closed` are namespaces that the operator was given but may
    not read. `began` is when this process began to work, in seconds since the epoch; `troubles` since when the rounds
    of a pipeline end with an error; `unheard` how many looks its Pods have missed that were never heard, by UID;
    `waits` for how many seconds its silent Pods let a worker wait at the last look. `unasked`: dry runs of this kind in
    this namespace are not answered, and not asked for before that; `unsure` are the objects that are left as they are
    meanwhile, as they were then. `published` has what an API server made of a status that was written, and that status.
    `fights` says of an object how often in a row what others wrote was taken back. `accepted` is the last generation of
    each pipeline that was accepted, `refusals` what was refused of a newer one; `unmarked` says of a namespace when its
    Pods could not be annotated; `uids` are those of the pipelines, by name. `wake(key, seconds)` puts a key into the
    work queue."""

    kube: Kube
    settings: Settings
    authority: Authority
    prober: Prober
    clock: Callable[[], datetime]
    wake: Callable[[str, float], None]
    features: Features = field(default_factory=Features)
    seen: Seen = field(default_factory=Seen)
    applied: dict[Key, Applied] = field(default_factory=dict)
    fights: Fights = field(default_factory=Fights)
    gateway: GatewayState = field(default_factory=GatewayState)
    canary: CanaryState = field(default_factory=CanaryState)
    rollout: Rollout = field(default_factory=Rollout)
    losses: LossState = field(default_factory=LossState)
    upstream: UpstreamState = field(default_factory=UpstreamState)
    egress: EgressState = field(default_factory=EgressState)
    closed: frozenset[str] = frozenset()
    reports: dict[str, dict[str, Heard]] = field(default_factory=dict)
    left: dict[str, LeftState] = field(default_factory=dict)
    claims: dict[str, ClaimState] = field(default_factory=dict)
    unmade: dict[str, RefusalState] = field(default_factory=dict)
    began: float = 0.0
    unasked: dict[tuple[str, str], float] = field(default_factory=dict)
    unsure: dict[Key, tuple[str, str]] = field(default_factory=dict)
    troubles: dict[str, float] = field(default_factory=dict)
    unheard: dict[str, dict[str, int]] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)
    published: dict[str, tuple[PipelineStatus, PipelineStatus]] = field(default_factory=dict)
    ready: dict[str, bool] = field(default_factory=dict)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    unmarked: dict[str, float] = field(default_factory=dict)
    uids: dict[str, str] = field(default_factory=dict)

    def meet(self, name: str, uid: str) -> None:
        """Take in which AuditPipeline has this name: what is remembered of a former one is dropped."""
        if self.uids.get(name, uid) != uid:
            self.forget(name)
        self.uids[name] = uid

    def forget(self, name: str) -> None:
        """Drop what is remembered of a pipeline that is gone."""
        for memory in (
            self.reports,
            self.left,
            self.claims,
            self.unmade,
            self.written,
            self.published,
            self.ready,
            self.troubles,
            self.unheard,
            self.waits,
            self.accepted,
            self.refusals,
            self.uids,
        ):
            memory.pop(name, None)
        self.rollout.clean.pop(name, None)
        self.canary.forget(name)
        if self.upstream.drop(name):
            self.wake(STATIC_KEY, self.upstream.patience)
        for key in [key for key in self.applied if key not in self.seen.entries]:
            del self.applied[key]
            self.fights.forget(key)
        self.unsure = {key: entry for key, entry in self.unsure.items() if key in self.seen.entries}
        self.authority.forget(name)


class Wanted(NamedTuple):
    """An object as it should be."""

    kind: Resource
    key: Key
    manifest: desired.Manifest
    digest: str
    owner: str

    def applied(self, entry: Entry, *, clean: bool = True) -> Applied:
        """The memory of an apply that left `entry`."""
        return Applied(self.digest, entry.fingerprint if clean else "", entry.uid, self.owner)

    def on(self, **condition: str) -> desired.Manifest:
        """The manifest, to be applied under a condition on the object's metadata."""
        return {**self.manifest, "metadata": {**self.manifest["metadata"], **condition}}


async def ensure(world: World, manifest: desired.Manifest) -> Entry:
    """Have the cluster hold `manifest`, and nothing of others in what is ours: applies it unless nothing changed on
    either side since it was last applied. NameTaken if an object of that name is somebody else's; BeingDeleted while
    a former one is not gone.

    Between a look at an object and its apply, another one can take its place. So each apply carries a condition that
    the API server checks in the same transaction: what is absent is applied with `ownership.ABSENT`, what was found to
    be ours with its UID. If either no longer holds, it answers 409 and changes nothing, and we look again.
    """
    return await _tried(world, wanted_of(world, manifest), _hold)


def disputed(world: World, keys: Iterable[Key], now: float) -> list[Key]:
    """The objects that are not as they should be and are left so for a while, since others write to them again and
    again."""
    found = []
    for key in keys:
        applied, entry = world.applied.get(key), world.seen.entries.get(key)
        if applied and entry and applied.fingerprint != entry.fingerprint and world.fights.left(key, now):
            found.append(key)
    return sorted(found)


async def rehearse(world: World, manifest: desired.Manifest) -> None:
    """Have the API server say whether it would take `manifest`, as `ensure` would apply it, and write nothing. Raises
    what `ensure` would, or NoDryRun."""
    await _tried(world, wanted_of(world, manifest), _rehearse)


async def _tried(world: World, wanted: Wanted, request: Callable[[World, Wanted, Entry | None], Awaitable[T]]) -> T:
    """What `request` comes to, on the object as it is."""
    entry = world.seen.entries.get(wanted.key)
    for _ in range(TRIES):
        try:
            return await request(world, wanted, entry)
        except Conflict:
            entry = await look(world, wanted)
    raise Conflict(f"{wanted.kind.kind} {wanted.key[2]} was changed again and again meanwhile")


def wanted_of(world: World, manifest: desired.Manifest) -> Wanted:
    """The manifest, with what tells it from others."""
    kind = world.features.resource(manifest)
    reference = owner(manifest["metadata"])
    uid = str(reference["uid"]) if reference else ""
    return Wanted(kind, key_of(kind.plural, manifest), manifest, desired.digest(manifest), uid)


async def look(world: World, wanted: Wanted) -> Entry | None:
    """The object of that name as the API server has it, if it is ours; None if there is none."""
    key = wanted.key
    body = await world.kube.get(wanted.kind, key[2], key[1] or None)
    if body is None:
        if key in world.seen.entries:
            world.seen.drop(key)
        return None
    entry = entry_of(wanted.kind.plural, body)
    if entry.deleting:
        raise _being_deleted(wanted)
    if not is_ours(world, wanted, entry):
        if whose(wanted.manifest, body) is Whose.FORMER:
            message = f"{wanted.kind.kind} {key[2]} belongs to a former AuditPipeline of this name"
            raise BeingDeleted(f"{message}: waiting for Kubernetes to delete it", after=1.0)
        raise taken(wanted.manifest)
    world.seen.put(key, entry)
    return entry


def is_ours(world: World, wanted: Wanted, entry: Entry) -> bool:
    """Whether the object that was seen may be changed. One that we applied ourselves, for the same owner, stays ours if
    somebody takes the sign of it away."""
    known = world.applied.get(wanted.key)
    if known and (known.uid, known.owner) == (entry.uid, wanted.owner):
        return True
    return entry.owner == wanted.owner if wanted.owner else entry.managed


async def _rehearse(world: World, wanted: Wanted, entry: Entry | None) -> None:
    if entry is None:
        await world.kube.rehearse(wanted.kind, wanted.on(resourceVersion=ABSENT))
        return
    if entry.deleting:
        raise _being_deleted(wanted)
    if world.applied.get(wanted.key) == wanted.applied(entry):
        return
    if not is_ours(world, wanted, entry):
        raise _unseen(wanted)
    body = await world.kube.rehearse(wanted.kind, wanted.on(uid=entry.uid))
    if _changes_nothing(wanted, body, entry) and not additions(body).fields:
        world.applied[wanted.key] = wanted.applied(entry)


async def _hold(world: World, wanted: Wanted, entry: Entry | None) -> Entry:
    """Conflict if the object is not the one that was seen, or not seen to be ours."""
    known = world.applied.get(wanted.key)
    if entry is None:
        return await _apply(world, wanted, resourceVersion=ABSENT)
    if entry.deleting:
        raise _being_deleted(wanted)
    if known == wanted.applied(entry):
        return entry
    if not is_ours(world, wanted, entry):
        raise _unseen(wanted)
    if known is None or known.uid != entry.uid:
        return await _adopted(world, wanted, entry) or await _apply(world, wanted, uid=entry.uid)
    if known.digest != wanted.digest:
        return await _apply(world, wanted, uid=entry.uid)
    return await _mended(world, wanted, entry)


async def _adopted(world: World, wanted: Wanted, entry: Entry) -> Entry | None:
    """After a restart or a change of leader: the object, if applying it would change nothing, or if nobody can say."""
    place, now = wanted.key[:2], world.clock().timestamp()
    if wanted.owner and now < world.unasked.get(place, 0.0):
        return _left_for_now(world, wanted, entry)
    try:
        body = await world.kube.rehearse(wanted.kind, wanted.on(uid=entry.uid))
    except NoDryRun:
        return None
    except (Conflict, NotFound):
        raise
    except Retryable as error:
        if not wanted.owner:  # what is taken for written there has to be
            raise
        # As while an admission webhook is down: nobody can say yet, and what is there is left as it is.
        log.warning("whether an object is as it should be is not known yet", name=wanted.key[2], error=str(error))
        world.unasked[place] = world.clock().timestamp() + ADOPT_RETRY
        return _left_for_now(world, wanted, entry)
    return await _settled(world, wanted, body) if _changes_nothing(wanted, body, entry) else None


def _left_for_now(world: World, wanted: Wanted, entry: Entry) -> Entry:
    """The object as it was seen; it is looked at again. What somebody changed since this began is not passed over."""
    if world.unsure.setdefault(wanted.key, entry.identity) != entry.identity:
        what = f"{wanted.kind.kind} {wanted.key[2]}"
        raise Retryable(f"{what} was changed, and nobody says whether it is as it should be: a dry run is not answered")
    reference = owner(wanted.manifest["metadata"])
    if reference:
        world.wake(pipeline_key(reference["name"]), ADOPT_RETRY)
    return entry


def _changes_nothing(wanted: Wanted, answer: dict[str, Any], entry: Entry) -> bool:
    """Whether a dry run has left the object as it was."""
    return entry_of(wanted.kind.plural, answer).fingerprint == entry.fingerprint


async def _mended(world: World, wanted: Wanted, entry: Entry) -> Entry:
    """Take back what others wrote, unless it is to be left alone for a while."""
    now = world.clock().timestamp()
    left = world.fights.left(wanted.key, now)
    if left:
        _give_way(world, wanted, left)
        return entry
    world.fights.mend(wanted.key, now)
    return await _apply(world, wanted, mending=True, uid=entry.uid)


async def _apply(world: World, wanted: Wanted, *, mending: bool = False, **condition: str) -> Entry:
    body = await world.kube.apply(wanted.kind, wanted.on(**condition))
    return await _settled(world, wanted, body, mending=mending)


async def _settled(world: World, wanted: Wanted, body: dict[str, Any], *, mending: bool = False) -> Entry:
    """Remember the object that is as it should be, without what others added to it."""
    world.unsure.pop(wanted.key, None)
    body, clean = await _cleaned(world, wanted, body, mending=mending)
    entry = entry_of(wanted.kind.plural, body)
    world.seen.put(wanted.key, entry)
    world.applied[wanted.key] = wanted.applied(entry, clean=clean)
    if wanted.kind is SINKS:
        # The watch will tell nothing new of it, and the gateway may have rendered what others wrote before.
        render_gateway(world)
    return world.seen.entries.get(wanted.key, entry)  # it may be deleted again already


def render_gateway(world: World) -> None:
    """Have the gateway's configuration made anew, as its sinks are others now."""
    world.gateway.dirty = True
    world.wake(GATEWAY_KEY, world.gateway.patience)


async def _cleaned(world: World, wanted: Wanted, body: dict[str, Any], *, mending: bool) -> tuple[dict[str, Any], bool]:
    """The object without what others added, and whether that is so. With `mending`, this counts as mended already."""
    found = additions(body)
    if not found.fields:
        return body, True
    key, now = wanted.key, world.clock().timestamp()
    if not mending:
        left = world.fights.left(key, now)
        if left:
            _give_way(world, wanted, left)
            return body, False
        world.fights.mend(key, now)
    told = {"kind": key[0], "namespace": key[1], "name": key[2], "fields": found.fields, "by": found.managers}
    version = {"resourceVersion": body["metadata"]["resourceVersion"]}
    patch = {**found.patch, "metadata": {**found.patch.get("metadata", {}), **version}}
    try:
        cleaned = await world.kube.patch(wanted.kind, key[2], patch, key[1] or None)
    except Invalid as error:
        log.warning("additions of others stay", **told, error=str(error))
        return body, True
    log.warning("additions of others removed", **told)
    return cleaned or body, True


def _give_way(world: World, wanted: Wanted, seconds: float) -> None:
    """Leave what others wrote alone for a while: other children are not to wait for a fight."""
    key, reference = wanted.key, owner(wanted.manifest["metadata"])
    if world.fights.tell(key):
        told = {"kind": key[0], "namespace": key[1], "name": key[2], "again": round(seconds, 1)}
        log.warning("others write to this object again and again: left as it is for a while", **told)
    others = AUTHORITY_KEY if key[2] == names.CLIENT_SECRET else GATEWAY_KEY
    world.wake(pipeline_key(reference["name"]) if reference else others, seconds)


def _unseen(wanted: Wanted) -> Conflict:
    return Conflict(f"{wanted.kind.kind} {wanted.key[2]} is not seen to be ours")


def _being_deleted(wanted: Wanted) -> BeingDeleted:
    return BeingDeleted(f"{wanted.kind.kind} {wanted.key[2]} is being deleted: waiting for it to be gone", after=1.0)
