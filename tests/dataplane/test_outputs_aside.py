"""Calls of an output that may hang: one at a time, in a thread that is there only as long as it is needed."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from auditpipeline.dataplane.outputs import aside
from auditpipeline.dataplane.outputs.aside import Aside
from tests.dataplane.setting import until

NAME = "output-test"


def threads() -> int:
    """How many threads of ours there are."""
    return sum(thread.name == NAME for thread in threading.enumerate())


async def test_a_call_returns_or_raises_what_it_does() -> None:
    """Again and again, in one thread."""
    calls = Aside(NAME)
    assert threads() == 0
    assert [await calls.run(lambda: 7) for _ in range(3)] == [7, 7, 7]
    with pytest.raises(ZeroDivisionError):
        await calls.run(lambda: 1 // 0)
    assert threads() == 1
    calls.stop()
    await until(lambda: threads() == 0)


async def test_calls_that_are_given_up_do_not_pile_up() -> None:
    """One hangs, those behind it are gone with whoever waited, and the next one runs."""
    calls, go = Aside(NAME), threading.Event()
    made: list[int] = []

    def call(number: int) -> None:
        go.wait()
        made.append(number)

    for number in range(20):
        task = asyncio.create_task(calls.run(partial(call, number)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    go.set()
    assert await calls.run(lambda: list(made)) == [0]
    assert threads() == 1
    calls.stop()
    await until(lambda: threads() == 0)


async def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """And another one starts with the next call; a call that takes long is work."""
    monkeypatch.setattr(aside, "IDLE", 0.0)
    calls, go = Aside(NAME), threading.Event()
    for _ in range(2):
        assert await calls.run(lambda: 7) == 7
        await until(lambda: threads() == 0)
    task = asyncio.create_task(calls.run(go.wait))
    await until(lambda: threads() == 1)
    go.set()
    assert await task
    calls.stop()
    calls.stop()
    await until(lambda: threads() == 0)
