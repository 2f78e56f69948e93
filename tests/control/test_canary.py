"""When a canary is missing, and when nothing is claimed."""

from __future__ import annotations

from auditpipeline.control.apiservers import Server
from auditpipeline.control.canary import CanaryFacts, CanaryState, Seen, source_of
from auditpipeline.core.report import Canary, Events, Report

ONE, TWO = Server("", "10.0.0.1"), Server("https://10.0.0.2:6443", "10.0.0.2")
PERIOD = 30.0


def report(*canaries: Canary) -> Report:
    return Report("receiver", "a", "c", Events(), (), canaries=canaries)


def seen(server: Server, number: str, latency: float = 0.5) -> Canary:
    return Canary(source_of(server), number, 1, latency, 0.0)


def sending(*servers: Server) -> CanaryState:
    """One registered at second 1, and then a canary every thirty seconds: numbers 0 to 4."""
    state = CanaryState()
    look(state, 1)
    for number in range(5):
        for server in servers:
            state.answered(server, str(number), 10 + PERIOD * number)
    return state


def look(
    state: CanaryState, now: float, *, registered: bool = True, emitting: tuple[Server, ...] = (ONE, TWO)
) -> CanaryFacts:
    names = [server.name for server in emitting]
    return state.look("a", registered=registered, emitting=names, now=now, period=PERIOD)


def test_three_in_a_row_that_do_not_come_are_missing() -> None:
    """Not before the first of them is three periods old."""
    state = CanaryState()
    look(state, 1)
    for number in range(3):
        state.answered(ONE, str(number), 10 + PERIOD * number)
        assert look(state, 11 + PERIOD * number).missing == ()
    assert look(state, 99).missing == ()
    assert look(state, 100).missing == ("kube-apiserver 10.0.0.1",)


def test_one_that_comes_ends_it() -> None:
    """And is told with its latency."""
    state = sending(ONE)
    assert look(state, 135).missing
    state.take("a", [report(), report(seen(ONE, "4", 2.5))])
    assert look(state, 135) == CanaryFacts((), Seen(130, 2.5))


def test_each_api_server_is_looked_for_by_itself() -> None:
    """One gateway of two that is cut off shows."""
    state = sending(ONE, TWO)
    state.take("a", [report(seen(ONE, "4"))])
    assert look(state, 135).missing == ("kube-apiserver 10.0.0.2",)
    state.keep_only([ONE])
    assert look(state, 135).missing == ()


def test_an_api_server_that_may_not_emit_them_is_not_looked_for() -> None:
    """Its policy is not known, or another one; the other one's are."""
    state = sending(ONE, TWO)
    assert look(state, 135, emitting=(TWO,)).missing == ("kube-apiserver 10.0.0.2",)


def test_a_number_that_was_not_sent_is_no_canary() -> None:
    """Anybody may ask for such a path."""
    state = sending(ONE)
    state.take("a", [report(seen(ONE, "99"))])
    assert look(state, 135).missing
    assert look(state, 135).seen is None


def test_nothing_is_claimed_where_none_can_come() -> None:
    """Not registered, only just registered, or a static policy that does not emit them."""
    state = sending(ONE)
    assert look(state, 135, emitting=()).missing == ()
    assert look(state, 135, registered=False).missing == ()
    assert look(state, 135).missing == ()


def test_a_pod_that_forgot_takes_nothing_back() -> None:
    """It started again; what it had seen was seen."""
    state = sending(ONE)
    state.take("a", [report(seen(ONE, "4"))])
    state.take("a", [report()])
    assert look(state, 135).missing == ()


def test_canaries_that_have_come_since_the_start_prove_that_they_are_emitted() -> None:
    """By each API server for itself, and surely since it read its policy: clocks differ by seconds."""
    one, two = "kube-apiserver 10.0.0.1", "kube-apiserver 10.0.0.2"
    state = sending(ONE, TWO)
    assert state.proven({}) == set()
    assert state.proven({one: 100}) == set()
    state.take("", [report(seen(ONE, "4"))])
    assert state.proven({one: 100, two: 100}) == {one}
    assert state.proven({one: 125}) == set()
    state.take("", [report(seen(TWO, "4"))])
    assert state.proven({one: 100, two: 100}) == {one, two}
    assert state.proven({one: 100}) == {one}
