"""Why Kubernetes makes no Pods, in its own words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.facts import Facts, PodFacts, Workload
from auditpipeline.control.kube import Client
from auditpipeline.control.refusals import LOOK, find_refusal
from auditpipeline.control.resources import STATEFULSETS, Resource
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import Entry
from auditpipeline.control.status import webhook_available
from auditpipeline.control.world import World
from auditpipeline.core.spec import parse_pipeline
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies, fakes
from tests.control.running import condition, eventually, operator, until
from tests.control.test_reconcile_objects import create

LIMITS = Resource("", "v1", "limitranges", "LimitRange")
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def event(message: str, seconds: float, uid: str = "u1") -> dict[str, Any]:
    """An Event of so many seconds ago."""
    at = (NOW - timedelta(seconds=seconds)).isoformat()
    return {
        "metadata": {"name": message, "creationTimestamp": at},
        "involvedObject": {"uid": uid},
        "lastTimestamp": at,
        "message": message,
    }


async def world_of(*events: dict[str, Any]) -> tuple[World, fakes.Answers]:
    """A world with a StatefulSet and these Events."""
    kube = fakes.Answers({("events", body["metadata"]["name"]): body for body in events})
    world = await fakes.world(kube)
    entry = Entry("u1", "1", "", "security", "", deleting=False, facts=Workload(1, 0, 0, observed=True))
    world.seen.put((STATEFULSETS.plural, world.settings.namespace, names.child("security")), entry)
    return world, kube


async def look(world: World, pods: int = 0, after: float = 0.0) -> str:
    """What is said after so many seconds, with so many Pods."""
    body, there = bodies.pipeline(), [PodFacts("audit-security-0", "n", "p")] * pods
    facts = Facts(3, NOW + timedelta(seconds=after), workload=Workload(1, 0, 0, observed=True), pods=there)
    await find_refusal(Round(world, body, facts, parsed=parse_pipeline(body)))
    verdict = webhook_available(facts)
    assert verdict
    assert (verdict.reason == "PodsRefused") is bool(facts.refused)
    return facts.refused


async def test_the_newest_event_of_this_statefulset_counts() -> None:
    """Not one of another object, nor one of long ago."""
    world, _ = await world_of(event("old", 60), event("new", 5), event("another's", 1, "u2"))
    assert await look(world) == "new"
    assert await look((await world_of(event("too old", 5000)))[0]) == ""


async def test_what_was_refused_before_all_pods_were_there_is_over() -> None:
    """A Pod that is away for a moment is not said to be refused."""
    world, kube = await world_of(event("quota", 60))
    assert await look(world) == "quota"
    assert await look(world, pods=1, after=10) == ""
    assert await look(world, after=20) == ""
    kube.objects["events", "again"] = event("again", -21)
    assert await look(world, after=20 + LOOK) == "again"


async def test_events_are_read_only_while_pods_are_missing_and_not_at_every_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred looks in a second are one request."""
    world, kube = await world_of(event("quota", 0))
    reads: list[str] = []
    listed = kube.list

    def counted(kind: Resource, *rest: str) -> Any:
        reads.append(kind.plural)
        return listed(kind, *rest)

    monkeypatch.setattr(kube, "list", counted)
    await look(world, pods=1)
    assert reads == []
    assert {await look(world, after=number / 100) for number in range(1, 101)} == {"quota"}
    assert reads == ["events"]


async def test_a_long_message_is_cut() -> None:
    """A webhook may say anything."""
    world, _ = await world_of(event("x" * 10_000, 5))
    assert len(await look(world)) <= 600


@pytest.mark.controlplane
async def test_pods_that_an_admission_plugin_refuses_are_told_in_its_words(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Until it takes them."""
    limit = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "small", "namespace": namespace},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "1Mi"}}]},
    }
    await kube.create(LIMITS, limit)
    async with operator(served.kubeconfig, namespace):
        await create(kube)
        said = await until(kube, "a", "WebhookAvailable", "False", "PodsRefused")
        assert "maximum memory usage per Container is 1Mi" in said["message"]
        await until(kube, "a", "Ready", "False", "PodsRefused")
        await kube.delete(LIMITS, "small", namespace)

        async def over() -> bool:
            return (await condition(kube, "a", "WebhookAvailable")).get("reason") != "PodsRefused"

        await eventually("made", over, 60)
