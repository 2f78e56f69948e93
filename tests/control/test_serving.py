"""The operator's listener over real TLS: from its first moment on, with renewal, and behind a token."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectorCertificateError, ClientError, ClientSession
from cryptography import x509

from auditpipeline.control import certificates, desired, health, names
from auditpipeline.control.certificates import Pair
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.serving import LONGEST_TOKEN, Serving
from tests.control.fakes import Answers
from tests.control.running import eventually

OWN = "auditpipeline-system"
HOST = f"auditpipeline-operator.{OWN}.svc"
NOW = datetime.now(UTC)
TOKEN, OLD, NEW = "t0k3n-t0k3n-t0k3n", "old-old-old-old-old", "new-new-new-new-new"
CA, OTHER = certificates.authority(NOW), certificates.authority(NOW)


def cluster(ca: Pair | None) -> Answers:
    """A cluster with this authority, or without one."""
    if ca is None:
        return Answers()
    data = {"tls.crt": ca.certificate.encode(), "tls.key": ca.key.encode()}
    return Answers({("secrets", names.CA_SECRET): desired.secret({"name": names.CA_SECRET}, data)})


@contextlib.asynccontextmanager
async def listening(serving: Serving, token: Path | None = None) -> AsyncIterator[str]:
    """The listener's address, as https://HOST:PORT."""
    runner, port = await health.serve("127.0.0.1:0", health.Heartbeat(60), health.Metrics(), serving.context, token)
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def get(url: str, trusted: Pair | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text; verified by `trusted` and the listener's name, or not at all."""
    context = ssl.create_default_context(cadata=trusted.certificate) if trusted else False
    name: dict[str, Any] = {"server_hostname": HOST} if trusted else {}
    async with ClientSession() as session, session.get(url, ssl=context, headers=headers, **name) as answer:
        return answer.status, await answer.text()


async def number(url: str) -> int:
    """The serial number of the certificate that is served."""
    port = int(url.rpartition(":")[2])
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


async def test_a_probe_is_answered_before_there_is_an_authority() -> None:
    """kubelet verifies no certificate; whoever does is refused by the handshake."""
    serving = Serving(cluster(None), OWN, lambda: NOW)
    assert not await serving.refresh()
    async with listening(serving) as url:
        assert await get(f"{url}/healthz") == (200, "ok")
        with pytest.raises(ClientConnectorCertificateError):
            await get(f"{url}/healthz", CA)


async def test_plain_http_gets_no_answer() -> None:
    """There is no port without TLS."""
    async with listening(Serving(cluster(CA), OWN, lambda: NOW)) as url:
        with pytest.raises(ClientError):
            await get(f"{url.replace('https', 'http')}/metrics")


async def test_the_certificate_is_the_authoritys_as_soon_as_there_is_one() -> None:
    """In the same listener, under the name that a scraper verifies."""
    kube = cluster(None)
    serving = Serving(kube, OWN, lambda: NOW)
    keeping = asyncio.create_task(serving.keep(0.02))
    async with listening(serving) as url:
        kube.objects = cluster(CA).objects
        await eventually("issued", lambda: _issued(serving))
        assert (await get(f"{url}/metrics", CA))[0] == 200
    keeping.cancel()


async def _issued(serving: Serving) -> bool:
    return serving.issued


async def test_it_is_renewed_at_two_thirds_of_its_life_and_not_before() -> None:
    """Without a restart of the listener."""
    clock = [NOW]
    serving = Serving(cluster(CA), OWN, lambda: clock[0])
    assert await serving.refresh()
    async with listening(serving) as url:
        before = await number(url)
        clock[0] = NOW + certificates.LEAF_LIFETIME * 0.6
        assert not await serving.refresh()
        assert await number(url) == before
        clock[0] = NOW + certificates.LEAF_LIFETIME * 0.7
        assert await serving.refresh()
        assert await number(url) != before


async def test_another_authority_is_followed() -> None:
    """It was deleted by hand while no operator ran."""
    kube = cluster(CA)
    serving = Serving(kube, OWN, lambda: NOW)
    await serving.refresh()
    kube.objects = cluster(OTHER).objects
    assert await serving.refresh()
    async with listening(serving) as url:
        assert (await get(f"{url}/healthz", OTHER))[0] == 200


async def test_an_authority_that_is_over_or_cannot_be_read_changes_nothing() -> None:
    """What is served goes on being served."""
    kube = cluster(CA)
    serving = Serving(kube, OWN, lambda: NOW)
    await serving.refresh()
    kube.objects = cluster(certificates.authority(NOW - certificates.CA_LIFETIME - timedelta(days=1))).objects
    assert not await serving.refresh()
    kube.objects = {("secrets", names.CA_SECRET): {"data": {"tls.crt": "bm8=", "tls.key": "bm8="}}}
    assert not await serving.refresh()
    async with listening(serving) as url:
        assert (await get(f"{url}/healthz", CA))[0] == 200


async def test_an_operator_that_may_not_read_the_authority_keeps_what_it_has() -> None:
    """And looks again."""

    class Refusing(Answers):
        looks = 0

        async def get(self, *_: Any) -> None:
            self.looks += 1
            raise Forbidden("no")

    kube = Refusing()
    keeping = asyncio.create_task(Serving(kube, OWN, lambda: NOW).keep(0.01))

    async def looked() -> bool:
        return kube.looks > 2

    await eventually("looked again", looked)
    assert not keeping.done()
    keeping.cancel()


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}n", 401),
        ("Bearer wrong", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer t\u00f6k\u00ebn", 401),
    ],
)
async def test_metrics_are_for_those_who_show_the_token(tmp_path: Path, shown: str, status: int) -> None:
    """Probes need none."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    async with listening(Serving(cluster(CA), OWN, lambda: NOW), file) as url:
        found, text = await get(f"{url}/metrics", headers={"Authorization": shown} if shown else {})
        assert found == status
        assert ("auditpipeline_reconciles" in text) == (status == 200)
        assert TOKEN not in text
        assert (await get(f"{url}/healthz"))[0] == 200


async def test_a_token_that_is_replaced_counts_at_once(tmp_path: Path) -> None:
    """kubelet renews the mounted file; the former token opens nothing."""
    file = tmp_path / "token"
    file.write_text(OLD)
    async with listening(Serving(cluster(CA), OWN, lambda: NOW), file) as url:
        assert (await get(f"{url}/metrics", headers={"Authorization": f"Bearer {OLD}"}))[0] == 200
        file.write_text(NEW)
        assert (await get(f"{url}/metrics", headers={"Authorization": f"Bearer {OLD}"}))[0] == 401
        assert (await get(f"{url}/metrics", headers={"Authorization": f"Bearer {NEW}"}))[0] == 200


@pytest.mark.parametrize(
    "content", [None, b"", b" \n", b"too-short", b"\xff" * 20, b"two lines of it\nnot one", b"x" * (LONGEST_TOKEN + 1)]
)
async def test_without_a_token_to_compare_with_nobody_is_let_in(tmp_path: Path, content: bytes | None) -> None:
    """A Secret that is empty or gone opens nothing, whatever is shown."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    async with listening(Serving(cluster(CA), OWN, lambda: NOW), file) as url:
        for shown in ("Bearer ", "Bearer x", "Bearer none", "Bearer too-short", "Bearer " + "x" * (LONGEST_TOKEN + 1)):
            assert (await get(f"{url}/metrics", headers={"Authorization": shown}))[0] == 503
        assert (await get(f"{url}/healthz"))[0] == 200
