"""The recorder's judge can fail: every broken promise shows in its row, and what is allowed does not."""

from __future__ import annotations

import math

import pytest

from tests.e2e.judging import GRACE, Condition, Record, Row, State, Told, Window, Write, judge, table

KEY = ("AuditPipeline", "shop")
WINDOW = Window(100.0, 200.0)


def ready(status: str = "True", reason: str = "Ready", message: str = "well", since: str = "then") -> Condition:
    return Condition("Ready", status, reason, message, since)


def state(at: float, *conditions: Condition, version: str = "1", figures: str = "", uid: str = "u") -> State:
    return State(at, KEY, uid, version, conditions or (ready(),), figures)


def healthy(*states: State, events: tuple[Told, ...] = (), writes: tuple[Write, ...] = ()) -> Row:
    """The row of an object that is to stay as it is."""
    return judge("it", Record((state(50.0), *states), events), WINDOW, unchanged=[KEY], writes=writes)


def broken(*states: State, since: float = 110.0, outages: tuple[tuple[float, float], ...] = ()) -> Row:
    """The row of an object that broke at `since`."""
    return judge("it", Record((state(50.0), *states), (), outages), WINDOW, broken={KEY: since})


def test_nothing_that_happens_is_no_fault() -> None:
    """Nor is what happened before, or after."""
    assert healthy(state(201.0, ready("False", "Late"))).faults == []
    assert healthy(state(99.0, ready("True", "Ready", "well", "earlier"))).faults == []


def test_a_flap_is_a_fault_however_short() -> None:
    """Both of its moves are said, with what they moved to."""
    row = healthy(
        state(150.0, ready("False", "Reconciling", "not looked at yet"), version="2"), state(150.1, version="3")
    )
    assert row.moved == (
        "AuditPipeline/shop Ready: True (Ready) -> False (Reconciling): not looked at yet",
        "AuditPipeline/shop Ready: False (Reconciling) -> True (Ready): well",
    )
    assert len(row.faults) == 2


def test_a_moved_transition_time_is_a_fault() -> None:
    """It is what is left of a flap that nobody saw."""
    (fault,) = healthy(state(150.0, ready(since="now"), version="2")).faults
    assert fault == "moved: AuditPipeline/shop Ready: lastTransitionTime then -> now, still True (Ready)"


def test_another_reason_is_a_fault() -> None:
    """The status alone is not all that a condition says."""
    assert healthy(state(150.0, ready(reason="Other"), version="2")).faults


def test_a_condition_that_comes_or_goes_is_a_fault() -> None:
    """Such as Reconciling beside the others."""
    extra = Condition("Reconciling", "True", "Waiting", "", "now")
    assert [text.split(":")[0] for text in healthy(state(150.0, ready(), extra, version="2")).moved] == [
        "AuditPipeline/shop Reconciling"
    ]
    assert healthy(State(150.0, KEY, "u", "2")).moved


def test_an_object_that_goes_or_is_another_one_is_a_fault() -> None:
    """By its uid."""
    assert healthy(State(150.0, KEY, "", "2")).faults == ["moved: AuditPipeline/shop is gone"]
    assert healthy(state(150.0, uid="v")).faults == ["moved: AuditPipeline/shop is another object"]


AWAY = ready("False", "PodsPending", since="now")


def planned(*states: State, events: tuple[Told, ...] = ()) -> Row:
    """The row of an object whose receivers are restarted, for which a minute is planned."""
    return judge("it", Record((state(50.0), *states), events), WINDOW, unchanged=[KEY], planned=60.0)


def test_a_planned_restart_may_show_for_a_while() -> None:
    """Once for each receiver; what it moved has to be as it was in the end, but for the time since."""
    back = ready(since="later")
    told = (Told(121.0, KEY, "PodsPending", "Ready is False: waiting"),)
    assert planned(state(110.0, AWAY), state(170.0, back), events=told).faults == []
    assert planned(state(110.0, AWAY), state(130.0, back), state(140.0, AWAY), state(190.0, back)).faults == []
    assert healthy(state(110.0, AWAY), state(120.0, back)).faults


def test_a_planned_restart_that_takes_long_is_a_fault() -> None:
    """Or one that has not ended."""
    assert planned(state(110.0, AWAY), state(170.1)).faults
    assert planned(state(110.0, AWAY)).faults


def test_nothing_else_may_move_in_a_planned_restart() -> None:
    """Another condition, another object, and a time that moved without a restart."""
    lost = Condition("AuditLoss", "True", "EventsLost", "", "now")
    assert planned(state(110.0, AWAY, lost), state(120.0)).faults
    assert planned(state(110.0, AWAY), state(120.0, AWAY, uid="v"), state(130.0)).faults
    assert planned(state(110.0, ready(since="later"))).faults
    assert planned(state(110.0), events=(Told(121.0, KEY, "PodsPending", "Ready is False"),)).faults
    other = (Told(121.0, KEY, "EventsLost", "AuditLoss is True"),)
    assert planned(state(110.0, AWAY), state(120.0), events=other).faults


def test_an_event_is_a_fault() -> None:
    """On the object, and within the window."""
    told = [Told(at, KEY, "Ready", "Ready is True") for at in (99.0, 150.0, 201.0)]
    assert healthy(events=tuple(told)).events == ("AuditPipeline/shop: Ready: Ready is True",)
    assert not healthy(events=(Told(150.0, ("AuditSink", "shop"), "Ready", ""),)).faults


def test_a_write_that_changes_nothing_is_a_fault() -> None:
    """A new version of the same status, a patch that led to no new version, and any write of a child."""
    assert healthy(state(150.0, version="2")).writes == ("AuditPipeline/shop: a new version with the same status",)
    idle = Write(150.0, "patch", "auditpipelines/status", "shop", "1")
    assert healthy(writes=(idle,)).writes == ("patch auditpipelines/status shop, which changed nothing",)
    child = Write(150.0, "patch", "services", "audit-shop", "7")
    assert healthy(writes=(child,)).faults == ["written: patch services audit-shop"]
    assert healthy(writes=(child._replace(at=99.0),)).faults == []


def test_figures_and_words_may_change() -> None:
    """They are counted, and no fault."""
    patch = Write(150.0, "patch", "auditpipelines/status", "shop", "2")
    row = healthy(state(150.0, ready(message="better"), version="2", figures="7"), writes=(patch,))
    assert (row.faults, row.figures, row.words) == ([], 1, 1)


def test_what_was_never_seen_is_not_judged() -> None:
    """A recorder that saw nothing must not say that all is well."""
    with pytest.raises(ValueError, match="never seen"):
        judge("it", Record(), WINDOW, unchanged=[KEY])
    with pytest.raises(ValueError, match="never seen"):
        judge("it", Record(), WINDOW, broken={KEY: 110.0})


def test_a_broken_one_that_stays_true_is_a_fault() -> None:
    """From when it broke, to the end."""
    row = broken()
    assert row.wrong == 90.0
    assert row.faults == ["AuditPipeline/shop said Ready=True for 90.0 s while it was broken"]


def test_a_broken_one_may_say_true_for_a_moment() -> None:
    """And not again, for longer, later."""
    moment = state(110.0 + GRACE, ready("False"), version="2")
    assert broken(moment).faults == []
    assert broken(moment).wrong == GRACE
    assert broken(moment, state(150.0, version="3")).wrong == 50.0
    assert broken(state(110.0 + GRACE + 0.1, ready("False"), version="2")).faults


def test_new_figures_do_not_begin_a_wrong_true_anew() -> None:
    """It is one time of saying True."""
    assert broken(*(state(110.0 + second, version=str(second)) for second in range(1, 20))).wrong == 90.0


def test_time_without_an_api_server_does_not_count() -> None:
    """Nobody reads a status that nobody serves: it counts from when it is served again."""
    assert broken(state(195.0, ready("False"), version="2"), outages=((105.0, 190.0),)).wrong == 5.0
    assert broken(outages=((105.0, 150.0),)).wrong == 50.0
    assert broken(outages=((105.0, math.inf),)).wrong == 0.0


def test_a_new_one_that_says_nothing_is_a_fault() -> None:
    """No Ready condition is no answer."""
    made = State(110.0, KEY, "u", "1")
    silent = judge("it", Record((made,)), WINDOW, broken={KEY: 110.0})
    assert silent.faults == ["AuditPipeline/shop had no Ready condition for 90.0 s"]
    spoken = judge("it", Record((made, state(115.0, ready("False")))), WINDOW, broken={KEY: 110.0})
    assert (spoken.silent, spoken.faults) == (5.0, [])


def test_the_table_has_a_line_for_each_disturbance() -> None:
    """With what moved, and for how long something wrong was said."""
    head, line = table([broken()._replace(disturbance="operator killed")]).splitlines()
    assert "longest wrong True" in head
    assert "operator killed" in line
    assert "90.0 s" in line
