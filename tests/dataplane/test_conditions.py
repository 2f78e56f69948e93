"""Conditions in the data plane: what is stored and delivered, what fails, and what takes too long."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from auditpipeline.core.conditions.model import Condition
from auditpipeline.core.config import FileOutput, Route
from auditpipeline.core.floor import FLOOR, with_floor
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.report import ConditionReport
from auditpipeline.dataplane.conditions import LIMIT, WINDOW, Conditions
from auditpipeline.dataplane.filter import Filter, Wanted, digest, narrow_line
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import EVERYTHING, Setting, event, event_list, ids, lines_in, until

METADATA = Policy(rules=(Rule(level="Metadata"),))
NO_PROBES = Condition("no-probes", "!event.userAgent.startsWith('kube-probe/')")
FAILS = Condition("team", "event.annotations['team'] == 'a'")
REFUSED = Condition("refused", "event.responseStatus.code == 403", "alerts")
SEPARATORS = [(",", ":"), (", ", ": "), (",\n", ":")]


def known(agent: str = "kubectl/v1", code: int = 200, **fields: Any) -> dict[str, Any]:
    """An event with its fields in the order of kube-apiserver."""
    whole = event(level="RequestResponse")
    del whole["verb"], whole["user"], whole["objectRef"]
    return {
        **whole,
        "verb": "update",
        "user": {"username": "alice", "groups": ["dev"]},
        "userAgent": agent,
        "objectRef": {"resource": "pods", "namespace": "default", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": code},
        **fields,
    }


def body(events: list[dict[str, Any]], separators: tuple[str, str] = (",", ":")) -> bytes:
    """The body that they come in."""
    whole = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events}
    return json.dumps(whole, separators=separators).encode()


def stored(filter_: Filter, *events: dict[str, Any], separators: tuple[str, str] = (",", ":")) -> list[str]:
    """Which of the events are stored."""
    return [json.loads(line)["auditID"] for line in filter_.take(body(list(events), separators)).lines]


@pytest.mark.parametrize("separators", SEPARATORS)
def test_only_events_of_which_every_condition_is_true_are_stored(separators: tuple[str, str]) -> None:
    """In each of the forms that a body is decoded to; the others are filtered."""
    named = Condition("alice", "event.user.username == 'alice' && event.level == 'RequestResponse'")
    filter_ = Filter([Wanted((EVERYTHING,), conditions=(NO_PROBES, named))])
    good, probe, other = known(), known("kube-probe/1"), known(user={"username": "bob"})
    for _ in range(2):
        taken = filter_.take(body([good, probe, other], separators))
        assert [json.loads(line)["auditID"] for line in taken.lines] == [good["auditID"]]
        assert (taken.filtered, taken.dead) == (2, [])


@pytest.mark.parametrize("separators", SEPARATORS)
def test_a_condition_that_fails_keeps_the_event_and_is_counted(separators: tuple[str, str]) -> None:
    """Whether the event or the expression is at fault; one that cannot be compiled fails on each event."""
    broken = Condition("broken", "event.usr == 'a'")
    conditions = Conditions()
    filter_ = Filter([Wanted((EVERYTHING,), conditions=(FAILS, broken))], conditions=conditions)
    events = [known(), known(annotations={"team": "a"}), known(annotations={"team": "b"})]
    assert stored(filter_, *events, separators=separators) == [each["auditID"] for each in events[:2]]
    route = Route("a", (EVERYTHING,), FileOutput("/x"), conditions=(FAILS, broken))
    first, second = conditions.report([route])
    assert (first.evaluations, first.rejected, first.failures) == (3, 1, 1)
    assert first.failure.startswith("a key is not there")
    assert (second.evaluations, second.failures) == (2, 2)
    assert second.failure.startswith("it cannot be compiled: at character 1: undefined field")


def test_only_what_the_policies_keep_is_asked_about() -> None:
    """By level, by rule and by stage."""
    conditions = Conditions()
    policy = Policy(rules=(Rule(level="None", verbs=("get",)), Rule(level="Metadata")))
    filter_ = Filter([Wanted((policy,), conditions=(NO_PROBES,))], conditions=conditions)
    stored(filter_, known("kube-probe/1", verb="get"), known("kube-probe/1"), known())
    (found,) = conditions.of((NO_PROBES,))
    assert (found.evaluations, found.rejected) == (2, 1)


def test_changes_to_auditing_are_stored_whatever_a_condition_says() -> None:
    """The floor: at the filter, and when a route narrows again."""
    never = Condition("never", "false")
    policy = with_floor(METADATA)
    ref = {"resource": "auditpipelines", "apiGroup": "auditpipeline.dev", "name": "security"}
    change, other = known(verb="delete", objectRef=ref), known(verb="delete")
    filter_ = Filter([Wanted((policy,), conditions=(never,))])
    assert stored(filter_, change, other) == [change["auditID"]]
    assert stored(filter_, other, change) == [change["auditID"]]
    watched = Conditions().of((never,))
    lines = list(Filter([Wanted((EVERYTHING,))]).take(body([change, other])).lines)
    assert [narrow_line(line, (policy,), None, watched) is not None for line in lines] == [True, False]
    assert FLOOR in policy.rules


def test_an_event_is_stored_if_one_output_keeps_it_and_each_output_asks_again() -> None:
    """A condition of an output counts each event once, wherever it is decided."""
    conditions = Conditions()
    archive = Wanted((METADATA,), conditions=(Condition("kubectl", "event.userAgent == 'kubectl/v1'", "archive"),))
    alerts = Wanted((METADATA,), conditions=(REFUSED,))
    filter_ = Filter([archive, alerts], conditions=conditions)
    events = [known(), known(code=403), known("curl/1", code=403), known("curl/1")]
    lines = list(filter_.take(body(events)).lines)
    assert [json.loads(line)["auditID"] for line in lines] == [each["auditID"] for each in events[:3]]
    for wanted, count in ((archive, 2), (alerts, 2)):
        watched = conditions.of(wanted.conditions)
        kept = [line for line in lines if narrow_line(line, wanted.policies, None, watched)]
        assert len(kept) == count
        assert [(each.evaluations, each.rejected) for each in watched] == [(4, 2)]


def test_an_output_without_conditions_gets_everything_and_the_other_asks_when_it_delivers() -> None:
    """And a condition of the pipeline is counted once for an event, however many outputs there are."""
    conditions = Conditions()
    archive = Wanted((METADATA,), conditions=(NO_PROBES,))
    alerts = Wanted((METADATA,), conditions=(NO_PROBES, REFUSED))
    events = [known(), known(code=403), known("kube-probe/1")]
    lines = list(Filter([archive, alerts], conditions=conditions).take(body(events)).lines)
    assert len(lines) == 2
    for wanted, count in ((archive, 2), (alerts, 1)):
        watched = conditions.of(wanted.conditions)
        assert len([line for line in lines if narrow_line(line, wanted.policies, None, watched)]) == count
    assert [(each.evaluations, each.rejected) for each in conditions.of(alerts.conditions)] == [(3, 1), (2, 1)]


def test_a_condition_sees_what_the_policies_of_its_route_leave() -> None:
    """Not what is stored for another one; at the filter as when the route narrows again."""
    has_body = Condition("body", "has(event.requestObject) || event.level == 'RequestResponse'")
    managed = Condition("managed", "has(event.requestObject.metadata.managedFields)")
    sent = known(requestObject={"metadata": {"managedFields": [1]}})
    lean = Policy(rules=(Rule(level="RequestResponse"),), omit_managed_fields=True)
    whole = Redaction(default=False)
    for policy, condition in ((METADATA, has_body), (lean, managed)):
        narrow, wide = Wanted((policy,), whole, (condition,)), Wanted((EVERYTHING,), whole, (condition,))
        assert stored(Filter([narrow]), sent) == []
        assert stored(Filter([wide]), sent) == [sent["auditID"]]
        (line,) = Filter([narrow, wide]).take(body([sent])).lines
        watched = Conditions().of((condition,))
        assert narrow_line(line, narrow.policies, None, watched) is None
        assert narrow_line(line, wide.policies, None, watched)


def test_a_condition_sees_no_secret() -> None:
    """Whether an event is recorded must not tell what stands in a Secret."""
    guess = Condition("guess", "event.requestObject.data.password == 'aHVudGVyMg=='")
    secret = known(
        objectRef={"resource": "secrets", "namespace": "default", "name": "db", "apiVersion": "v1"},
        requestObject={"kind": "Secret", "apiVersion": "v1", "data": {"password": "aHVudGVyMg=="}},
    )
    assert stored(Filter([Wanted((EVERYTHING,), conditions=(guess,))]), secret) == []


def test_the_digest_holds_the_conditions() -> None:
    """Rows that others decided on are asked about again; names and places decide nothing."""
    plain, asked = Wanted((METADATA,)), Wanted((METADATA,), conditions=(NO_PROBES,))
    assert len({digest([plain]), digest([asked]), digest([Wanted((METADATA,), conditions=(FAILS,))])}) == 3
    assert Filter([asked]).digest == digest([asked])


class Clock:
    """CPU time, of which each evaluation takes so much: it passes when the clock is looked at after one."""

    def __init__(self, *costs: float) -> None:
        self._costs: Iterator[float] = iter(costs)
        self._now = 0.0
        self._within = False

    def __call__(self) -> float:
        """The seconds, at the beginning and at the end of each evaluation in turn."""
        self._now += next(self._costs, 0.0) if self._within else 0.0
        self._within = not self._within
        return self._now


NEVER = Condition("never", "false")


def kept(*costs: float) -> tuple[int, ConditionReport, list[Condition]]:
    """How many events are rejected before a condition that takes so long is switched off; what is said of it, and to
    whom."""
    told = list[Condition]()
    conditions = Conditions(told.append, Clock(*costs))
    filter_ = Filter([Wanted((METADATA,), conditions=(NEVER,))], conditions=conditions)
    for _ in range(5 * WINDOW):
        filter_.take(body([known()]))
    report = conditions.of((NEVER,))[0].report()
    return report.rejected, report, told


def test_a_condition_that_takes_too_long_is_switched_off_and_keeps_events() -> None:
    """Within a window that is too much already, or at the end of one; and it is reported once."""
    rejected, report, told = kept(*[LIMIT * 1.5] * 1000)
    assert WINDOW / 2 < rejected <= WINDOW
    assert (report.off, report.evaluations, told) == (True, rejected, [NEVER])
    assert report.seconds == pytest.approx(rejected * LIMIT * 1.5)
    rejected, report, _ = kept(WINDOW * LIMIT * 2)
    assert (rejected, report.off) == (1, True)


def test_a_condition_is_judged_by_its_average() -> None:
    """One event that takes long is forgiven, also in each window; what was forgiven is not held against it later."""
    one = [LIMIT * WINDOW * 0.9, *[0.0] * (WINDOW - 1)]
    rejected, report, told = kept(*one * 5)
    assert (rejected, report.off, told) == (5 * WINDOW, False, [])


def test_a_changed_condition_gets_another_chance_and_an_unchanged_one_does_not() -> None:
    """By its expression; what no route has any more is forgotten."""
    conditions = Conditions(clock=Clock(1.0))
    (slow,) = conditions.of((NEVER,))
    slow.ask(lambda name: None)
    route = Route("a", (METADATA,), FileOutput("/x"), conditions=(NEVER,))
    conditions.forget([route])
    assert conditions.report([route])[0].off
    conditions.forget([])
    assert not conditions.report([route])[0].off
    assert not conditions.of((Condition("never", "1 == 2"),))[0].off


@pytest.mark.parametrize("conditions", [(), (NO_PROBES,)])
def test_the_library_is_loaded_only_if_there_is_a_condition(conditions: tuple[Condition, ...]) -> None:
    """It takes some 8 MB."""
    code = (
        "import sys; from auditpipeline.dataplane import plane, filter; from auditpipeline.core import policy\n"
        "from auditpipeline.core.conditions.model import Condition\n"
        "rule = policy.Policy((policy.Rule('Metadata'),))\n"
        "wanted = filter.Wanted((rule,), conditions=tuple(Condition(*each) for each in eval(sys.argv[1])))\n"
        "print(filter.Filter([wanted]).take(sys.stdin.buffer.read()).filtered, 'cel_expr_python' in sys.modules)\n"
    )
    given = repr([(each.name, each.expression) for each in conditions])
    command = [sys.executable, "-c", code, given]
    found = subprocess.run(command, input=event_list([known()]), capture_output=True, check=True)
    assert found.stdout.decode().split() == ["0", str(bool(conditions))]


async def test_a_receiver_follows_its_conditions(setting: Setting) -> None:
    """A process of its own: what is recorded changes with the configuration, a failure is counted and kept, and both
    are said in the report and in the metrics."""

    def put(*conditions: Condition) -> str:
        return setting.write(setting.config(setting.route(conditions=conditions)))

    async def sent(*events: dict[str, Any]) -> None:
        url, context = f"https://127.0.0.1:{process.ports['audit']}/audit", setting.authority.client(setting.client_tls)
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=event_list(events), ssl=context) as response,
        ):
            assert response.status == 200

    async def following(digest_: str) -> bool:
        return (await process.report(setting)).config == digest_

    put(NO_PROBES)
    async with serving(setting) as process:
        await process.listening()
        first, probe = known(), known("kube-probe/1")
        await sent(first, probe)
        digest_ = put(FAILS)
        await until(lambda: following(digest_))
        later, other = known("kube-probe/1"), known(annotations={"team": "b"})
        await sent(later, other)
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == 2)
        assert ids(lines_in(setting.file)) == ids([first, later])
        report = await process.report(setting)
        assert report.events.received == 2
        (found,) = report.conditions or ()
        assert (found.name, found.evaluations, found.rejected, found.failures) == ("team", 2, 1, 1)
        assert found.failure.startswith("a key is not there")
        metrics = (await process.ops(setting, "/metrics")).decode()
        assert 'auditpipeline_condition_failures_total{condition="team",output=""} 1.0' in metrics
        assert 'auditpipeline_condition_off{condition="team",output=""} 0.0' in metrics
        assert "auditpipeline_events_filtered_total 2.0" in metrics
        put()
        await until(lambda: _plain(process, setting))


async def _plain(process: Process, setting: Setting) -> bool:
    return (await process.report(setting)).conditions == ()


async def test_outputs_of_one_receiver_have_conditions_of_their_own(setting: Setting) -> None:
    """Each gets its own events, also those that were stored before its condition was changed."""
    alerts = setting.folder / "out" / "alerts.jsonl"
    route = setting.route("alerts", FileOutput(str(alerts)), conditions=(REFUSED,))
    async with setting.running(setting.config(setting.route(), route)) as plane:
        events = [known(), known(code=403)]
        assert await plane.post(events) == 200
        await until(lambda: alerts.exists() and lines_in(alerts))
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == 2)
        assert ids(lines_in(alerts)) == ids(events[1:])
        (found,) = (await plane.report()).conditions or ()
        assert (found.output, found.evaluations, found.rejected) == ("alerts", 2, 1)


async def test_very_large_events_are_asked_about_too(setting: Setting) -> None:
    """They are decided on in another thread, while others are decided on in this one; each is counted once."""
    large = {"metadata": {"name": "a"}, "data": "x" * 2**18}
    async with setting.running(setting.config(setting.route(conditions=(NO_PROBES,)))) as plane:
        small = [[known(), known("kube-probe/1")] for _ in range(20)]
        big = [[known(requestObject=large), known("kube-probe/1", requestObject=large)] for _ in range(5)]
        assert set(await asyncio.gather(*(plane.post(events) for events in (*small, *big)))) == {200}
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == 25)
        assert set(ids(lines_in(setting.file))) == {*ids(events[0] for events in (*small, *big))}
        (found,) = (await plane.report()).conditions or ()
        assert (found.evaluations, found.rejected, found.failures) == (50, 25, 0)
