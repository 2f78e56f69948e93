"""Against a real API server: a CRD of a later release, and the release before on what this one has stored."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import PIPELINES, SECRETS, SINKS
from tests import previous
from tests.cluster.controlplane import ControlPlane
from tests.cluster.processes import Process
from tests.control import bodies
from tests.control.conftest import CRDS
from tests.control.running import condition, eventually, free_port, operator, statefulset

pytestmark = pytest.mark.controlplane

CRD = "auditpipelines.auditpipeline.dev"


@pytest.fixture
def later(served: ControlPlane) -> Iterator[None]:
    """The CRD has fields that this release does not know, with defaults: they are in each stored object at once."""
    crd = json.loads(served.kubectl("get", "crd", CRD, "-o", "json"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    output = spec["properties"]["outputs"]["items"]
    for place in (spec, output, output["properties"]["file"], spec["properties"]["webhook"]):
        place["properties"]["tapestry"] = {"type": "string", "default": "woven"}
    rule = spec["properties"]["policy"]["properties"]["rules"]["items"]
    rule["properties"]["tapestry"] = {"type": "array", "items": {"type": "string"}}
    served.kubectl("replace", "-f", "-", input=json.dumps(crd))
    yield
    served.kubectl("replace", "-f", str(CRDS / "auditpipelines.yaml"))


async def create(kube: Client, **spec: Any) -> None:
    """Create the AuditPipeline `a`."""
    await kube.create(PIPELINES, bodies.pipeline("a", **spec) | {"metadata": {"name": "a"}})


async def configured(kube: Client, namespace: str) -> str:
    """The configuration of `a`, as it is stored."""
    found = await kube.get(SECRETS, names.config_secret("a"), namespace) or {}
    return json.dumps(found.get("data", {}))


async def follows(kube: Client, namespace: str, **spec: Any) -> None:
    """Change `a`: its configuration and its status follow, and nothing is Stalled."""
    before = await configured(kube, namespace)
    await kube.patch(PIPELINES, "a", {"spec": spec})

    async def followed() -> bool:
        found = await kube.get(PIPELINES, "a") or {}
        observed = found["status"].get("observedGeneration") == found["metadata"]["generation"]
        return observed and before != await configured(kube, namespace)

    await eventually("the change is followed", followed, 60)
    stalled = await condition(kube, "a", "Stalled")
    assert stalled.get("status") != "True", stalled


async def test_a_crd_of_a_later_release_stalls_nothing(
    served: ControlPlane, kube: Client, namespace: str, request: pytest.FixtureRequest
) -> None:
    """It comes under a running operator. Ready says what is left aside; a rule with a field that is not known hides
    nothing."""
    async with operator(served.kubeconfig, namespace, resync=1.0):
        await create(kube)
        await eventually("children", lambda: statefulset(kube, namespace, "a"))
        request.getfixturevalue("later")

        async def noted() -> bool:
            ready = await condition(kube, "a", "Ready")
            return "does not know spec." in ready.get("message", "")

        await eventually("Ready says what is left aside", noted)
        await follows(kube, namespace, throttle={"qps": 7}, policy={"rules": [{"level": "Request"}]})
        rules = [{"level": "None", "tapestry": ["secrets"]}, {"level": "Metadata"}]
        await follows(kube, namespace, policy={"rules": rules})
        sink = await kube.get(SINKS, names.child("a")) or {}
        assert [rule["level"] for rule in sink["spec"]["policy"]["rules"]][-1] == "Metadata"
        assert "None" not in [rule["level"] for rule in sink["spec"]["policy"]["rules"]]


@contextlib.asynccontextmanager
async def former(served: ControlPlane, namespace: str, folder: Path) -> AsyncIterator[Process]:
    """An operator of the release before."""
    where = str(previous.folder() / "operator")
    code = f"import sys; sys.path.insert(0, {where!r}); from auditpipeline.cli.main import main; main()"
    options = [f"--kubeconfig={served.kubeconfig}", f"--namespace={namespace}", f"--listen=127.0.0.1:{free_port()}"]
    command = [sys.executable, "-c", code, "operator", *options, "--no-leader-elect", "--status-interval=0.5"]
    process = Process("former operator", command, folder / "operator.log")
    await asyncio.to_thread(process.start)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.stop)


async def test_the_release_before_goes_on_with_what_this_one_has_stored(
    served: ControlPlane, kube: Client, namespace: str, tmp_path: Path
) -> None:
    """With the CRDs of this release, which nobody takes back, and with its children, statuses and annotations; and this
    one goes on with what that one leaves."""
    async with operator(served.kubeconfig, namespace, resync=1.0):
        await create(kube)
        await eventually("children", lambda: statefulset(kube, namespace, "a"))
        await follows(kube, namespace, policy={"rules": [{"level": "Request"}]})
    async with former(served, namespace, tmp_path) as running:
        await follows(kube, namespace, policy={"rules": [{"level": "Metadata", "verbs": ["get"]}]})
        await follows(kube, namespace, policy={"preset": "baseline", "rules": None})
        assert running.running
    async with operator(served.kubeconfig, namespace, resync=1.0):
        await follows(kube, namespace, policy={"preset": "security"})
