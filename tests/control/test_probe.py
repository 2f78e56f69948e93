"""Asking a Pod over mTLS: whom it believes, whom it tells, and what it says when there is no answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest
from aiohttp import web

from auditpipeline.control import certificates
from auditpipeline.control.certificates import Pair
from auditpipeline.control.probe import MAX_ANSWER, Prober
from auditpipeline.core import report
from auditpipeline.core.errors import Retryable
from auditpipeline.core.report import Events, Report, StaticPolicy
from tests.control.running import _server_context

NOW = datetime.now(UTC)
HOST = "audit-a.audit.svc"
SAID = Report("receiver", "a", "c1", Events(received=3), ())


@pytest.fixture(scope="module")
def ca() -> Pair:
    """The operator's authority."""
    return certificates.authority(NOW)


@contextlib.asynccontextmanager
async def pod(ca: Pair, host: str, answer: bytes, status: int = 200) -> AsyncIterator[int]:
    """A Pod with a certificate for `host`; the port that it listens on."""

    async def say(_: web.Request) -> web.Response:
        return web.Response(body=answer, status=status)

    leaf = certificates.leaf(ca, "audit-a", (host,), NOW)
    data = {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": ca.certificate}
    app = web.Application()
    app.router.add_get("/status", say)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    secret = {"data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_server_context(secret)).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def prober(ca: Pair) -> AsyncIterator[Prober]:
    """A prober with the operator's certificate."""
    made = Prober()
    made.trust(certificates.leaf(ca, "auditpipeline-operator", (), NOW), ca.certificate)
    yield made
    await made.close()
    await asyncio.sleep(0.05)


async def test_a_pod_is_asked_by_address_and_verified_by_name(ca: Pair, prober: Prober) -> None:
    """The report comes through."""
    async with pod(ca, HOST, report.encode(SAID)) as port:
        assert await prober.report("127.0.0.1", port, HOST) == SAID


async def test_a_large_report_comes_through_whole_and_one_without_end_does_not(ca: Pair, prober: Prober) -> None:
    """A gateway with many sinks and a long static policy says more than one read of a socket holds."""
    large = msgspec.structs.replace(SAID, static_policy=StaticPolicy("x" * 2**20))
    async with pod(ca, HOST, report.encode(large)) as port:
        assert await prober.report("127.0.0.1", port, HOST) == large
    async with pod(ca, HOST, b"x" * (MAX_ANSWER + 1)) as port:
        with pytest.raises(Retryable, match="larger than"):
            await prober.report("127.0.0.1", port, HOST)


async def test_a_certificate_for_another_name_is_not_believed(ca: Pair, prober: Prober) -> None:
    """One receiver cannot speak for another."""
    async with pod(ca, "audit-b.audit.svc", report.encode(SAID)) as port:
        with pytest.raises(Retryable, match="not believed"):
            await prober.report("127.0.0.1", port, HOST)


async def test_a_certificate_of_another_authority_is_not_believed(ca: Pair, prober: Prober) -> None:
    """Whoever has the address has not the key."""
    async with pod(certificates.authority(NOW), HOST, report.encode(SAID)) as port:
        with pytest.raises(Retryable, match="not believed"):
            await prober.report("127.0.0.1", port, HOST)


@pytest.mark.parametrize(
    ("answer", "status", "why"), [(b"no", 200, "not a report"), (b"", 401, "answered 401"), (b"", 500, "answered 500")]
)
async def test_an_answer_that_is_no_report_says_so(
    ca: Pair, prober: Prober, answer: bytes, status: int, why: str
) -> None:
    """In a message that fits into a condition."""
    async with pod(ca, HOST, answer, status) as port:
        with pytest.raises(Retryable, match=why):
            await prober.report("127.0.0.1", port, HOST)


async def test_a_pod_that_does_not_listen_says_so(prober: Prober) -> None:
    """Without an address in the message, which would change it with each restart."""
    with pytest.raises(Retryable, match=r"^no connection: Connection refused$"):
        await prober.report("127.0.0.1", 1, HOST)


async def test_before_there_is_a_certificate_nobody_is_asked() -> None:
    """It would be refused anyway."""
    with pytest.raises(Retryable, match="no client certificate"):
        await Prober().report("127.0.0.1", 1, HOST)
