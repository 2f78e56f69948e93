"""What an AuditSink's status says, from what the gateway's Pods report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from auditpipeline.control import sink_status as module
from auditpipeline.control.facts import PodReport, Verdict
from auditpipeline.control.gateway_state import GatewayState, Standing
from auditpipeline.control.published import SinkStatus, decode
from auditpipeline.core.report import Events, OutputReport, Report

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GOOD = Verdict("True", "Registered", "")
REFUSED = Verdict("False", "SinkRefused", "no")
PENDING = Verdict("False", "GatewayPending", "soon")
SILENT = Verdict("Unknown", "GatewayUnreachable", "who?")


def sink_status(
    registration: Verdict | None, outputs: list[OutputReport], before: dict[str, Any], generation: int, now: datetime
) -> dict[str, Any]:
    """The status, as it is stored."""
    made = module.sink_status(registration, outputs, decode(before, SinkStatus), generation, now)
    return dict(msgspec.json.decode(msgspec.json.encode(made)))


def output(**values: Any) -> OutputReport:
    """A route as a Pod reports it."""
    return OutputReport(**({"name": "a", "state": "Idle"} | values))


def said(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}


@pytest.mark.parametrize(
    ("registration", "outputs", "conditions"),
    [
        (GOOD, [output()], {"Ready": ("True", "Registered")}),
        (GOOD, [], {"Ready": ("True", "Registered")}),
        (
            GOOD,
            [output(), output(state="Failing")],
            {"Ready": ("False", "Failing"), "Reconciling": ("True", "Failing")},
        ),
        (REFUSED, [output()], {"Ready": ("False", "SinkRefused"), "Stalled": ("True", "SinkRefused")}),
        (
            PENDING,
            [output(state="Failing")],
            {"Ready": ("False", "GatewayPending"), "Reconciling": ("True", "GatewayPending")},
        ),
        (
            SILENT,
            [output()],
            {"Ready": ("Unknown", "GatewayUnreachable"), "Reconciling": ("True", "GatewayUnreachable")},
        ),
    ],
)
def test_ready_is_registered_and_not_failing(
    registration: Verdict, outputs: list[OutputReport], conditions: dict[str, tuple[str, str]]
) -> None:
    """Stalled where somebody has to mend the sink, Reconciling while otherwise not Ready."""
    assert said(sink_status(registration, outputs, {}, 3, NOW)) == conditions


def test_pods_are_added_up() -> None:
    """Sums, the largest lag, and the newest error."""
    pods = [
        output(lag_seconds=1.9, delivered=10, dropped=1, last_error="old", last_error_at=1.0),
        output(lag_seconds=7.2, delivered=5, dropped=2, last_error="new", last_error_at=2.0, state="Failing"),
    ]
    found = sink_status(GOOD, pods, {}, 3, NOW)
    assert {key: found[key] for key in ("lagSeconds", "delivered", "dropped", "lastError")} == {
        "lagSeconds": 7,
        "delivered": 15,
        "dropped": 3,
        "lastError": "new",
    }
    assert found["observedGeneration"] == 3
    assert "new" in found["conditions"][0]["message"]


def test_nothing_changed_is_the_same_status() -> None:
    """Times move only with a condition's status."""
    first = sink_status(GOOD, [output(delivered=1)], {}, 3, NOW)
    later = NOW + timedelta(minutes=1)
    assert sink_status(GOOD, [output(delivered=1)], first, 3, later) == first


def test_figures_stay_while_no_pod_has_ever_answered() -> None:
    """After a restart of the operator they are what they were."""
    first = sink_status(GOOD, [output(delivered=7, lag_seconds=2)], {}, 3, NOW)
    found = sink_status(PENDING, [], first, 3, NOW)
    assert (found["delivered"], found["lagSeconds"]) == (7, 2)
    assert "delivered" not in sink_status(PENDING, [], {}, 3, NOW)


def test_a_pod_that_falls_silent_still_counts_until_it_is_gone() -> None:
    """A counter that goes down and up again would tell of nothing but of the network."""
    state = GatewayState()
    report = Report("gateway", "gateway", "c", Events(), (output(delivered=5),))
    state.listen([PodReport("one", report), PodReport("two", report)], {"one": "u1", "two": "u2"})
    state.listen([PodReport("one", report), PodReport("two", None, "no answer")], {"one": "u1", "two": "u2"})
    assert [found.delivered for found in state.outputs("a")] == [5, 5]
    state.listen([PodReport("one", report)], {"one": "u1"})
    assert [found.delivered for found in state.outputs("a")] == [5]
    assert state.outputs("b") == []


def test_when_a_status_was_written_is_kept_for_the_same_object_alone() -> None:
    """A sink of the same name is another one."""

    def standing(uid: str, written: float = 0.0) -> Standing:
        return Standing((uid, "x"), 1, SinkStatus(), written)

    state = GatewayState(standing={"a": standing("u1", 5.0), "b": standing("u2", 6.0)})
    state.stand({"a": standing("u1"), "b": standing("u3")})
    assert (state.standing["a"].written, state.standing["b"].written) == (5.0, 0.0)


def test_what_was_not_looked_at_keeps_what_was_said() -> None:
    """An operator that has just started knows of no gateway yet; of a changed sink nothing was said."""
    first = sink_status(GOOD, [output(delivered=1)], {}, 3, NOW)
    assert sink_status(None, [], first, 3, NOW + timedelta(minutes=1)) == first
    assert said(sink_status(None, [], first, 4, NOW))["Ready"] == ("False", "GatewayPending")
    assert said(sink_status(None, [], {}, 1, NOW))["Ready"] == ("False", "GatewayPending")
