"""The Lease where versions of objects say nothing: after a restore of etcd."""

from __future__ import annotations

import asyncio

import pytest

from auditpipeline.control import names
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
