"""Against a real API server: a generation is accepted whole or not at all, and the last good one stays in force."""

from __future__ import annotations

from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import ACCOUNTS, PIPELINES, SECRETS, SERVICES, SINKS, STATEFULSETS, Resource
from auditpipeline.core.errors import Invalid
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import Operator, condition, eventually, operator, statefulset, until

pytestmark = pytest.mark.controlplane

Body = dict[str, Any]
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
POLICY = {"rules": [{"level": "Request"}]}
MISPLACED = {"policy": POLICY, "webhook": {"nodeSelector": {"disk": "not a label!"}}}
"""A new policy, and a node selector that only Kubernetes itself refuses."""
FORBIDDEN = {
    "policy": POLICY,
    "outputs": [
        {
            "name": "siem",
            "http": {
                "url": "https://siem.example/",
                "bearerTokenSecretRef": {"name": "auditpipeline-client", "key": "tls.key"},
            },
        }
    ],
}
"""A new policy, and a reference that only the operator refuses."""


async def create(kube: Client, **spec: Any) -> None:
    """Create the AuditPipeline `a`, and wait until it has its Pods' objects."""
    body = bodies.pipeline("a", **({"webhook": {"replicas": 1, "storage": {"ephemeral": True}}} | spec))
    await kube.create(PIPELINES, body | {"metadata": {"name": "a"}})
    await until(kube, "a", "CertificateReady", "True")
    await eventually("a sink", lambda: kube.get(SINKS, "audit-a"))


async def in_force(kube: Client, namespace: str) -> list[Body]:
    """What says what is recorded, and where."""
    found = [
        await kube.get(SECRETS, "audit-a-config", namespace),
        await statefulset(kube, namespace, "a"),
        await kube.get(SINKS, "audit-a"),
    ]
    return [{key: (body or {}).get(key) for key in ("data", "spec")} for body in found]


async def comes_back(kube: Client, namespace: str, kind: Resource, name: str) -> None:
    """It is made again when it is deleted."""
    old = (await kube.get(kind, name, namespace) or {})["metadata"]["uid"]
    await kube.delete(kind, name, namespace)

    async def back() -> bool:
        found = await kube.get(kind, name, namespace)
        return found is not None and found["metadata"]["uid"] != old

    await eventually(f"{name} back", back)


@pytest.mark.parametrize("spec", [MISPLACED, FORBIDDEN], ids=["by Kubernetes", "by the operator"])
async def test_a_generation_that_is_refused_leaves_the_last_good_one_in_force(
    served: ControlPlane, kube: Client, namespace: str, spec: Body
) -> None:
    """Nothing of it is applied; what runs is maintained, also by the next operator; a good one ends it."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        before = await in_force(kube, namespace)
        await kube.patch(PIPELINES, "a", {"spec": spec})
        said = await until(kube, "a", "Stalled", "True", "InvalidSpec")
        assert "generation 1 stays in force" in said["message"]
        assert ("nodeSelector" if spec is MISPLACED else "auditpipeline-client") in said["message"]
        await until(kube, "a", "Ready", "False", "InvalidSpec")
        await comes_back(kube, namespace, SERVICES, "audit-a")
        assert await in_force(kube, namespace) == before
    async with operator(served.kubeconfig, namespace):
        await comes_back(kube, namespace, SECRETS, "audit-a-tls")
        await comes_back(kube, namespace, SECRETS, "audit-a-generation")
        assert await in_force(kube, namespace) == before
        await until(kube, "a", "WebhookAvailable", "False", "PodsPending")
        assert (await condition(kube, "a", "Stalled"))["reason"] == "InvalidSpec"
        mended: Body = {"webhook": {"nodeSelector": {"disk": "ssd"}}, "outputs": bodies.pipeline()["spec"]["outputs"]}
        await kube.patch(PIPELINES, "a", {"spec": mended})

        async def newest() -> bool:
            sink = await kube.get(SINKS, "audit-a") or {}
            workload = await statefulset(kube, namespace, "a") or {}
            selector = workload["spec"]["template"]["spec"].get("nodeSelector")
            return bool(sink["spec"]["policy"]["level"] == "Request" and selector == {"disk": "ssd"})

        await eventually("the newest in force", newest)
        await eventually("not stalled", lambda: _not_stalled(kube))


async def _not_stalled(kube: Client) -> bool:
    return not await condition(kube, "a", "Stalled")


async def test_of_a_new_pipeline_that_is_refused_nothing_is_made(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """A quota in the namespace allows no StatefulSet: Kubernetes' own words are in the status."""
    meta = {"name": "none", "namespace": namespace}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta}
    await kube.create(QUOTAS, quota | {"spec": {"hard": {"count/statefulsets.apps": "0"}}})

    async def counted() -> bool:
        return bool((await kube.get(QUOTAS, "none", namespace) or {}).get("status", {}).get("hard"))

    await eventually("counted", counted)
    async with operator(served.kubeconfig, namespace):
        await kube.create(PIPELINES, bodies.pipeline("a") | {"metadata": {"name": "a"}})
        said = await until(kube, "a", "Stalled", "True", "InvalidSpec")
        assert "exceeded quota" in said["message"]
        for kind, name in (
            (ACCOUNTS, "audit-a"),
            (SECRETS, "audit-a-config"),
            (SERVICES, "audit-a"),
            (SINKS, "audit-a"),
        ):
            assert await kube.get(kind, name, None if kind is SINKS else namespace) is None
        await kube.delete(QUOTAS, "none", namespace)
        # The next dry run is half a minute away; whoever changes the pipeline need not wait for it.
        await kube.patch(PIPELINES, "a", {"spec": {"policy": POLICY}})
        await until(kube, "a", "WebhookAvailable", "False", "PodsPending")


async def test_another_storage_with_a_mistake_does_not_cost_the_statefulset(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """It would be deleted for the new one, which Kubernetes would refuse."""
    async with operator(served.kubeconfig, namespace):
        await create(kube, webhook={"replicas": 1, "storage": {"size": "2Gi"}})
        before = await statefulset(kube, namespace, "a") or {}
        storage = {"storage": {"size": "3Gi"}, **MISPLACED["webhook"]}  # type: ignore[dict-item]
        await kube.patch(PIPELINES, "a", {"spec": {"webhook": storage}})
        await until(kube, "a", "Stalled", "True", "InvalidSpec")
        after = await statefulset(kube, namespace, "a") or {}
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["spec"] == before["spec"]


async def test_what_somebody_writes_into_the_kept_generation_is_never_in_force(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """While no operator runs and the newest is refused: without a last good one the pipeline only says so."""
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        before = await in_force(kube, namespace)
    await kube.patch(PIPELINES, "a", {"spec": FORBIDDEN})
    await kube.patch(SECRETS, "audit-a-generation", {"data": {"seal": "eA=="}}, namespace)
    async with operator(served.kubeconfig, namespace):
        said = await until(kube, "a", "Stalled", "True", "InvalidSpec")
        assert "stays in force" not in said["message"]
        assert await in_force(kube, namespace) == before


async def _quiet(running: Operator) -> bool:
    return not await running.writes_during(3)


async def test_an_accepted_generation_is_dry_run_once(served: ControlPlane, kube: Client, namespace: str) -> None:
    """Neither a drift nor a restart has it dry-run again: each child is asked for once by an operator that starts."""
    async with operator(served.kubeconfig, namespace) as running:
        await create(kube)
        first = await running.requests("dry-run")
        await comes_back(kube, namespace, STATEFULSETS, "audit-a")
        await comes_back(kube, namespace, SERVICES, "audit-a")
        assert await running.requests("dry-run") == first
        await eventually("quiet", lambda: _quiet(running))
    async with operator(served.kubeconfig, namespace) as running:
        await eventually("looked at", lambda: running.requests("dry-run"))
        await until(kube, "a", "WebhookAvailable", "False", "PodsPending")
        assert await running.writes_during(3) == {}
        asked = await running.requests("dry-run")
        assert asked['resource="statefulsets",verb="dry-run"'] == 1
        assert names.generation_secret("a") == "audit-a-generation"


async def test_an_image_that_is_refused_leaves_the_pods_and_maintains_the_rest(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Another operator's image is no new generation: there is no former one to go back to."""
    async with operator(served.kubeconfig, namespace, image="one"):
        await create(kube)
        before = await in_force(kube, namespace)
    served.kubectl("apply", "-f", "-", input=NO_SECOND_IMAGE % (namespace, namespace))
    try:
        await eventually("refused", lambda: _refuses(kube, namespace))
        async with operator(served.kubeconfig, namespace, image="two"):
            said = await until(kube, "a", "Stalled", "True", "InvalidSpec")
            assert "no second image" in said["message"]
            await comes_back(kube, namespace, SECRETS, "audit-a-tls")
            assert await in_force(kube, namespace) == before
    finally:
        served.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", "no-second-image")


NO_SECOND_IMAGE = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-second-image}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %s}}
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [statefulsets]}
  validations:
  - expression: object.spec.template.spec.containers.all(c, c.image != 'two')
    message: no second image
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-second-image}
spec:
  policyName: no-second-image
  validationActions: [Deny]
  matchResources:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %s}}
"""


async def _refuses(kube: Client, namespace: str) -> bool:
    """Whether the policy is in force."""
    labels = {"app": "probe"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "probe", "image": "two"}]}}
    spec = {"serviceName": "probe", "selector": {"matchLabels": labels}, "template": template}
    meta = {"name": "probe", "namespace": namespace}
    try:
        await kube.rehearse(
            STATEFULSETS, {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec}
        )
    except Invalid as error:
        return "no second image" in str(error)
    return False
