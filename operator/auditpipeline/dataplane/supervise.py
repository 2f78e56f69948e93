"""Keeps something at work that must not end by itself, and must not end the rest either.

attempt --raises or returns--> said in the log, counted --wait, ever longer--> attempt
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from auditpipeline.dataplane.log import Log

FIRST_SECONDS = 1.0
MOST_SECONDS = 60.0


class Supervised:
    """Runs `attempt` again and again until `stop` is set. `error` is why it does not run, empty while it does;
    `restarts` counts."""

    def __init__(self, name: str, log: Log, first: float = FIRST_SECONDS) -> None:
        self.error = ""
        self.restarts = 0
        self._name = name
        self._log = log
        self._wait = first
        self._first = first

    async def run(self, attempt: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        """Returns when `stop` is set and the attempt that is under way has ended."""
        while not stop.is_set():
            started = asyncio.get_running_loop().time()
            try:
                self.error = ""
                await attempt()
                reason, fault = "it ended by itself", False
            except Exception as error:  # whatever it is: the others go on, and it is said
                reason, fault = str(error) or type(error).__name__, True
            if stop.is_set() and not fault:
                return
            if asyncio.get_running_loop().time() - started > MOST_SECONDS:
                self._wait = self._first
            self.error = f"{self._name} does not run: {reason}"
            self._log.error("a part ended, and is started again", part=self._name, error=reason, exc_info=fault)
            await self._pause(stop)
            self.restarts += not stop.is_set()

    async def _pause(self, stop: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                await stop.wait()
        self._wait = min(MOST_SECONDS, 2 * self._wait)
