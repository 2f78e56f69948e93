"""HTTP POST of batches. Arrived means: answered with 2xx.

    2xx                     arrived
    413                     Permanent: too large; the route sends halves, at last single events
    400, 422                Permanent: refused; halves likewise, so that only what is refused alone becomes a dead
    letter 408, 425, 429, 5xx      Retryable, with the server's Retry-After (at most five minutes)
    401, 403, 404, 405,
    any other 4xx           Retryable: somebody has to mend an address, a token or a certificate, and until then nothing
                            may be lost. The state of the output says so
    3xx                     Retryable likewise: redirects are not followed, since they would carry events elsewhere

Certificates, CA and token are files that are read again when they change. The environment's proxy settings are not
trusted. With `address` that is dialled, with no DNS, and the URL's host is the TLS name and the Host header.
"""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Sequence
from pathlib import Path

import aiohttp
from yarl import URL

from auditpipeline import __version__
from auditpipeline.core.config import HttpOutput
from auditpipeline.core.errors import Invalid, Permanent, Retryable
from auditpipeline.dataplane.tls import client_context

MAX_AFTER = 300.0
_PERMANENT = (400, 413, 422)
_LIST = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['
_Stamp = tuple[tuple[int, int, int] | None, ...]


def encode(lines: Sequence[bytes], form: str) -> tuple[bytes, str]:
    """A body of that format, and its content type."""
    match form:
        case "json-lines":
            return b"".join(line + b"\n" for line in lines), "application/x-ndjson"
        case "json-array":
            return b"[" + b",".join(lines) + b"]", "application/json"
        case _:
            return _LIST + b",".join(lines) + b"]}", "application/json"


class Http:
    """One URL. Keeps a few connections alive; a new set of them when a file has changed."""

    def __init__(self, config: HttpOutput) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._stamp: _Stamp = ()
        url = URL(config.url)
        self._host = url.host or ""
        self._host_header = url.host_port_subcomponent or ""
        self._url = url
        if config.address:
            host, _, port = config.address.rpartition(":")
            self._url = url.with_host(host.strip("[]")).with_port(int(port))

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Posts the lines; returns on 2xx."""
        body, content_type = encode(lines, self._config.format)
        try:
            session = await self._current_session()
            headers = {"Content-Type": content_type, "Host": self._host_header, **self._authorization()}
            name = self._host if self._url.scheme == "https" else None
            async with session.post(
                self._url, data=body, headers=headers, allow_redirects=False, server_hostname=name
            ) as response:
                await response.content.read(2**16)
                _judge(response)
        except Invalid as error:
            raise Retryable(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Retryable(f"{self._host_header}: {_reason(error)}") from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session:
            await self._session.close()
            self._session = None

    async def _current_session(self) -> aiohttp.ClientSession:
        stamp = tuple(_stamp(path) for path in self._files())
        if self._session is None or stamp != self._stamp:
            context = client_context(self._config.ca, self._config.ca_file, self._config.client_tls)
            await self.close()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=4),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"auditpipeline/{__version__}"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                trust_env=False,
            )
            self._stamp = stamp
        return self._session

    def _files(self) -> list[str]:
        tls = self._config.client_tls
        return [path for path in (self._config.ca_file, *((tls.certificate, tls.key) if tls else ())) if path]

    def _authorization(self) -> dict[str, str]:
        path = self._config.bearer_token_file
        if path is None:
            return {}
        try:
            token = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(path, f"the token cannot be read: {type(error).__name__}") from error
        if not token or not token.isascii() or not token.isprintable():
            raise Invalid(path, "holds no token: it must be one line of ASCII")
        return {"Authorization": f"Bearer {token}"}


def _judge(response: aiohttp.ClientResponse) -> None:
    """What the status says; see above. The body is not repeated: it may hold anything."""
    status = response.status
    if 200 <= status < 300:
        return
    message = f"answered {status} {response.reason or ''}".strip()[:200]
    if status in _PERMANENT:
        raise Permanent(message)
    if status in (401, 403, 404, 405) or 300 <= status < 400:
        raise Retryable(f"{message}: mend the output's url or its credentials; events are kept meanwhile")
    raise Retryable(message, retry_after(response.headers.get("Retry-After")))


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3), at most `MAX_AFTER`; None where
    it says nothing usable."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), MAX_AFTER)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=dt.UTC)
    return min(max(0.0, (date - dt.datetime.now(dt.UTC)).total_seconds()), MAX_AFTER)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does; None where it is not there."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
