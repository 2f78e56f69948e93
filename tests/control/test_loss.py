"""What is lost, by the API servers' counters and the gateways'."""

from __future__ import annotations

import msgspec
import pytest

from auditpipeline.control.apiservers import FORGIVEN, Reading, Server
from auditpipeline.control.loss import MOST, RETRIES, SETTLED, Gap, Kept, LossState
from auditpipeline.core.report import Taken

HERE = Server("", "10.0.0.1")
NAME = HERE.name
START = 1000.0


def reading(at: float, emitted: int = 0, failed: int = 0, start: float = START, error: str = "") -> Reading:
    return Reading(HERE, at, start, emitted, failed, error=error)


def take(state: LossState, found: Reading, taken: int | None = None, canary: float = 0.0, epoch: str = "e") -> None:
    """One round, with one gateway."""
    gateway = None if taken is None else Taken(epoch, taken)
    state.take([found], [gateway], {NAME: canary} if canary else {})


def test_what_the_webhook_backend_gave_up_is_a_gap_with_its_number() -> None:
    """From before the retries began; it grows while it lasts, and is one gap."""
    state = LossState()
    take(state, reading(5000), canary=4990)
    take(state, reading(5030), canary=4990)
    assert state.gaps == []
    take(state, reading(5060, failed=400), canary=4990)
    assert state.gaps == [Gap(NAME, "Dropped", 5030 - RETRIES, 5060, 400)]
    take(state, reading(5090, failed=430), canary=5085)
    assert state.gaps == [Gap(NAME, "Dropped", 5030 - RETRIES, 5090, 430)]
    assert state.totals["Dropped"] == 430
    take(state, reading(9000, failed=430))
    assert len(state.gaps) == 1
    take(state, reading(9030, failed=431))
    assert [gap.events for gap in state.gaps] == [430, 1]


def test_a_long_outage_begins_with_the_last_canary() -> None:
    """Which is earlier than any try that is counted now."""
    state = LossState()
    for at in range(5000, 6000, 30):
        take(state, reading(at), canary=4990)
    take(state, reading(6000, failed=1), canary=4990)
    assert state.gaps[0].begins == 4990


def test_no_gap_begins_before_its_api_server() -> None:
    """And what failed before anybody looked counts from there."""
    state = LossState()
    take(state, reading(START + 5, failed=3))
    assert state.gaps == [Gap(NAME, "Dropped", START, START + 5, 3)]


def test_a_restart_is_a_gap_that_nobody_counted() -> None:
    """From the last canary that had come to the new start; what failed since is counted by itself."""
    state = LossState()
    take(state, reading(5000, 900, 7), canary=4999)
    take(state, reading(5060, 10, 2, start=5040), canary=4999)
    assert state.gaps[1:] == [Gap(NAME, "Restarted", 4999, 5041), Gap(NAME, "Dropped", 5040, 5060, 2)]
    assert state.totals["Dropped"] == 9


def test_a_new_process_goes_on_where_the_former_one_ended() -> None:
    """What was told is not told again."""
    state = LossState()
    take(state, reading(5000, failed=7))
    kept = msgspec.json.decode(msgspec.json.encode(state.kept()), type=Kept)
    after = LossState()
    after.recall(kept)
    take(after, reading(6000, failed=7))
    assert after.gaps == state.gaps
    assert after.totals["Dropped"] == 0


@pytest.mark.parametrize(("came", "missing"), [(1000, 0), (993, 7), (1200, 0)])
def test_what_was_emitted_and_never_came_is_found_when_it_has_settled(came: int, missing: int) -> None:
    """Not before; events that come twice hide others, and are never more than nothing."""
    state = LossState()
    take(state, reading(5000, 100), 50)
    take(state, reading(5010, 1110, failed=10), 50)
    assert state.totals["Unaccounted"] == 0
    take(state, reading(5010 + SETTLED - 1, 1110, failed=10), 50 + came)
    assert state.totals["Unaccounted"] == 0
    for later in (1, 31, 61):
        take(state, reading(5010 + SETTLED + later, 9999, failed=10), 50 + came)
    assert state.totals["Unaccounted"] == missing
    assert [gap.events for gap in state.gaps if gap.cause == "Unaccounted"] == ([missing] if missing else [])


def test_another_process_on_either_side_begins_a_new_balance() -> None:
    """Their counters began anew."""
    state = LossState()
    take(state, reading(5000, 100), 50)
    take(state, reading(5030, 600), 50)
    take(state, reading(5060, 600), 3, epoch="another")
    take(state, reading(5060 + 2 * SETTLED, 600), 3, epoch="another")
    take(state, reading(5061 + 2 * SETTLED, 600), 3, epoch="another")
    assert state.totals["Unaccounted"] == 0


def test_what_cannot_be_read_is_no_loss() -> None:
    """An API server or a gateway that does not answer."""
    state = LossState()
    take(state, reading(5000, error="no"), 1)
    assert not state.read
    take(state, reading(5030, 100), None)
    take(state, reading(5030 + 2 * SETTLED, 100), None)
    assert state.read
    take(state, reading(5060 + 2 * SETTLED, error="no"), None)
    assert not state.read
    state.take([reading(5090 + 2 * SETTLED, 100), reading(5090 + 2 * SETTLED, error="no")], [None], {})
    assert not state.read
    assert state.gaps == []


def test_the_last_gaps_are_kept_and_no_number_is_lost() -> None:
    """So many as a status may hold; the oldest of a kind become one."""
    state = LossState()
    for number in range(1, 30):
        take(state, reading(1000.0 * (10 * number), failed=number))
        take(state, reading(1000.0 * (10 * number + 1), failed=number))
    assert len(state.gaps) == MOST
    assert sum(gap.events for gap in state.gaps) == 29
    assert [gap.ends for gap in state.gaps][-2:] == [280000, 290000]
    for number in range(1, 15):
        take(state, reading(10**6 * number, start=10**6 * number - 1))
    assert [gap.cause for gap in state.gaps].count("Dropped") <= 1


def test_counters_that_cannot_be_read_for_a_moment_are_no_news() -> None:
    """An API server that starts anew is away for a while; each time is counted from its first failure."""
    state = LossState()
    take(state, reading(5000))
    assert (state.read, state.is_excused(5000)) == (True, False)
    take(state, reading(5001, error="no"))
    take(state, reading(5001 + FORGIVEN - 1, error="no"))
    assert (state.read, state.is_excused(5001 + FORGIVEN - 1), state.is_excused(5001 + FORGIVEN)) == (
        False,
        True,
        False,
    )
    take(state, reading(5100))
    take(state, reading(5101, error="no"))
    assert state.is_excused(5101)


def test_restarts_take_no_number_away() -> None:
    """Whoever crashes again and again would hide what was lost before: one alone of its kind is not the first to go."""
    state = LossState()
    take(state, reading(5000))
    take(state, reading(5030, failed=400))
    for number in range(1, MOST + 2):
        take(state, reading(6000 + number * 1000, failed=0, start=6000.0 + number * 1000 - 10))
    assert [gap.events for gap in state.gaps if gap.cause == "Dropped"] == [400]
    assert len(state.gaps) == MOST


def test_gaps_of_so_many_servers_that_none_is_like_another_lose_those_without_a_number_first() -> None:
    """Only where each has one is the oldest given up."""
    gaps = [Gap("a", "Dropped", 1, 2, 7), *(Gap(f"s{number}", "Restarted", 3, 4) for number in range(MOST))]
    state = LossState(gaps=gaps)
    state._fold()
    assert [gap.server for gap in state.gaps] == ["a", *(f"s{number}" for number in range(1, MOST))]
    counted = [Gap(f"s{number}", "Dropped", number, number + 1, 7) for number in range(MOST + 1)]
    state = LossState(gaps=list(counted))
    state._fold()
    assert state.gaps == counted[1:]
