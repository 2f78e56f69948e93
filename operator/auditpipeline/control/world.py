"""What a running controller works with: the API, what was seen and applied, and how to have a key looked at again.

Everything here belongs to one event loop. It is all made again after a restart: nothing in it is needed to be right,
only to be quick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from auditpipeline.control import desired
from auditpipeline.control.additions import additions
from auditpipeline.control.authority import Authority
from auditpipeline.control.canary import CanaryState
from auditpipeline.control.facts import Heard
from auditpipeline.control.gateway_state import GatewayState
from auditpipeline.control.kube import Kube
from auditpipeline.control.left import LeftState
from auditpipeline.control.loss import LossState
from auditpipeline.control.probe import Prober
from auditpipeline.control.resources import Features, Resource
from auditpipeline.control.seen import Entry, Key, Seen, entry_of, key_of
from auditpipeline.control.settings import Settings
from auditpipeline.control.upstream import UpstreamState
from auditpipeline.core.errors import Invalid, Retryable

log = structlog.get_logger()

GATEWAY_KEY = "gateway"
SINKS_KEY = "sinks"
AUTHORITY_KEY = "authority"
RESYNC_KEY = "resync"
RELIST_KEY = "relist"
STATIC_KEY = "static"
API_SERVERS_KEY = "apiservers"

AT_ONCE, CALM, LONGEST = 3, 600.0, 300.0
"""How often additions that come back are taken away at once; seconds without any, after which this counts anew; and
the longest time that they are left alone."""


class BeingDeleted(Retryable):
    """The former object of a child's name is not gone yet."""


def pipeline_key(name: str) -> str:
    """The work queue's key of a pipeline."""
    return f"pipeline/{name}"


@dataclass
class World:
    """`applied` holds, for each child, the digest of what we applied and the fingerprint that it left. `closed` are
    namespaces that the operator was given but may not read; `unmarked` says of a namespace when its Pods could not be
    annotated. `fights` says of a child how often in a row additions of others were taken away, and when last.
    `wake(key, seconds)` puts a key into the work queue."""

    kube: Kube
    settings: Settings
    authority: Authority
    prober: Prober
    clock: Callable[[], datetime]
    wake: Callable[[str, float], None]
    features: Features = field(default_factory=Features)
    seen: Seen = field(default_factory=Seen)
    applied: dict[Key, tuple[str, str]] = field(default_factory=dict)
    fights: dict[Key, tuple[int, float]] = field(default_factory=dict)
    gateway: GatewayState = field(default_factory=GatewayState)
    canary: CanaryState = field(default_factory=CanaryState)
    losses: LossState = field(default_factory=LossState)
    upstream: UpstreamState = field(default_factory=UpstreamState)
    closed: frozenset[str] = frozenset()
    reports: dict[str, dict[str, Heard]] = field(default_factory=dict)
    left: dict[str, LeftState] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)
    ready: dict[str, bool] = field(default_factory=dict)
    unmarked: dict[str, float] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """Drop what is remembered of a pipeline that is gone."""
        for memory in (self.reports, self.left, self.written, self.ready):
            memory.pop(name, None)
        self.canary.forget(name)
        if self.upstream.drop(name):
            self.wake(STATIC_KEY, self.upstream.patience)
        for key in [key for key in self.applied if key not in self.seen.entries]:
            del self.applied[key]
            self.fights.pop(key, None)
        self.authority.forget(name)


async def ensure(world: World, manifest: desired.Manifest) -> Entry:
    """Have the cluster hold `manifest`, and nothing of others in what is ours: applies it unless nothing changed on
    either side since it was last applied."""
    kind = world.features.resource(manifest)
    key = key_of(kind.plural, manifest)
    wanted = desired.digest(manifest)
    entry = world.seen.entries.get(key)
    if entry and entry.deleting:
        raise BeingDeleted(f"{kind.kind} {key[2]} is being deleted: waiting for it to be gone", after=1.0)
    if entry and world.applied.get(key) == (wanted, entry.fingerprint):
        return entry
    body, clean = await _cleaned(world, kind, key, await world.kube.apply(kind, manifest))
    entry = entry_of(kind.plural, body)
    world.seen.put(key, entry)
    # What others added and is left for now is looked at again in the next round.
    world.applied[key] = (wanted, entry.fingerprint if clean else "")
    return world.seen.entries.get(key, entry)  # it may be deleted again already


async def _cleaned(world: World, kind: Resource, key: Key, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The object without what others added, and whether that is so. Who adds it again and again is given way for a
    while each time, twice as long as before: the others' children are not to wait for a fight."""
    found = additions(body)
    if not found.fields:
        return body, True
    now = world.clock().timestamp()
    count, last = world.fights.get(key, (0, 0.0))
    count = count if now - last < CALM else 0
    if count >= AT_ONCE and now - last < min(LONGEST, 2.0 ** (count - AT_ONCE)):
        return body, False
    told = {"kind": kind.plural, "namespace": key[1], "name": key[2], "fields": found.fields, "by": found.managers}
    patch = {"metadata": {"resourceVersion": body["metadata"]["resourceVersion"]}, **found.patch}
    world.fights[key] = (count + 1, now)
    try:
        cleaned = await world.kube.patch(kind, key[2], patch, key[1] or None)
    except Invalid as error:
        log.warning("additions of others stay", **told, error=str(error))
        return body, True
    log.warning("additions of others removed", **told)
    return cleaned or body, True
