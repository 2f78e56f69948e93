"""Against a real API server: operators that come, go, fall and wait for each other."""

from __future__ import annotations

import asyncio
import socket

import pytest

from auditpipeline.control import names
from auditpipeline.control.discovery import discover
from auditpipeline.control.kube import Client, Forbidden
from auditpipeline.control.leader import LeadershipLost, Lease, Times
from auditpipeline.control.operator import _now
from auditpipeline.control.resources import LEASES, PIPELINES, SECRETS, SERVICES, SINKS, Features
from auditpipeline.core.errors import Retryable
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.conftest import CRDS
from tests.control.running import eventually, operator, until

pytestmark = pytest.mark.controlplane

QUICK = Times(duration=1.0, deadline=0.6, retry=0.1)


async def create(kube: Client, name: str = "a") -> None:
    """Create an AuditPipeline."""
    await kube.create(PIPELINES, bodies.pipeline(name) | {"metadata": {"name": name}})


async def test_of_two_candidates_one_leads_and_the_other_follows(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """A clean stop releases the Lease: the second one need not wait for it to expire."""
    async with operator(served.kubeconfig, namespace, leader_elect=True) as first:
        await eventually("first leads", first.leading)
        async with operator(served.kubeconfig, namespace, leader_elect=True) as second:
            await create(kube)
            await until(kube, "a", "CertificateReady", "True")
            assert not await second.leading()
            assert await second.get("/healthz") == "ok"
            await first.stop()
            await eventually("second leads", second.leading)
            await kube.delete(SERVICES, "audit-a", namespace)
            await eventually("service back", lambda: kube.get(SERVICES, "audit-a", namespace))


async def test_an_operator_that_lost_its_lease_stands_for_election_again(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Two that lead would undo each other's work: it does nothing meanwhile, and leads again when the other is gone."""

    async def waits() -> bool:
        return await running.get("/readyz") != "leading"

    async with operator(served.kubeconfig, namespace, leader_elect=True) as running:
        await eventually("leads", running.leading)
        await kube.patch(LEASES, names.LEASE, {"spec": {"holderIdentity": "somebody-else"}}, namespace)
        await eventually("waits", waits)
        await create(kube)
        await kube.patch(LEASES, names.LEASE, {"spec": {"holderIdentity": ""}}, namespace)
        await eventually("leads again", running.leading)
        await until(kube, "a", "CertificateReady", "True")
        assert not running.ended.done()


async def test_a_process_that_starts_again_under_its_name_leads_on(kube: Client, namespace: str) -> None:
    """It need not wait for the Lease of the one that was killed, which nobody else could have taken over so soon."""
    times = Times(duration=3600.0)
    await Lease(kube, namespace, "pod-a", _now, times).acquire()
    await asyncio.wait_for(Lease(kube, namespace, "pod-a", _now, times).acquire(), 10)
    assert not await Lease(kube, namespace, "pod-b", _now, times)._attempt()
    lease = await kube.get(LEASES, names.LEASE, namespace) or {}
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("pod-a", 0)


async def test_a_lease_that_is_not_renewed_is_taken_over(kube: Client, namespace: str) -> None:
    """After its duration as measured by who waits, whatever the clocks say."""
    first = Lease(kube, namespace, "first", _now, QUICK)
    second = Lease(kube, namespace, "second", _now, QUICK)
    await first.acquire()
    begun = asyncio.get_running_loop().time()
    await asyncio.wait_for(second.acquire(), 10)
    assert asyncio.get_running_loop().time() - begun >= QUICK.duration - 0.2
    with pytest.raises(LeadershipLost):
        await asyncio.wait_for(first.hold(), 10)
    lease = await kube.get(LEASES, names.LEASE, namespace) or {}
    assert lease["spec"]["leaseTransitions"] == 1


async def test_an_operator_killed_in_the_middle_is_carried_on(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """At whatever object it was: the next one finds the world as it is."""
    await create(kube)
    async with operator(served.kubeconfig, namespace) as first:
        await eventually("one child", lambda: kube.get(SECRETS, "audit-a-tls", namespace))
        await first.kill()
    certificate = (await kube.get(SECRETS, "audit-a-tls", namespace) or {})["data"]
    async with operator(served.kubeconfig, namespace):
        await until(kube, "a", "WebhookAvailable", "False", "PodsPending")
        await eventually("sink", lambda: kube.get(SINKS, "audit-a"))
    assert (await kube.get(SECRETS, "audit-a-tls", namespace) or {})["data"] == certificate


async def test_what_happened_while_no_operator_ran_is_made_up_for(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """A child deleted, a pipeline added, one suspended."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await until(kube, "a", "CertificateReady", "True")
        await eventually("sink", lambda: kube.get(SINKS, "audit-a"))
    await kube.delete(SERVICES, "audit-a", namespace)
    await kube.patch(PIPELINES, "a", {"spec": {"suspend": True}})
    await create(kube, "b")
    async with operator(served.kubeconfig, namespace):
        await eventually("service back", lambda: kube.get(SERVICES, "audit-a", namespace))
        await until(kube, "b", "CertificateReady", "True")
        await until(kube, "a", "SinkRegistered", "False", "Suspended")
        assert await kube.get(SINKS, "audit-a") is None


async def test_an_api_server_that_is_gone_for_a_while_is_waited_for(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """The operator neither ends nor needs a restart; drift meanwhile is mended."""
    async with operator(served.kubeconfig, namespace) as running:
        await create(kube)
        await until(kube, "a", "CertificateReady", "True")
        await asyncio.to_thread(served.stop_apiserver)
        assert await running.get("/healthz") == "ok"
        await asyncio.to_thread(served.start_apiserver)
        await kube.delete(SERVICES, "audit-a", namespace)
        await eventually("service back", lambda: kube.get(SERVICES, "audit-a", namespace), 60)
        assert not running.ended.done()


async def test_an_api_server_that_starts_is_not_taken_at_its_word(served: ControlPlane, kube: Client) -> None:
    """All the while it lacks kinds that it will serve; what it is said to serve is all of them, or nothing is said."""
    said: set[Features] = set()

    async def asked() -> bool:
        try:
            said.add(await discover(kube))
        except (Retryable, Forbidden):
            return False
        return True

    for _ in range(2):
        await asyncio.to_thread(served.stop_apiserver)
        starting = asyncio.create_task(asyncio.to_thread(served.start_apiserver))
        while not starting.done():
            await asked()
            await asyncio.sleep(0.005)
        await starting
        await eventually("discovered", asked)
    assert said == {Features()}


async def test_a_cluster_without_audit_sinks_says_what_to_install(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """The operator starts all the same, and goes on when the CRD comes."""
    served.kubectl("delete", "-f", str(CRDS / "auditsinks.yaml"))
    try:
        async with operator(served.kubeconfig, namespace, resync=1.0):
            await create(kube)
            found = await until(kube, "a", "SinkRegistered", "False", "AuditSinkNotServed")
            assert "crds/auditsinks.yaml" in found["message"]
            served.kubectl("apply", "-f", str(CRDS / "auditsinks.yaml"))
            await until(kube, "a", "SinkRegistered", "False", "GatewayNotRunning")
            await kube.delete(SINKS, "audit-a")
            await eventually("sink back", lambda: kube.get(SINKS, "audit-a"))
    finally:
        served.kubectl("apply", "-f", str(CRDS / "auditsinks.yaml"))


async def test_an_authority_deleted_by_hand_comes_back_as_it_was(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """A new one would break every connection."""
    async with operator(served.kubeconfig, namespace):
        first = await eventually("authority", lambda: kube.get(SECRETS, names.CA_SECRET, namespace))
        await create(kube)
        await until(kube, "a", "CertificateReady", "True")
        await kube.delete(SECRETS, names.CA_SECRET, namespace)
        again = await eventually("authority", lambda: kube.get(SECRETS, names.CA_SECRET, namespace))
        assert again["data"] == first["data"]


async def test_a_port_that_is_taken_ends_the_operator(served: ControlPlane, namespace: str) -> None:
    """At once, and with the address in the message."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with operator(served.kubeconfig, namespace, listen=listen) as running:
            with pytest.raises(OSError, match="address already in use"):
                await asyncio.wait_for(running.ended, 30)


async def test_metrics_count_reconciles_requests_and_ready_pipelines(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """In a registry of the operator's own."""
    async with operator(served.kubeconfig, namespace) as running:
        await create(kube)
        await until(kube, "a", "CertificateReady", "True")
        text = await running.get("/metrics")
        for line in ('reconciles_total{kind="pipeline"}', 'pipeline_ready{pipeline="a"} 0.0', "queue_depth"):
            assert f"auditpipeline_{line}" in text
