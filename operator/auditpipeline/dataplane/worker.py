"""One thread that does blocking work in order.

Unlike an executor's, the thread is a daemon: a write that hangs (a pipe that nobody reads, a dead disk) must not keep
the process from ending. Work that was handed over runs to its end even where nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """A thread called `name`. `run` may be called until `stop`; the thread ends when it has done what came before."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises, after everything that was handed over before it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._work.put((future, call))
        return await future

    def stop(self) -> None:
        """Ends the thread after the work that it holds; does not wait."""
        self._work.put(None)

    def _loop(self) -> None:
        while item := self._work.get():
            future, call = item
            try:
                result, error = call(), None
            except Exception as problem:
                result, error = None, problem
            resolve([(future, result, error)])
            del item, future, call, result, error


def resolve(results: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    """Hands results to futures of one loop, from any thread; who stopped waiting, or whose loop is gone, gets
    nothing."""
    if not results:
        return
    try:
        results[0][0].get_loop().call_soon_threadsafe(_set, results)
    except RuntimeError:
        # The loop was closed meanwhile: nobody is left who could wait.
        return


def _set(results: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, error in results:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
