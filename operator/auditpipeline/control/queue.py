"""The work queue: keys in, one call of `work(key)` at a time for each key.

    add(key, delay) --> waiting {key: due} --> ready --> running --> done
                            ^                               |  |
                            +---- work() returned seconds --+  |
                            +---- work() raised: backoff ------+   (a key added meanwhile runs once more)

Promises: a key is never worked on twice at the same time; adding a key that waits already keeps the earlier time; at
most `workers` keys run at once; a failing key waits twice as long each time (with jitter) and delays no other key;
after `stop` no task is left.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from auditpipeline.core.errors import Retryable

FIRST_BACKOFF, LAST_BACKOFF = 0.5, 60.0
HURRIED = 1.0
"""Seconds between two times that keys that failed are hurried."""


class Work(Protocol):
    """Does what one key needs; owns the key until it returns. Returns seconds until it wants to be called again."""

    def __call__(self, key: str) -> Awaitable[float | None]: ...


class WorkQueue:
    """A queue with its workers. `failed(key, error, seconds)` is told of each failure; it must not block."""

    def __init__(
        self,
        work: Work,
        workers: int = 4,
        failed: Callable[[str, Exception, float], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._limit = workers
        self._failed = failed or (lambda key, error, seconds: None)
        self._jitter = jitter
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._running: set[str] = set()
        self._failures: dict[str, int] = {}
        self._hurried = -HURRIED
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """How many keys are due or being worked on (not those that wait for their time)."""
        return len(self._ready) + len(self._running)

    def add(self, key: str, delay: float = 0.0) -> None:
        """Have `key` worked on in `delay` seconds, or at the earlier time that it waits for already."""
        due = asyncio.get_running_loop().time() + delay
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))
        self._changed.set()

    def hurry(self) -> None:
        """Have every key that failed worked on now, and its backoff begin anew: what it failed for seems to be over.
        Nothing, if that was said a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._hurried < HURRIED:
            return
        self._hurried = now
        for key in self._failures:
            self._failures[key] = 0
            self.add(key)

    def forget(self, key: str) -> None:
        """Drop what is known and planned of a key that is gone."""
        self._failures.pop(key, None)
        self._due.pop(key, None)

    def start(self) -> None:
        """Start the scheduler and the workers."""
        self._tasks = [asyncio.create_task(self._run(), name="work queue")]

    async def stop(self) -> None:
        """Cancel what runs; returns when nothing is left."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self) -> None:
        """Return (with its error) only when the scheduler itself ended."""
        await asyncio.gather(*self._tasks)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                self._promote(asyncio.get_running_loop().time())
                while self._ready and len(self._running) < self._limit:
                    key = self._ready.popleft()
                    self._queued.discard(key)
                    self._running.add(key)
                    group.create_task(self._call(key), name=f"work {key}")
                await self._until_next()

    def _promote(self, now: float) -> None:
        """Move keys whose time has come; one that runs stays until it is done."""
        busy: list[tuple[float, str]] = []
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) != due:
                continue
            if key in self._running:
                busy.append((due, key))
                continue
            del self._due[key]
            if key not in self._queued:
                self._queued.add(key)
                self._ready.append(key)
        for entry in busy:
            heapq.heappush(self._heap, entry)

    async def _until_next(self) -> None:
        # A due key that still runs is looked at again when its call ends, not before.
        upcoming = [due for due, key in self._heap[:1] if key not in self._running]
        if self._heap and not upcoming:
            upcoming = [due for due, key in self._heap if key not in self._running and self._due.get(key) == due]
        if not upcoming:
            await self._changed.wait()
            return
        delay = min(upcoming) - asyncio.get_running_loop().time()
        if delay > 0:
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _call(self, key: str) -> None:
        try:
            again = await self._work(key)
        except Exception as error:
            # Told to `failed` and tried again; anything else would end the work on all other keys.
            again = self._backoff(key, error)
            self._failed(key, error, again)
        else:
            self._failures.pop(key, None)
        finally:
            self._running.discard(key)
            self._changed.set()
        if again is not None:
            self.add(key, again)

    def _backoff(self, key: str, error: Exception) -> float:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay: float = min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(count - 1, 10)) * (0.5 + self._jitter() / 2)
        if isinstance(error, Retryable) and error.after is not None:
            return max(delay, error.after)
        return delay
