"""The threads that read a spool's file, each over a connection of its own.

A read takes as long as its disk needs. With one thread for all, an output that reads old rows from a slow disk held up
those that wait for new ones; with some, it holds up one of them. Reads are bounded (`rows.read`), and a free thread
takes the one that has waited longest, so that outputs take turns. Figures have a thread that reads nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from auditpipeline.dataplane.worker import Worker

THREADS = 4
"""For rows. More would only queue at the disk."""
_CLOSE_SECONDS = 5.0
T = TypeVar("T")


class Readers:
    """Owns the connections, of which the last one is for figures. All methods belong to one event loop; `on_failure` is
    called in a thread that ends unasked."""

    def __init__(self, connections: Sequence[sqlite3.Connection], on_failure: Callable[[Exception], None]) -> None:
        workers = [Worker(f"spool-reader-{number}", on_failure) for number in range(len(connections))]
        *self._rows, self._figures = zip(workers, connections, strict=True)
        self._idle = deque(self._rows)
        self._waiting: deque[asyncio.Future[tuple[Worker, sqlite3.Connection]]] = deque()

    async def read(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """What `call` returns or raises, in the next thread that is free."""
        pair = self._idle.popleft() if self._idle else await self._free()
        work = pair[0].submit(partial(call, pair[1]))
        work.add_done_callback(lambda _: self._give_back(pair))
        return await asyncio.shield(work)  # a thread is free when it has read, even if nobody waits for that any more

    async def read_figures(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """The same in the thread for figures."""
        return await self._figures[0].run(partial(call, self._figures[1]))

    async def close(self) -> None:
        """Closes the connections; one whose disk does not answer stays open until the process ends."""
        pairs = [*self._rows, self._figures]
        closing = [worker.submit(connection.close) for worker, connection in pairs]
        for worker, _ in pairs:
            worker.stop()
        done, _ = await asyncio.wait(closing, timeout=_CLOSE_SECONDS)
        for future in done:
            future.exception()  # of a thread that has ended

    async def _free(self) -> tuple[Worker, sqlite3.Connection]:
        future: asyncio.Future[tuple[Worker, sqlite3.Connection]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give_back(future.result())
            raise

    def _give_back(self, pair: tuple[Worker, sqlite3.Connection]) -> None:
        if pair[0].failure:
            return
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(pair)
                return
        self._idle.append(pair)
