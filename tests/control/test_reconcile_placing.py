"""Against a real API server: an operator that is told to keep receivers apart, and receivers that are there already."""

from __future__ import annotations

from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import PIPELINES, SECRETS, SERVICES, SINKS
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import eventually, operator, statefulset, until

pytestmark = pytest.mark.controlplane


@pytest.fixture
def home(served: ControlPlane, namespace: str) -> str:
    """The namespace of receivers."""
    name = f"{namespace}-receivers"
    served.kubectl("create", "namespace", name)
    return name


async def create(kube: Client, name: str) -> None:
    """Create an AuditPipeline without a targetNamespace."""
    await kube.create(PIPELINES, bodies.pipeline(name) | {"metadata": {"name": name}})


async def place(kube: Client, name: str) -> str:
    """Where the AuditSink of a pipeline leads."""
    sink = await kube.get(SINKS, names.child(name)) or {}
    return str(sink.get("spec", {}).get("webhook", {}).get("clientConfig", {}).get("service", {}).get("namespace", ""))


async def uid(kube: Client, namespace: str, name: str) -> str:
    """The UID of a pipeline's StatefulSet; empty if there is none."""
    return str((await statefulset(kube, namespace, name) or {}).get("metadata", {}).get("uid", ""))


async def made_by_the_release_before(served: ControlPlane, kube: Client, namespace: str) -> str:
    """The pipeline `old` with its receivers in the operator's own namespace; the UID of its StatefulSet."""
    async with operator(served.kubeconfig, namespace):
        await create(kube, "old")
        await until(kube, "old", "WebhookAvailable", "False", "PodsPending")
    return await uid(kube, namespace, "old")


async def test_receivers_stay_where_they_are_and_new_ones_live_apart(
    served: ControlPlane, kube: Client, namespace: str, home: str
) -> None:
    """Over a restart with other settings, and while what they consist of is deleted bit by bit."""
    before = await made_by_the_release_before(served, kube, namespace)
    settings: dict[str, Any] = {"receivers_namespace": home, "legacy_receivers": True}
    async with operator(served.kubeconfig, namespace, **settings):
        await create(kube, "new")
        await until(kube, "new", "WebhookAvailable", "False", "PodsPending")
        for kind, name in ((SERVICES, "audit-old"), (SECRETS, "audit-old-config")):
            await kube.delete(kind, name, namespace)
            await eventually(f"{name} back", lambda kind=kind, name=name: kube.get(kind, name, namespace))  # type: ignore[misc]
        assert await uid(kube, namespace, "old") == before
        assert (await place(kube, "old"), await place(kube, "new")) == (namespace, home)
        assert (await uid(kube, home, "old"), await uid(kube, namespace, "new")) == ("", "")
    async with operator(served.kubeconfig, namespace, **settings, resync=1.0) as running:
        await running.writes_during(3)
        assert await uid(kube, namespace, "old") == before
        assert (await uid(kube, home, "old"), await uid(kube, namespace, "new")) == ("", "")


async def test_without_the_right_to_look_after_them_nothing_of_them_changes_and_the_status_says_so(
    served: ControlPlane, kube: Client, namespace: str, home: str
) -> None:
    """What to set, and what to do otherwise; it is enough when it comes."""
    before = await made_by_the_release_before(served, kube, namespace)
    sink = await kube.get(SINKS, "audit-old") or {}
    async with operator(served.kubeconfig, namespace, receivers_namespace=home):
        found = await until(kube, "old", "Stalled", "True", "NamespaceNotServed")
        assert "set receivers.legacy of the chart to true, or move the pipeline" in found["message"]
        assert (await uid(kube, namespace, "old"), await uid(kube, home, "old")) == (before, "")
        assert (await kube.get(SINKS, "audit-old") or {})["metadata"]["uid"] == sink["metadata"]["uid"]
        assert await kube.get(SERVICES, "audit-old", namespace)
    async with operator(served.kubeconfig, namespace, receivers_namespace=home, legacy_receivers=True):
        await until(kube, "old", "WebhookAvailable", "False", "PodsPending")


async def test_a_pipeline_that_is_made_again_lives_where_new_ones_do(
    served: ControlPlane, kube: Client, namespace: str, home: str
) -> None:
    """It is another one, whatever its name."""
    await made_by_the_release_before(served, kube, namespace)
    async with operator(served.kubeconfig, namespace, receivers_namespace=home, legacy_receivers=True):
        await kube.delete(PIPELINES, "old")
        await create(kube, "old")
        await eventually("apart", lambda: uid(kube, home, "old"), 60)

        async def registered_there() -> bool:
            return await place(kube, "old") == home

        await eventually("registered there", registered_there, 60)


async def test_permissions_that_the_namespace_of_receivers_lacks_are_named(
    served: ControlPlane, kube: Client, namespace: str, home: str
) -> None:
    """The other namespaces go on."""
    user = f"operator-{namespace}"
    served.kubectl(
        "create", "clusterrole", user, "--verb=*", "--resource=auditpipelines,auditpipelines/status,auditsinks"
    )
    served.kubectl("create", "clusterrolebinding", user, f"--clusterrole={user}", f"--user={user}")
    served.kubectl("create", "rolebinding", user, "-n", namespace, "--clusterrole=admin", f"--user={user}")
    async with operator(served.user_kubeconfig(user), namespace, receivers_namespace=home, resync=1.0):
        await create(kube, "new")
        found = await until(kube, "new", "Stalled", "True", "Forbidden")
        assert f"permissions for {home} (its value receivers.namespace)" in found["message"]
        served.kubectl("create", "rolebinding", user, "-n", home, "--clusterrole=admin", f"--user={user}")
        await until(kube, "new", "WebhookAvailable", "False", "PodsPending")
