"""The operator's own listener and its Events, without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from auditpipeline.control.facts import PodReport
from auditpipeline.control.gateway_state import GatewayState
from auditpipeline.control.health import Heartbeat
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.recorder import QUIET, Recorder
from auditpipeline.control.resources import EVENTS, PIPELINES
from auditpipeline.core.report import Events, Report
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


def running(config: str, error: str = "") -> PodReport:
    """A gateway Pod that runs `config`."""
    return PodReport("gateway", Report("gateway", "gateway", config, Events(), (), config_error=error))


@pytest.mark.parametrize(
    ("reports", "status", "reason"),
    [
        ([], "False", "GatewayNotRunning"),
        ([running("c2")], "True", "Registered"),
        ([running("c1")], "True", "Registered"),
        ([running("c0")], "False", "GatewayPending"),
        ([running("unknown")], "False", "GatewayPending"),
        ([running("c2"), running("c0")], "False", "GatewayPending"),
        ([running("c0", "routes[3]: no")], "False", "GatewayRefused"),
        ([running("c2"), PodReport("gateway", None, "no answer")], "Unknown", "GatewayUnreachable"),
    ],
)
def test_a_sink_is_registered_when_every_gateway_pod_holds_it(
    reports: list[PodReport], status: str, reason: str
) -> None:
    """As it is now, in whatever configuration: c1 held it like c2, c0 held it otherwise."""
    state = GatewayState(looked=True, reports=reports)
    for digest, routes in (("c0", {"a": "old"}), ("c1", {"a": "new"}), ("c2", {"a": "new", "b": "x"})):
        state.rendered(digest, b"", routes)
    assert state.registration("a")[:2] == (status, reason)


def test_a_sink_without_a_route_says_why() -> None:
    """Refused, or not rendered yet."""
    state = GatewayState(looked=True, problems={"bad": "no ClusterIP"})
    assert state.registration("bad")[:2] == ("False", "SinkRefused")
    assert state.registration("new")[:2] == ("False", "GatewayPending")
