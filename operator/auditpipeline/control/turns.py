"""Asks whether a pipeline's StatefulSet may be changed now, or has to wait for its turn in an upgrade (`rollout`)."""

from __future__ import annotations

import structlog

from auditpipeline.control import names, rollout
from auditpipeline.control.additions import additions
from auditpipeline.control.facts import Workload
from auditpipeline.control.resources import PIPELINES, STATEFULSETS
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import Key, entry_of
from auditpipeline.control.world import World, pipeline_key

log = structlog.get_logger()


async def has_turn(this: Round, key: Key) -> bool:
    """Whether the StatefulSet may be applied. One that waits and that others changed is put right at once: its Pods are
    restarted by that change anyway."""
    own = rollout.release(this.world.settings, this.world.features)
    state, entry, now = this.world.rollout, this.world.seen.entries.get(key), this.facts.now.timestamp()
    fleet = _fleet(this.world) if state.waiting or state.rolling else {}
    if fleet:
        state.settle(fleet, own, now)
        for name in state.upcoming(fleet, now):
            if name != this.name:
                this.world.wake(pipeline_key(name), 0.0)
    there = entry.facts if entry and not entry.deleting and entry.owner == this.pipeline.metadata.uid else None
    if isinstance(there, Workload) and not there.shape and this.is_known:
        there = await _noted(this, key, there)
    if not isinstance(there, Workload) or not rollout.is_due(there, this.pipeline, own):
        state.waiting.pop(this.name, None)
        return True
    if state.admits(this.name, fleet or _fleet(this.world), own, now):
        log.info("receivers are restarted by an upgrade", pipeline=this.name, waiting=len(state.waiting))
        return True
    return not await _is_clean(this, key)


async def _noted(this: Round, key: Key, there: Workload) -> Workload:
    """A release without annotations made it of this generation: what its user says from now on is a change."""
    notes = {"metadata": {"annotations": {names.SHAPE: rollout.shape(this.pipeline)}}}
    patched = await this.world.kube.patch(STATEFULSETS, key[2], notes, key[1])
    if patched is None:
        return there
    this.world.seen.put(key, entry_of(STATEFULSETS.plural, patched))
    return there._replace(shape=rollout.shape(this.pipeline))


async def _is_clean(this: Round, key: Key) -> bool:
    """Whether a StatefulSet that waits is as we left it; it is looked at once for each of its forms."""
    clean, entry = this.world.rollout.clean, this.world.seen.entries[key]
    if clean.get(this.name) == entry.fingerprint:
        return True
    body = await this.world.kube.get(STATEFULSETS, key[2], key[1])
    if body is None or additions(body).fields:
        return False
    clean[this.name] = entry.fingerprint
    return True


def _fleet(world: World) -> dict[str, Workload]:
    """The StatefulSets that are pipelines' own: anybody may put a pipeline's label on one."""
    found = {}
    for key, entry in world.seen.entries.items():
        owner = world.seen.entries.get((PIPELINES.plural, "", entry.pipeline))
        ours = owner is not None and entry.owner == owner.uid and key[2] == names.child(entry.pipeline)
        if key[0] == STATEFULSETS.plural and ours and isinstance(entry.facts, Workload):
            found[entry.pipeline] = entry.facts
    return found
