"""What wakes what: a watch event or a list of the whole world, into what is seen and into the work queue.

Watches can miss deletions: kopf begins with a list, and begins again with one after a 410, and a list does not show
what is gone. The relist that follows each of its lists finds them: one list of each kind and namespace, in pages, for
all pipelines together.

A watch that is taken up again after its connection was lost goes on from the version that it had reached. Where etcd
was restored meanwhile, that version lies in the future of another history, and the watch is silent. So it is followed
by a relist as well, and where a list turns out to be older than what was heard, all watches begin anew.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from auditpipeline.control import names
from auditpipeline.control.facts import Workload
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.resources import PIPELINES, PODS, SECRETS, SERVICES, SINKS, Resource
from auditpipeline.control.seen import Entry, Key, entry_of, key_of, older
from auditpipeline.control.world import AUTHORITY_KEY, GATEWAY_KEY, RESYNC_KEY, World, pipeline_key
from auditpipeline.core.packing import SHARDS

log = structlog.get_logger()

SOON = 0.05
"""Seconds: a burst of events becomes one look."""
Progress = Callable[[], None]


def _no_progress() -> None:
    """For whoever need not know."""


def observed(world: World, key: Key, kind: str | None, entry: Entry) -> None:
    """Take in one watch event; `kind` is ADDED, MODIFIED, DELETED, or None for what a list held."""
    known = world.seen.entries.get(key)
    if not (known or _ours(world, key, entry)):
        return
    if _take(world, key, kind, entry):
        _changed(world, key, {entry.pipeline, known.pipeline if known else ""})


def _changed(world: World, key: Key, pipelines: set[str]) -> None:
    """Our own writes of the status come back as events too: they change nothing that is looked at."""
    if key[0] == PIPELINES.plural:
        world.wake(pipeline_key(key[2]), 0.0)
    else:
        _wake_for(world, key, pipelines)


def _take(world: World, key: Key, kind: str | None, entry: Entry) -> bool:
    """Whether anything changed by the event."""
    if kind == "DELETED":
        return world.seen.drop(key, entry.uid, entry.version) is not None
    return world.seen.put(key, entry)


def _ours(world: World, key: Key, entry: Entry) -> bool:
    """Whether an object concerns the controller at all: a pipeline or what is one's, the gateway's, an authority, or
    any AuditSink."""
    plural, namespace, name = key
    if entry.pipeline or plural in (PIPELINES.plural, SINKS.plural):
        return True
    if namespace != world.settings.namespace:
        return False
    if plural == PODS.plural:
        return entry.app == names.GATEWAY
    return plural == SECRETS.plural and name in _OWN_SECRETS


_OWN_SECRETS = frozenset(
    {
        names.CA_SECRET,
        names.CLIENT_SECRET,
        names.GATEWAY_TLS_SECRET,
        *map(names.gateway_config_secret, range(SHARDS)),
    }
)


def _wake_for(world: World, key: Key, pipelines: set[str]) -> None:
    plural, _, name = key
    for pipeline in pipelines - {""}:
        world.wake(pipeline_key(pipeline), SOON)
    if plural in (SINKS.plural, SERVICES.plural):
        world.gateway.dirty = True
        world.wake(GATEWAY_KEY, world.gateway.patience)
    if not any(pipelines) and plural in (PODS.plural, SECRETS.plural):
        world.wake(AUTHORITY_KEY if name in (names.CA_SECRET, names.CLIENT_SECRET) else GATEWAY_KEY, SOON)


async def relist(world: World, progress: Progress = _no_progress) -> list[str]:
    """Look at everything that there is; the names of all pipelines, first of those that have no Pod that is ready: what
    a status says of them may be wrong already. `progress` is called with each page.

    Forbidden where the operator may not do its work at all. A further namespace that it may not read is only noted in
    `world.closed`: the pipelines of that namespace say so in their status, and the others go on.
    """
    closed = set()
    for namespace in world.settings.namespaces:
        try:
            await _relist_namespace(world, namespace, progress)
        except Forbidden as error:
            if namespace == world.settings.namespace:
                raise
            closed.add(namespace)
            if namespace not in world.closed:
                log.warning("namespace not served", namespace=namespace, reason=str(error))
    world.closed = frozenset(closed)
    if world.features.sinks != "absent":
        await _relist(world, SINKS, None, "", progress)
    await _relist(world, PIPELINES, None, "", progress)
    return sorted(
        (key[2] for key in world.seen.entries if key[0] == PIPELINES.plural), key=lambda name: _up(world, name)
    )


def _up(world: World, pipeline: str) -> bool:
    return any(isinstance(entry.facts, Workload) and entry.facts.ready for entry in world.seen.of(pipeline).values())


async def _relist_namespace(world: World, namespace: str, progress: Progress) -> None:
    for kind in world.features.children:
        await _relist(world, kind, namespace, names.OURS, progress)
    await _relist(world, PODS, namespace, names.OUR_PODS, progress)


async def _relist(world: World, kind: Resource, namespace: str | None, labels: str, progress: Progress) -> None:
    seen, listed, version = world.seen, list[Key](), ""
    since, heard = seen.clock, seen.heard.get(kind.plural, "")
    async for page in world.kube.pages(kind, namespace, labels):
        progress()
        if not listed and older(page.version, heard):
            rewind(world, kind.plural, heard, page.version)
        version = page.version
        seen.hear(kind.plural, version)
        for body in page.items:
            key, entry = key_of(kind.plural, body), entry_of(kind.plural, body)
            listed.append(key)
            _listed(world, key, entry, since)
    for key, gone in seen.keep_only(kind.plural, namespace or "", listed, since, version):
        _changed(world, key, {gone.pipeline})


def _listed(world: World, key: Key, entry: Entry, since: int) -> None:
    known = world.seen.entries.get(key)
    if (known or _ours(world, key, entry)) and world.seen.replace(key, entry, since):
        _changed(world, key, {entry.pipeline, known.pipeline if known else ""})


def rewind(world: World, plural: str, heard: str, version: str) -> None:
    """Another history has begun: etcd was restored. Versions from before order nothing any more, whoever kept them, and
    numbers of generations come a second time. The watches begin anew (they look at `Seen.history`), and everything is
    looked at."""
    log.warning("resource versions went back: everything is looked at again", kind=plural, before=heard, now=version)
    world.seen.rewind(version)
    world.gateway.rewind()
    world.accepted.clear()
    world.wake(RESYNC_KEY, 0.0)
