"""Takes in what the API servers' audit lost, and keeps it over a restart of the operator in a ConfigMap."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from auditpipeline.control import names
from auditpipeline.control.apiservers import Reading
from auditpipeline.control.config_maps import publish
from auditpipeline.control.kube import Forbidden, NoAnswer
from auditpipeline.control.loss import Kept
from auditpipeline.control.ownership import managed
from auditpipeline.control.resources import CONFIG_MAPS
from auditpipeline.control.world import World, pipeline_key
from auditpipeline.core.errors import AuditPipelineError

log = structlog.get_logger()


async def take_losses(world: World, found: list[Reading]) -> None:
    """Judge a round of readings; the pipelines are woken where a loss was found."""
    state, gateways = world.losses, world.gateway.reports
    if not state.recalled:
        state.recall(await recalled(world))
    gaps, totals = tuple(state.gaps), dict(state.totals)
    said = _said(world)
    state.take(found, [entry.report.taken if entry.report else None for entry in gateways], world.canary.arrived())
    if gaps != tuple(state.gaps) or said != _said(world):
        for name in world.upstream.asked:
            world.wake(pipeline_key(name), 0.0)
    for cause, events in state.totals.items():
        if events > totals[cause]:
            log.warning("audit events lost", cause=cause, events=events - totals[cause])
    await _keep(world, state.kept())


def _said(world: World) -> tuple[bool, bool]:
    """What the conditions say of the readings."""
    return world.losses.read, world.losses.is_excused(world.clock().timestamp())


async def recalled(world: World) -> Kept:
    """What a former process knew; nothing where it cannot be read."""
    try:
        stored = await world.kube.get(CONFIG_MAPS, names.READINGS, world.settings.namespace) or {}
        text = (stored.get("data") or {}).get("readings.json", "{}") if stored and managed(stored["metadata"]) else "{}"
        return msgspec.json.decode(text, type=Kept)
    except (Forbidden, msgspec.DecodeError, RecursionError) as error:
        log.warning("former readings of kube-apiserver are not known", error=str(error))
        return Kept()


async def _keep(world: World, kept: Kept) -> None:
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.READINGS,
            "namespace": world.settings.namespace,
            "labels": {names.MANAGED_BY: names.MANAGER},
        },
        "data": {"readings.json": msgspec.json.format(msgspec.json.encode(kept), indent=1).decode()},
    }
    try:
        await publish(world, manifest)
        said = ""
    except NoAnswer:
        raise
    except AuditPipelineError as error:
        # Also a webhook that is down: what was read is judged all the same, and kept with the next readings.
        said = str(error)
    if said and said != world.losses.unkept:
        log.warning("readings of kube-apiserver are not kept", error=said)
    world.losses.unkept = said
