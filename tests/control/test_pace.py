"""How soon a status is written: what changed, against the one that is stored."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from auditpipeline.control import pace
from auditpipeline.control.facts import PodReport, Verdict
from auditpipeline.control.gateway_state import GatewayState, Standing
from auditpipeline.control.pace import Figures, patience
from auditpipeline.control.published import PipelineStatus, Published, SinkStatus, decode
from auditpipeline.control.sink_status import sink_status
from auditpipeline.core.report import Canary, Events, OutputReport, Report

Status = dict[str, Any]
AT_ONCE, SOON, SLOWLY, NEVER = 0.0, 10.0, 60.0, None
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GAP = {"from": "2026-01-01T12:00:00Z", "to": "2026-01-01T12:01:00Z", "reason": "Dropped", "server": "one"}
STORED: Status = {
    "observedGeneration": 3,
    "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "all is well"}],
    "outputs": [{"name": "archive", "state": "Idle", "lagSeconds": 3, "delivered": 7, "lastError": ""}],
    "outputsReady": "1/1",
    "events": {"received": 7, "delivered": 7, "dropped": 0},
    "canary": {"lastSeen": "2026-01-01T12:00:00Z", "latencySeconds": 0.4},
}
SINK: Status = {key: STORED[key] for key in ("observedGeneration", "conditions")} | {
    "lagSeconds": 0,
    "delivered": 7,
    "dropped": 0,
    "lastError": "",
}


def pipeline_figures(stored: Status) -> Figures:
    """Those of a stored status."""
    return pace.pipeline_figures(decoded(stored, PipelineStatus))


def sink_figures(stored: Status) -> Figures:
    """Those of a stored status."""
    return pace.sink_figures(decoded(stored, SinkStatus))


def decoded(stored: Status, kind: type[Published]) -> Published:
    """The typed value, which a stored status surely has here."""
    made = decode(stored, kind)
    assert not stored or made != kind()
    return made


def output(**changed: Any) -> Callable[[Status], None]:
    """Change the output."""
    return lambda status: status["outputs"][0].update(changed)


def part(field: str, **changed: Any) -> Callable[[Status], None]:
    """Change a part of the status."""
    return lambda status: status[field].update(changed)


@pytest.mark.parametrize(
    ("change", "wait"),
    [
        (lambda status: status["conditions"][0].update(reason="Suspended"), AT_ONCE),
        (lambda status: status["conditions"][0].update(message="else"), AT_ONCE),
        (lambda status: status.update(observedGeneration=4), AT_ONCE),
        (lambda status: status.update(outputsReady="0/1"), AT_ONCE),
        (lambda status: status.update(gaps=[GAP]), AT_ONCE),
        (lambda status: status.update(expiresAt="2026-01-01T13:00:00Z"), AT_ONCE),
        (lambda status: status["outputs"].append({"name": "siem"}), AT_ONCE),
        (output(state="Failing"), AT_ONCE),
        (output(lastError="HTTP 503"), AT_ONCE),
        (part("events", dropped=1), SOON),
        (output(lagSeconds=10), SOON),
        (part("events", received=8), SLOWLY),
        (output(delivered=8), SLOWLY),
        (output(delivered=6), SLOWLY),
        (output(state="Delivering"), SLOWLY),
        (output(lagSeconds=0), SLOWLY),
        (output(lagSeconds=9), NEVER),
        (part("canary", lastSeen="2026-01-01T12:04:30Z", latencySeconds=9.0), NEVER),
        (part("canary", lastSeen="2026-01-01T12:05:00Z"), SLOWLY),
        (part("canary", latencySeconds=10.5), SLOWLY),
    ],
)
def test_what_changed_says_how_soon_a_pipeline_s_status_is_written(
    change: Callable[[Status], None], wait: float | None
) -> None:
    """News at once, losses at each reading, counters now and then, and canaries alone not at all."""
    new = copy.deepcopy(STORED)
    change(new)
    assert patience(pipeline_figures(new), pipeline_figures(STORED), 10.0) == wait


@pytest.mark.parametrize("field", ["events", "canary", "outputs"])
def test_a_first_value_is_written_at_once(field: str) -> None:
    """Whoever waits for it sees it with the next reading."""
    before = {key: value for key, value in STORED.items() if key != field}
    if field == "outputs":
        before[field] = [{"name": "archive"}]
    assert patience(pipeline_figures(STORED), pipeline_figures(before), 10.0) == AT_ONCE
    assert patience(pipeline_figures(STORED), pipeline_figures({}), 10.0) == AT_ONCE


@pytest.mark.parametrize(
    ("change", "canaries", "wait"),
    [
        ({"lastError": "HTTP 503"}, 3, AT_ONCE),
        ({"conditions": []}, 3, AT_ONCE),
        ({"dropped": 1}, 3, SOON),
        ({"lagSeconds": 10}, 3, SOON),
        ({"delivered": 8}, 0, SLOWLY),
        ({"delivered": 8}, 1, NEVER),
        ({"delivered": 11}, 3, SLOWLY),
        ({"delivered": 6}, 3, SLOWLY),
        ({"delivered": 9, "lagSeconds": 2}, 3, NEVER),
    ],
)
def test_what_changed_says_how_soon_a_sink_s_status_is_written(
    change: Status, canaries: int, wait: float | None
) -> None:
    """What may all be canaries is none."""
    assert patience(sink_figures(SINK | change), sink_figures(SINK), 10.0, canaries) == wait


def test_a_new_sink_s_status_is_written_at_once() -> None:
    """When no gateway has said anything of it, and when one has."""
    first = sink_status(Verdict("False", "GatewayPending", ""), [], SinkStatus(), 1, NOW)
    assert patience(pace.sink_figures(first), sink_figures({}), 10.0) == AT_ONCE
    assert patience(pace.sink_figures(replace(first, delivered=0)), pace.sink_figures(first), 10.0) == AT_ONCE


def test_canaries_are_counted_over_pods_and_starts() -> None:
    """As many as came since the first look, and after a start, which begins at 0, those since then."""

    def said(pod: str, *seen: int) -> PodReport:
        canaries = tuple(Canary(f"server{number}", "x", count) for number, count in enumerate(seen))
        return PodReport(pod, Report("gateway", pod, "c", Events(), (OutputReport("a"),), canaries=canaries))

    state, counts = GatewayState(), []
    for one, two in (((4,), (1,)), ((6,), (1, 1)), ((6,), (1, 1)), ((2,), (2, 2))):
        state.listen([said("one", *one), said("two", *two)], {"one": "u1", "two": "u2"})
        counts.append(state.canaries)
    assert counts == [5, 8, 8, 12]


def test_how_many_canaries_had_come_is_kept_for_the_same_sink_alone() -> None:
    """As the time of the last write is."""
    state = GatewayState(standing={"a": Standing(("u1", "x"), 1, SinkStatus(), canaries=5)})
    state.stand({"a": Standing(("u1", "y"), 2, SinkStatus())})
    assert state.standing["a"].canaries == 5
    state.stand({"a": Standing(("u2", "y"), 1, SinkStatus())})
    assert state.standing["a"].canaries is None
