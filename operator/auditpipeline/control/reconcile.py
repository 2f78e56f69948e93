"""One reconcile for everything: created, updated, resumed, drifted, resynced.

    reconcile(name):  read the AuditPipeline -> ACT brings it about -> LOOK fills Facts -> status(Facts) -> one patch

A step asks and writes what it is named after and notes what it found. ACT ends with the first exception: a `Halt` says
by itself what is in the way, `trouble` says it of any other. Each step of LOOK runs whatever became of the others, so
that a status tells of what is there also while nothing can be changed. Whatever happens, the status is made of what was
found and written in one place, only if it differs. A pipeline that is being deleted is only looked at (LEAVE). A step
never looks at the status, so that each round starts from the world as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from auditpipeline.control import published
from auditpipeline.control.acceptance import accept
from auditpipeline.control.facts import Facts
from auditpipeline.control.kube import Body, Conflict, NoAnswer
from auditpipeline.control.pace import patience, pipeline_figures
from auditpipeline.control.published import PipelineStatus
from auditpipeline.control.recorder import Recorder, transitions
from auditpipeline.control.resources import PIPELINES
from auditpipeline.control.rounds import Halt, Round
from auditpipeline.control.status import status
from auditpipeline.control.statuses import write
from auditpipeline.control.steps import (
    asks,
    expire,
    leave,
    losses,
    opted_out,
    parse,
    place,
    prune,
    refresh,
    register,
    registered,
    secrets,
    undisputed,
    upstream,
)
from auditpipeline.control.trouble import GRACE, fault, is_forgivable, problem_of
from auditpipeline.control.workload import children, observe
from auditpipeline.control.world import BeingDeleted, World, pipeline_key
from auditpipeline.core.errors import Invalid

log = structlog.get_logger()

Step = Callable[[Round], Awaitable[None]]
ACT: tuple[Step, ...] = (parse, expire, place, opted_out, accept, secrets, children, register, prune, refresh)
LEAVE: tuple[Step, ...] = (parse, place, leave)
LOOK: tuple[Step, ...] = (undisputed, registered, upstream, losses, observe)


async def reconcile(world: World, recorder: Recorder, name: str) -> float | None:
    """Bring one pipeline up to date; seconds until it wants to be looked at again, None where an event will tell.

    Raises what a step ended with, after the status was written, so that the work queue counts it and tries again.
    """
    try:
        body = await world.kube.get(PIPELINES, name)
    except Exception:
        # Nobody can be told anything meanwhile; how long it is forgiven begins when the API server answers.
        world.troubles.pop(name, None)
        raise
    if body is None:
        world.forget(name)
        return None
    world.meet(name, body["metadata"].get("uid", ""))
    this = Round(world, body, Facts(body["metadata"].get("generation", 0), world.clock()), published.of(body))
    acted, looked = await _act(this), await _look(this)
    error = acted or looked
    _note(this, error)
    await _write_status(this, recorder)
    if error is not None and not isinstance(error, (Halt, BeingDeleted)):
        raise error
    return this.again


async def _act(this: Round) -> Exception | None:
    """Have everything be as it should; what ended it."""
    ended: Exception | None = None
    try:
        for step in LEAVE if "deletionTimestamp" in this.body["metadata"] else ACT:
            await step(this)
    except Exception as error:
        # Whatever it was becomes a condition; a Halt or the work queue says when it is tried again.
        ended = error
    try:
        asks(this)
    except Exception as error:
        # As above.
        ended = ended or error
    return ended


async def _look(this: Round) -> Exception | None:
    """Find out what is so; the first error of a step."""
    first: Exception | None = None
    for step in LOOK if this.parsed else ():
        try:
            await step(this)
        except Exception as error:
            # One thing that cannot be looked at hides no other; it keeps what it said.
            first = first or error
    return first


def _note(this: Round, error: Exception | None) -> None:
    """Say why the round ended with an error; nothing for as long as it is forgiven. That begins with the
    round, which may have waited for an answer; but not if there was none: then nobody could be told anything."""
    world, now = this.world, this.world.clock().timestamp()
    if error is None:
        world.troubles.pop(this.name, None)
        return
    if isinstance(error, Halt) and error.again is not None:
        this.look_again(error.again)
    if isinstance(error, BeingDeleted):
        this.look_again(error.after or 1.0)
    begun = now if isinstance(error, NoAnswer) else this.facts.now.timestamp()
    left = world.troubles.setdefault(this.name, begun) + GRACE - now
    if is_forgivable(error) and left > 0 and this.is_known:
        world.wake(pipeline_key(this.name), left)
        return
    problem, stalled = problem_of(error)
    if stalled and this.facts.stalled:  # the newest generation is refused; this is of the one that is in force
        this.facts.notes.append(problem.message)
    elif stalled:
        this.facts.stalled = problem
    else:
        this.facts.waiting = problem


async def _write_status(this: Round, recorder: Recorder) -> None:
    """The one place that writes a status; how soon says `pace`."""
    world, old = this.world, this.previous
    new, failed = _made(this)
    world.ready[this.name] = published.is_ready(new)
    if new == old or world.published.get(this.name) == (old, new):
        if failed:
            raise failed
        return  # said already; or it was written and not kept: this API server's CRD is of another release
    wait = patience(pipeline_figures(new), pipeline_figures(old), world.settings.status_interval)
    if wait is None:
        return
    now = this.facts.now.timestamp()
    left = max(world.written.get(this.name, 0.0), world.began) + wait - now
    if wait and left > 0:
        this.look_again(left)
        return
    try:
        stored = await _stored(this, new)
    except Invalid as error:
        # The API server takes another one: that the pipeline is not known to be well has to be said all the same.
        new, failed = _unsaid(this, error), error
        world.ready[this.name] = False
        stored = await _stored(this, new)
    if stored is None:
        return
    world.written[this.name], world.published[this.name] = now, (published.of(stored), new)
    await _tell(this, recorder, new, old)
    if failed:
        raise failed


def _made(this: Round) -> tuple[PipelineStatus, Exception | None]:
    """The status; and why it could not be made of what was found, if so."""
    try:
        return status(this.facts, this.previous), None
    except Exception as error:
        # A fault of ours: Ready may not stay True for it.
        return _unsaid(this, error), error


def _unsaid(this: Round, error: Exception) -> PipelineStatus:
    """The status that says that there is none."""
    facts = this.facts
    plain = Facts(facts.generation, facts.now, facts.outputs, waiting=fault(error), absent=facts.absent)
    plain.conditional = facts.conditional
    return status(plain, this.previous)


async def _stored(this: Round, new: PipelineStatus) -> Body | None:
    """Write the status; the object as it is then, or None if it is gone or another generation: this is not true of
    that one, and it is looked at at once."""
    try:
        return await write(this.world.kube, PIPELINES, this.name, new, this.previous, this.body["metadata"])
    except Conflict:
        this.look_again(0.0)
        return None


async def _tell(this: Round, recorder: Recorder, new: PipelineStatus, old: PipelineStatus) -> None:
    """Events and log lines of what has changed."""
    for reason, message, warning in transitions(new.conditions, old.conditions):
        log.info("pipeline changed", pipeline=this.name, reason=reason, message=message)
        await recorder.event(
            PIPELINES, this.body["metadata"], reason, message, warning=warning, events=this.world.features.events
        )
