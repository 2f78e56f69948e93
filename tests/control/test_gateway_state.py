"""When a sink is registered: what the gateway's Pods run, against what was rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from auditpipeline.control.desired_gateway import gateway_config, written
from auditpipeline.control.facts import PodFacts, PodReport, Problem, Verdict
from auditpipeline.control.gateway_state import LEAVING, PLANNED, GatewayState, is_replaced
from auditpipeline.control.heads import REMEMBERED
from auditpipeline.control.settings import GatewayKind
from auditpipeline.control.shards import Held, Plan, Written
from auditpipeline.core.config import HttpOutput, Route
from auditpipeline.core.packing import route_digest
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.report import Events, OutputReport, Report, RouteReport

NOW = ("uid of a", "as it was")
HEAD = gateway_config((), 2**30)


def made(name: str, what: str = "now") -> Route:
    """The route of a sink, as it is `what`."""
    output = HttpOutput(f"https://{name}.example/{what}", format="event-list")
    return Route(name, (Policy(rules=(Rule(level="Metadata"),)),), output, uid=f"uid of {name}")


def shard(number: int, *routes: Route, moving: tuple[str, ...] = (), beyond: int = 0) -> Written:
    """What a Secret holds."""
    return written(HEAD, number, Held({route.name: route for route in routes}, frozenset(moving)), beyond)


def rendered(
    *shards: Written, problems: Mapping[str, str] | None = None, kind: GatewayKind = "DaemonSet"
) -> GatewayState:
    """A state after a rendering, which was written."""
    state = GatewayState(kind=kind)
    render(state, *shards, problems=problems)
    return state


def render(state: GatewayState, *shards: Written, problems: Mapping[str, str] | None = None) -> None:
    """One more rendering, which was written."""
    homes = {
        name: number for number, found in enumerate(shards) for name in found.held.routes.keys() - found.held.moving
    }
    wanted = {name: shards[number].held.routes[name] for name, number in homes.items()}
    sources = {name: (f"uid of {name}", "as it was") for name in [*wanted, *(problems or {})]}
    if state.stored is None:
        state.recall([])
    plan = Plan(shards, [found.held for found in shards], {}, homes)
    state.render(wanted, sources, problems or {}, plan)
    for number, found in enumerate(shards):
        state.put(number, found)


def running(*shards: Written, pod: str = "gateway", error: str = "", old: bool = False) -> PodReport:
    """A gateway Pod that runs these shards; an `old` one, of the release before, knows the first alone."""
    routes = tuple(
        RouteReport(name, route.uid, route_digest(route), number)
        for number, found in enumerate(shards)
        for name, route in found.held.routes.items()
        if name not in found.held.moving
    )
    report = Report("gateway", "gateway", shards[0].digest, Events(), (), config_error=error)
    return PodReport(pod, report if old else _with(report, routes))


def _with(report: Report, routes: tuple[RouteReport, ...]) -> Report:
    return Report(
        report.plane, report.name, report.config, report.events, (), config_error=report.config_error, routes=routes
    )


def silent(pod: str = "gateway") -> PodReport:
    """A gateway Pod that does not answer."""
    return PodReport(pod, None, "no answer")


def listen(state: GatewayState, *reports: PodReport, aside: tuple[str, ...] = ()) -> None:
    """One look."""
    state.listen(list(reports), {entry.pod: f"uid of {entry.pod}" for entry in reports})
    state.aside = frozenset(aside)


def said(state: GatewayState, now: tuple[str, str] = NOW) -> Verdict:
    """The verdict of sink `a`."""
    found = state.registration("a", now)
    assert found
    return found


BEFORE, NEWER = shard(0, made("a", "before")), shard(0, made("a"))
NEWEST = shard(0, made("a"), made("b"))


@pytest.mark.parametrize("old", [False, True], ids=["this release", "the release before"])
@pytest.mark.parametrize(
    ("runs", "error", "status", "reason"),
    [
        ([], "", "False", "GatewayNotRunning"),
        ([NEWEST], "", "True", "Registered"),
        ([NEWER], "", "True", "Registered"),
        ([BEFORE], "", "False", "GatewayPending"),
        ([shard(0)], "", "False", "GatewayPending"),
        ([NEWEST, BEFORE], "", "False", "GatewayPending"),
        ([BEFORE], "routes[3]: no", "False", "GatewayRefused"),
        ([NEWEST], "routes-1.json.gz: no", "True", "Registered"),
    ],
)
def test_a_sink_is_registered_when_every_gateway_pod_holds_it(
    runs: list[Written], error: str, status: str, reason: str, old: bool
) -> None:
    """As it is now, whatever else the Pod runs: what is wrong with other routes is no trouble of this one."""
    state = GatewayState()
    for head in (BEFORE, NEWER, NEWEST):
        render(state, head)
    listen(state, *(running(head, pod=f"g{number}", error=error, old=old) for number, head in enumerate(runs)))
    assert said(state)[:2] == (status, reason)


@pytest.mark.parametrize("old", [False, True], ids=["this release", "the release before"])
def test_no_number_of_changes_of_others_makes_a_sink_look_unregistered(old: bool) -> None:
    """A Pod that runs what was rendered before all of them holds it as well as the newest one."""
    first = shard(0, made("a"), made("b", "0"))
    state = rendered(first)
    for number in range(1, 200):
        render(state, shard(0, made("a"), made("b", str(number))))
        listen(state, running(first, old=old))
        assert said(state).status == "True"
    last = state.registration("b", ("uid of b", "as it was"))
    assert last
    assert last.reason == "GatewayPending"


def test_a_pod_of_the_release_before_holds_a_sink_that_is_again_what_it_was() -> None:
    """It runs a head of before the change and its return; while the sink was another one, it did not hold that."""
    first = shard(0, made("a"))
    state = rendered(first)
    for head, status in ((BEFORE, "False"), (shard(0), ""), (NEWEST, "True")):
        render(state, head)
        listen(state, running(first, old=True))
        verdict = state.registration("a", NOW)
        assert verdict
        assert status in ("", verdict.status)


def test_what_is_remembered_for_the_release_before_is_bounded() -> None:
    """And nothing, once no Pod of it runs."""
    state = rendered(NEWER)
    for number in range(50):
        state.heads.put(NEWER._replace(digest=f"digest-{number}"))
    listen(state, running(NEWER, old=True))
    assert len(state.heads.numbers) == 51
    listen(state, running(NEWER))
    assert len(state.heads.numbers) == 1
    for number in range(REMEMBERED + 50):
        state.heads.put(NEWER._replace(digest=f"digest-{number}"))
    assert len(state.heads.numbers) < REMEMBERED
    assert state.heads.holds(f"digest-{REMEMBERED + 49}", "a", route_digest(made("a")))


def test_a_sink_of_another_object_is_not_registered_by_its_name() -> None:
    """Deleted and made again: the report names the UID."""
    state = rendered(NEWER)
    other = RouteReport("a", "another uid", route_digest(made("a")))
    listen(state, PodReport("gateway", Report("gateway", "gateway", "", Events(), (), routes=(other,))))
    assert said(state).reason == "GatewayPending"


def test_the_release_before_does_not_know_what_is_not_in_the_head() -> None:
    """It holds a sink in a shard no longer, or not yet."""
    shards = (shard(0, made("b"), beyond=1), shard(1, made("a")))
    state = rendered(*shards)
    listen(state, running(*shards), running(*shards, pod="old", old=True))
    assert said(state).message == "gateway Pod old has not loaded this sink yet"
    listen(state, running(*shards), running(*shards, pod="old"))
    assert said(state).status == "True"


@pytest.mark.parametrize("kind", ["DaemonSet", "StatefulSet"])
def test_where_no_pod_runs_the_message_names_what_makes_them(kind: GatewayKind) -> None:
    """For whoever looks for it."""
    state = rendered(NEWER, kind=kind)
    listen(state)
    assert f"see {kind} auditpipeline-gateway" in said(state).message


def test_a_sink_without_a_route_says_why() -> None:
    """Refused, or not rendered yet; of one that keeps its route the message says so."""
    state = rendered(NEWER, problems={"bad": "no ClusterIP", "a": "no such port"})
    listen(state, running(NEWER))
    bad = state.registration("bad", ("uid of bad", "as it was"))
    new = state.registration("new", ("uid of new", "as it was"))
    assert bad
    assert new
    assert bad == ("False", "SinkRefused", "AuditSink bad cannot be used: no ClusterIP")
    assert said(state).message == "AuditSink a cannot be used: no such port; what it said before stays in force"
    assert new[:2] == ("False", "GatewayPending")


@pytest.mark.parametrize("now", [("uid of a", "edited"), ("another uid", "as it was")])
def test_a_sink_that_changed_since_the_last_rendering_is_not_registered(now: tuple[str, str]) -> None:
    """Edited, or deleted and made again: the Pods hold what it was, whatever they report."""
    state = rendered(NEWER, problems={"a": "no ClusterIP"})
    listen(state, running(NEWER))
    assert said(state, now)[:2] == ("False", "GatewayPending")
    render(state, NEWER)
    assert said(state).status == "True"
    assert said(state, now)[:2] == ("False", "GatewayPending")


def test_nothing_is_said_of_what_was_not_looked_at_since_the_start() -> None:
    """Neither before the first rendering, nor before the first look, nor of a Pod that missed only that one."""
    state = GatewayState()
    state.recall([NEWER])
    listen(state, running(NEWER))
    assert state.registration("a", NOW) is None
    state = rendered(NEWER)
    assert state.registration("a", NOW) is None
    listen(state, running(NEWER, pod="g0"), silent("g1"))
    assert state.registration("a", NOW) is None
    listen(state, running(NEWER, pod="g0"), silent("g1"))
    assert said(state).reason == "PartlyRegistered"


def test_a_pod_counts_by_its_last_report_until_it_is_gone() -> None:
    """A sink that took nothing then is looked at again soon."""
    failing = PodReport("one", Report("gateway", "gateway", "c", Events(), (OutputReport("a", "Failing"),)))
    state = GatewayState()
    assert not state.failing()
    listen(state, failing)
    assert state.failing()
    listen(state, silent("one"))
    assert state.failing()
    listen(state)
    assert not state.failing()


@pytest.mark.parametrize(
    ("before", "looks", "reasons"),
    [
        (NEWER, [None, NEWER], ["Registered", "Registered"]),
        (NEWER, [None, None, NEWER], ["Registered", "GatewayUnreachable", "Registered"]),
        (NEWER, [None, NEWER, None], ["Registered", "Registered", "Registered"]),
        (BEFORE, [None, None], ["GatewayPending", "GatewayUnreachable"]),
        (None, [None, None], ["", "GatewayUnreachable"]),
    ],
)
def test_a_pod_may_miss_one_look(before: Written | None, looks: list[Written | None], reasons: list[str]) -> None:
    """Counting by what it said last; meanwhile it is looked at again soon. What never answered is not known about."""
    state, found = rendered(NEWER), []
    if before:
        listen(state, running(before))
    for head in looks:
        listen(state, running(head) if head else silent())
        verdict = state.registration("a", NOW)
        found.append(verdict.reason if verdict else "")
        assert state.behind() == (head is None)
    assert found == reasons


def test_another_pod_of_the_name_is_not_forgiven() -> None:
    """It never said what it runs: what was said before stays for one look, and no longer. Its counters are those of the
    one before, on the same volume."""
    state = rendered(NEWER)
    report = Report("gateway", "gateway", NEWER.digest, Events(), (OutputReport("a", delivered=7),))
    state.listen([PodReport("gateway", report)], {"gateway": "u1"})
    state.listen([silent()], {"gateway": "u2"})
    assert state.registration("a", NOW) is None
    state.listen([silent()], {"gateway": "u2"})
    assert said(state).reason == "GatewayUnreachable"
    assert [output.delivered for output in state.outputs("a")] == [7]


GOOD = [running(NEWER, pod="g0"), running(NEWER, pod="g1")]
TWO, NO_ANSWER, ASIDE = "2 of 3 gateway Pods post events", "does not answer: no answer", "its node is not ready"


@pytest.mark.parametrize(
    ("reports", "aside", "reason", "message"),
    [
        ([*GOOD, silent("g2")], (), "PartlyRegistered", f"{TWO}; gateway Pod g2 {NO_ANSWER}"),
        ([*GOOD, silent("g2")], ("g2",), "PartlyRegistered", f"{TWO}; gateway Pod g2 is left aside: {ASIDE}"),
        (
            [silent("g0"), silent("g2")],
            ("g2",),
            "GatewayUnreachable",
            f"gateway Pod g0 {NO_ANSWER}; g2 is left aside: {ASIDE}",
        ),
        ([silent("g0")], ("g0",), "GatewayUnreachable", f"gateway Pod g0 is left aside: {ASIDE}"),
        (
            [running(BEFORE, pod="g0"), silent("g2")],
            ("g2",),
            "GatewayPending",
            "gateway Pod g0 has not loaded this sink yet",
        ),
    ],
    ids=["silent", "its node is not ready", "none that counts answers", "no node is ready", "behind beside it"],
)
def test_a_silent_pod_is_named_and_costs_no_other_its_word(
    reports: list[PodReport], aside: tuple[str, ...], reason: str, message: str
) -> None:
    """A verdict is Unknown only if no Pod answers that could."""
    state = rendered(NEWER)
    for _ in range(2):
        listen(state, *reports, aside=aside)
    statuses = {"PartlyRegistered": "True", "GatewayUnreachable": "Unknown", "GatewayPending": "False"}
    assert said(state) == (statuses[reason], reason, message)


def test_a_pod_on_a_node_that_is_not_ready_is_not_waited_for() -> None:
    """Nor does it make the others be looked at twice a second."""
    state = rendered(NEWER)
    listen(state, *GOOD, silent("g2"))
    assert state.behind()
    listen(state, *GOOD, silent("g2"), aside=("g2",))
    assert not state.behind()


def test_a_route_has_moved_when_every_pod_has_it_from_its_new_shard() -> None:
    """By the shard that it was read from: the same route may be in both. One that is silent keeps it from that, as does
    one of the release before."""
    shards = (shard(0, made("a", "before"), moving=("a",), beyond=1), shard(1, made("a")))
    state = rendered(*shards)
    assert state.settled() == frozenset()
    there, elsewhere = running(*shards, pod="g0"), running(shard(0, made("a")), pod="g1")
    for other in (elsewhere, silent("g1"), running(*shards, pod="g1", old=True)):
        listen(state, there, other)
        assert state.settled() == frozenset()
    listen(state, there, running(*shards, pod="g1"))
    assert state.settled() == {"a"}


def test_a_shard_that_cannot_be_written_is_named() -> None:
    """By those who wait for it, and by nobody else."""
    shards = (shard(0, made("b")), shard(1))
    state = rendered(*shards)
    plan = Plan((shards[0], shard(1, made("a"))), [found.held for found in shards], {}, {"a": 1, "b": 0})
    both = {name: (f"uid of {name}", "as it was") for name in ("a", "b")}
    state.render({name: made(name) for name in both}, both, {}, plan)
    state.unwritten[1] = "too large"
    listen(state, running(*shards))
    assert said(state).message == "the gateway's configuration cannot be written: too large"
    other = state.registration("b", both["b"])
    assert other
    assert other.status == "True"


@pytest.mark.parametrize(
    ("pod", "replaced"),
    [
        ({"ready": True}, False),
        ({"ready": False, "created": 100.0}, True),
        ({"ready": False, "created": 100.0 - PLANNED}, False),
        ({"ready": False, "created": 100.0, "problem": Problem("CrashLoopBackOff", "x")}, False),
        ({"ready": True, "deleting": True, "leaving": 99.0}, True),
        ({"ready": True, "deleting": True, "leaving": 100.0 - LEAVING}, False),
    ],
)
def test_a_pod_is_replaced_for_so_long_and_no_longer(pod: dict[str, Any], *, replaced: bool) -> None:
    """One that ends or starts; not one that crashes, and not for ever."""
    assert is_replaced(PodFacts("gateway", "audit", "u", **pod), 100.0) is replaced


def test_what_a_restart_brings_about_is_excused_and_nothing_else() -> None:
    """Of a sink that has its route; not without a Pod before, not for long, and not if another Pod is silent."""
    state = GatewayState(sources={"a": NOW}, routes={"a": "r"}, rendered=True)
    none = Verdict("False", "GatewayNotRunning", "")
    state.watch([], 5.0)
    state.listen([], {})
    assert not state.excuses(none, "a", NOW)
    ready = PodFacts("one", "audit", "u1", running=True, ready=True)
    starting = PodFacts("two", "audit", "u2", running=True, created=10.0)
    state.watch([ready], 10.0)
    state.watch([], 11.0)
    state.listen([], {})
    assert state.excuses(none, "a", NOW)
    assert not state.excuses(none, "a", ("u of a", "another"))
    assert not state.excuses(none, "b", NOW)
    assert not state.excuses(Verdict("True", "PartlyRegistered", ""), "a", NOW)
    state.watch([ready, starting], 12.0)
    for _ in range(2):
        state.listen([PodReport("one", None, "no"), PodReport("two", None, "no")], {"one": "u1", "two": "u2"})
    assert not state.excuses(none, "a", NOW)
    state.watch([], 10.0 + LEAVING + 2.0)
    assert not state.excuses(none, "a", NOW)
