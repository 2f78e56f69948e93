"""Against a real API server: what a pipeline's status says, and how it is mended by itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control import operator as operator_module
from auditpipeline.control.desired_gateway import unpacked
from auditpipeline.control.kube import Client, Conflict
from auditpipeline.control.pace import SLOWLY
from auditpipeline.control.resources import CLAIMS, EVENTS, NAMESPACES, PIPELINES, PODS, SECRETS, SERVICES, SINKS
from auditpipeline.core import config
from auditpipeline.core.report import Canary, Events, OutputReport, Report
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import (
    Played,
    condition,
    eventually,
    gateway_pod,
    operator,
    pod,
    receivers,
    until,
)

pytestmark = pytest.mark.controlplane

SIEM = {
    "name": "siem",
    "http": {"url": "https://siem.example/", "bearerTokenSecretRef": {"name": "siem", "key": "token"}},
}
ONE = {"replicas": 1, "storage": {"ephemeral": True}}


async def create(kube: Client, **spec: Any) -> None:
    """Create the AuditPipeline `a` with one receiver."""
    body = bodies.pipeline("a", **({"webhook": ONE} | spec))
    await kube.create(PIPELINES, body | {"metadata": {"name": "a"}})


async def digest(kube: Client, namespace: str, secret: str) -> str:
    """The digest of the configuration in a Secret."""
    return config.digest(unpacked(await kube.get(SECRETS, secret, namespace) or {}) or b"")


async def newer(kube: Client, namespace: str, secret: str, than: str) -> str:
    """The digest of the configuration that takes the place of the one with digest `than`."""

    async def changed() -> str:
        found = await digest(kube, namespace, secret)
        return "" if found == than else found

    return str(await eventually(f"another {secret}", changed))


def said(digest_: str, received: int = 5, **output: Any) -> Report:
    """A receiver's report."""
    values: dict[str, Any] = {"name": "archive", "state": "Delivering", "delivered": received}
    made = OutputReport(**(values | output))
    return Report("receiver", "a", digest_, Events(received=received, delivered=received), (made,))


@contextlib.asynccontextmanager
async def ready(kube: Client, namespace: str) -> AsyncIterator[tuple[Played, Played]]:
    """Pipeline `a` with a receiver and a gateway that run what they should; first the receiver."""
    await create(kube)
    await gateway_pod(kube, namespace)
    await until(kube, "a", "SinkRegistered", "False", "GatewayNotRunning")

    async def one_pod() -> bool:
        return len(await receivers(kube, namespace, "a")) == 1

    await eventually("a Pod", one_pod)
    mine = said(await digest(kube, namespace, "audit-a-config"))
    gateways = Report("gateway", "gateway", await digest(kube, namespace, names.GATEWAY_CONFIG_SECRET), Events(), ())
    async with (
        pod(kube, namespace, "audit-a-0", "audit-a-tls", names.OPS_PORT, mine) as receiver,
        pod(kube, namespace, "gateway", names.GATEWAY_TLS_SECRET, names.GATEWAY_OPS_PORT, gateways) as gateway,
    ):
        yield receiver, gateway


async def test_a_pipeline_whose_parts_all_say_so_is_ready(served: ControlPlane, kube: Client, namespace: str) -> None:
    """By mTLS from the Pods themselves; counters follow, and the change is told as an Event."""
    async with operator(served.kubeconfig, namespace), ready(kube, namespace) as (receiver, _):
        await until(kube, "a", "Ready", "True")
        await until(kube, "a", "Delivering", "True")
        assert await condition(kube, "a", "Reconciling") == {}
        receiver.report = said(receiver.report.config, 77)

        async def counted() -> bool:
            return bool((await kube.get(PIPELINES, "a") or {})["status"]["events"]["received"] == 77)

        await eventually("counted", counted)
        body = await kube.get(PIPELINES, "a") or {}
        assert body["status"]["outputsReady"] == "1/1"
        assert "Ready" in [event["reason"] for event in await events(kube, body["metadata"]["uid"])]
        for each in (await receivers(kube, namespace, "a"), [await kube.get(PODS, "gateway", namespace) or {}]):
            assert names.CONFIG in each[0]["metadata"]["annotations"]


async def test_canaries_alone_are_not_written(served: ControlPlane, kube: Client, namespace: str) -> None:
    """They are delivered to the pipeline's sink all the time; one event more than canaries came is told."""
    async with operator(served.kubeconfig, namespace) as running, ready(kube, namespace) as (_, gateway):
        digest_ = gateway.report.config
        came = 0

        def delivered(count: int) -> Report:
            outputs, canaries = (OutputReport("audit-a", delivered=count),), (Canary("one", str(came), came),)
            return Report("gateway", "gateway", digest_, Events(), outputs, canaries=canaries)

        async def told() -> int:
            return int((await kube.get(SINKS, "audit-a") or {})["status"].get("delivered", -1))

        async def quiet() -> bool:
            nonlocal came
            came += 1
            gateway.report = delivered(came)
            return await running.writes_during(2 * SLOWLY) == {} and await told() < came

        await until(kube, "a", "Ready", "True")
        await eventually("nothing written", quiet)
        gateway.report = delivered(came + 1)

        async def all_told() -> bool:
            return await told() == came + 1

        await eventually("the event is told", all_told)


async def test_behind_a_service_the_static_policy_is_unknown_and_ready_all_the_same(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """No file is beside the gateway: the message says how to compare, and not that a release is too old."""
    async with operator(served.kubeconfig, namespace, gateway_kind="StatefulSet"), ready(kube, namespace):
        await until(kube, "a", "Ready", "True")
        found = await until(kube, "a", "UpstreamCovers", "Unknown", "StaticPolicyUnknown")
        assert "auditpipeline policy covers" in found["message"]


async def test_an_output_that_fails_is_said_and_forgotten_when_it_works(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """With the output's name and its last error."""
    async with operator(served.kubeconfig, namespace), ready(kube, namespace) as (receiver, _):
        await until(kube, "a", "Ready", "True")
        good = receiver.report
        receiver.report = said(good.config, state="Failing", last_error="HTTP 503")
        found = await until(kube, "a", "Ready", "False", "OutputFailing")
        assert found["message"] == "output archive: HTTP 503"
        receiver.report = good
        await until(kube, "a", "Ready", "True")


async def test_ready_means_that_the_newest_policy_is_in_force(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Until each receiver and each gateway says so, it is not."""
    async with operator(served.kubeconfig, namespace), ready(kube, namespace) as (receiver, gateway):
        await until(kube, "a", "Ready", "True")
        await kube.patch(PIPELINES, "a", {"spec": {"policy": {"rules": [{"level": "Request"}]}}})
        await until(kube, "a", "Ready", "False", "GatewayPending")
        rendered = await newer(kube, namespace, names.GATEWAY_CONFIG_SECRET, gateway.report.config)
        gateway.report = Report("gateway", "gateway", rendered, Events(), ())
        await until(kube, "a", "Ready", "False", "ConfigurationPending")
        receiver.report = said(await digest(kube, namespace, "audit-a-config"))
        await until(kube, "a", "Ready", "True")


async def test_another_sink_leaves_this_one_registered(served: ControlPlane, kube: Client, namespace: str) -> None:
    """A gateway that runs an older configuration, which holds this sink as it is, is good enough."""
    async with operator(served.kubeconfig, namespace), ready(kube, namespace) as (_, gateway):
        await until(kube, "a", "Ready", "True")
        before = await condition(kube, "a", "SinkRegistered")
        await kube.create(SINKS, bodies.sink("other", url="https://siem.example/"))
        await newer(kube, namespace, names.GATEWAY_CONFIG_SECRET, gateway.report.config)
        await kube.patch(PIPELINES, "a", {"spec": {"throttle": {"qps": 11}}})
        await until(kube, "a", "SinkRegistered", "False", "GatewayPending")
        await kube.patch(PIPELINES, "a", {"spec": {"throttle": {"qps": 10}}})
        after = await until(kube, "a", "SinkRegistered", "True")
        assert after["reason"] == before["reason"]


async def test_a_pod_that_does_not_answer_is_not_known_about(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Delivering is Unknown, and the pipeline is not Ready; what was counted is kept."""
    async with operator(served.kubeconfig, namespace), ready(kube, namespace) as (receiver, _):
        await until(kube, "a", "Delivering", "True")
        await receiver.runner.cleanup()
        found = await until(kube, "a", "Delivering", "Unknown", "PodUnreachable")
        assert "audit-a-0" in found["message"]
        assert (await kube.get(PIPELINES, "a") or {})["status"]["events"]["received"] == 5
        found = await until(kube, "a", "Ready", "False", "ConfigurationPending")
        assert "audit-a-0 does not answer" in found["message"]


async def test_a_status_is_not_written_to_another_pipeline_of_the_name(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Deleted and made again since it was read; both are of generation 1, and Ready would be said of the new one."""
    await create(kube)
    status = {"observedGeneration": 1}
    old = await kube.patch_status(PIPELINES, "a", status) or {}
    await kube.delete(PIPELINES, "a")
    await create(kube)
    with pytest.raises(Conflict):
        await kube.patch_status(PIPELINES, "a", status, version=old["metadata"]["resourceVersion"])
    assert (await kube.get(PIPELINES, "a") or {})["status"]["observedGeneration"] == -1


async def test_events_of_a_pod_that_is_no_longer_wanted_are_told(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """They were answered with 200; the claim keeps them, and nobody delivers them until the Pod is wanted again."""
    async with operator(served.kubeconfig, namespace, resync=1.0):
        await create(kube, webhook={"replicas": 2, "storage": {"size": "2Gi"}})

        async def both() -> bool:
            return len(await receivers(kube, namespace, "a")) == 2

        await eventually("two Pods", both)
        mine = said(await digest(kube, namespace, "audit-a-config"))
        behind = said(mine.config, pending=7)
        async with pod(kube, namespace, "audit-a-0", "audit-a-tls", names.OPS_PORT, mine):
            async with pod(kube, namespace, "audit-a-1", "audit-a-tls", names.OPS_PORT, behind):

                async def counted() -> bool:
                    return bool(
                        (await kube.get(PIPELINES, "a") or {})["status"].get("events", {}).get("received") == 10
                    )

                await eventually("both heard", counted)
                await kube.patch(PIPELINES, "a", {"spec": {"webhook": {"replicas": 1}}})
                found = await until(kube, "a", "Delivering", "False", "EventsLeft")
                assert "claim data-audit-a-1 is left" in found["message"]
                assert "7 events waited there: set it to 2" in found["message"]
            await until(kube, "a", "WebhookAvailable", "True", "ClaimsLeft")
            await kube.delete(CLAIMS, "data-audit-a-1", namespace)
            await until(kube, "a", "Delivering", "True")


async def test_a_missing_secret_is_named_and_mended_when_it_comes(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """First the Secret, then its key; the Pods are there meanwhile."""
    async with operator(served.kubeconfig, namespace):
        await create(kube, outputs=[SIEM])
        found = await until(kube, "a", "WebhookAvailable", "False", "SecretMissing")
        assert f"there is no Secret {namespace}/siem" in found["message"]
        assert await until(kube, "a", "Reconciling", "True")
        served.kubectl("create", "secret", "generic", "siem", "-n", namespace, "--from-literal=other=x")

        async def says_key() -> bool:
            return "has no key token" in (await condition(kube, "a", "WebhookAvailable"))["message"]

        await eventually("says which key", says_key)
        await kube.patch(SECRETS, "siem", {"data": {"token": "eA=="}}, namespace)
        await until(kube, "a", "WebhookAvailable", "False", "PodsPending")
        everything = [str(body) async for body in kube.list(EVENTS, "default")]
        assert not [text for text in everything if "eA==" in text]


async def test_a_missing_namespace_stalls_and_is_mended_when_it_comes(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """It is the user who can mend it, so it is Stalled; nobody has to touch the pipeline afterwards."""
    other = f"{namespace}-other"
    async with operator(served.kubeconfig, namespace, watch_namespaces=(other,)):
        await create(kube, targetNamespace=other)
        found = await until(kube, "a", "Stalled", "True", "NamespaceMissing")
        assert other in found["message"]
        assert await kube.get(NAMESPACES, other) is None
        served.kubectl("create", "namespace", other)
        await until(kube, "a", "WebhookAvailable", "False", "PodsPending")
        assert await condition(kube, "a", "Stalled") == {}


async def test_a_namespace_that_is_not_served_says_what_to_set(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """It is there, but the operator was not given it."""
    async with operator(served.kubeconfig, namespace):
        await create(kube, targetNamespace="kube-public")
        found = await until(kube, "a", "Stalled", "True", "NamespaceNotServed")
        assert "targetNamespaces" in found["message"]


async def test_a_permission_that_is_missing_says_what_to_set_and_is_enough_when_it_comes(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """A namespace that was named, but in which no Role was made."""
    other = f"{namespace}-other"
    served.kubectl("create", "namespace", other)
    user = f"operator-{namespace}"
    served.kubectl(
        "create", "clusterrole", user, "--verb=*", "--resource=auditpipelines,auditpipelines/status,auditsinks"
    )
    served.kubectl("create", "clusterrolebinding", user, f"--clusterrole={user}", f"--user={user}")
    served.kubectl("create", "rolebinding", user, "-n", namespace, "--clusterrole=admin", f"--user={user}")
    async with operator(served.user_kubeconfig(user), namespace, watch_namespaces=(other,), resync=1.0):
        await create(kube, targetNamespace=other)
        found = await until(kube, "a", "Stalled", "True", "Forbidden")
        assert f"add {other} to targetNamespaces" in found["message"]
        served.kubectl("create", "rolebinding", user, "-n", other, "--clusterrole=admin", f"--user={user}")
        await until(kube, "a", "WebhookAvailable", "False", "PodsPending")
        await kube.delete(SERVICES, "audit-a", other)
        await eventually("service back", lambda: kube.get(SERVICES, "audit-a", other))


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"webhook": ONE | {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}}, "memory"),
        ({"webhook": ONE | {"nodeSelector": {"disk": "not allowed!"}}}, "nodeSelector"),
    ],
)
async def test_what_the_api_server_refuses_is_an_invalid_spec(
    served: ControlPlane, kube: Client, namespace: str, spec: dict[str, Any], where: str
) -> None:
    """Fields that are handed through are checked by Kubernetes itself; its words reach the user."""
    async with operator(served.kubeconfig, namespace):
        await create(kube, **spec)
        found = await until(kube, "a", "Stalled", "True", "InvalidSpec")
        assert where in found["message"]
        await kube.patch(PIPELINES, "a", {"spec": {"webhook": {"resources": None, "nodeSelector": None}}})
        await until(kube, "a", "WebhookAvailable", "False", "PodsPending")


async def test_a_claim_that_does_not_bind_says_what_to_set(served: ControlPlane, kube: Client, namespace: str) -> None:
    """There is no default StorageClass on this cluster."""
    async with operator(served.kubeconfig, namespace):
        await create(kube, webhook={"replicas": 1, "storage": {"size": "2Gi"}})
        found = await until(kube, "a", "WebhookAvailable", "False", "ClaimPending")
        assert "data-audit-a-0" in found["message"]
        assert "storageClassName" in found["message"]
        assert "ephemeral: true" in found["message"]


async def test_a_pipeline_with_a_time_to_live_deletes_itself(
    served: ControlPlane, kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A debug pipeline that nobody has to remember."""
    await create(kube, expireAfter="1m")
    monkeypatch.setattr(operator_module, "_now", lambda: datetime.now(UTC) + timedelta(minutes=2))
    async with operator(served.kubeconfig, namespace):

        async def gone() -> bool:
            return await kube.get(PIPELINES, "a") is None

        await eventually("gone", gone)


async def test_a_foreign_sink_that_cannot_be_used_is_left_out_and_told(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """The others keep their events."""
    async with operator(served.kubeconfig, namespace) as running:
        await kube.create(SINKS, bodies.sink("good", url="https://siem.example/"))
        await kube.create(SINKS, bodies.sink("bad", url="https://siem.example/", caBundle="bm8="))
        await eventually("rendered", lambda: routes(kube, namespace, {"good"}))
        bad = await kube.get(SINKS, "bad") or {}

        async def told() -> bool:
            return "CreateFailed" in [event["reason"] for event in await events(kube, bad["metadata"]["uid"])]

        await eventually("told", told)
        assert not running.ended.done()


async def test_a_service_that_is_gone_for_a_moment_costs_no_route(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """With the route its place in the gateway's spool would go: the last known address is kept."""
    async with operator(served.kubeconfig, namespace):
        served.kubectl("create", "service", "clusterip", "tool", "-n", namespace, "--tcp=443")
        service = {"namespace": namespace, "name": "tool"}
        await kube.create(SINKS, bodies.sink("tool", service=service))
        await eventually("rendered", lambda: routes(kube, namespace, {"tool"}))
        served.kubectl("delete", "service", "tool", "-n", namespace)
        await kube.create(SINKS, bodies.sink("more", url="https://siem.example/"))
        await eventually("rendered", lambda: routes(kube, namespace, {"tool", "more"}))


async def routes(kube: Client, namespace: str, wanted: set[str]) -> bool:
    """Whether the gateway's configuration has exactly these routes."""
    body = unpacked(await kube.get(SECRETS, names.GATEWAY_CONFIG_SECRET, namespace) or {})
    return body is not None and {route.name for route in config.decode(body).routes} == wanted


async def events(kube: Client, uid: str) -> list[dict[str, Any]]:
    """The Events on an object."""
    return [body async for body in kube.list(EVENTS, "default") if body["regarding"].get("uid") == uid]


async def test_a_pipeline_that_a_finalizer_holds_is_not_ready(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """It is said for as long as it is held, also by the next operator, which publishes the policies of others."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        await until(kube, "a", "CertificateReady", "True")
        await kube.patch(PIPELINES, "a", {"metadata": {"finalizers": ["example.com/held"]}})
        await kube.delete(PIPELINES, "a")
        await until(kube, "a", "Ready", "False", "BeingDeleted")
    async with operator(served.kubeconfig, namespace):
        await until(kube, "a", "Ready", "False", "BeingDeleted")
        await kube.patch(PIPELINES, "a", {"metadata": {"finalizers": None}})
        assert await kube.get(PIPELINES, "a") is None
