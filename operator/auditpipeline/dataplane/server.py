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
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from auditpipeline.core.errors import Permanent, Retryable
from auditpipeline.dataplane.body import coding, inflate_within, read_bounded
from auditpipeline.dataplane.intake import Intake
from auditpipeline.dataplane.room import Guest
from auditpipeline.dataplane.store import NO_OUTPUT, Dead
from auditpipeline.dataplane.token import Token

BODY_SECONDS = 60.0
RETRY_AFTER = 5.0
Trust = Callable[[RequestHandler], None]
_OPENING = "the spool is being opened"


class Receiver:
    """Answers the audit listener's requests, and hands their bodies to the intake. With a `token`, a peer that shows no
    client certificate has to send that; `trust` is called with its connection once it has."""

    def __init__(self, intake: Intake, token: Token | None = None, trust: Trust | None = None) -> None:
        self._intake = intake
        self._token = token
        self._trust = trust

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
        if not peer and not self._token.matches(shown):
            return False
        if self._trust and not peer:
            self._trust(request.protocol)
        return True

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


def audit_app(intake: Intake, token: Token | None = None, trust: Trust | None = None) -> web.Application:
    """What the audit listener serves."""
    app = web.Application(client_max_size=0)
    receiver = Receiver(intake, token, trust)
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

    @property
    def waits_for(self) -> str:
        """Why it is not ready."""

    async def status(self) -> bytes:
        """The report (core.report) as JSON."""

    def admits(self, authorization: str) -> bool:
        """Whether a request with this Authorization header may read the metrics."""

    async def exposition(self) -> bytes:
        """The metrics, as Prometheus reads them."""


def ops_app(find: Callable[[], Ops | None], why: Callable[[], str] = lambda: _OPENING) -> web.Application:
    """What the ops listener serves; `find` finds the plane, or None before it takes events, and `why` says what that
    waits for. It may take a while, and must not look like a process that hangs."""

    async def healthz(_: web.Request) -> web.Response:
        ops = find()
        healthy = ops is None or ops.healthy
        return _plain(200 if healthy else 500, "ok" if healthy else "the spool is broken")

    async def readyz(_: web.Request) -> web.Response:
        ops = find()
        if ops and ops.ready:
            return _plain(200, "ok")
        return _plain(503, f"not taking events: {ops.waits_for if ops else why()}")

    async def status(request: web.Request) -> web.Response:
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        if not peer:
            return _plain(401, "a client certificate is needed")
        ops = find()
        return web.Response(body=await ops.status(), content_type="application/json") if ops else _plain(503, why())

    async def metrics(request: web.Request) -> web.Response:
        ops = find()
        if not ops:
            return _plain(503, why())
        if not ops.admits(request.headers.get("Authorization", "")):
            return _plain(401, "a bearer token is needed")
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
