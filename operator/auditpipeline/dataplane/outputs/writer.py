"""Blocking writes of one output, in a thread of its own: one at a time, in order, and none of them twice.

A route cancels a delivery that takes too long and calls again with the same events; the write goes on meanwhile, since
no thread can be stopped. So the next delivery first waits for that one, and where it was the same data that is all.
Otherwise a disk that hangs for hours would find a copy of the batch for each try, in memory and then in the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from auditpipeline.dataplane.worker import Worker

T = TypeVar("T")


class Writer:
    """A thread called `name`, which starts with the first call; `stop` ends it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._worker: Worker | None = None
        self._under_way: tuple[Sequence[bytes], asyncio.Task[None]] | None = None

    @property
    def started(self) -> bool:
        """Whether anything was handed over."""
        return self._worker is not None

    async def write(self, data: Sequence[bytes], call: Callable[[Sequence[bytes]], None]) -> None:
        """Runs `call(data)` to its end, unless the write that is still under way turns out to be of the same data."""
        if self._under_way:
            before, task = self._under_way
            if await _went_well(task) and data == before:
                self._under_way = None
                return
        task = asyncio.ensure_future(self.run(lambda: call(data)))
        task.add_done_callback(_looked_at)
        self._under_way = data, task
        await asyncio.shield(task)
        self._under_way = None

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises, behind every write."""
        self._worker = self._worker or Worker(self._name)
        return await self._worker.run(call)

    def stop(self) -> None:
        """Ends the thread after what was handed over; a later call starts another one."""
        if self._worker:
            self._worker.stop()
            self._worker = None


async def _went_well(task: asyncio.Task[None]) -> bool:
    """Whether the write arrived, when it has ended; why it did not was of interest to the delivery that is gone."""
    await asyncio.wait([task])
    return not task.cancelled() and task.exception() is None


def _looked_at(task: asyncio.Task[None]) -> None:
    """Takes the exception, so that asyncio does not complain where the delivery was cancelled."""
    if not task.cancelled():
        task.exception()
