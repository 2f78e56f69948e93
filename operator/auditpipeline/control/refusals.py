"""Why Kubernetes makes no Pods: a ResourceQuota, Pod Security or an admission webhook refuses them, and the StatefulSet
controller says so in an Event, and nowhere else.

Events are read only while Pods are missing, every LOOK seconds at most, and PAGE of them. One counts if it is about
this StatefulSet (by its UID) and is newer than the last time that all Pods were there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from auditpipeline.control import names
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.resources import CORE_EVENTS, STATEFULSETS

if TYPE_CHECKING:
    from auditpipeline.control.rounds import Round

LOOK, MOST, LONGEST = 5.0, 100, 600
RECENT = 1200.0
"""Seconds: the StatefulSet controller tries again after ever longer times, up to some 17 minutes."""


@dataclass
class RefusalState:
    """The state of one pipeline: when all its Pods were there, when Events were read, and what they said."""

    complete: float = 0.0
    at: float = 0.0
    said: str = ""


async def find_refusal(this: Round) -> None:
    """Note in the facts why Pods are missing, in Kubernetes' own words."""
    world, facts, now = this.world, this.facts, this.facts.now.timestamp()
    state = world.unmade.setdefault(this.name, RefusalState())
    entry = world.seen.entries.get((STATEFULSETS.plural, this.namespace, names.child(this.name)))
    if facts.workload is None or entry is None:
        return
    if len([pod for pod in facts.pods if not pod.deleting]) >= facts.workload.wanted:
        state.complete, state.at, state.said = now, 0.0, ""
        return
    if now - state.at >= LOOK:
        state.said = await _newest(this, entry.uid, max(state.complete, now - RECENT))
        state.at = now
    facts.refused = state.said
    this.look_again(LOOK)


async def _newest(this: Round, uid: str, since: float) -> str:
    fields = f"involvedObject.uid={uid},reason=FailedCreate"
    found, said, count = since, "", 0
    try:
        async for event in this.world.kube.list(CORE_EVENTS, this.namespace, "", fields):
            count += 1
            at = _time(event)
            if at >= found and (event.get("involvedObject") or {}).get("uid") == uid:
                found, said = at, str(event.get("message") or "")
            if count >= MOST:
                break
    except Forbidden:
        return ""
    return said[:LONGEST]


def _time(event: Mapping[str, Any]) -> float:
    """When it last happened, in seconds since the epoch."""
    series, meta = event.get("series") or {}, event["metadata"]
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    stamps = [stamp for stamp in chain(times, [meta.get("creationTimestamp")]) if stamp]
    return max(datetime.fromisoformat(stamp).timestamp() for stamp in stamps) if stamps else 0.0
