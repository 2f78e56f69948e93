"""The operator's own listener, over TLS: /healthz by a heartbeat of the work, /readyz and /metrics.

The heartbeat is beaten by the resync, not by the event loop: an operator whose work hangs is restarted, one that only
waits for its turn to lead is healthy.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from auditpipeline.control.serving import metrics_token
from auditpipeline.core.bearer import LEAST, NOBODY, holds

MISSED = 3
"""Resyncs that may be missed before the operator is not healthy."""


class Heartbeat:
    """Healthy while it was beaten within `limit` seconds."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._last = clock()
        self.leading = False

    def beat(self) -> None:
        """Say that the work goes on."""
        self._last = self._clock()

    @property
    def healthy(self) -> bool:
        """Whether the last beat is recent enough."""
        return self._clock() - self._last <= self._limit


class Metrics:
    """Counters of the controller, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._live: _Live | None = None
        self.reconciles = Counter(
            "auditpipeline_reconciles", "Reconciles by what they were for", ["kind"], registry=self.registry
        )
        self.errors = Counter(
            "auditpipeline_reconcile_errors",
            "Reconciles that failed and are tried again",
            ["kind"],
            registry=self.registry,
        )

    def observe(
        self,
        depth: Callable[[], int],
        requests: Callable[[], Iterable[tuple[tuple[str, str], int]]],
        ready: Callable[[], Iterable[tuple[str, bool]]],
        canaries: Callable[[], Iterable[tuple[str, float]]],
        losses: Callable[[], Iterable[tuple[str, int]]],
    ) -> None:
        """Add what is read at each scrape, until `withdraw`."""
        self._live = _Live(depth, requests, ready, canaries, losses)
        self.registry.register(self._live)

    def withdraw(self) -> None:
        """Take that away again: an operator that does not lead knows of no pipeline whether it is ready."""
        if self._live is not None:
            self.registry.unregister(self._live)
            self._live = None


class _Live:
    def __init__(
        self,
        depth: Callable[[], int],
        requests: Callable[[], Iterable[tuple[tuple[str, str], int]]],
        ready: Callable[[], Iterable[tuple[str, bool]]],
        canaries: Callable[[], Iterable[tuple[str, float]]],
        losses: Callable[[], Iterable[tuple[str, int]]],
    ) -> None:
        self._depth, self._requests, self._ready, self._canaries = depth, requests, ready, canaries
        self._losses = losses

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("auditpipeline_queue_depth", "Keys that are due or worked on", value=self._depth())
        requests = CounterMetricFamily(
            "auditpipeline_api_requests", "Requests to the Kubernetes API, without watches", labels=["verb", "resource"]
        )
        for labels, count in self._requests():
            requests.add_metric(list(labels), count)
        yield requests
        ready = GaugeMetricFamily("auditpipeline_pipeline_ready", "1 where the pipeline is Ready", labels=["pipeline"])
        for name, good in self._ready():
            ready.add_metric([name], float(good))
        yield ready
        latency = GaugeMetricFamily(
            "auditpipeline_canary_latency_seconds",
            "From kube-apiserver to the pipeline's Pods, of the newest canary",
            labels=["pipeline"],
        )
        for name, seconds in self._canaries():
            latency.add_metric([name], seconds)
        yield latency
        lost = CounterMetricFamily(
            "auditpipeline_audit_loss_events", "Audit events that reached no gateway", labels=["cause"]
        )
        for cause, events in self._losses():
            lost.add_metric([cause], events)
        yield lost


async def serve(
    listen: str, heartbeat: Heartbeat, metrics: Metrics, context: ssl.SSLContext, token_file: Path | None = None
) -> tuple[web.AppRunner, int]:
    """Start the listener at `host:port`, which serves TLS with `context`; the runner to clean up, and the port that it
    has. With `token_file` /metrics is for those who show the token in it."""

    async def healthz(_: web.Request) -> web.Response:
        healthy = heartbeat.healthy
        return web.Response(text="ok" if healthy else "the work hangs", status=200 if healthy else 503)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="leading" if heartbeat.leading else "waiting to lead")

    async def scrape(request: web.Request) -> web.Response:
        token = metrics_token(token_file)
        if token == NOBODY:
            return web.Response(text=f"the file of the token holds none of {LEAST} characters or more", status=503)
        if token and not holds(request.headers.get("Authorization", ""), token):
            return web.Response(text="show the token", status=401, headers={"WWW-Authenticate": "Bearer"})
        return web.Response(body=generate_latest(metrics.registry), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]") or None, int(port), ssl_context=context)
    try:
        await site.start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, runner.addresses[0][1]
