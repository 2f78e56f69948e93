"""The API servers: which there are, since when each runs, and what it says of its audit. Readings only, no judgement.

    Service default/kubernetes -> EndpointSlice "kubernetes" -> GET https://ADDRESS:PORT/metrics   (several of them)
    one or none there          -> GET /metrics of the configured server

Each is asked by its own address: behind a load balancer every answer would be another one's. One that starts anew is
away for a moment, which is no news: for FORGIVEN seconds nothing else is said of it than before.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple

from auditpipeline.control.kube import Forbidden, Kube
from auditpipeline.control.resources import ENDPOINT_SLICES
from auditpipeline.core.errors import AuditPipelineError

NAMESPACE, NAME = "default", "kubernetes"
PLUGINS = ("webhook", "buffered", "truncate")
"""What a webhook backend consists of: k8s.io/apiserver/plugin/pkg/audit. Each counts the events that it gives up."""
FORGIVEN = 30.0
"""Seconds since the first reading in a row that failed."""
_METRIC = re.compile(
    rb"^(process_start_time_seconds|apiserver_audit_(?:event|error|requests_rejected)_total)"
    rb'(?:\{plugin="(\w+)"\})? (\S+)',
    re.MULTILINE,
)


class Server(NamedTuple):
    """One API server. `url` is empty for the configured one, `address` where it is not known."""

    url: str = ""
    address: str = ""

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"kube-apiserver {self.address}".rstrip()


class Reading(NamedTuple):
    """What one API server said; times are seconds since the epoch, `start` by its own clock.

    `emitted` counts audit events (one a stage, as the policy lets through), `failed` those that its webhook backend
    gave up, `rejected` requests that were refused because they could not be audited. Counters begin with the process.
    """

    server: Server
    at: float
    start: float = 0.0
    emitted: int = 0
    failed: int = 0
    rejected: int = 0
    error: str = ""


async def servers(kube: Kube) -> list[Server]:
    """Every API server, by the endpoints of its Service; the configured one alone where they do not say."""
    try:
        found = await kube.get(ENDPOINT_SLICES, NAME, NAMESPACE)
    except Forbidden:
        found = None
    return of_slice(found or {})


def of_slice(body: dict[str, Any]) -> list[Server]:
    """The API servers of the EndpointSlice."""
    port = next((entry.get("port") for entry in body.get("ports") or () if entry.get("name") == "https"), None)
    addresses = sorted(
        address
        for endpoint in body.get("endpoints") or ()
        if endpoint.get("conditions", {}).get("ready") is not False
        for address in endpoint.get("addresses") or ()
    )
    if port is None or len(addresses) < 2:
        return [Server("", addresses[0] if addresses else "")]
    hosts = [f"[{address}]" if ":" in address else address for address in addresses]
    return [Server(f"https://{host}:{port}", address) for host, address in zip(hosts, addresses, strict=True)]


async def readings(kube: Kube, found: list[Server], now: float) -> list[Reading]:
    """The reading of each."""
    return list(await asyncio.gather(*(_reading(kube, server, now) for server in found)))


async def _reading(kube: Kube, server: Server, now: float) -> Reading:
    try:
        return parse(await kube.plain("/metrics", server.url), server, now)
    except AuditPipelineError as error:
        return Reading(server, now, error=str(error))


def parse(text: bytes, server: Server, now: float) -> Reading:
    """The reading in an exposition."""
    values: dict[tuple[bytes, bytes], float] = {
        (name, plugin): float(value) for name, plugin, value in _METRIC.findall(text)
    }
    start = values.get((b"process_start_time_seconds", b""), 0.0)
    if not start:
        return Reading(server, now, error="its /metrics has no process_start_time_seconds")
    return Reading(
        server,
        now,
        start,
        int(values.get((b"apiserver_audit_event_total", b""), 0)),
        int(sum(values.get((b"apiserver_audit_error_total", plugin.encode()), 0) for plugin in PLUGINS)),
        int(values.get((b"apiserver_audit_requests_rejected_total", b""), 0)),
    )
