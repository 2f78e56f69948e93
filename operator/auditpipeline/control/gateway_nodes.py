"""Whether the nodes of silent gateway Pods are ready: asked only of those, and remembered for a moment."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from auditpipeline.control.facts import PodFacts
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.resources import NODES
from auditpipeline.control.world import World
from auditpipeline.core.errors import Retryable

REMEMBERED = 5.0
"""Seconds."""


async def unready(world: World, pods: list[PodFacts]) -> frozenset[str]:
    """Those of these Pods whose node is gone, or known not to be ready."""
    known = world.gateway.nodes
    world.gateway.nodes = {node: known[node] for node in (pod.node for pod in pods) if node in known}
    return frozenset([pod.name for pod in pods if pod.node and not await _ready(world, pod.node)])


async def _ready(world: World, node: str) -> bool:
    """What cannot be asked is held to be ready: then its Pod is named, and not passed over."""
    now = time.monotonic()
    asked, ready = world.gateway.nodes.get(node, (now - REMEMBERED, True))
    if now - asked < min(REMEMBERED, world.settings.status_interval):
        return ready
    try:
        ready = _is_ready(await world.kube.get(NODES, node))
    except (Retryable, Forbidden):
        ready = True
    world.gateway.nodes[node] = (now, ready)
    return ready


def _is_ready(body: Mapping[str, Any] | None) -> bool:
    conditions = ((body or {}).get("status") or {}).get("conditions") or ()
    return any(entry.get("type") == "Ready" and entry.get("status") == "True" for entry in conditions)
