"""An HTTP server behind a gate: one listening address."""

from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from auditpipeline.core.errors import AuditPipelineError
from auditpipeline.dataplane.descriptors import Places
from auditpipeline.dataplane.gate import Counts, Gate
from auditpipeline.dataplane.server import Trust

IDLE_SECONDS = 75.0
"""From the opening of a connection, or from the last answer, to the end of the next headers."""


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a fault is the server's own. What a sender does wrong must not fill the log with tracebacks."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ConnectionError | HttpProcessingError)


_HTTP_LOG = logging.getLogger("auditpipeline.http")
_HTTP_LOG.addFilter(_is_ours)


class Listener:
    """One listening address. `make` gets a function that makes a connection known (`Gate.trust`), and returns what is
    served. `stop` takes no more connections and lets requests that are under way be answered."""

    def __init__(self, make: Callable[[Trust], web.Application], places: Places) -> None:
        self.port = 0
        self._places = places
        self._gate: Gate | None = None
        self._runner = web.AppRunner(
            make(self._trust),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=2.0,
            auto_decompress=False,
            logger=_HTTP_LOG,
            shutdown_timeout=5.0,
        )

    async def start(self, address: str, context: ssl.SSLContext) -> None:
        """Listens on `host:port` (port 0: any; `port` says which). AuditPipelineError if that cannot be."""
        await self._runner.setup()
        gate = Gate(cast("web.Server", self._runner.server), context, self._places)
        host, _, port = address.rpartition(":")
        try:
            self.port = await gate.open(host.strip("[]") or None, int(port))
        except OSError as error:
            await self._runner.cleanup()
            reason = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise AuditPipelineError(f"cannot listen on {address}: {reason}") from error
        self._gate = gate

    def tidy(self) -> None:
        """Closes connections of peers that are of no use; to be called about every second."""
        if self._gate:
            self._gate.tidy()

    def counts(self) -> Counts:
        """What the gate counted; nothing before the start."""
        return self._gate.counts() if self._gate else Counts({}, {})

    async def stop(self) -> None:
        """Stops; waits at most a few seconds for requests that are under way."""
        if self._gate:
            self._gate.close()
            await self._runner.cleanup()
            self._gate.abort()
            self._gate = None

    def _trust(self, handler: RequestHandler) -> None:
        if self._gate:
            self._gate.trust(handler)
