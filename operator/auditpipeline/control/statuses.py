"""Writes a status that was made of an object as it was read a moment ago, and of no newer generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from auditpipeline.control.kube import Body, Conflict, Kube
from auditpipeline.control.published import Published, decode, patch
from auditpipeline.control.resources import Resource

TRIES = 3


async def write(
    kube: Kube, kind: Resource, name: str, new: Published, old: Published, meta: Mapping[str, Any]
) -> Body | None:
    """The object with the status `new` instead of `old`; None if it is gone, Conflict if it is another object or
    generation than that of `meta`. Somebody who writes to the object all the time keeps no status away."""
    for _ in range(TRIES):
        try:
            return await kube.patch_status(kind, name, patch(new, old), version=meta.get("resourceVersion", ""))
        except Conflict:
            body = await kube.get(kind, name)
            if body is None:
                return None
            before, meta, old = meta, body["metadata"], decode(body.get("status"), type(old))
            if any(before.get(key) != meta.get(key) for key in ("uid", "generation")):
                raise
    raise Conflict(f"{kind.kind} {name} was changed again and again while its status was written")
