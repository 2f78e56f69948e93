"""One thread that does blocking work in order.

Unlike an executor's, the thread is a daemon: a write that hangs (a pipe that nobody reads, a dead disk) must not keep
the process from ending. Work that was handed over runs to its end even if nobody waits for it any more.

Whatever a call raises goes to whoever waits for that call. If the thread itself ends, everything that waits fails with
`Ended`, later calls fail at once, and `failure` has the reason: no future is left without an owner.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from auditpipeline.core.errors import Retryable

T = TypeVar("T")
Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]
_AGAIN_SECONDS = 0.1


class Ended(Retryable):
    """A thread that was needed has ended: it works again when the process is started again."""

    def __init__(self, name: str, error: BaseException | None) -> None:
        why = f"{type(error).__name__}: {error}".rstrip(": ") if error else "it was stopped"
        super().__init__(f"the thread {name} has ended ({why}): the process has to be started again")


class Worker:
    """A thread called `name`. `run` may be called until `stop`; the thread ends when it has done what came before.
    `on_failure` is called in the thread, once, if it ends for another reason."""

    def __init__(self, name: str, on_failure: Callable[[Exception], None] | None = None) -> None:
        self.failure: Ended | None = None
        self._name = name
        self._on_failure = on_failure
        self._waiting: set[asyncio.Future[Any]] = set()
        self._work: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work_on, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises, after everything that was handed over before it; Ended if the thread is no
        more."""
        return await self.submit(call)

    def submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """As `run`, without waiting. Cancelling the future does not stop the call."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        self._work.put((future, call))
        if self.failure:  # it may have ended before it could see this
            _set([(future, None, self.failure)])
        return future

    def stop(self) -> None:
        """Ends the thread after the work that it holds; does not wait."""
        self._work.put(None)

    def _work_on(self) -> None:
        error: BaseException | None = None
        try:
            self._loop()
        except BaseException as found:
            error = found
        self.failure = Ended(self._name, error)
        fail(self._waiting, self.failure)
        if error is not None and self._on_failure:
            self._on_failure(self.failure)

    def _loop(self) -> None:
        while item := self._work.get():
            future, call = item
            try:
                result, error = call(), None
            except Exception as problem:
                result, error = None, problem
            resolve([(future, result, error)])
            del item, future, call, result, error


def resolve(results: list[Outcome]) -> None:
    """Hands results to futures of one loop, from any thread; who stopped waiting, or whose loop is gone, gets
    nothing."""
    if results:
        call_in(results[0][0].get_loop(), _set, results)


def fail(waiting: Iterable[asyncio.Future[Any]], error: Exception) -> None:
    """Fails all of the futures, from any thread."""
    for future in list(waiting):
        resolve([(future, None, error)])


def call_in(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: Any) -> None:
    """Has the loop call that, from any thread, even when memory is short for a moment; nothing if the loop is closed,
    since nobody is left who could wait."""
    while True:
        try:
            loop.call_soon_threadsafe(call, *args)
        except MemoryError:
            time.sleep(_AGAIN_SECONDS)
        except RuntimeError:
            return
        else:
            return


def _set(results: list[Outcome]) -> None:
    for future, result, error in results:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
