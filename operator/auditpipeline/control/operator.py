"""Puts the controller together and runs it.

    Lease -> discovery, authority, first relist -> kopf watches --observe--> work queue -> reconcile
                                                   resync (relist, wake everything, heartbeat) --^

It ends when `stop` is set (cleanly: the Lease is released), or with an error when a part of it ends by itself; whoever
runs the process restarts it. When leadership is lost, all work ends, and it stands for election again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from auditpipeline.control import access, health
from auditpipeline.control.authority import Authority
from auditpipeline.control.discovery import discover
from auditpipeline.control.egress import addresses
from auditpipeline.control.gateway import reconcile_gateway
from auditpipeline.control.kube import Client, Forbidden, NotFound
from auditpipeline.control.leader import LeadershipLost, Lease
from auditpipeline.control.losses import recalled
from auditpipeline.control.ownership import NameTaken
from auditpipeline.control.probe import Prober
from auditpipeline.control.queue import WorkQueue
from auditpipeline.control.reconcile import reconcile
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import SELF_REVIEWS, Features
from auditpipeline.control.resync import SOON, Progress, observed, relist
from auditpipeline.control.seen import Entry, Key
from auditpipeline.control.serving import Serving
from auditpipeline.control.settings import Settings
from auditpipeline.control.sinks import reconcile_sinks
from auditpipeline.control.static import ask_servers, hurry_canaries, reconcile_static
from auditpipeline.control.watch import watch
from auditpipeline.control.world import (
    API_SERVERS_KEY,
    AUTHORITY_KEY,
    CANARY_KEY,
    GATEWAY_KEY,
    RELIST_KEY,
    RESYNC_KEY,
    SINKS_KEY,
    STATIC_KEY,
    World,
    ensure,
    pipeline_key,
)
from auditpipeline.core.errors import Retryable

log = structlog.get_logger()

START_RETRY, WATCH_RETRY = 2.0, 2.0


def _now() -> datetime:
    return datetime.now(UTC)


async def run(settings: Settings, stop: asyncio.Event, kubeconfig: Path | None) -> None:
    """Run an operator until `stop` is set.

    Raises Permanent where it cannot work at all (no access, a listener's port that is taken: OSError),
    or whatever a part of it ended with.
    """
    client = Client(await access.configuration(kubeconfig))
    heartbeat = health.Heartbeat(health.MISSED * settings.resync + 30)
    metrics = health.Metrics()
    serving = Serving(client, settings.namespace, _now)
    try:
        runner, port = await health.serve(
            settings.listen, heartbeat, metrics, serving.context, settings.metrics_token_file
        )
    except BaseException:
        await client.close()
        raise
    log.info("operator started", namespaces=list(settings.namespaces), image=settings.image, port=port)
    try:
        work = _lead(settings, client, kubeconfig, heartbeat, metrics)
        await _run_until(stop, _first_of(work, serving.keep(settings.resync)))
    finally:
        await runner.cleanup()
        await client.close()
        log.info("operator stopped")


async def _run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or `stop` is set; then cancel it and wait until it is gone."""
    working: asyncio.Future[Any] = asyncio.ensure_future(work)
    stopping: asyncio.Future[Any] = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _lead(
    settings: Settings, client: Client, kubeconfig: Path | None, heartbeat: health.Heartbeat, metrics: health.Metrics
) -> None:
    if not settings.leader_elect:
        heartbeat.leading = True
        await _control(settings, client, kubeconfig, heartbeat, metrics)
        return
    lease = Lease(client, settings.namespace, settings.identity, _now)
    while True:
        await _beating(heartbeat, lease.acquire())
        heartbeat.leading = True
        try:
            await _first_of(lease.hold(), _control(settings, client, kubeconfig, heartbeat, metrics))
        except LeadershipLost as error:
            # As after an API server that was away for long. All work has ended: it stands for election again, rather
            # than have its Pod restarted after ever longer waits.
            log.warning("leadership lost", error=str(error))
        finally:
            heartbeat.leading = False
            await asyncio.shield(lease.release())


async def _control(
    settings: Settings, client: Client, kubeconfig: Path | None, heartbeat: health.Heartbeat, metrics: health.Metrics
) -> None:
    """Everything that only the leader does."""
    prober = Prober()
    recorder = Recorder(client, _now, settings.identity)

    async def work(key: str) -> float | None:
        kind, _, name = key.partition("/")
        metrics.reconciles.labels(kind).inc()
        return await (reconcile(world, recorder, name) if name else others[kind]())

    def failed(key: str, error: Exception, seconds: float) -> None:
        metrics.errors.labels(key.partition("/")[0]).inc()
        known = isinstance(error, Retryable)
        log.warning("reconcile failed", key=key, again=round(seconds, 1), error=str(error), exc_info=not known)

    queue, slow = WorkQueue(work, settings.workers, failed), WorkQueue(work, 1, failed)

    def wake(key: str, seconds: float) -> None:
        (slow if key == STATIC_KEY else queue).add(key, seconds)

    def hurry() -> None:
        for each in (queue, slow):
            each.hurry()

    world = World(client, settings, Authority(client, settings.namespace, _now), prober, _now, wake)
    world.began = _now().timestamp()
    client.answered_again = hurry
    world.gateway.kind = settings.gateway_kind
    others = _others(world, recorder)
    metrics.observe(
        lambda: len(queue) + len(slow),
        lambda: list(client.requests.items()),
        lambda: list(world.ready.items()),
        world.canary.latencies,
        lambda: list(world.losses.totals.items()),
    )
    try:
        await _beating(heartbeat, _until_done(lambda: _prepare(world)))
        queue.start()
        slow.start()
        await _first_of(queue.wait(), slow.wait(), _watching(world, kubeconfig), _resyncing(world, heartbeat))
    finally:
        metrics.withdraw()
        await asyncio.gather(queue.stop(), slow.stop())
        await prober.close()


def _others(world: World, recorder: Recorder) -> dict[str, Callable[[], Awaitable[float | None]]]:
    """What is done for each key that is no pipeline's."""
    return {
        GATEWAY_KEY: lambda: reconcile_gateway(world, recorder),
        SINKS_KEY: lambda: reconcile_sinks(world),
        AUTHORITY_KEY: lambda: _authorize(world),
        RELIST_KEY: lambda: _relist(world),
        RESYNC_KEY: lambda: _resync(world, lambda: None),
        STATIC_KEY: lambda: reconcile_static(world),
        API_SERVERS_KEY: lambda: ask_servers(world),
        CANARY_KEY: lambda: hurry_canaries(world),
    }


async def _prepare(world: World) -> None:
    world.features = await discover(world.kube)
    found = await relist(world)
    await _authorize(world)
    world.canary.user = await _whoami(world)
    world.egress.recall((await recalled(world)).known)
    await _learn_addresses(world)
    for name in found:
        world.wake(pipeline_key(name), 0.0)
    world.wake(GATEWAY_KEY, 0.0)
    world.wake(API_SERVERS_KEY, 0.0)


async def _whoami(world: World) -> str:
    """Who this operator is to the API server; empty where that does not say (before 1.28)."""
    try:
        review = await world.kube.create(
            SELF_REVIEWS, {"apiVersion": SELF_REVIEWS.api_version, "kind": SELF_REVIEWS.kind, "metadata": {}}
        )
    except (NotFound, Forbidden):
        return ""
    return str(review.get("status", {}).get("userInfo", {}).get("username", ""))


async def _authorize(world: World) -> None:
    """The authority and the operator's own certificate are there and in use."""
    if await world.authority.ensure():
        world.gateway.dirty = True
        world.wake(GATEWAY_KEY, 0.0)
    client = await world.authority.client()
    try:
        await ensure(world, world.authority.client_secret(client))
    except NameTaken as error:  # it is needed after a restart alone, and another one would do then
        log.warning("the operator's client certificate is not kept", error=str(error))
    world.prober.trust(client, world.authority.bundle)


class Watcher:
    """What the watches of one history tell; what they tell after the next one has begun is left aside."""

    def __init__(self, world: World) -> None:
        self._world, self._history = world, world.seen.history

    def observe(self, key: Key, kind: str | None, entry: Entry) -> None:
        """One event."""
        if self._world.seen.history == self._history:
            observed(self._world, key, kind, entry)

    def listed(self) -> None:
        """What was deleted before the list, no event will tell."""
        self._world.wake(RELIST_KEY, SOON)

    def resumed(self, plural: str, version: str) -> None:
        """It may be another history that the watch goes on in: a list will tell."""
        if self._world.seen.history == self._history:
            self._world.seen.hear(plural, version)
        self._world.wake(RELIST_KEY, SOON)


async def _watching(world: World, kubeconfig: Path | None) -> None:
    """Watch for ever. It begins again where kopf gives up (it does at the first refusal that lasts), where another set
    of kinds or namespaces is to be watched, and where another history has begun."""
    while True:
        stop, before, watcher = asyncio.Event(), _watched(world), Watcher(world)
        open_ = tuple(name for name in world.settings.namespaces if name not in world.closed)
        changing = asyncio.create_task(_until_changed(world, before, stop), name="what to watch")
        try:
            await watch(world.features, open_, kubeconfig, watcher.observe, watcher, stop)
        except Exception as error:
            # Whatever it was: the resync goes on meanwhile, and a watch that begins again misses nothing.
            log.warning("watching begins again", error=f"{type(error).__name__}: {error}")
        finally:
            changing.cancel()
        if not stop.is_set():
            await asyncio.sleep(WATCH_RETRY)
            world.wake(RESYNC_KEY, 0.0)


_Watched = tuple[Features, frozenset[str], int]


def _watched(world: World) -> _Watched:
    return world.features, world.closed, world.seen.history


async def _until_changed(world: World, before: _Watched, stop: asyncio.Event) -> None:
    while _watched(world) == before:  # noqa: ASYNC110 - set by each resync, rarely another
        await asyncio.sleep(0.5)
    log.info("watching begins anew", sinks=world.features.sinks, closed=sorted(world.closed))
    stop.set()


async def _resyncing(world: World, heartbeat: health.Heartbeat) -> None:
    """Look at everything again every `resync` seconds: events can be missed, and certificates grow old. The heart beats
    with each page that comes, as a resync of a large cluster takes long, and stands still where one hangs."""
    while True:
        heartbeat.beat()
        await asyncio.sleep(world.settings.resync)
        try:
            await _resync(world, heartbeat.beat)
        except (Retryable, Forbidden) as error:
            log.warning("resync failed", error=str(error))


async def _relist(world: World) -> None:
    """What went before a watch began, no watch will ever tell."""
    await relist(world)


async def _learn_addresses(world: World) -> None:
    """What outputs may not connect to: known before the first configuration is rendered, so that it is the same as the
    one before."""
    world.egress.take(await addresses(world.kube), world.clock().timestamp())


async def _resync(world: World, progress: Progress) -> None:
    world.features = await discover(world.kube)
    progress()
    await _learn_addresses(world)
    found = await relist(world, progress)
    world.gateway.dirty = True
    world.upstream.published = ""
    for key in (AUTHORITY_KEY, GATEWAY_KEY, STATIC_KEY, *(pipeline_key(name) for name in found)):
        world.wake(key, 0.0)


async def _until_done(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await work()
        except (Retryable, Forbidden) as error:
            log.warning("not started yet", error=str(error))
            await asyncio.sleep(START_RETRY)
        else:
            return


async def _beating(heartbeat: health.Heartbeat, work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work`, healthy meanwhile: who waits to lead, or for an API server, is not to be restarted."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            heartbeat.beat()
            await asyncio.wait({task}, timeout=5)
        await task
    finally:
        task.cancel()


async def _first_of(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all parts; when one ends, end the others and raise its error."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
