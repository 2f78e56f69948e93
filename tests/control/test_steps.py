"""Steps of a round, by themselves."""

from __future__ import annotations

import pytest

from auditpipeline.control import steps
from auditpipeline.control.facts import Facts
from auditpipeline.control.resources import SINKS, Features
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import entry_of, key_of
from tests.control import bodies
from tests.control.fakes import Answers, now, world


@pytest.mark.parametrize(("sinks", "suspend", "gone"), [("absent", False, False), ("crd", True, True)])
async def test_a_sink_is_pruned_for_a_suspension_and_never_because_its_kind_is_not_served(
    sinks: str, suspend: bool, gone: bool
) -> None:
    """With the AuditSink the gateway's place in its spool would go, and what waits there."""
    kube = Answers()
    made = await world(kube, features=Features(sinks=sinks))  # type: ignore[arg-type]
    body = bodies.pipeline("a", suspend=suspend)
    owner = {"kind": "AuditPipeline", "uid": body["metadata"]["uid"]}
    meta = {"name": "audit-a", "uid": "s", "labels": {"auditpipeline.dev/pipeline": "a"}, "ownerReferences": [owner]}
    made.seen.put(key_of(SINKS.plural, {"metadata": meta}), entry_of(SINKS.plural, {"metadata": meta, "spec": {}}))
    this = Round(made, body, Facts(3, now()))
    for step in (steps.parse, steps.register, steps.prune):
        await step(this)
    assert (("auditsinks", "audit-a") in kube.deleted) is gone
