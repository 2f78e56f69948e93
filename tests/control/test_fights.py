"""How long what others write is left alone."""

from __future__ import annotations

import itertools

from auditpipeline.control.fights import CALM, LONGEST, Fights

KEY = ("services", "audit", "audit-a")


def test_the_first_three_are_mended_at_once_and_then_ever_more_slowly() -> None:
    """An hour of somebody who writes all the time: the times of each mending."""
    fights, mended = Fights(), []
    for second in range(1200):
        if fights.left(KEY, second) == 0.0:
            fights.mend(KEY, second)
            mended.append(second)
    assert mended[:10] == [0, 1, 2, 3, 5, 9, 17, 33, 65, 129]
    pauses = [later - earlier for earlier, later in itertools.pairwise(mended)]
    assert max(pauses) == LONGEST


def test_after_a_time_of_peace_it_counts_anew() -> None:
    """Whoever comes back once in ten minutes is no fight."""
    fights = Fights()
    for count in range(12):
        fights.mend(KEY, count * CALM)
        assert fights.left(KEY, count * CALM) == 0.0


def test_each_pause_is_told_once_and_no_other_object_waits() -> None:
    """A line in the log for each, not for each write of the other side."""
    fights = Fights()
    for second in range(3):
        fights.mend(KEY, second)
    assert fights.left(KEY, 2.5) == 0.5
    assert [fights.tell(KEY), fights.tell(KEY)] == [True, False]
    fights.mend(KEY, 3.0)
    assert fights.tell(KEY)
    assert fights.left(("services", "audit", "audit-b"), 2.5) == 0.0
    fights.forget(KEY)
    assert fights.left(KEY, 3.0) == 0.0
