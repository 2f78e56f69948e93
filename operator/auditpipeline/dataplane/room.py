"""The memory that bodies may take together, shared by all connections.

A body asks for room as its bytes come. Where there is none, its connection is not read any further until others are
stored: TCP makes the sender wait. The eldest body under way always gets what it asks for, since otherwise bodies that
are half read could wait for each other; so what is used is at most the bound and one more body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from auditpipeline.core.errors import Retryable

WAIT_SECONDS = 10.0


class Room:
    """`most` bytes for bodies; `used` are taken. Belongs to one event loop."""

    def __init__(self, most: int, wait: float = WAIT_SECONDS) -> None:
        self.most = most
        self.used = 0
        self._wait = wait
        self._guests: dict[Guest, None] = {}
        self._waiting: list[asyncio.Future[None]] = []

    @contextmanager
    def guest(self) -> Iterator[Guest]:
        """A place for one body; what it took is given back at the end."""
        guest = Guest(self)
        self._guests[guest] = None
        try:
            yield guest
        finally:
            del self._guests[guest]
            self.used -= guest.size
            self._wake()

    def fits(self, guest: Guest, size: int) -> bool:
        """Whether the guest may have so many bytes more."""
        return self.used + size <= self.most or next(iter(self._guests)) is guest

    async def change(self) -> None:
        """Returns when something was given back; Retryable where that takes too long."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(self._wait):
                await future
        except TimeoutError:
            raise Retryable("the memory for bodies is used up") from None

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Guest:
    """One body's share; `size` bytes so far."""

    def __init__(self, room: Room) -> None:
        self.size = 0
        self._room = room

    async def take(self, size: int) -> None:
        """Returns when there is room for so many bytes more; Retryable where that takes too long."""
        while not self._room.fits(self, size):
            await self._room.change()
        self.size += size
        self._room.used += size
