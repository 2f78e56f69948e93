"""Asks the gateway's Pods, and writes the status of every AuditSink that our CRD serves, ours and foreign ones; a
built-in AuditSink has none.

It has a key of its own in the work queue, so that neither a Pod that does not answer nor writing the status of many
sinks delays a change of the gateway's configuration. A status is written only where it differs, and how soon says
`pace`: what the gateway delivers to a sink of ours are, if nothing else, canaries.
"""

from __future__ import annotations

import structlog

from auditpipeline.control import published
from auditpipeline.control.gateway import look
from auditpipeline.control.gateway_state import Standing, disabled
from auditpipeline.control.kube import Conflict, NoAnswer
from auditpipeline.control.pace import patience, sink_figures
from auditpipeline.control.redacted import Asked
from auditpipeline.control.resources import SINKS
from auditpipeline.control.sink_status import sink_status
from auditpipeline.control.statuses import write
from auditpipeline.control.world import GATEWAY_KEY, World
from auditpipeline.core.errors import AuditPipelineError

log = structlog.get_logger()

REFUSED = 10.0
"""Seconds until a status that was not taken is written again."""


async def reconcile_sinks(world: World) -> float | None:
    """Bring every status up to date; seconds until the next look."""
    if world.features.sinks != "crd":
        return None
    again = await look(world) if world.settings.gateway else None
    waits = [await _kept(world, name, standing) for name, standing in list(world.gateway.standing.items())]
    return min((wait for wait in (again, *waits) if wait is not None), default=None)


async def _kept(world: World, name: str, standing: Standing) -> float | None:
    """Bring one status up to date. One that is not taken, as of a sink so large that nothing fits beside it, keeps
    neither the others from being written nor the gateway from being looked at; it is tried again after a while."""
    now = world.clock().timestamp()
    if now < standing.refused:
        return standing.refused - now
    try:
        return await _write(world, name, standing)
    except NoAnswer:
        raise
    except AuditPipelineError as error:
        log.warning("status of an AuditSink not written", sink=name, error=str(error))
        standing.refused = now + REFUSED
        return REFUSED


async def _write(world: World, name: str, standing: Standing) -> float | None:
    state, clock = world.gateway, world.clock()
    verdict = state.registration(name, standing.identity) if world.settings.gateway else disabled()
    if published.is_ready(standing.status) and state.excuses(verdict, name, standing.identity):
        verdict = None
    if verdict is None:
        return None
    asked = Asked(standing.redaction, world.settings.redaction_opt_out, state.key.problem, state.unredacting())
    new = sink_status(verdict, state.outputs(name), standing.status, standing.generation, clock, asked)
    if new == standing.status:
        return None
    came = state.canaries
    canaries = came - standing.canaries if standing.own and standing.canaries is not None else 0
    wait = patience(sink_figures(new), sink_figures(standing.status), world.settings.status_interval, canaries)
    if wait is None:
        return None
    left = max(standing.written, world.began) + wait - clock.timestamp()
    if left > 0:
        return left
    try:
        written = await write(world.kube, SINKS, name, new, standing.status, standing.meta)
    except Conflict:  # another generation, or even made again, since it was rendered
        written, state.dirty = None, True
        world.wake(GATEWAY_KEY, state.patience)
    if written is None:  # gone, or of a CRD that has no status yet: looked at again with the next rendering
        state.standing.pop(name, None)
        return None
    current = state.standing.get(name)
    for entry in (standing, current):  # a rendering may have come between
        if entry and entry.identity[0] == standing.identity[0]:
            entry.status, entry.written, entry.canaries = new, clock.timestamp(), came
            entry.version = written["metadata"].get("resourceVersion", "")
    return None
