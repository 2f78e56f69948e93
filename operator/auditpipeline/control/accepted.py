"""The last accepted generation of a pipeline takes the place of a newer one that is refused.

It is known from the process's memory or, after a restart, from the Secret that the pipeline owns. What is refused is
said as Stalled; everything else in the status tells of what runs, which is maintained: certificates are renewed, drift
is mended, events are recorded by the former policy.
"""

from __future__ import annotations

import structlog
from msgspec.structs import replace

from auditpipeline.control import names
from auditpipeline.control.facts import Problem
from auditpipeline.control.generation import Accepted, stored
from auditpipeline.control.resources import SECRETS
from auditpipeline.control.rounds import Halt, Round
from auditpipeline.control.seen import entry_of
from auditpipeline.control.world import World
from auditpipeline.core.errors import Invalid
from auditpipeline.core.redaction.model import DEFAULT
from auditpipeline.core.spec import Pipeline, stored_pipeline

log = structlog.get_logger()


async def recall(this: Round) -> Accepted | None:
    """The generation that was last accepted of this very AuditPipeline."""
    known, uid = this.world.accepted.get(this.name), this.body["metadata"].get("uid", "")
    if known is None or known.uid != uid:
        known = await _kept(this, uid)
    if known:
        this.world.accepted[this.name] = known
    return known


async def fall_back(this: Round, problem: Problem, *, again: float | None = None) -> None:
    """Go on with the last accepted generation, and say why the newest is refused; Halt if there is none."""
    known = await recall(this)
    former = _former(this, known) if known else None
    if known is None or former is None:
        raise Halt(problem.reason, problem.message, stalled=True, again=again)
    taken = _within_bounds(this.world, former)
    this.take(taken)
    this.accepted = known
    how = "" if taken is former else ", but for its opt-out"
    said = f"{problem.message}; generation {known.generation} stays in force{how}"
    this.facts.stalled = Problem(problem.reason, said)
    if again is not None:
        this.look_again(again)


def _former(this: Round, known: Accepted) -> Pipeline | None:
    """The pipeline with its former spec; None if this release does not take that."""
    try:
        return stored_pipeline({**this.body, "spec": known.spec})
    except Invalid as error:
        log.warning("the last accepted generation cannot be used", pipeline=this.name, error=str(error))
        return None


def _within_bounds(world: World, pipeline: Pipeline) -> Pipeline:
    """The pipeline without an opt-out that is no longer allowed: it is maintained, and its events lose their secrets.
    Left alone, it would lose events as soon as its certificates end."""
    if not is_refused_opt_out(world, pipeline):
        return pipeline
    redaction = replace(pipeline.spec.redaction or DEFAULT, default=True)
    return replace(pipeline, spec=replace(pipeline.spec, redaction=redaction))


def is_refused_opt_out(world: World, pipeline: Pipeline) -> bool:
    """Whether a pipeline asks to keep secrets in its events, and this operator lets none do so."""
    return pipeline.spec.opts_out and world.settings.redaction_opt_out == "refuse"


async def _kept(this: Round, uid: str) -> Accepted | None:
    """The newest generation that a Secret of the pipeline keeps: in a namespace where it lived before is an old one."""
    world, name, found = this.world, names.generation_secret(this.name), list[Accepted]()
    for key, entry in world.seen.of(this.name).items():
        if (key[0], key[2], entry.owner) == (SECRETS.plural, name, uid):
            body = await world.kube.get(SECRETS, name, key[1])
            if body and entry_of(SECRETS.plural, body).owner == uid:
                found += filter(None, [stored(body, uid, world.authority.seal)])
    return max(found, key=lambda accepted: accepted.generation, default=None)
