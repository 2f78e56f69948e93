"""What is taken of the receivers' answers, and of their silence."""

from __future__ import annotations

import pytest

from auditpipeline.control import names
from auditpipeline.control.facts import Heard, PodFacts, PodReport
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import entry_of
from auditpipeline.control.workload import _asked, _hear, _plan_next_look
from auditpipeline.core.errors import Retryable
from auditpipeline.core.report import Report
from tests.control import bodies
from tests.control.fakes import Answers, world
from tests.control.test_status import good, report, silent

POD = "audit-security-0"


def look(
    known: dict[str, Heard],
    answer: Report | None,
    uid: str = "u1",
    config: str = "c1",
    unheard: dict[str, int] | None = None,
) -> bool:
    """One look at the one Pod; whether its silence is forgiven."""
    facts = good(config=config, pods=[PodFacts(POD, "audit", uid)], reports=[PodReport(POD, answer, "no answer")])
    _hear(known, {} if unheard is None else unheard, facts)
    return POD in facts.forgiven


def test_a_pod_may_miss_one_look_and_not_two() -> None:
    """It said before that it runs what is wanted; an answer makes up for everything."""
    known: dict[str, Heard] = {}
    looks = [report(), None, None, report(), None, None, None]
    assert [look(known, answer) for answer in looks] == [False, True, False, False, True, False, False]


def test_a_pod_that_never_said_what_it_runs_is_not_forgiven() -> None:
    """Nor one that said something else than is wanted now, nor one that is another Pod of the same name."""
    assert not look({}, None)
    known: dict[str, Heard] = {}
    look(known, report())
    assert not look(known, None, config="c2")
    known = {}
    look(known, report())
    assert not look(known, None, uid="u2")


def test_a_pod_that_was_never_heard_has_not_been_looked_at_after_one_miss() -> None:
    """An operator that has just started knows nothing of it; the second miss in a row is news."""
    unheard: dict[str, int] = {}
    found = []
    for answer in (None, None, report(), None):
        facts = good(pods=[PodFacts(POD, "audit", "u1")], reports=[PodReport(POD, answer, "no answer")])
        _hear({}, unheard, facts)
        found.append(facts.unheard)
    assert found == [{POD}, frozenset(), frozenset(), {POD}]


@pytest.mark.parametrize("seconds", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("count", [1, 4, 40])
async def test_pods_that_let_a_worker_wait_leave_half_of_them_to_others(count: int, seconds: float) -> None:
    """However many pipelines have such Pods, and whatever else wants them to be looked at soon. A connection that is
    refused at once costs no worker anything."""
    made = await world(Answers())
    this = Round(made, bodies.pipeline(), good(reports=silent()))
    this.look_again(0.5)
    made.waits = {"security": seconds} | {f"p{number}": seconds for number in range(1, count)}
    _plan_next_look(this)
    assert this.again is not None
    assert count * seconds <= made.settings.workers / 2 * (seconds + this.again)
    assert this.again <= max(0.5, 2 * seconds * count / made.settings.workers)


async def test_only_pods_with_the_names_of_receivers_are_asked() -> None:
    """Whoever may make Pods beside them could have a round wait for any number."""
    made = await world(Answers())
    this = Round(made, bodies.pipeline(), good())
    this.take(bodies.parsed(this.body))
    for name in ("audit-security-0", "audit-security-9", "audit-security-10", "audit-security-x", "x"):
        meta = {"name": name, "namespace": this.namespace, "labels": names.labels("security")}
        made.seen.put(("pods", this.namespace, name), entry_of("pods", {"metadata": meta}))
    assert [pod.name for pod in this.pods()] == ["audit-security-0", "audit-security-9"]


async def test_how_long_silent_pods_let_one_wait_is_known_until_they_answer() -> None:
    """What a worker spent on them is what the next look waits for."""
    made = await world(Answers())
    this = Round(made, bodies.pipeline(), good())
    this.take(bodies.parsed(this.body))
    answers: list[Report | None] = [None, report()]

    async def said(*_: object) -> Report:
        answer = answers.pop(0)
        if answer is None:
            raise Retryable("no answer within 3 s")
        return answer

    made.prober.report = said  # type: ignore[method-assign, assignment]
    pods = [PodFacts(POD, "audit", "u1", ip="127.0.0.1", running=True)]
    await _asked(this, pods)
    assert made.waits["security"] > 0
    await _asked(this, pods)
    assert made.waits == {}
