"""What an HTTP server's answer means, and what of it may be repeated where people read it.

    2xx                     arrived
    413                     TooLarge: the route sends halves, at last single events
    400, 422                Permanent: refused; halves likewise, and only what is refused alone becomes a dead letter
    408, 425, 429, 5xx      Retryable, with the server's Retry-After (at most five minutes)
    401, 403, 404, 405,
    any other 4xx           Retryable: somebody has to mend an address, a token or a certificate, and until then nothing
                            may be lost. The state of the output says so
    1xx, 3xx                Retryable likewise: redirects are not followed, since they would carry events elsewhere

Nothing that a server says is repeated, neither of its body nor of its headers: messages end up in a status, which more
people read than may reach that server, and a URL may have been written to read what it says. So are the errors of a
connection told in words of our own.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import os
import re
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import aiohttp

from auditpipeline.core.errors import AuditPipelineError, Permanent, Retryable, TooLarge

MAX_AFTER = 300.0
_STATUSES = frozenset(HTTPStatus)
_PERMANENT = (400, 422)
_TO_MEND = (401, 403, 404, 405, 407)
_OPENSSL = re.compile(r"\[SSL: ([A-Z0-9_]+)\]")


def judge(status: int, after: str | None) -> AuditPipelineError | None:
    """The error that an answer stands for; None if the events arrived. `after` is the server's Retry-After."""
    if 200 <= status < 300:
        return None
    message = _answered(status)
    if status == 413:
        return TooLarge(message)
    if status in _PERMANENT:
        return Permanent(message)
    if status in _TO_MEND or 300 <= status < 400:
        return Retryable(f"{message}: mend the output's url or its credentials; events are kept meanwhile")
    return Retryable(message, retry_after(after))


def trouble(error: Exception) -> str:
    """Why no answer came, without anything that the other side chose."""
    return next(say(error) for kind, say in _TROUBLES if isinstance(error, kind))


def _answered(status: int) -> str:
    return f"answered {status} {HTTPStatus(status).phrase if status in _STATUSES else '?'}"


def _certificate(error: Exception) -> str:
    """What OpenSSL and Python say: it names the host that was asked for, and nothing that stands in the certificate."""
    words = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else type(error).__name__
    return f"certificate verify failed: {words}"


def _broken(what: str, error: OSError) -> str:
    """An error of the system by its number, one of TLS by OpenSSL's name for it: either is one of a fixed list."""
    if found := _OPENSSL.search(f"{error.strerror or error}"):
        return f"{what}: TLS: {found[1].lower().replace('_', ' ')}"
    if isinstance(error, ssl.SSLError) or not error.errno:
        return f"{what}: {type(error).__name__}"
    return f"{what}: {os.strerror(error.errno)}"


_TROUBLES: tuple[tuple[type[Exception], Callable[[Any], str]], ...] = (
    (aiohttp.ClientHttpProxyError, lambda error: f"the proxy {_answered(error.status)}"),
    (aiohttp.ClientConnectorCertificateError, lambda error: _certificate(error.certificate_error)),
    (aiohttp.ClientConnectorDNSError, lambda error: error.os_error.strerror or "the host name cannot be resolved"),
    (aiohttp.ConnectionTimeoutError, lambda _: "no connection in time"),
    (aiohttp.ClientConnectorError, lambda error: _broken("no connection", error.os_error)),
    (aiohttp.ServerDisconnectedError, lambda _: "the server closed the connection without an answer"),
    (aiohttp.ClientResponseError, lambda _: "the server's answer is not HTTP"),
    (aiohttp.InvalidURL, lambda _: "the host of the url is neither a name nor an address in its usual form"),
    (OSError, lambda error: _broken("the connection broke", error)),
    (Exception, lambda error: f"the request failed ({type(error).__name__})"),
)
"""From the special to the general."""


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3), at most `MAX_AFTER`; None if
    it says nothing usable."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdecimal():
        return min(float(value), MAX_AFTER)
    try:
        date = email.utils.parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=dt.UTC)
        seconds = (date - dt.datetime.now(dt.UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_AFTER)
