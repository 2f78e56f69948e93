"""One reconcile for everything: created, updated, resumed, drifted, resynced.

    reconcile(name):  read the AuditPipeline -> STEPS fill Facts -> status(Facts) -> one patch, only when it differs

A step asks and writes what it is named after and notes what it found. It ends the round early with `Halt`: `stalled`
where only the user can mend it, else waiting. Whatever happens on the way, the status is made of what was found until
then and written in one place. A step never looks at the status, so that each round starts from the world as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from auditpipeline.control.facts import Facts, Problem
from auditpipeline.control.kube import Conflict
from auditpipeline.control.pace import patience, pipeline_figures
from auditpipeline.control.recorder import Recorder, transitions
from auditpipeline.control.resources import PIPELINES
from auditpipeline.control.rounds import SETTLING, Halt, Round
from auditpipeline.control.status import conditions, status
from auditpipeline.control.steps import expire, losses, parse, place, prune, refresh, register, secrets, upstream
from auditpipeline.control.workload import children, observe
from auditpipeline.control.world import BeingDeleted, World

log = structlog.get_logger()

STEPS: tuple[Callable[[Round], Awaitable[None]], ...] = (
    parse,
    expire,
    place,
    secrets,
    children,
    register,
    upstream,
    losses,
    prune,
    refresh,
    observe,
)


async def reconcile(world: World, recorder: Recorder, name: str) -> float | None:
    """Bring one pipeline up to date; seconds until it wants to be looked at again, None where an event will tell."""
    body = await world.kube.get(PIPELINES, name)
    if body is None:
        world.forget(name)
        return None
    if "deletionTimestamp" in body["metadata"]:
        return None
    this = Round(world, body, Facts(body["metadata"].get("generation", 0), world.clock()))
    await _take_steps(this)
    await _write_status(this, recorder)
    return this.again


async def _take_steps(this: Round) -> None:
    try:
        for step in STEPS:
            await step(this)
    except BeingDeleted as error:
        this.facts.waiting = Problem("BeingDeleted", str(error))
        this.look_again(error.after or SETTLING)
    except Halt as halt:
        if halt.stalled:
            this.facts.stalled = halt.problem
        else:
            this.facts.waiting = halt.problem
        if halt.again is not None:
            this.look_again(halt.again)


async def _write_status(this: Round, recorder: Recorder) -> None:
    """The one place that writes a status; how soon says `pace`."""
    world, old = this.world, this.body.get("status") or {}
    new = status(this.facts, old)
    world.ready[this.name] = conditions(this.facts)["Ready"].status == "True"
    if new == {key: old[key] for key in new if key in old}:
        return
    now = this.facts.now.timestamp()
    wait = patience(pipeline_figures(new), pipeline_figures(old), world.settings.status_interval)
    if wait is None:
        return
    left = world.written.get(this.name, 0.0) + wait - now
    if left > 0:
        this.look_again(left)
        return
    try:
        version = this.body["metadata"].get("resourceVersion", "")
        if await world.kube.patch_status(PIPELINES, this.name, new, version=version) is None:
            return
    except Conflict:  # changed, or even made again, since it was read: this is not true of it
        this.look_again(0.0)
        return
    world.written[this.name] = now
    for reason, message, warning in transitions(new["conditions"], old.get("conditions", [])):
        log.info("pipeline changed", pipeline=this.name, reason=reason, message=message)
        meta = this.body["metadata"]
        await recorder.event(PIPELINES, meta, reason, message, warning=warning, events=world.features.events)
