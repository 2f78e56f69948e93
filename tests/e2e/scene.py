"""The objects that the recorder's tests look at: healthy pipelines of every sort, and ones that are broken for good."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event
from typing import Any

from tests.cluster.controlplane import ADMINS, ControlPlane
from tests.cluster.deployment import Deployment
from tests.cluster.rest import Refused, Rest
from tests.e2e.judging import Key, State
from tests.e2e.traffic import pipeline
from tests.e2e.webhooks import Webhooks, background, sink

FILE: dict[str, Any] = {"name": "archive", "file": {"path": "/var/log/audit/events.jsonl"}}
NOBODY = {"url": "https://127.0.0.1:1/audit"}
"""Nobody listens there."""
VICTIMS = ("d-one", "d-two")
"""The pipelines that disturbances break in turn: while one is broken, the other recovers."""
TRAFFIC_PAUSE = 0.5
Wanted = Mapping[str, str]
"""Statuses that an object's conditions have when nothing is wrong but what is meant to be."""

GOOD: Wanted = {
    "Ready": "True",
    "CertificateReady": "True",
    "WebhookAvailable": "True",
    "SinkRegistered": "True",
    "UpstreamCovers": "True",
    "Delivering": "True",
    "Redacted": "True",
    "AuditLoss": "False",
}
SUSPENDED: Wanted = {"Ready": "False", "SinkRegistered": "False", "WebhookAvailable": "True", "Delivering": "True"}
SERVED: Wanted = {"Ready": "True"}
STALLED: Wanted = {"Ready": "False", "Stalled": "True"}


class Scene:
    """What is applied, and how each object looks once everything is as it should be."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._client = webhooks.client(webhooks.serve())
        http = {"url": self._client["url"], "caBundle": self._client["caBundle"], "format": "event-list"}
        self.siem: dict[str, Any] = {"name": "siem", "http": http}
        self.healthy: dict[Key, Wanted] = {}
        self.broken: dict[Key, Wanted] = {}
        self.victims: dict[Key, Wanted] = {("AuditPipeline", name): GOOD for name in VICTIMS}
        self.objects: list[dict[str, Any]] = [pipeline(name) for name in VICTIMS]
        self._turns = itertools.cycle(VICTIMS)
        self.victim = next(self._turns)
        self._compose()

    def _compose(self) -> None:
        self._add(self.healthy, GOOD, pipeline("h-http", outputs=[self.siem]))
        self._add(self.healthy, GOOD, pipeline("h-two", webhook={"replicas": 2, "storage": {"size": "2Gi"}}))
        both = [FILE | {"delivery": "Guaranteed"}, self.siem | {"delivery": "BestEffort"}]
        self._add(self.healthy, GOOD, pipeline("h-both", outputs=both))
        self._add(self.healthy, SERVED, sink("h-foreign", self._client, "Metadata"))
        self._add(self.healthy, SUSPENDED, pipeline("h-suspended"))
        unreachable = {"name": "siem", "http": {**NOBODY}, "delivery": "BestEffort"}
        self._add(self.broken, {"Ready": "False", "Delivering": "False"}, pipeline("b-output", outputs=[unreachable]))
        token = {"bearerTokenSecretRef": {"name": "b-token", "key": "token"}}
        without = self.siem | {"http": self.siem["http"] | token}
        self._add(self.broken, {"Ready": "False"}, pipeline("b-secret", outputs=[without]))
        self._add(self.broken, STALLED, pipeline("b-namespace", targetNamespace="nowhere"))
        large = [FILE | {"file": FILE["file"] | {"maxSize": "1Gi"}}]
        self._add(self.broken, STALLED, pipeline("b-spec", outputs=large))
        self._add(self.broken, {"Ready": "False"}, sink("b-sink", NOBODY | {"caBundle": self._client["caBundle"]}))

    def _add(self, group: dict[Key, Wanted], wanted: Wanted, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        group[body["kind"], name] = wanted
        self.objects.append(body)
        if group is self.healthy and wanted is GOOD:
            group["AuditSink", f"audit-{name}"] = SERVED

    @property
    def everything(self) -> dict[Key, Wanted]:
        """Every object that a disturbance must leave as it is."""
        return self.healthy | self.broken

    def take_turns(self) -> None:
        """Have the next disturbance break another pipeline."""
        self.victim = next(self._turns)

    def suspend(self) -> dict[str, Any]:
        """The pipeline to suspend, once it has had its first events."""
        return pipeline("h-suspended", suspend=True)


def as_wanted(state: State | None, wanted: Wanted) -> bool:
    """Whether an object's conditions are what they should be."""
    if state is None:
        return False
    found = {entry.kind: entry.status for entry in state.conditions}
    return wanted.items() <= found.items()


@contextmanager
def traffic(it: Deployment) -> Iterator[None]:
    """Somebody who makes ConfigMaps all the time, so that every pipeline has events."""
    with background(Maker(it.cluster)):
        yield


class Maker:
    """Makes and deletes ConfigMaps until it is stopped; while the API server is away it tries on."""

    def __init__(self, cluster: ControlPlane) -> None:
        admin = cluster.authority.client("maker", "maker", [ADMINS])
        self._rest = Rest(cluster.url, cluster.authority, admin)
        self._prefix = f"traffic-{base64.b32encode(str(time.time_ns()).encode()).decode().lower().rstrip('=')[-12:]}"

    def __call__(self, stop: Event) -> None:
        for number in itertools.count():
            if stop.wait(TRAFFIC_PAUSE):
                break
            self._make(f"{self._prefix}-{number}")
        self._rest.close()

    def _make(self, name: str) -> None:
        folder = "/api/v1/namespaces/default/configmaps"
        try:
            self._rest("POST", folder, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
            self._rest("DELETE", f"{folder}/{name}")
        except (OSError, Refused):
            pass  # the API server is away, or its admission is
