"""The two listeners.

    audit   POST /audit (or /): takes events. No handshake without a client certificate; where the configuration names
            a token, that will do instead
    ops     GET /healthz, /readyz, /metrics for everybody; GET /status for holders of a client certificate

What a body's sender is told, where kube-apiserver sends again whatever is not 2xx:

    200   every event is on disk, or unwanted, or (where it cannot be read) kept as a dead letter
    413   the body is larger than `max_body`; nothing of it was kept
    415   its Content-Encoding is not gzip; nothing was kept, and the body was not read (RFC 9110, 15.5.16)
    401   there is a token, and neither it nor a client certificate was shown; the body was not read
    503   spool, disk, or the memory for bodies are full: again after Retry-After seconds. A real kube-apiserver keeps a
          batch for 232 s then (docs/performance.md), and for 95 s without that header
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
from auditpipeline.dataplane.body import coding, inflate_within, read_bounded
from auditpipeline.dataplane.intake import Intake
from auditpipeline.dataplane.room import Guest
from auditpipeline.dataplane.store import NO_OUTPUT, Dead
from auditpipeline.dataplane.token import Token

BODY_SECONDS = 60.0
HANDSHAKE_SECONDS = 10.0
# From the opening of a connection, or from the last answer, to the end of the next headers.
IDLE_SECONDS = 75.0
RETRY_AFTER = 5.0
_OPENING = "the spool is being opened"


class Receiver:
    """Answers the audit listener's requests, and hands their bodies to the intake. With a `token`, who shows no client
    certificate has to send that."""

    def __init__(self, intake: Intake, token: Token | None = None) -> None:
        self._intake = intake
        self._token = token

    async def receive(self, request: web.Request) -> web.Response:
        """Answers one POST."""
        response = await self._receive(request) if self._is_let_in(request) else _unknown()
        self._intake.metrics.requests.labels(code=str(response.status)).inc()
        return response

    def _is_let_in(self, request: web.Request) -> bool:
        """Without a token, nobody gets here who has no certificate."""
        if self._token is None:
            return True
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        shown = request.headers.get("Authorization") or f"Bearer {request.match_info.get('token', '')}"
        return bool(peer) or self._token.matches(shown)

    async def _receive(self, request: web.Request) -> web.Response:
        most = self._intake.max_body
        if (request.content_length or 0) > most:
            return _too_large(most)
        if (coded := coding(request.headers.getall("Content-Encoding", ()))) is None:
            return _unknown_coding()
        try:
            with self._intake.room.guest() as guest:
                # The body is in no variable here: it is gone as soon as the filter has made lines of it.
                await self._intake.take_events(await self._read(request, coded, most, guest))
        except _Answered as answer:
            return answer.response
        except Retryable as error:
            return _later(request, error)
        return web.Response(status=200)

    async def _read(self, request: web.Request, coded: str, most: int, guest: Guest) -> bytes:
        """The body, inflated; `_Answered` if there is none to be taken."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await read_bounded(request, most, guest)
        except TimeoutError:
            raise _Answered(_closing(408, "the body did not come in time")) from None
        except (ConnectionError, web.RequestPayloadError):
            # The sender went away, or its chunks are none: there is no whole body to keep, nor anybody to thank.
            raise _Answered(_closing(400, "the body did not come to its end")) from None
        try:
            body = await inflate_within(guest, body, coded, most) if body else body
        except Permanent as error:
            await self._intake.bury([Dead(NO_OUTPUT, str(error), body or b"")])
            raise _Answered(web.Response(status=200)) from None
        if body is None:
            raise _Answered(_too_large(most))
        return body


class _Answered(Exception):
    """The request is answered already, without an event."""

    def __init__(self, response: web.Response) -> None:
        self.response = response


def _later(request: web.Request, error: Retryable) -> web.Response:
    after = max(1, round(error.after or RETRY_AFTER))
    response = web.Response(status=503, text=f"{error}\n", headers={"Retry-After": str(after)})
    if not request.content.at_eof():
        response.force_close()
    return response


def _unknown() -> web.Response:
    response = _closing(401, "a client certificate or the token is needed")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _unknown_coding() -> web.Response:
    response = _closing(415, "the content coding is unknown: use gzip, or none")
    response.headers["Accept-Encoding"] = "gzip"
    return response


def _too_large(most: int) -> web.Response:
    return _closing(413, f"a body may have {most} bytes")


def _closing(status: int, text: str) -> web.Response:
    """An answer before the body's end: the connection cannot be used again."""
    response = web.Response(status=status, text=f"{text}\n")
    response.force_close()
    return response


def audit_app(intake: Intake, token: Token | None = None) -> web.Application:
    """What the audit listener serves."""
    app = web.Application(client_max_size=0)
    receiver = Receiver(intake, token)
    app.router.add_post("/audit", receiver.receive)
    if token:
        # Whose client can show neither a certificate nor a header: kube-apiserver's own dynamic backend, up to 1.18.
        app.router.add_post("/audit/{token}", receiver.receive)
    app.router.add_post("/", receiver.receive)
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


def ops_app(find: Callable[[], Ops | None]) -> web.Application:
    """What the ops listener serves; `find` finds the plane, or None while its spool is being opened. That may take a
    while, and must not look like a process that hangs."""

    async def healthz(_: web.Request) -> web.Response:
        ops = find()
        healthy = ops is None or ops.healthy
        return _plain(200 if healthy else 500, "ok" if healthy else "the spool is broken")

    async def readyz(_: web.Request) -> web.Response:
        ops = find()
        return _plain(200, "ok") if ops and ops.ready else _plain(503, "not taking events" if ops else _OPENING)

    async def status(request: web.Request) -> web.Response:
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        if not peer:
            return _plain(401, "a client certificate is needed")
        ops = find()
        return web.Response(body=await ops.status(), content_type="application/json") if ops else _plain(503, _OPENING)

    async def metrics(_: web.Request) -> web.Response:
        ops = find()
        if not ops:
            return _plain(503, _OPENING)
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
