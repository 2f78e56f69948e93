"""The Lease where versions of objects say nothing: after a restore of etcd."""

from __future__ import annotations

import asyncio

import pytest

from auditpipeline.control import names
from auditpipeline.control.kube import Unadmitted
from auditpipeline.control.leader import LeadershipLost, Lease, Times
from tests.control.fakes import Answers, now

QUICK = Times(duration=60, deadline=60, retry=0.01)


class OneVersion(Answers):
    """Keeps the Lease at one resource version."""

    async def create(self, kind: object, body: dict[str, object]) -> dict[str, object]:
        meta = {"name": names.LEASE, "resourceVersion": "7"}
        self.objects["leases", names.LEASE] = body | {"metadata": meta}
        return self.objects["leases", names.LEASE]


async def test_a_lease_that_another_holds_is_seen_whatever_its_version() -> None:
    """It is the version that this process saw with itself as the holder; to renew it would take the other's place."""
    kube = OneVersion()
    lease = Lease(kube, "audit", "us", now, QUICK)
    await lease.acquire()
    spec = kube.objects["leases", names.LEASE]["spec"] | {"holderIdentity": "them"}
    kube.objects["leases", names.LEASE] = kube.objects["leases", names.LEASE] | {"spec": spec}
    with pytest.raises(LeadershipLost):
        await asyncio.wait_for(lease.hold(), 10)
    assert kube.objects["leases", names.LEASE]["spec"]["holderIdentity"] == "them"


class NoWrites(OneVersion):
    """A webhook that does not answer is asked about the Lease."""

    asked = 0

    async def replace(self, kind: object, body: dict[str, object]) -> dict[str, object]:
        self.asked += 1
        raise Unadmitted("failed calling webhook")


async def test_a_lease_that_a_webhook_keeps_from_being_written_stays_with_its_holder() -> None:
    """It is read all the same: once it names another one, it is lost."""
    kube = NoWrites()
    lease = Lease(kube, "audit", "us", now, Times(duration=60, deadline=0.05, retry=0.01))
    await lease.acquire()
    holding = asyncio.create_task(lease.hold())
    async with asyncio.timeout(30):
        while kube.asked < 20 and not holding.done():  # noqa: ASYNC110 - twice the deadline in attempts
            await asyncio.sleep(0.01)
    assert not holding.done()
    spec = kube.objects["leases", names.LEASE]["spec"] | {"holderIdentity": "them"}
    kube.objects["leases", names.LEASE] = kube.objects["leases", names.LEASE] | {"spec": spec}
    with pytest.raises(LeadershipLost, match="another operator"):
        await asyncio.wait_for(holding, 10)


async def test_a_lease_of_another_one_is_not_taken_without_a_write() -> None:
    """However old it is."""
    kube = NoWrites()
    body = {"metadata": {"name": names.LEASE}, "spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}
    kube.objects["leases", names.LEASE] = body
    taking = asyncio.create_task(Lease(kube, "audit", "us", now, QUICK).acquire())
    async with asyncio.timeout(30):
        while kube.asked < 5 and not taking.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not taking.done()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
