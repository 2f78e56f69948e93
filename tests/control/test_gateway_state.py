"""When a sink is registered: what the gateway's Pods run, against what was rendered."""

from __future__ import annotations

import pytest

from auditpipeline.control.facts import PodReport
from auditpipeline.control.gateway_state import GatewayState
from auditpipeline.control.settings import GatewayKind
from auditpipeline.core.report import Events, OutputReport, Report

NOW = ("u1", "as it was")


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
        state.rendered(digest, b"", routes, {"a": NOW})
    assert state.registration("a", NOW)[:2] == (status, reason)


@pytest.mark.parametrize("kind", ["DaemonSet", "StatefulSet"])
def test_where_no_pod_runs_the_message_names_what_makes_them(kind: GatewayKind) -> None:
    """For whoever looks for it."""
    state = GatewayState(looked=True, kind=kind)
    state.rendered("c1", b"", {"a": "route"}, {"a": NOW})
    assert f"see {kind} auditpipeline-gateway" in state.registration("a", NOW).message


def test_a_sink_without_a_route_says_why() -> None:
    """Refused, or not rendered yet."""
    state = GatewayState(looked=True, problems={"bad": "no ClusterIP"}, sources={"bad": NOW})
    assert state.registration("bad", NOW)[:2] == ("False", "SinkRefused")
    assert state.registration("new", NOW)[:2] == ("False", "GatewayPending")


@pytest.mark.parametrize("now", [("u1", "edited"), ("u2", "as it was")])
def test_a_sink_that_changed_since_the_last_rendering_is_not_registered(now: tuple[str, str]) -> None:
    """Edited, or deleted and made again: the Pods hold what it was, whatever they report."""
    state = GatewayState(looked=True, reports=[running("c1")])
    state.rendered("c1", b"", {"a": "route"}, {"a": NOW})
    assert state.registration("a", NOW).status == "True"
    assert state.registration("a", now)[:2] == ("False", "GatewayPending")
    state.problems = {"a": "no ClusterIP"}
    assert state.registration("a", now).reason == "GatewayPending"


def test_a_pod_counts_by_its_last_report_until_it_is_gone() -> None:
    """A sink that took nothing then is looked at again soon."""
    said = PodReport("one", Report("gateway", "gateway", "c", Events(), (OutputReport("a", "Failing"),)))
    state = GatewayState()
    assert not state.failing()
    state.listen([said], {"one": "u1"})
    assert state.failing()
    state.listen([PodReport("one", None, "no answer")], {"one": "u1"})
    assert state.failing()
    state.listen([], {})
    assert not state.failing()


@pytest.mark.parametrize(
    ("before", "looks", "reasons"),
    [
        ("c1", ["-", "c1"], ["Registered", "Registered"]),
        ("c1", ["-", "-", "c1"], ["Registered", "GatewayUnreachable", "Registered"]),
        ("c1", ["-", "c1", "-"], ["Registered", "Registered", "Registered"]),
        ("c0", ["-", "-"], ["GatewayPending", "GatewayUnreachable"]),
        (None, ["-"], ["GatewayUnreachable"]),
    ],
)
def test_a_pod_may_miss_one_look(before: str | None, looks: list[str], reasons: list[str]) -> None:
    """Counting by what it said last; meanwhile it is looked at again soon. What never answered is not known about."""
    state, found = GatewayState(), []
    state.rendered("c1", b"", {"a": "route"}, {"a": NOW})
    if before:
        state.listen([running(before)], {"gateway": "u1"})
    for config in looks:
        silent = PodReport("gateway", None, "no answer")
        state.listen([silent if config == "-" else running(config)], {"gateway": "u1"})
        found.append(state.registration("a", NOW).reason)
        assert state.behind() == (config != "c1")
    assert found == reasons


def test_another_pod_of_the_name_is_not_forgiven() -> None:
    """It never said what it runs. Its counters are those of the one before, on the same volume."""
    state = GatewayState()
    state.rendered("c1", b"", {"a": "route"}, {"a": NOW})
    said = Report("gateway", "gateway", "c1", Events(), (OutputReport("a", delivered=7),))
    state.listen([PodReport("gateway", said)], {"gateway": "u1"})
    state.listen([PodReport("gateway", None, "no answer")], {"gateway": "u2"})
    assert state.registration("a", NOW).reason == "GatewayUnreachable"
    assert [output.delivered for output in state.outputs("a")] == [7]
