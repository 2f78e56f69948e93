"""What is published for the API servers, and that nothing waits for what takes long."""

from __future__ import annotations

import asyncio
import threading

import pytest

from auditpipeline.control import names, static
from auditpipeline.control.apiservers import Reading, Server
from auditpipeline.control.aside import Stopped, aside
from auditpipeline.control.kube import Client, Conflict
from auditpipeline.control.resources import CONFIG_MAPS, PIPELINES, SINKS
from auditpipeline.control.static import ask_servers, reconcile_static
from auditpipeline.control.upstream import PolicyFile
from auditpipeline.control.world import World, pipeline_key
from auditpipeline.core.budget import Stopped as Stopping
from auditpipeline.core.errors import Invalid, Retryable
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.policyfile import dump, load
from tests.cluster.controlplane import ControlPlane
from tests.control import fakes
from tests.control.running import eventually, operator
from tests.control.test_reconcile_objects import create
from tests.core import many

HERE = Server("", "10.0.0.1")
KEY = (CONFIG_MAPS.plural, names.STATIC_POLICY)


async def world_of(kube: fakes.Answers, policies: dict[str, Policy], woken: list[str] | None = None) -> World:
    """An operator that has just begun, and has looked at every pipeline."""
    world = await fakes.world(kube, wake=lambda key, seconds: None if woken is None else woken.append(key))
    for name, policy in policies.items():
        world.upstream.ask(name, policy)
    world.upstream.ask_foreign({})
    kube.written.clear()
    return world


def stored(kube: fakes.Answers) -> str:
    """The policy that was published last; from now on an API server holds it."""
    manifest = kube.written[-1]
    kube.objects[KEY] = manifest | {"metadata": manifest["metadata"] | {"uid": "u"}}
    return str(manifest["data"]["policy.yaml"])


@pytest.mark.parametrize("count", [3, 40, 300])
async def test_a_new_leader_writes_the_static_policy_only_if_it_differs(count: int) -> None:
    """Whatever order it looks at the pipelines in, and whatever the former leader had remembered."""
    kube = fakes.Answers()
    policies = {f"p{number}": many.apart(number) for number in range(count)}
    first = await world_of(kube, dict(list(policies.items())[1:]))
    await reconcile_static(first)
    stored(kube)
    first.upstream.ask("p0", policies["p0"])
    await reconcile_static(first)
    assert "".join(stored(kube)).startswith("# What kube-apiserver's static policy")
    second = await world_of(kube, dict(reversed(policies.items())))
    await reconcile_static(second)
    assert kube.written == []
    second.upstream.ask("p0", policies["p1"])
    await reconcile_static(second)
    assert len(kube.written) == 1


@pytest.mark.parametrize(("count", "coarse"), [(3, False), (300, True)])
async def test_a_coarse_policy_says_so_where_it_is_published(count: int, coarse: bool) -> None:
    """And it is a policy file all the same."""
    kube = fakes.Answers()
    await reconcile_static(await world_of(kube, {f"p{number}": many.catching(number) for number in range(count)}))
    text = stored(kube)
    assert ("# This policy is coarse: " in text) is coarse
    assert load(text.encode(), "policy.yaml").rules.rules


async def test_nothing_is_published_before_every_pipeline_was_looked_at() -> None:
    """Nor before the AuditSinks of others were."""
    kube = fakes.Answers()
    world = await world_of(kube, {"a": Policy((Rule("Metadata"),))})
    world.upstream.foreign = None
    await reconcile_static(world)
    assert kube.written == []


async def test_what_is_compared_is_told_before_everything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice at a time, and the published policy does not wait for the rest."""
    monkeypatch.setattr(static, "SLICE", 0.0)
    kube, woken = fakes.Answers(), list[str]()
    policies = {f"p{number}": many.apart(number) for number in range(5)}
    world = await world_of(kube, policies, woken)
    text = dump(Policy((Rule("RequestResponse"),)))
    world.upstream.take_files([PolicyFile("gateway", HERE.address, text, 100.0)])
    world.upstream.readings = [Reading(HERE, 200, 150)]
    told = []
    for _ in policies:
        again = await reconcile_static(world)
        told.append(len({key for key in woken if key in map(pipeline_key, policies)}))
    assert (told, again, len(kube.written)) == ([1, 2, 3, 4, 5], None, 1)
    assert all((verdict := world.upstream.verdict(name)) and verdict.reason == "Covered" for name in policies)


async def test_a_computation_holds_up_nobody_and_ends_with_whoever_waits_for_it() -> None:
    """It runs in a thread that is told to end."""
    begun, ended = threading.Event(), threading.Event()

    def work(stopped: Stopped) -> None:
        begun.set()
        while not stopped():
            pass
        ended.set()

    waiting = asyncio.create_task(aside(work))
    await asyncio.to_thread(begun.wait)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread(ended.wait)


@pytest.mark.controlplane
async def test_a_union_that_takes_long_takes_no_place_in_the_work_queue(
    served: ControlPlane, kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a single worker, a pipeline is looked after meanwhile; and the operator stops in the middle of it."""
    begun, ended = threading.Event(), threading.Event()

    def never(policies: object, memory: object, stopped: Stopped) -> None:
        begun.set()
        while not stopped():
            ended.wait(0.01)
        ended.set()
        raise Stopping

    monkeypatch.setattr(static, "fitting", never)
    async with operator(served.kubeconfig, namespace, workers=1) as running:
        await create(kube)
        await asyncio.to_thread(begun.wait)
        await kube.patch(PIPELINES, "a", {"spec": {"policy": {"rules": [{"level": "Request"}]}}})

        async def looked_after() -> bool:
            sink = await kube.get(SINKS, "audit-a") or {"spec": {"policy": {}}}
            return bool(sink["spec"]["policy"].get("level") == "Request")

        await eventually("looked after", looked_after)
        assert not ended.is_set()
        await running.stop()
        await asyncio.to_thread(ended.wait)


@pytest.mark.parametrize(
    "error", [Retryable("HTTP 500 failed calling webhook"), Conflict("changed"), Invalid("", "no")]
)
async def test_readings_that_cannot_be_kept_are_judged_all_the_same(error: Exception) -> None:
    """An admission webhook that is down for ConfigMaps leaves no verdict as it was."""
    kube = fakes.Answers(paths={"/metrics": "process_start_time_seconds 1.7e9"})  # type: ignore[dict-item]
    world = await world_of(kube, {})
    kube.refusal = error
    await ask_servers(world)
    assert [reading.start for reading in world.upstream.readings] == [1.7e9]
