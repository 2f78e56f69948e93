"""What is taken of the receivers' answers, and of their silence."""

from __future__ import annotations

from auditpipeline.control.facts import Heard, PodFacts, PodReport
from auditpipeline.control.workload import _hear
from auditpipeline.core.report import Report
from tests.control.test_status import good, report

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
