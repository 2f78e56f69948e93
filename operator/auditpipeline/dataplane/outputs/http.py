"""HTTP POST of batches. Arrived means: answered with 2xx; `answer.py` says what every other answer means.

Certificates, CA, tokens and passwords are files that are read again at each use, so that a changed Secret needs no new
start. The environment's proxy settings are not trusted, and redirects are not followed: either would carry events and
credentials elsewhere. With `address` that is dialled, with no DNS, and the URL's host is the TLS name and the Host
header.

A request that is tried again has the same `Idempotency-Key`, as long as it holds the same events.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import ssl
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp
from yarl import URL

from auditpipeline import __version__
from auditpipeline.core.config import HttpOutput
from auditpipeline.core.errors import Invalid, Retryable
from auditpipeline.core.event import ENVELOPE, as_item
from auditpipeline.core.eventlist import HEAD
from auditpipeline.dataplane.lines import Lines, as_lines
from auditpipeline.dataplane.outputs.answer import judge, plain, quotable
from auditpipeline.dataplane.tls import client_context

MAX_ANSWER = 2**16
"""Bytes of an answer that are read; a connection on which more comes is not used again."""
MAX_REASON = 400
GZIP_LEVEL = 1
"""310 MB/s and a tenth of the size for audit events; level 6 makes it a fourteenth, at 90 MB/s."""
_GZIP = 31
_Stamp = tuple[tuple[int, int, int] | None, ...]


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
    """What is called: `url` with the address that is dialled, `host` for the Host header, and who it has to be."""

    url: URL
    host: str
    server_name: str | None
    proxy: URL | None


class Http:
    """One URL. Keeps a few connections alive; a new set of them when a file has changed."""

    def __init__(self, config: HttpOutput) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._stamp: _Stamp = ()
        self._target: _Target | None = None

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Posts the lines; returns on 2xx."""
        target = self._target = self._target or _target(self._config)
        body, content_type = encode(lines, self._config.format)
        try:
            credentials = _credentials(self._config)
            headers = [*self._config.headers, ("Content-Type", content_type), ("Host", target.host)]
            headers += [("Authorization", credentials[0])] if credentials else []
            # An address is a Service that an AuditSink names: our own receivers as a rule, and they do not ask.
            headers += [] if self._config.address else [("Idempotency-Key", idempotency_key(body))]
            await self._post(target, headers, body, credentials)
        except Invalid as error:
            raise Retryable(str(error)) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise Retryable(f"{target.host}: {_reason(error)}") from error
        except TimeoutError as error:
            raise Retryable(f"{target.host}: no answer within {self._config.timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Retryable(f"{target.host}: {_reason(error)}") from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session:
            await self._session.close()
            self._session = None

    async def _post(self, target: _Target, headers: list[tuple[str, str]], body: bytes, secrets: Sequence[str]) -> None:
        session = await self._current_session()
        data = body
        if self._config.compression == "gzip":
            data = await asyncio.to_thread(zlib.compress, body, GZIP_LEVEL, _GZIP)
            headers = [*headers, ("Content-Encoding", "gzip")]
        async with session.post(
            target.url,
            # Bytes would be written all at once, whatever their number, and the event loop wait for that.
            data=io.BytesIO(data),
            headers=headers,
            allow_redirects=False,
            proxy=target.proxy,
            server_hostname=target.server_name,
        ) as response:
            text = await _text(response)
            if 200 <= response.status < 300:
                return
            words = quotable(text, body, secrets)
            error = judge(response.status, words, response.headers.get("Retry-After"))
        if error:
            raise error

    async def _current_session(self) -> aiohttp.ClientSession:
        stamp = tuple(_stamp(path) for path in self._files())
        if self._session is None or stamp != self._stamp:
            context = client_context(self._config.ca, self._config.ca_file, self._config.client_tls)
            await self.close()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=4),
                cookie_jar=aiohttp.DummyCookieJar(),
                # What is not decompressed cannot grow.
                auto_decompress=False,
                headers={"User-Agent": f"auditpipeline/{__version__}", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=self._config.timeout, sock_connect=10),
                trust_env=False,
            )
            self._stamp = stamp
        return self._session

    def _files(self) -> list[str]:
        tls = self._config.client_tls
        return [path for path in (self._config.ca_file, *((tls.certificate, tls.key) if tls else ())) if path]


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
        return _Target(dialled, url.host_port_subcomponent or "", server_name, proxy)
    except ValueError:
        raise Retryable("the output's url, address or proxy cannot be used: write https://host[:port][/path]") from None


async def _text(response: aiohttp.ClientResponse) -> str:
    """The beginning of the answer's body, read to its end where that is near."""
    found = bytearray()
    while len(found) < MAX_ANSWER and (piece := await response.content.read(MAX_ANSWER - len(found))):
        found += piece
    return "" if "Content-Encoding" in response.headers else found.decode(errors="replace")


def _credentials(config: HttpOutput) -> list[str]:
    """The Authorization header, and then everything that must not be repeated; nothing where there is no credential.
    Invalid where a file lacks it."""
    if config.bearer_token_file:
        token = _secret(config.bearer_token_file, "token")
        return [f"Bearer {token}", token]
    if config.basic:
        name, password = (
            _secret(config.basic.username_file, "user name"),
            _secret(config.basic.password_file, "password"),
        )
        if ":" in name:
            raise Invalid(config.basic.username_file, "holds a colon, which no user name may (RFC 7617)")
        encoded = base64.b64encode(f"{name}:{password}".encode()).decode()
        return [f"Basic {encoded}", encoded, password]
    return []


def _secret(path: str, what: str) -> str:
    """The one line that a file holds."""
    try:
        found = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(path, f"the {what} cannot be read: {type(error).__name__}") from error
    if not found or not found.isascii() or not found.isprintable():
        raise Invalid(path, f"holds no {what}: it must be one line of ASCII")
    return found


def _reason(error: Exception) -> str:
    cause = getattr(error, "certificate_error", None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return plain(f"certificate verify failed: {cause.verify_message}", MAX_REASON)
    return plain(str(error), MAX_REASON) or type(error).__name__


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does; None where it is not there."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
