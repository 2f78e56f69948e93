"""The two listeners.

    audit   POST /audit (or /): takes events. No handshake without a client certificate
    ops     GET /healthz, /readyz, /metrics for everybody; GET /status for holders of a client certificate

What a body's sender is told, where kube-apiserver sends again whatever is not 2xx:

    200   every event is on disk, or unwanted, or (where it cannot be read) kept as a dead letter
    413   the body is larger than `max_body`; nothing of it was kept
    503   spool or disk are full: again after Retry-After seconds
    408   the body did not come within BODY_SECONDS
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from auditpipeline.core.errors import AuditPipelineError, Permanent, Retryable
from auditpipeline.dataplane.body import inflate, read_bounded
from auditpipeline.dataplane.canary import Canaries
from auditpipeline.dataplane.filter import Filter
from auditpipeline.dataplane.metrics import Metrics
from auditpipeline.dataplane.spool import Spool
from auditpipeline.dataplane.store import NO_OUTPUT, Dead

BODY_SECONDS = 60.0
HANDSHAKE_SECONDS = 10.0
# From the opening of a connection, or from the last answer, to the end of the next headers.
IDLE_SECONDS = 75.0
RETRY_AFTER = 5.0


class Intake:
    """What the audit listener needs; `filter` and `max_body` are replaced when the configuration changes."""

    def __init__(self, spool: Spool, filter_: Filter, max_body: int, metrics: Metrics) -> None:
        self.spool = spool
        self.filter = filter_
        self.max_body = max_body
        self.metrics = metrics
        self.canaries = Canaries()
        self.taken = 0

    async def receive(self, request: web.Request) -> web.Response:
        """Answers one POST."""
        response = await self._receive(request)
        self.metrics.requests.labels(code=str(response.status)).inc()
        return response

    async def _receive(self, request: web.Request) -> web.Response:
        if (request.content_length or 0) > self.max_body:
            return _too_large(self.max_body)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await read_bounded(request, self.max_body)
        except TimeoutError:
            return _closing(408, "the body did not come in time")
        except (ConnectionError, web.RequestPayloadError):
            # The sender went away, or its chunks are none: there is no whole body to keep, nor anybody to thank.
            return _closing(400, "the body did not come to its end")
        try:
            body = inflate(body, request.headers.get("Content-Encoding", ""), self.max_body) if body else body
        except Permanent as error:
            return await self._store([], "", [Dead(NO_OUTPUT, str(error), body or b"")])
        return _too_large(self.max_body) if body is None else await self._take(body)

    async def _take(self, body: bytes) -> web.Response:
        deciding = self.filter
        taken = deciding.take(body)
        self.metrics.bytes_received.inc(len(body))
        response = await self._store(taken.lines, deciding.digest, taken.dead)
        if response.status == 200:
            self.metrics.filtered.inc(taken.filtered)
            self.canaries.note(body)
            self.taken += len(taken.lines) + taken.filtered + len(taken.dead)
        return response

    async def _store(self, lines: list[bytes], digest: str, dead: list[Dead]) -> web.Response:
        try:
            await self.spool.append(lines, digest, dead)
        except Retryable as error:
            after = max(1, round(error.after or RETRY_AFTER))
            return web.Response(status=503, text=f"{error}\n", headers={"Retry-After": str(after)})
        return web.Response(status=200)


def _too_large(most: int) -> web.Response:
    return _closing(413, f"a body may have {most} bytes")


def _closing(status: int, text: str) -> web.Response:
    """An answer before the body's end: the connection cannot be used again."""
    response = web.Response(status=status, text=f"{text}\n")
    response.force_close()
    return response


def audit_app(intake: Intake) -> web.Application:
    """What the audit listener serves."""
    app = web.Application(client_max_size=0)
    app.router.add_post("/audit", intake.receive)
    app.router.add_post("/", intake.receive)
    return app


class Ops(Protocol):
    """What the ops listener asks of the plane."""

    @property
    def healthy(self) -> bool:
        """False where a new start would help."""

    @property
    def ready(self) -> bool:
        """Whether events are taken; whether any came is no part of it."""

    async def status(self) -> bytes:
        """The report (core.report) as JSON."""

    async def exposition(self) -> bytes:
        """The metrics, as Prometheus reads them."""


def ops_app(ops: Ops) -> web.Application:
    """What the ops listener serves."""

    async def healthz(_: web.Request) -> web.Response:
        return _plain(200 if ops.healthy else 500, "ok" if ops.healthy else "the spool is broken")

    async def readyz(_: web.Request) -> web.Response:
        return _plain(200 if ops.ready else 503, "ok" if ops.ready else "not taking events")

    async def status(request: web.Request) -> web.Response:
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        if not peer:
            return _plain(401, "a client certificate is needed")
        return web.Response(body=await ops.status(), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=await ops.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
        "/healthz": healthz,
        "/readyz": readyz,
        "/status": status,
        "/metrics": metrics,
    }
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    return app


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a fault is the server's own. What a sender does wrong must not fill the log with tracebacks."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ConnectionError | HttpProcessingError)


_HTTP_LOG = logging.getLogger("auditpipeline.http")
_HTTP_LOG.addFilter(_is_ours)


class Listener:
    """One listening address. `stop` takes no more connections and lets requests that are under way be answered."""

    def __init__(self, app: web.Application) -> None:
        self.port = 0
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=2.0,
            auto_decompress=False,
            logger=_HTTP_LOG,
            shutdown_timeout=5.0,
        )
        self._server: asyncio.Server | None = None

    async def start(self, address: str, context: ssl.SSLContext) -> None:
        """Listens on `host:port` (port 0: any; `port` says which). AuditPipelineError where that cannot be."""
        await self._runner.setup()
        host, _, port = address.rpartition(":")
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._runner.server,  # type: ignore[arg-type]
                host.strip("[]") or None,
                int(port),
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                backlog=512,
            )
        except OSError as error:
            await self._runner.cleanup()
            reason = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise AuditPipelineError(f"cannot listen on {address}: {reason}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops; waits at most a few seconds for requests that are under way."""
        if self._server:
            self._server.close()
            await self._runner.cleanup()
            self._server = None
