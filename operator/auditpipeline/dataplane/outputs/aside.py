"""Calls of one output that may hang or take long (files of a volume that is gone, compression), off the event loop.

asyncio's own pool of threads is one for the whole process: a few calls that hang in it would stop every output. So each
output has a thread of its own, which starts with a call and ends when none has come for a while: a gateway may have
hundreds of sinks, most of them quiet. One call at a time: a route gives up a delivery that takes too long and makes it
again, and the calls of all those tries must not pile up behind one that hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from auditpipeline.dataplane.worker import Worker

T = TypeVar("T")
IDLE = 60.0
"""Seconds without a call after which the thread ends; it takes 20 KiB."""


class Aside:
    """A thread called `name`; `stop` ends it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._worker: Worker | None = None
        self._under_way: asyncio.Task[Any] | None = None
        self._idle: asyncio.TimerHandle | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises, when the one before it has ended; it runs to its end also if it is not waited
        for any more."""
        while self._under_way:
            await asyncio.wait([self._under_way])
        self._awake()
        self._worker = self._worker or Worker(self._name)
        task = self._under_way = asyncio.create_task(self._worker.run(call))
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def stop(self) -> None:
        """Ends the thread after the call that it is at; does not wait. A later call starts another one."""
        self._awake()
        if self._worker:
            self._worker.stop()
            self._worker = None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Takes the exception, so that asyncio does not complain if nobody waits for it any more."""
        self._under_way = None
        if not task.cancelled():
            task.exception()
        if self._worker:
            self._idle = asyncio.get_running_loop().call_later(IDLE, self.stop)

    def _awake(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None
