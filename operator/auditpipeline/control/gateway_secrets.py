"""The gateway's configuration in its Secrets: read once when the process begins, then written as `shards` plans.

A Secret that cannot be written costs its own changes alone. If it is its content that the API server does not take,
what has to go from it goes all the same. A route that has left one Secret for another is in both until every gateway
says that it has it from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import structlog

from auditpipeline.control import desired, names, shards
from auditpipeline.control.desired_gateway import gateway_config, read, written
from auditpipeline.control.kube import Conflict, NotFound
from auditpipeline.control.resources import SECRETS
from auditpipeline.control.serving import metrics_token
from auditpipeline.control.shards import Held, Plan, Written
from auditpipeline.control.world import BeingDeleted, World, ensure
from auditpipeline.core import packing
from auditpipeline.core.config import Config, Route
from auditpipeline.core.errors import Retryable

log = structlog.get_logger()

CLOSED_SECONDS = 60.0
"""A Secret that could not be written is given nothing new for so long."""


async def recall(world: World) -> None:
    """What the Secrets hold: the places of the routes, which the gateway's Pods run already."""
    head = await _recalled(world, 0)
    known = [number for number in range(1, packing.SHARDS) if _seen(world, number)]
    last = max([head.beyond if head else 0, *known])
    further = [await _recalled(world, number) for number in range(1, min(last + 1, packing.SHARDS))]
    found = [entry or _written(world, number, Held(), 0) for number, entry in enumerate([head, *further])]
    world.gateway.recall(found)


async def _recalled(world: World, number: int) -> Written | None:
    secret = await world.kube.get(SECRETS, names.gateway_config_secret(number), world.settings.namespace)
    found = read(number, secret) if secret else None
    if secret and found is None:
        log.warning("the gateway's former configuration cannot be read; it is made again", shard=number)
    return found


def _seen(world: World, number: int) -> bool:
    return (SECRETS.plural, world.settings.namespace, names.gateway_config_secret(number)) in world.seen.entries


async def plan(world: World, wanted: Mapping[str, Route]) -> Plan:
    """What the Secrets are to hold, for these routes; it may take a second, beside the event loop."""
    state, head = world.gateway, _head(world)

    def write(number: int, held: Held, count: int) -> Written:
        return written(head, number, held, count)

    now = time.monotonic()
    state.closed = {number: until for number, until in state.closed.items() if until > now}
    stored = list(state.stored or ())
    return await asyncio.to_thread(shards.plan, stored, wanted, state.settled(), frozenset(state.closed), write)


async def store(world: World) -> Exception | None:
    """Write what is not stored as it should be; the first failure, if there was one. Retryable if the API server does
    not answer."""
    state = world.gateway
    if state.settled() or state.unwritten:
        state.planned(await plan(world, state.wanted))
    while len(state.stored or ()) < len(state.plan.shards):
        state.put(len(state.stored or ()), _written(world, len(state.stored or ()), Held(), 0))
    # The head says how many shards there are: it comes last, so that none of them is missed.
    failures = [await _stored(world, number) for number in reversed(range(len(state.plan.shards)))]
    return next((failure for failure in reversed(failures) if failure), None)


async def _stored(world: World, number: int) -> Exception | None:
    """Write one Secret; why that was not possible."""
    wanted = world.gateway.plan.shards[number]
    # Nothing is missed in a shard without routes; but no gateway works without the head.
    if number and number in world.gateway.closed and not wanted.held.routes and not _held(world, number).routes:
        return None
    try:
        await _write(world, number, wanted)
    except Exception as error:
        # Whatever it is that keeps one Secret from being written: the others are.
        if isinstance(error, Retryable) and not isinstance(error, (Conflict, NotFound, BeingDeleted)):
            raise
        log.warning("a part of the gateway's configuration cannot be written", shard=number, error=str(error))
        if not isinstance(error, Retryable):
            world.gateway.closed[number] = time.monotonic() + CLOSED_SECONDS
            await _write_least(world, number)
        world.gateway.unwritten[number] = str(error)
        return error
    return None


async def _write_least(world: World, number: int) -> None:
    """Take out of a Secret what has to go, and change nothing else in it."""
    state = world.gateway
    held, least = _held(world, number), state.plan.least[number]
    if held == state.plan.shards[number].held or least == held:
        return
    try:
        await _write(world, number, _written(world, number, least, len(state.plan.shards) - 1))
    except Exception as error:
        # As above: this one is tried again, and the others are written.
        log.warning("nothing can be taken out of the gateway's configuration", shard=number, error=str(error))


def _held(world: World, number: int) -> Held:
    return world.gateway.stored[number].held if world.gateway.stored else Held()


async def _write(world: World, number: int, wanted: Written) -> None:
    meta = {
        "name": names.gateway_config_secret(number),
        "namespace": world.settings.namespace,
        "labels": names.gateway_labels(),
    }
    beside = {} if number else world.gateway.key.data
    await ensure(world, desired.secret(meta, {**wanted.data, **beside}))
    world.gateway.put(number, wanted)


def _written(world: World, number: int, held: Held, count: int) -> Written:
    return written(_head(world), number, held, count)


def _head(world: World) -> Config:
    """The configuration but for its routes."""
    settings = world.settings
    egress = world.egress.rendered(settings)
    reads = metrics_token(settings.metrics_token_file)
    kind, key = settings.gateway_kind, world.gateway.key.file
    return gateway_config((), settings.gateway_spool_bytes, world.canary.user, kind, egress, reads, key)
