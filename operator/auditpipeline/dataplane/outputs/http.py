"""HTTP POST of batches. Arrived means: answered with 2xx; `answer.py` says what every other answer means. The status
line and the headers are the answer: a body that is broken, endless or never comes changes nothing of it.

Each address is judged as it is dialled (`dataplane/egress.py`), also that of a proxy. The proxy looks names up by
itself; what it is asked for is judged if it is an address.

Certificates, CA, tokens and passwords are files that are read again at each use, so that a changed Secret needs no new
start. The environment's proxy settings are not trusted, and redirects are not followed: either would carry events and
credentials elsewhere. With `address` that is dialled, with no DNS, and the URL's host is the TLS name and the Host
header.

A request that is tried again has the same `Idempotency-Key`, as long as it holds the same events.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import ssl
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from auditpipeline import __version__
from auditpipeline.core.config import HttpOutput
from auditpipeline.core.errors import Invalid, Retryable
from auditpipeline.core.event import ENVELOPE, as_item
from auditpipeline.core.eventlist import HEAD
from auditpipeline.dataplane.egress import Dialler, Guard, Refused
from auditpipeline.dataplane.lines import Lines, as_lines
from auditpipeline.dataplane.outputs.answer import judge, trouble
from auditpipeline.dataplane.outputs.aside import Aside
from auditpipeline.dataplane.outputs.connection import connector
from auditpipeline.dataplane.outputs.credentials import Stamp, credentials, needs_files, stamp
from auditpipeline.dataplane.outputs.resolver import Resolver, lease
from auditpipeline.dataplane.tls import client_context

MAX_ANSWER = 2**16
"""Bytes of an answer's body that are read; a connection on which more comes is not used again."""
ANSWER_SECONDS = 1.0
"""Seconds that the body of an answer may take behind its headers. What the headers say holds in any case."""
GZIP_LEVEL = 1
"""310 MB/s and a tenth of the size for audit events; level 6 makes it a fourteenth, at 90 MB/s."""
FILES_SECONDS = 10.0
"""Seconds that reading the files of an output may take."""
_GZIP = 31


def encode(lines: Sequence[bytes], form: str) -> tuple[bytes, str]:
    """A body of that format, and its content type. Items of an EventList have no kind and apiVersion, as kube-apiserver
    sends them; everywhere else they have."""
    match form:
        case "json-lines":
            return b"".join(as_lines(lines).texts), "application/x-ndjson"
        case "json-array":
            return b"[" + b",".join(lines) + b"]", "application/json"
        case _:
            return b"".join((HEAD, _items(as_lines(lines)), b"]}")), "application/json"


def _items(lines: Lines) -> bytes:
    """The lines as items with commas between them, in one step for all if each begins as lines do."""
    text = as_item(lines.text[:-1]).replace(b"\n" + ENVELOPE, b",{")
    return text if b"\n" not in text else b",".join(map(as_item, lines))


def idempotency_key(body: bytes) -> str:
    """The value of Idempotency-Key (draft-ietf-httpapi-idempotency-key-header: a string in quotes) for a body before
    it is compressed. SHA-256 is the fastest that there is, a millisecond for a batch."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


class _Target(NamedTuple):
    """What is called: `url` with the address that is dialled, `host` for the Host header, what is `dialled` in words,
    and who it has to be."""

    url: URL
    host: str
    dialled: str
    server_name: str | None
    proxy: URL | None


class _Ready(NamedTuple):
    """What a delivery needs, and what had to be read or computed for it."""

    stamp: Stamp
    context: ssl.SSLContext
    credentials: list[str]
    data: bytes


class Http:
    """One URL. Keeps a few connections alive; a new set of them when a file has changed. Files are read, and bodies
    compressed, in a thread of its own: a volume that hangs stops no other output."""

    def __init__(self, config: HttpOutput, guard: Guard | None = None) -> None:
        self._config = config
        self._guard = guard or Guard()
        # An address is a Service that an AuditSink names, and that the operator looked up.
        self._dialler = Dialler(self._guard, service=bool(config.address))
        self._changes = 0
        self._session: aiohttp.ClientSession | None = None
        self._resolver: Resolver | None = None
        self._aside = Aside("output-http")
        self._context: ssl.SSLContext | None = None
        self._stamp: Stamp = ()
        self._target: _Target | None = None

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Posts the lines; returns on 2xx."""
        target = self._target = self._target or _target(self._config)
        body, content_type = encode(lines, self._config.format)
        try:
            ready = await self._ready(body)
            secrets = ready.credentials
            headers = [*self._config.headers, ("Content-Type", content_type), ("Host", target.host)]
            headers += [("Authorization", secrets[0])] if secrets else []
            headers += [("Content-Encoding", "gzip")] if self._config.compression == "gzip" else []
            # Services are our own receivers as a rule, and they do not ask.
            headers += [] if self._config.address else [("Idempotency-Key", idempotency_key(body))]
            response = await self._post(target, headers, ready)
        except Invalid as error:
            raise Retryable(str(error)) from error
        except TimeoutError as error:
            late = trouble(error) if isinstance(error, aiohttp.ConnectionTimeoutError) else self._late
            raise Retryable(f"{target.host}: {late}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Retryable(f"{target.host}: {self._why(target, error)}") from error
        await _drained(response)
        if refusal := judge(response.status, response.headers.get("Retry-After")):
            raise refusal

    async def close(self) -> None:
        """Closes the connections."""
        self._aside.stop()
        await self._close_session()
        if self._resolver:
            resolver, self._resolver = self._resolver, None
            await resolver.release()

    @property
    def _late(self) -> str:
        return f"no answer within {self._config.timeout:g} s"

    def _why(self, target: _Target, error: Exception) -> str:
        if isinstance(error, Refused):
            return error.message(target.url.host_subcomponent or "")
        if isinstance(error, aiohttp.ClientConnectorError) and self._dialler.refused:
            return self._dialler.refused.message(target.dialled)
        return trouble(error)

    async def _ready(self, body: bytes) -> _Ready:
        """What is needed for this body, on the event loop only if that cannot take long."""
        if not needs_files(self._config):
            compressed = self._config.compression == "gzip"
            return await self._aside.run(lambda: self._prepare(body)) if compressed else self._prepare(body)
        try:
            async with asyncio.timeout(min(FILES_SECONDS, self._config.timeout)):
                return await self._aside.run(lambda: self._prepare(body))
        except TimeoutError:
            raise Retryable("a file of the output's credentials or CA cannot be read: its volume hangs") from None

    def _prepare(self, body: bytes) -> _Ready:
        """Invalid if a file lacks something. Blocks."""
        config = self._config
        found, context = stamp(config), self._context
        if context is None or found != self._stamp:
            context = client_context(config.ca, config.ca_file, config.client_tls)
        data = zlib.compress(body, GZIP_LEVEL, _GZIP) if config.compression == "gzip" else body
        return _Ready(found, context, credentials(config), data)

    async def _post(self, target: _Target, headers: list[tuple[str, str]], ready: _Ready) -> aiohttp.ClientResponse:
        self._dialler.refused = None
        if target.proxy:
            self._guard.check(target.url.raw_host or "", target.url.port or 0)
        session = await self._current_session(ready)
        return await session.post(
            target.url,
            # Bytes would be written all at once, whatever their number, and the event loop wait for that.
            data=io.BytesIO(ready.data),
            headers=headers,
            allow_redirects=False,
            proxy=target.proxy,
            server_hostname=target.server_name,
        )

    async def _current_session(self, ready: _Ready) -> aiohttp.ClientSession:
        changes = self._guard.changes
        if self._session is None or ready.context is not self._context or changes != self._changes:
            await self._close_session()
            self._resolver = self._resolver or lease()
            self._session = aiohttp.ClientSession(
                connector=connector(ready.context, self._resolver, self._dialler),
                cookie_jar=aiohttp.DummyCookieJar(),
                # What is not decompressed cannot grow.
                auto_decompress=False,
                headers={"User-Agent": f"auditpipeline/{__version__}", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=self._config.timeout, sock_connect=10),
                trust_env=False,
            )
            self._context, self._stamp, self._changes = ready.context, ready.stamp, changes
        return self._session

    async def _close_session(self) -> None:
        if self._session:
            session, self._session = self._session, None
            await session.close()


def _target(config: HttpOutput) -> _Target:
    """Retryable where the URL is none: only a new configuration mends that, and until then nothing may be lost. It may
    hold a credential, and the parser's messages repeat it."""
    try:
        url = URL(config.url)
        server_name = (config.server_name or url.host) if url.scheme == "https" else None
        dialled = url
        if config.address:
            host, _, port = config.address.rpartition(":")
            dialled = url.with_host(host.strip("[]")).with_port(int(port))
        proxy = URL(config.proxy) if config.proxy else None
        what = "the proxy" if proxy else dialled.host_subcomponent or ""
        return _Target(dialled, url.host_port_subcomponent or "", what, server_name, proxy)
    except ValueError:
        raise Retryable("the output's url, address or proxy cannot be used: write https://host[:port][/path]") from None


async def _drained(response: aiohttp.ClientResponse) -> None:
    """Reads the answer's body to its end, if that comes soon: only then the connection is used again. Its words are of
    no interest."""
    read = 0
    try:
        with suppress(aiohttp.ClientError, HttpProcessingError, OSError):
            async with asyncio.timeout(ANSWER_SECONDS):
                while read < MAX_ANSWER and (piece := await response.content.read(MAX_ANSWER - read)):
                    read += len(piece)
    finally:
        if response.content.at_eof():
            response.release()
        else:
            response.close()
