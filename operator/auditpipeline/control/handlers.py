"""Registers kopf's event handlers, and nothing else: they tell what was seen, and decide nothing.

Only `on.event`: kopf's create, update and delete handlers, daemons and timers write annotations and finalizers into
users' objects, and a finalizer hangs deletion when the operator is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from auditpipeline.control import names
from auditpipeline.control.access import WATCH_TIMEOUT
from auditpipeline.control.resources import PIPELINES, PODS, SINKS, Features, Resource

Tell = Callable[[str, str | None, dict[str, Any]], None]
"""Takes a plural, the event's type (None for what a list held) and the body; must not block."""
Login = Callable[[], Awaitable[kopf.AiohttpSession]]


def watched(features: Features) -> tuple[Resource, ...]:
    """The kinds to watch on a cluster with these features."""
    sinks = (SINKS,) if features.sinks != "absent" else ()
    return (PIPELINES, *sinks, *features.children, PODS)


def registry(features: Features, login: Login, tell: Tell) -> kopf.OperatorRegistry:
    """A registry of its own, never kopf's global one: two operators may live in one process."""
    made = kopf.OperatorRegistry()

    async def log_in(**_: Any) -> kopf.AiohttpSession:
        return await login()

    kopf.on.login(registry=made)(log_in)
    for kind in watched(features):
        _watch(made, kind, tell)
    return made


def _watch(made: kopf.OperatorRegistry, kind: Resource, tell: Tell) -> None:
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        tell(kind.plural, event["type"], dict(event["object"]))

    kopf.on.event(kind.group, kind.version, kind.plural, registry=made, id=kind.plural)(seen)


class _Nothing(kopf.DiffBaseStorage):
    """kopf compares each object with its former essence, for handlers that are not used here: a third of its time."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None, ignored_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


class Forgetful(ResourceMemories):
    """kopf keeps some kilobytes for each object it ever saw, for handlers that are not used here."""

    async def recall(
        self,
        raw_body: kopf.RawBody,
        *,
        memobase: Any = None,
        noticed_by_listing: bool = False,
        ephemeral: bool = True,
    ) -> ResourceMemory:
        return await super().recall(raw_body, memobase=memobase, noticed_by_listing=noticed_by_listing, ephemeral=True)


def quiet_settings(features: Features) -> kopf.OperatorSettings:
    """kopf without whatever would need more permissions or write anything; it watches what carries our labels."""
    settings = kopf.OperatorSettings()
    for kind in features.children:
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = names.OURS
    settings.watching.label_selectors[PODS.group, PODS.version, PODS.plural] = names.OUR_PODS
    settings.persistence.diffbase_storage = _Nothing()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.chunk_size = 100
    settings.watching.server_timeout = WATCH_TIMEOUT
    settings.watching.connect_timeout = 10
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = (0.5, 1, 2, 3, 5)
    settings.queueing.idle_timeout = 0.5
    settings.process.ultimate_exiting_timeout = None
    return settings
