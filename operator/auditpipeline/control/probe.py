"""Asks the data plane's Pods what they do: GET /status over mTLS, with the operator's client certificate.

Promises: a Pod is dialled by its address and verified by its TLS name; an answer takes three seconds at most and is
bounded; no more than sixteen are asked at once; connections are not kept, so that a thousand Pods cost no memory
between two looks. Private keys are not written to a file system where the kernel offers memory files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator

import aiohttp
import msgspec

from auditpipeline.control.certificates import Pair
from auditpipeline.core import report
from auditpipeline.core.errors import Retryable

TIMEOUT = 3.0
CONCURRENCY = 16
MAX_ANSWER = 8 * 2**20


class Prober:
    """One session for all Pods; `trust` has to be called before the first look, and `close` in the end."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None
        self._trusted: tuple[Pair, str] | None = None
        self._slots = asyncio.Semaphore(CONCURRENCY)

    def trust(self, client: Pair, bundle: str) -> None:
        """From now on, show the certificate `client` and believe the authorities in `bundle`."""
        if self._trusted != (client, bundle):
            self._context = client_context(client, bundle)
            self._trusted = (client, bundle)

    async def report(self, address: str, port: int, host: str) -> report.Report:
        """The report of the Pod at `address`, whose TLS name is `host`; Retryable says why there is none."""
        if self._context is None:
            raise Retryable("the operator has no client certificate yet")
        async with self._slots:
            try:
                async with asyncio.timeout(TIMEOUT):
                    return report.decode(await self._read(address, port, host, self._context))
            except msgspec.DecodeError:
                # The decoder's message may repeat what the answer says.
                raise Retryable("its answer is not a report") from None
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise Retryable(_why(error)) from None

    async def close(self) -> None:
        """Close the session."""
        if self._session:
            await self._session.close()
            self._session = None

    async def _read(self, address: str, port: int, host: str, context: ssl.SSLContext) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
        where = f"[{address}]" if ":" in address else address
        url = f"https://{where}:{port}/status"
        async with self._session.get(url, ssl=context, server_hostname=host, allow_redirects=False) as answer:
            if answer.status != 200:
                raise Retryable(f"/status answered {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise Retryable(f"/status is larger than {MAX_ANSWER} bytes")
            return bytes(body)


def client_context(client: Pair, bundle: str) -> ssl.SSLContext:
    """A TLS context that verifies against `bundle` alone and shows `client`."""
    context = ssl.create_default_context(cadata=bundle)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with key_file((client.certificate + client.key).encode()) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def key_file(content: bytes) -> Iterator[str]:
    """A path that holds `content` for a moment: OpenSSL reads keys from paths only."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("auditpipeline")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        words = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else type(cause).__name__
        return f"its certificate is not believed: {words}"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        # The error's own text holds the address, which would be another message after each restart.
        return f"no connection: {os.strerror(number) if number else type(error.os_error).__name__}"
    return type(error).__name__
