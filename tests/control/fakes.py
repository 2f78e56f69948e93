"""A Kube that answers from dictionaries: for what is decided by answers that no API server of today gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from auditpipeline.control.authority import Authority
from auditpipeline.control.kube import Conflict, Kube, NoDryRun, Page
from auditpipeline.control.probe import Prober
from auditpipeline.control.resources import Resource
from auditpipeline.control.settings import Settings
from auditpipeline.control.world import World
from tests.control.bodies import Body


class Answers:
    """`objects` by (plural, name), `paths` for discovery; writes are kept in `written`, or raise `refusal`. Paths in
    `refused` raise. Lists have the resource version `version`, and one object a page."""

    version = ""

    def __init__(
        self, objects: Mapping[tuple[str, str], Body] | None = None, paths: Mapping[str, Body] | None = None
    ) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.objects = dict(objects or {})
        self.paths = dict(paths or {})
        self.written: list[Body] = []
        self.deleted: list[tuple[str, str]] = []
        self.refused: dict[str, Exception] = {}
        self.refusal: Exception | None = None

    async def get(self, kind: Resource, name: str, namespace: str | None = None) -> Body | None:
        return self.objects.get((kind.plural, name))

    async def list(
        self, kind: Resource, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Body]:
        for (plural, _), body in self.objects.items():
            if plural == kind.plural:
                yield body

    async def pages(
        self, kind: Resource, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Page]:
        async for body in self.list(kind, namespace, labels):
            yield Page([body], self.version)
        yield Page([], self.version)

    async def apply(self, kind: Resource, body: Body) -> Body:
        return await self.create(kind, body)

    async def rehearse(self, kind: Resource, body: Body) -> Body:
        raise NoDryRun("", "not here")

    async def create(self, kind: Resource, body: Body) -> Body:
        if self.refusal:
            raise self.refusal
        self.written.append(body)
        return body

    async def replace(self, kind: Resource, body: Body) -> Body:
        return await self.create(kind, body)

    async def patch(self, kind: Resource, name: str, body: Body, namespace: str | None = None) -> Body | None:
        return await self.create(kind, body)

    async def patch_status(
        self, kind: Resource, name: str, status: Mapping[str, Any], namespace: str | None = None, *, version: str = ""
    ) -> Body | None:
        known = self.objects.get((kind.plural, name), {}).get("metadata", {}).get("resourceVersion", version)
        if version and known != version:
            raise Conflict("the object has been modified")
        await self.create(kind, dict(status))
        return {"metadata": {"name": name}, "status": dict(status)}

    async def delete(
        self, kind: Resource, name: str, namespace: str | None = None, *, uid: str = "", propagation: str = "Background"
    ) -> None:
        self.deleted.append((kind.plural, name))
        self.objects.pop((kind.plural, name), None)

    async def raw(self, path: str) -> Body | None:
        return self.paths.get(path)

    async def plain(self, path: str, server: str = "") -> bytes:
        if path in self.refused:
            raise self.refused[path]
        return str(self.paths.get(path, "")).encode()


async def world(kube: Kube, **changed: Any) -> World:
    """A controller's world with an authority of its own; `changed` are its attributes."""
    settings = Settings(namespace="auditpipeline-system")
    authority = Authority(kube, settings.namespace, now)
    await authority.ensure()
    made = World(kube, settings, authority, Prober(), now, lambda key, seconds: None)
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)
