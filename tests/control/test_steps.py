"""Steps of a round, by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from auditpipeline.control import names, steps
from auditpipeline.control.apiservers import Reading, Server
from auditpipeline.control.facts import Facts
from auditpipeline.control.loss import Gap, LossState
from auditpipeline.control.published import Acknowledged, Condition, PipelineStatus
from auditpipeline.control.resources import SINKS, Features
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.control.static import reconcile_static
from auditpipeline.control.upstream import PolicyFile
from auditpipeline.control.world import GATEWAY_KEY
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.policyfile import dump
from tests.control import bodies
from tests.control.fakes import Answers, now, world

MADE = datetime(2026, 1, 1, tzinfo=UTC)
LATER = MADE + timedelta(days=1)


async def round_of(body: dict[str, Any], previous: PipelineStatus | None = None, now: datetime = MADE) -> Round:
    """A round that has parsed its pipeline."""
    this = Round(await world(Answers()), body, Facts(3, now), previous or PipelineStatus())
    await steps.parse(this)
    return this


@pytest.mark.parametrize(("sinks", "suspend", "gone"), [("absent", False, False), ("crd", True, True)])
async def test_a_sink_is_pruned_for_a_suspension_and_never_because_its_kind_is_not_served(
    sinks: str, suspend: bool, gone: bool
) -> None:
    """With the AuditSink the gateway's place in its spool would go, and what waits there. Once it is gone, the gateway
    is to post nothing to it any more, and not only from the next resync on."""
    kube = Answers()
    made = await world(kube, features=Features(sinks=sinks))  # type: ignore[arg-type]
    body = bodies.pipeline("a", suspend=suspend)
    owner = names.owner(bodies.parsed(body))
    meta = {"name": "audit-a", "uid": "s", "labels": {"auditpipeline.dev/pipeline": "a"}, "ownerReferences": [owner]}
    made.seen.put(key_of(SINKS.plural, {"metadata": meta}), entry_of(SINKS.plural, {"metadata": meta, "spec": {}}))
    this = Round(made, body, Facts(3, now()))
    made.gateway.dirty, woken = False, []
    made.wake = lambda key, _: woken.append(key)
    for step in (steps.parse, steps.register, steps.prune):
        await step(this)
    assert (("auditsinks", "audit-a") in kube.deleted) is gone
    assert (made.gateway.dirty, GATEWAY_KEY in woken) == (gone, gone)


@pytest.mark.parametrize(("after", "lifetime"), [("0s", 60), ("2h", 7200), ("99999999h", 8760 * 3600)])
async def test_a_lifetime_that_is_a_slip_of_the_pen_is_taken_as_the_nearest_that_is_none(
    after: str, lifetime: int
) -> None:
    """An object that an older release has stored deletes itself neither at once nor with an overflow."""
    this = await round_of(bodies.pipeline(expireAfter=after))
    this.facts.now = MADE
    await steps.expire(this)
    assert this.facts.expires == MADE + timedelta(seconds=lifetime)
    assert bool(this.facts.notes) == (after != "2h")


async def test_nobody_acknowledges_losses_that_are_yet_to_come() -> None:
    """A time in the future counts as when it was first seen, also for the next operator."""
    body = bodies.pipeline()
    body["metadata"]["annotations"] = {names.ACKNOWLEDGED: "9999-01-01T00:00:00Z"}
    gap = Gap("one", "Dropped", LATER.timestamp(), LATER.timestamp() + 60, 7)
    this = await round_of(body, now=LATER)
    this.world.losses = LossState(gaps=[gap], recalled=True)
    await steps.losses(this)
    assert this.facts.losses is not None
    assert this.facts.losses.open == (gap,)
    known = this.facts.acknowledged
    assert known == Acknowledged("9999-01-01T00:00:00Z", LATER)
    after = await round_of(body, PipelineStatus(loss_acknowledged=known), LATER + timedelta(hours=1))
    after.world.losses = LossState(gaps=[gap], recalled=True)
    await steps.losses(after)
    assert after.facts.losses is not None
    assert after.facts.losses.open == (gap,)
    assert after.facts.acknowledged == known


@pytest.mark.parametrize(
    ("status", "generation", "kept"),
    [("True", 3, True), ("True", 2, False), ("False", 3, False), (None, 3, False)],
)
async def test_a_new_operator_does_not_take_back_what_a_former_one_has_seen_in_force(
    status: Any, generation: int, kept: bool
) -> None:
    """That the policy file is newer than the API server's start is all that it knows; the former one knew more."""
    before = Condition("UpstreamCovers", status, "Covered", "", MADE, generation)
    previous = PipelineStatus(conditions=(before,) if status else ())
    this = await round_of(bodies.pipeline("a"), previous)
    state, server = this.world.upstream, Server("", "10.0.0.1")
    state.ask("a", this.pipeline.spec.policy.effective)
    state.take_files([PolicyFile("gateway", server.address, dump(Policy((Rule("RequestResponse"),))), 300)])
    state.take_readings([Reading(server, 500, 200)])
    await reconcile_static(this.world)
    await steps.upstream(this)
    assert (this.facts.upstream is None) is kept
    assert ("UpstreamCovers" in this.facts.pending) is kept
    assert kept or (this.facts.upstream and this.facts.upstream.reason == "RestartNeeded")


async def test_a_pipeline_without_a_sink_waits_for_the_gateway_all_the_same() -> None:
    """The status does not claim what is taken from its events before the gateway has its route."""
    made = await world(Answers(), features=Features(sinks="crd"))
    this = Round(made, bodies.pipeline("a"), Facts(3, now()))
    for step in (steps.parse, steps.registered):
        await step(this)
    assert (this.facts.has_gateway, this.facts.sink) == (True, None)
