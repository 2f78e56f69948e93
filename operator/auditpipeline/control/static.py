"""Reconciles the static side: publishes the policy that the API servers should run with, and compares it with theirs.

    files, starts of API servers --> read, compare (a SLICE of seconds at a time) --> verdicts, told at once
    every policy asked for       --> union, once for many changes                 --> ConfigMap, if it differs

This is a work queue's key of its own, so that nothing waits for it, and what it works out runs in a thread, with a
budget. Nothing is published before every pipeline and, with a gateway, every AuditSink has been looked at: a union of
some of them would take events from the others.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import Any

import structlog

from auditpipeline.control import names
from auditpipeline.control.apiservers import Server, readings, servers
from auditpipeline.control.aside import Stopped, aside
from auditpipeline.control.canary import source_of
from auditpipeline.control.config_maps import publish
from auditpipeline.control.kube import Forbidden, NotFound
from auditpipeline.control.losses import take_losses
from auditpipeline.control.ownership import NameTaken
from auditpipeline.control.resources import PIPELINES
from auditpipeline.control.seen import fingerprint
from auditpipeline.control.upstream import UpstreamState
from auditpipeline.control.world import STATIC_KEY, World, pipeline_key
from auditpipeline.core.canary import CANARY_POLICY, path_of
from auditpipeline.core.errors import AuditPipelineError, Invalid
from auditpipeline.core.policy import Policy
from auditpipeline.core.policyfile import comment, load
from auditpipeline.core.union import COARSE, Memory, fitting
from auditpipeline.core.upstream import coverage

log = structlog.get_logger()

SILENT_RETRY = 5.0
"""Seconds until an API server that did not answer is asked again."""
SLICE = 1.0
"""Seconds that are compared for at a time; then what was found is told, and as long is paused."""
HEAD = """\
# What kube-apiserver's static policy has to hold for every AuditPipeline and AuditSink of this cluster, the canary and
# the floor. Made by auditpipeline, anew with each of their changes. To put it in force, on each control-plane node:
#   kubectl get cm {name} -n {namespace} -o go-template='{{{{index .data "policy.yaml"}}}}'
# into /etc/kubernetes/auditpipeline/policy.yaml, and restart kube-apiserver. A file that emits more does as well.
"""


async def ask_servers(world: World) -> float | None:
    """Read the API servers' metrics; seconds until the next reading."""
    if world.features.sinks != "crd" or not world.settings.gateway:
        return world.settings.canary_interval
    now = world.clock().timestamp()
    asked = await servers(world.kube)
    await _send_canaries(world, asked)
    found = await readings(world.kube, asked, now)
    await take_losses(world, found)
    if world.upstream.take_readings(found):
        for reading in found:
            if reading.error:
                log.warning("kube-apiserver's metrics cannot be read", server=reading.server.name, error=reading.error)
        world.wake(STATIC_KEY, 0.0)
    silent = any(reading.error for reading in found)
    return min(SILENT_RETRY, world.settings.canary_interval) if silent else world.settings.canary_interval


async def hurry_canaries(world: World) -> None:
    """Canaries between two readings, for pipelines that wait for their first."""
    if world.features.sinks == "crd" and world.settings.gateway:
        await _send_canaries(world, await servers(world.kube))


async def _send_canaries(world: World, asked: list[Server]) -> None:
    world.canary.keep_only(asked)
    for server in asked:
        number, at = secrets.token_hex(8), world.clock().timestamp()
        try:
            await world.kube.plain(path_of(source_of(server), number), server.url)
        except (NotFound, Forbidden):
            world.canary.answered(server, number, at)
        except AuditPipelineError as error:
            log.warning("canary not sent", server=server.name, error=str(error))


async def reconcile_static(world: World) -> float | None:
    """Compare, wake the pipelines of which another thing is said then, and publish the union; seconds until the next
    slice, if there is more to compare."""
    state = world.upstream
    if world.features.sinks != "crd" or not world.settings.gateway:
        return None
    begun = time.monotonic()
    before = {name: state.verdict(name) for name in state.asked}
    await _read_files(state)
    state.judge()
    finished = await _compare_some(state, begun + SLICE)
    state.settle()
    for name in [name for name in state.asked if state.verdict(name) != before.get(name)]:
        world.wake(pipeline_key(name), 0.0)
    if _complete(world):
        await _publish(world)
    # With many policies this takes long: then more changes are gathered before the next time.
    took = time.monotonic() - begun
    state.patience = max(0.2, min(60.0, 2 * took))
    return None if finished else took


async def _read_files(state: UpstreamState) -> None:
    for file in state.files or ():
        if not file.error and file.digest not in state.parsed:
            state.parsed[file.digest] = await aside(partial(_read, file.text))


async def _compare_some(state: UpstreamState, until: float) -> bool:
    """Compare what is yet to be compared, one at least; False if that takes longer than until then (by the monotonic
    clock)."""
    for number, (static, wanted) in enumerate(state.missing()):
        if number and time.monotonic() >= until:
            return False
        policy = state.parsed[static]
        assert isinstance(policy, Policy)  # noqa: S101 - `missing` names no others
        state.covered[static, wanted] = await aside(partial(coverage, policy, state.policies[wanted]))
    return True


def _complete(world: World) -> bool:
    """Whether everything that asks for events has been looked at."""
    known = {key[2] for key in world.seen.entries if key[0] == PIPELINES.plural}
    return world.upstream.foreign is not None and known <= world.upstream.asked.keys()


async def _publish(world: World) -> None:
    state, namespace = world.upstream, world.settings.namespace
    wanted = state.wanted()
    if wanted != state.union_of:
        policies = [state.policies[digest] for digest in sorted(wanted)]
        state.union_text = await aside(partial(_united, [*policies, CANARY_POLICY], state.union_memory))
        state.union_of = wanted
    manifest = config_map(namespace, state.union_text)
    content = fingerprint(manifest)
    if state.published == content:
        return
    try:
        if await publish(world, manifest):
            log.info("static policy published", policies=len(wanted))
    except (Forbidden, Invalid, NameTaken) as error:
        log.warning("static policy not published", error=str(error))
    state.published = content


def config_map(namespace: str, policy: str) -> dict[str, Any]:
    """The ConfigMap with the policy that the API servers should run with."""
    labels = {names.MANAGED_BY: names.MANAGER}
    head = HEAD.format(name=names.STATIC_POLICY, namespace=namespace)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names.STATIC_POLICY, "namespace": namespace, "labels": labels},
        "data": {"policy.yaml": head + policy},
    }


def _united(policies: list[Policy], memory: Memory, stopped: Stopped) -> str:
    found, text = fitting(policies, memory, stopped)
    return text if found.exact else comment(COARSE) + text


def _read(text: str, stopped: Stopped) -> Policy | str:
    try:
        return load(text.encode(), "policy.yaml").rules
    except Invalid as error:
        return str(error)
