"""The work queue, alone: each promise of its module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from auditpipeline.control.queue import FIRST_BACKOFF, WorkQueue
from auditpipeline.core.errors import Retryable

Made = Callable[..., WorkQueue]


@pytest.fixture
async def queue() -> AsyncIterator[Made]:
    """Makes started queues, and stops them."""
    made: list[WorkQueue] = []

    def start(work: Callable[[str], Awaitable[float | None]], **options: object) -> WorkQueue:
        made.append(WorkQueue(work, **options))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        await each.stop()


async def test_a_key_added_many_times_is_worked_on_once(queue: Made) -> None:
    """A burst of events is one look."""
    calls: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        calls.append(key)
        if key == "last":
            done.set()

    made = queue(work, workers=1)
    for _ in range(100):
        made.add("a")
    made.add("last")
    await asyncio.wait_for(done.wait(), 5)
    assert calls == ["a", "last"]


async def test_a_key_is_never_worked_on_twice_at_the_same_time(queue: Made) -> None:
    """What is added meanwhile runs afterwards, once."""
    running, most, calls = 0, 0, 0
    again = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal running, most, calls
        running, calls = running + 1, calls + 1
        most = max(most, running)
        if calls == 1:
            made.add("a")
            made.add("a")
        await asyncio.sleep(0)
        running -= 1
        if calls == 2:
            again.set()

    made = queue(work, workers=4)
    made.add("a")
    await asyncio.wait_for(again.wait(), 5)
    assert (most, calls) == (1, 2)


async def test_no_more_than_the_workers_run_at_once(queue: Made) -> None:
    """Ten keys, three workers."""
    running, most, done = 0, 0, 0
    finished = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running, done = running - 1, done + 1
        if done == 10:
            finished.set()

    made = queue(work, workers=3)
    for index in range(10):
        made.add(str(index))
    await asyncio.wait_for(finished.wait(), 5)
    assert most == 3


async def test_the_earlier_of_two_times_counts(queue: Made) -> None:
    """A resync must not put off what is due."""
    done = asyncio.Event()

    async def work(key: str) -> None:
        done.set()

    made = queue(work)
    made.add("a", 3600)
    made.add("a", 0.01)
    made.add("a", 3600)
    await asyncio.wait_for(done.wait(), 5)


async def test_work_says_when_it_wants_to_be_called_again(queue: Made) -> None:
    """By seconds; None is never."""
    calls = 0
    done = asyncio.Event()

    async def work(key: str) -> float | None:
        nonlocal calls
        calls += 1
        if calls == 3:
            done.set()
            return None
        return 0.001

    queue(work).add("a")
    await asyncio.wait_for(done.wait(), 5)


async def test_a_failing_key_waits_twice_as_long_each_time_and_delays_no_other() -> None:
    """And a success sets it back."""
    waits: list[float] = []

    async def work(key: str) -> None:
        raise Retryable("no")

    made = WorkQueue(work, failed=lambda key, error, seconds: waits.append(seconds), jitter=lambda: 1.0)
    for _ in range(4):
        await made._call("a")
    await made._call("b")
    assert waits == [FIRST_BACKOFF, 2 * FIRST_BACKOFF, 4 * FIRST_BACKOFF, 8 * FIRST_BACKOFF, FIRST_BACKOFF]


async def test_a_server_that_says_how_long_to_wait_is_obeyed() -> None:
    """Retry-After is the least."""
    waits: list[float] = []

    async def work(key: str) -> None:
        raise Retryable("no", after=30.0)

    made = WorkQueue(work, failed=lambda key, error, seconds: waits.append(seconds))
    await made._call("a")
    assert waits == [30.0]


async def test_nothing_is_left_after_stop(queue: Made) -> None:
    """A key that is worked on is cancelled and waited for."""
    started, cancelled = asyncio.Event(), False

    async def work(key: str) -> None:
        nonlocal cancelled
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    before = asyncio.all_tasks()
    made = queue(work)
    made.add("a")
    await asyncio.wait_for(started.wait(), 5)
    await made.stop()
    assert cancelled
    assert asyncio.all_tasks() == before
