"""A thread of its own: who waits for it always hears how it ended."""

from __future__ import annotations

import asyncio
import threading

import pytest

from auditpipeline.dataplane import worker as workers
from auditpipeline.dataplane.worker import Ended, Worker


@pytest.mark.parametrize("error", [ValueError("a value"), MemoryError()], ids=["ValueError", "MemoryError"])
async def test_what_a_call_raises_is_its_callers_alone(error: Exception) -> None:
    """The thread goes on, whatever the exception."""
    worker = Worker("test")

    def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        await worker.run(fails)
    assert await worker.run(lambda: "after") == "after"
    worker.stop()


async def test_a_thread_that_ends_fails_what_waits_and_what_comes() -> None:
    """The call that ended it, those behind it, and any later one; and it says so once."""
    said: list[Exception] = []
    worker, go = Worker("test", said.append), threading.Event()

    def ends() -> None:
        go.wait()
        raise SystemExit("no more")

    waiting = [asyncio.ensure_future(worker.run(ends)), asyncio.ensure_future(worker.run(lambda: "never"))]
    await asyncio.sleep(0)
    go.set()
    for found in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(found, Ended)
        assert "the thread test has ended (SystemExit: no more)" in str(found)
    with pytest.raises(Ended):
        await worker.run(lambda: "later")
    worker._thread.join()
    assert len(said) == 1


async def test_a_worker_that_was_stopped_answers_too() -> None:
    """What came before the stop is done; what comes after it fails at once, and that is no failure of the thread."""
    said: list[Exception] = []
    worker = Worker("test", said.append)
    before = worker.submit(lambda: "before")
    worker.stop()
    assert await before == "before"
    with pytest.raises(Ended, match="it was stopped"):
        await worker.run(lambda: "after")
    worker._thread.join()
    assert said == []


async def test_short_memory_does_not_keep_an_answer_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Telling the loop may need memory that is there a moment later."""
    monkeypatch.setattr(workers, "_AGAIN_SECONDS", 0.0)
    loop, tell, short = asyncio.get_running_loop(), asyncio.get_running_loop().call_soon_threadsafe, [1, 2, 3]

    def tells(*args: object) -> object:
        if short:
            short.pop()
            raise MemoryError
        return tell(*args)  # type: ignore[arg-type]

    worker = Worker("test")
    monkeypatch.setattr(loop, "call_soon_threadsafe", tells)
    assert await worker.run(lambda: "told") == "told"
    assert not short
    worker.stop()
