"""Against a real API server and the real StatefulSet controller: an upgrade of the operator restarts the receivers of
one pipeline after the other, one Pod at a time. The test plays kubelet: it says when a Pod is Ready."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from auditpipeline.control import names, rollout
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import PIPELINES, PODS, STATEFULSETS
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import Operator, eventually, operator, receivers, statefulset

pytestmark = pytest.mark.controlplane

READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
NAMES = ("a", "b", "c")


class Kubelet:
    """Makes Pods Ready as soon as they are there, but those of the pipelines in `held`; and watches that no pipeline
    has more than one Pod that is not, once it had all of them. `most` is the number that were restarted at a time."""

    def __init__(self, kube: Client, namespace: str) -> None:
        self.kube, self.namespace = kube, namespace
        self.held: set[str] = set()
        self.whole: set[str] = set()
        self.down: dict[str, int] = {}
        self.most = 0

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.round()
            await asyncio.sleep(0.02)

    async def round(self) -> None:
        """Look once at every Pod."""
        ready = dict.fromkeys(NAMES, 0)
        async for pod in self.kube.list(PODS, self.namespace, names.OUR_PODS):
            name = pod["metadata"]["labels"][names.PIPELINE]
            if "deletionTimestamp" in pod["metadata"]:
                continue
            if is_ready(pod):
                ready[name] += 1
            elif name not in self.held:
                await self.kube.patch_status(PODS, pod["metadata"]["name"], READY, self.namespace)
        self.whole |= {name for name in NAMES if ready[name] == 2}
        missing = {name: 2 - ready[name] for name in self.whole}
        assert max(missing.values(), default=0) <= 1, missing
        self.most = max(self.most, sum(missing.values()))


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether the Pod's condition says so."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


@contextlib.asynccontextmanager
async def kubelet(kube: Client, namespace: str) -> AsyncIterator[Kubelet]:
    """A kubelet for the length of a test; what it saw wrong fails the test."""
    made = Kubelet(kube, namespace)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def images(kube: Client, namespace: str, name: str) -> list[str]:
    """The image of the StatefulSet, and those of its Pods that are Ready, by ordinal."""
    wanted = await statefulset(kube, namespace, name) or {}
    pods = sorted(await receivers(kube, namespace, name), key=lambda pod: str(pod["metadata"]["name"]))
    return [wanted["spec"]["template"]["spec"]["containers"][0]["image"]] + [
        pod["spec"]["containers"][0]["image"] for pod in pods if is_ready(pod)
    ]


async def made(kube: Client, namespace: str) -> None:
    """Three pipelines, each with two Pods that are Ready."""
    for name in NAMES:
        await kube.create(PIPELINES, bodies.pipeline(name) | {"metadata": {"name": name}})
    for name in NAMES:
        await runs(kube, namespace, name, "old")


async def runs(kube: Client, namespace: str, name: str, image: str) -> None:
    """Wait until a pipeline runs this image alone, and its StatefulSet says so."""

    async def check() -> bool:
        found = await statefulset(kube, namespace, name) or {"status": {}}
        updated = found["status"].get("updatedReplicas"), found["status"].get("readyReplicas")
        return updated == (2, 2) and await images(kube, namespace, name) == [image] * 3

    await eventually(f"{name} runs {image}", check, 60)


async def restarted(kube: Client, namespace: str, *others: str) -> str:
    """Wait until a pipeline but `others` has the new image; its name."""

    async def check() -> str:
        for name in set(NAMES) - set(others):
            if (await images(kube, namespace, name))[0] == "new":
                return name
        return ""

    found: str = await eventually("a pipeline has its turn", check)
    return found


async def looked(running: Operator) -> None:
    """Wait until every pipeline has been looked at again, several times."""

    async def rounds() -> float:
        lines = (await running.get("/metrics")).splitlines()
        found = [line for line in lines if line.startswith('auditpipeline_reconciles_total{kind="pipeline"}')]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    before = await rounds()

    async def enough() -> bool:
        return await rounds() >= before + 4 * len(NAMES)

    await eventually("four more rounds of each pipeline", enough)


async def test_pipelines_are_restarted_one_after_the_other(served: ControlPlane, kube: Client, namespace: str) -> None:
    """Also over a restart of the operator in the middle. Who waits for its turn is as before, and is changed at once by
    its own user; and whoever does not get Ready again does not hold up the others for ever."""
    async with kubelet(kube, namespace) as played:
        async with operator(served.kubeconfig, namespace, image="old"):
            await made(kube, namespace)
        played.held = set(NAMES)
        async with operator(served.kubeconfig, namespace, image="new", resync=1.0) as running:
            first = await restarted(kube, namespace)

            async def one_is_gone() -> bool:
                return await images(kube, namespace, first) == ["new", "old"]

            await eventually("one Pod is made anew", one_is_gone)
            await looked(running)
            await running.kill()
        async with operator(served.kubeconfig, namespace, image="new", resync=1.0) as running:
            await eventually("leads", running.leading)
            await looked(running)
            second, third = sorted(set(NAMES) - {first})
            for name in (second, third):
                assert await images(kube, namespace, name) == ["old"] * 3
            assert await images(kube, namespace, first) == ["new", "old"]
            played.held = set(NAMES) - {first}
            await runs(kube, namespace, first, "new")
            second = await restarted(kube, namespace, first)
            (third,) = set(NAMES) - {first, second}
            await looked(running)
            assert await images(kube, namespace, third) == ["old"] * 3
            played.held.clear()
            await runs(kube, namespace, second, "new")
            await runs(kube, namespace, third, "new")
        assert played.most == 1


async def test_who_waits_is_changed_by_its_own_user_at_once(served: ControlPlane, kube: Client, namespace: str) -> None:
    """And put right at once when somebody else changes it. StatefulSets of a release without annotations wait too."""
    async with kubelet(kube, namespace) as played:
        async with operator(served.kubeconfig, namespace, image="old"):
            await made(kube, namespace)
        notes = {"metadata": {"annotations": {names.RELEASE: None, names.SHAPE: None}}}
        for name in NAMES:
            await kube.patch(STATEFULSETS, names.child(name), notes, namespace)
        played.held = set(NAMES)
        async with operator(served.kubeconfig, namespace, image="new", resync=1.0) as running:
            first = await restarted(kube, namespace)
            await looked(running)
            second, third = sorted(set(NAMES) - {first})
            assert [(await images(kube, namespace, name))[0] for name in (second, third)] == ["old", "old"]
            played.held = {first}
            await kube.patch(PIPELINES, second, {"spec": {"policy": {"rules": [{"level": "Request"}]}}})
            await looked(running)
            assert await images(kube, namespace, second) == ["old"] * 3
            limits = {"limits": {"memory": "300Mi"}}
            await kube.patch(PIPELINES, second, {"spec": {"webhook": {"resources": limits}}})
            await runs(kube, namespace, second, "new")
            container = {"name": "receiver", "env": [{"name": "A", "value": "B"}]}
            added = {"spec": {"template": {"spec": {"containers": [container]}}}}
            await patched_by_others(served, namespace, third, added)
            await runs(kube, namespace, third, "new")
            found = await statefulset(kube, namespace, third) or {}
            assert "env" not in found["spec"]["template"]["spec"]["containers"][0]


async def patched_by_others(cluster: ControlPlane, namespace: str, name: str, patch: dict[str, Any]) -> None:
    """A strategic merge patch by somebody else."""
    what = ["patch", "statefulset", names.child(name), "-n", namespace, "--type=strategic"]
    await asyncio.to_thread(cluster.kubectl, *what, "-p", json.dumps(patch))


async def test_one_that_is_never_ready_again_holds_up_nobody_for_ever(
    served: ControlPlane, kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place goes to the next one after a while. One that was not whole before comes last."""
    monkeypatch.setattr(rollout, "STUCK", 3.0)
    monkeypatch.setattr(rollout, "PATIENCE", 1.0)
    async with kubelet(kube, namespace) as played:
        async with operator(served.kubeconfig, namespace, image="old"):
            await made(kube, namespace)
        played.held = {"a", "b"}
        played.whole.discard("c")
        broken = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}
        await kube.patch_status(PODS, "audit-c-0", broken, namespace)
        played.held.add("c")
        async with operator(served.kubeconfig, namespace, image="new", resync=1.0):
            first = await restarted(kube, namespace)
            second = await restarted(kube, namespace, first)
            assert {first, second} == {"a", "b"}
            played.held = {"a", "b"}
            await runs(kube, namespace, "c", "new")
            played.held.clear()
            for name in ("a", "b"):
                await runs(kube, namespace, name, "new")


async def test_a_statefulset_that_is_made_again_around_its_pods_restarts_one_at_a_time(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Deleted with its Pods left over, while an upgrade is to come."""
    async with kubelet(kube, namespace) as played:
        async with operator(served.kubeconfig, namespace, image="old"):
            await made(kube, namespace)
        for name in NAMES:
            await kube.delete(STATEFULSETS, names.child(name), namespace, propagation="Orphan")

            async def gone(name: str = name) -> bool:
                return await statefulset(kube, namespace, name) is None

            await eventually("the StatefulSet is gone", gone, 90)
        async with operator(served.kubeconfig, namespace, image="new", resync=1.0):
            for name in NAMES:
                await runs(kube, namespace, name, "new")
        assert played.whole == set(NAMES)
