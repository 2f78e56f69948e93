"""Kubernetes Events for what changed: one for each transition, none twice within ten minutes, never one with a secret.

Events of cluster-scoped objects live in the namespace `default`, and before events.k8s.io/v1 (1.19) in `kube-system`
(k8s.io/kubernetes/pkg/apis/core/validation/events.go).
An Event that cannot be written is logged and forgotten: it must not hold up what it tells of.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import structlog

from auditpipeline.control.kube import Kube
from auditpipeline.control.published import Condition
from auditpipeline.control.resources import Resource
from auditpipeline.core.errors import AuditPipelineError

log = structlog.get_logger()

NAMESPACE, FORMER_NAMESPACE = "default", "kube-system"
QUIET = 600.0
TOLD = ("Ready", "Stalled", "SinkRegistered", "UpstreamCovers", "Delivering", "ConditionsEvaluated", "AuditLoss")
BAD = ("Stalled", "AuditLoss")
_MAX_REMEMBERED = 5000


class Recorder:
    """Writes Events under the name of this operator's process."""

    def __init__(self, kube: Kube, clock: Callable[[], datetime], identity: str) -> None:
        self._kube = kube
        self._clock = clock
        self._identity = identity
        self._told: dict[tuple[str, ...], float] = {}

    async def event(
        self, kind: Resource, regarding: Mapping[str, Any], reason: str, note: str, *, warning: bool, events: Resource
    ) -> None:
        """Write one Event on the object with metadata `regarding`, unless the same one was written a while ago."""
        now = self._clock()
        key = (regarding["uid"], reason, note)
        if now.timestamp() - self._told.get(key, 0.0) < QUIET:
            return
        if len(self._told) > _MAX_REMEMBERED:
            self._told.clear()
        self._told[key] = now.timestamp()
        name = regarding["name"]
        namespace = NAMESPACE if events.version == "v1" else FORMER_NAMESPACE
        body = {
            "apiVersion": events.api_version,
            "kind": "Event",
            "metadata": {"name": f"{name}.{secrets.token_hex(8)}", "namespace": namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "auditpipeline.dev/operator",
            "reportingInstance": self._identity[:128],
            "action": "Reconcile",
            "reason": reason[:128],
            "note": note[:1000],
            "type": "Warning" if warning else "Normal",
            "regarding": {"apiVersion": kind.api_version, "kind": kind.kind, "name": name, "uid": regarding["uid"]},
        }
        try:
            await self._kube.create(events, body)
        except AuditPipelineError as error:
            log.warning("event not written", object=name, reason=reason, error=str(error))


def transitions(new: Iterable[Condition], old: Iterable[Condition]) -> list[tuple[str, str, bool]]:
    """Reason, message and whether it is a warning, of each condition that is told and has changed its status."""
    before = {condition.type: condition for condition in old}
    return [
        (now.reason, f"{now.type} is {now.status}: {now.message}", not _is_good(now))
        for now in new
        if now.type in TOLD and _is_news(now, before.get(now.type))
    ]


def _is_news(now: Condition, before: Condition | None) -> bool:
    status, reason = (before.status, before.reason) if before else ("", "")
    if now.status == "Unknown" or (status, reason) == (now.status, now.reason):
        return False
    # Ready sums up the others; what they say is told once.
    if now.type == "Ready" and now.status == "False" and status != "True":
        return False
    if now.type == "AuditLoss" and _is_good(now) and status != "True":
        return False
    return now.type != "SinkRegistered" or _is_good(now) or status == "True"


def _is_good(condition: Condition) -> bool:
    return condition.status == ("False" if condition.type in BAD else "True")
