"""The operator's own listener and its Events, without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from auditpipeline.control.health import Heartbeat
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.recorder import QUIET, Recorder
from auditpipeline.control.resources import EVENTS, PIPELINES
from tests.control.fakes import Answers

META = {"name": "a", "uid": "u"}


def test_a_heart_that_is_not_beaten_is_not_healthy() -> None:
    """However well the event loop runs."""
    now = 0.0
    heartbeat = Heartbeat(10, lambda: now)
    now = 10.0
    assert heartbeat.healthy
    now = 10.1
    assert not heartbeat.healthy
    heartbeat.beat()
    assert heartbeat.healthy


async def test_the_same_event_is_not_told_twice_in_a_while() -> None:
    """A pipeline that goes to and fro fills no event log."""
    kube, now = Answers(), datetime(2026, 1, 1, tzinfo=UTC)
    recorder = Recorder(kube, lambda: now, "test")
    for _ in range(3):
        await recorder.event(PIPELINES, META, "Ready", "well", warning=False, events=EVENTS)
    now += timedelta(seconds=QUIET + 1)
    await recorder.event(PIPELINES, META, "Ready", "well", warning=False, events=EVENTS)
    assert len(kube.written) == 2
    assert kube.written[0]["metadata"]["namespace"] == "default"


async def test_an_event_that_cannot_be_written_holds_up_nothing() -> None:
    """The status says the same."""
    kube = Answers()
    kube.refusal = Forbidden("no")
    recorder = Recorder(kube, lambda: datetime(2026, 1, 1, tzinfo=UTC), "test")
    await recorder.event(PIPELINES, META, "Ready", "well", warning=False, events=EVENTS)
    assert kube.written == []
