"""Many receivers as one process, for measuring the controller alone.

`Crowd` answers `/status` for every pipeline at one address, with the certificate and the configuration digest that the
pipeline's own Secrets hold, as its receivers would. It takes what the gateway posts, and reports the canaries in it, or
no pipeline would stay Ready. Other events are forgotten: the counters stand still.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from auditpipeline.core import canary, config, report
from auditpipeline.core.eventlist import decode_body
from auditpipeline.dataplane.canary import Canaries
from tests.cluster.rest import Refused, Rest

AUDIT_PORT, OPS_PORT = 8443, 8444


class Crowd:
    """A server in a thread of its own; `address` is where every Pod pretends to be."""

    def __init__(self, rest: Rest, address: str) -> None:
        self.address = address
        self._rest = rest
        self._folder = tempfile.TemporaryDirectory()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._hosts: dict[ssl.SSLContext, str] = {}
        self._reports: dict[str, report.Report] = {}
        self._canaries: dict[str, Canaries] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    def stop(self) -> None:
        """Stop listening."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._folder.cleanup()

    async def _serve(self) -> None:
        application = web.Application(client_max_size=2**26)
        application.router.add_get("/status", self._status)
        application.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._choose
        for port in (AUDIT_PORT, OPS_PORT):
            await web.TCPSite(self._runner, self.address, port, ssl_context=context).start()

    def _choose(self, connection: ssl.SSLObject, host: str | None, _: ssl.SSLContext) -> int | None:
        try:
            connection.context = self._context(host or "")
        except Refused:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    def _context(self, host: str) -> ssl.SSLContext:
        if host not in self._contexts:
            secret = self._secret(host, "tls")
            path = Path(self._folder.name) / host
            path.write_bytes(secret["tls.crt"] + secret["tls.key"])
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(path)
            self._contexts[host] = context
            self._hosts[context] = host
        return self._contexts[host]

    async def _status(self, request: web.Request) -> web.Response:
        host = self._host(request)
        if host not in self._reports:
            body = self._secret(host, "config")["config.json"]
            outputs = tuple(report.OutputReport(name=route.name) for route in config.decode(body).routes)
            self._reports[host] = report.Report("receiver", host, config.digest(body), report.Events(), outputs)
        came = self._canaries[host].report() if host in self._canaries else ()
        body = report.encode(msgspec.structs.replace(self._reports[host], canaries=came))
        return web.Response(body=body, content_type="application/json")

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if canary.PATH.encode() in body:
            came = self._canaries.setdefault(self._host(request), Canaries())
            came.note(came.find(decode_body(body)))
        return web.Response()

    def _host(self, request: web.Request) -> str:
        assert request.transport is not None
        return self._hosts[request.transport.get_extra_info("ssl_object").context]

    def _secret(self, host: str, kind: str) -> dict[str, bytes]:
        name, namespace, _ = host.split(".", 2)
        with self._lock:
            found: dict[str, Any] = self._rest("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}-{kind}")
        return {key: base64.b64decode(value) for key, value in found["data"].items()}
