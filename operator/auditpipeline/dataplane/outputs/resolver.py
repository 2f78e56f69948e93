"""Host names to addresses, for all outputs of the process: any number of lookups wait at the same time.

getaddrinfo would block a thread for each lookup, and the event loop has four of them for everybody: a few names that no
server answers for would stop every other output. So c-ares asks (`cares.py`).

    asked --+-- answered: those addresses, which are remembered
            +-- the name does not exist: an answer too, and what was remembered is forgotten
            +-- fails, or says nothing for `SOON`: the addresses that are remembered, unless they were last confirmed
                more than `KEEP` ago; the lookup goes on meanwhile

c-ares keeps answers for their TTL, and a connector for ten seconds. A lookup is one task for each name, however many
wait for it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakKeyDictionary

from aiohttp.abc import AbstractResolver, ResolveResult

from auditpipeline.dataplane.outputs.cares import Channel, Unknown

KEEP = 3600.0
"""Seconds for which addresses are used after they were last confirmed, while nothing else can be learned."""
SOON = 0.5
"""Seconds that a lookup may take before remembered addresses are used. An output's timeout is 1 s or more."""
MOST = 1024
"""Names that are remembered; the one that was confirmed longest ago goes first."""
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_Key = tuple[str, int]
_Addresses = list[tuple[str, int]]


class Known:
    """Addresses that were confirmed, by name and family. `clock` is in seconds and never set back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[_Key, tuple[float, _Addresses]] = OrderedDict()

    def get(self, key: _Key) -> _Addresses | None:
        """What was confirmed less than `KEEP` ago."""
        since, addresses = self._found.get(key, (0.0, []))
        return addresses if addresses and self._clock() - since < KEEP else None

    def put(self, key: _Key, addresses: _Addresses) -> None:
        """Notes what is true now."""
        self._found[key] = self._clock(), addresses
        self._found.move_to_end(key)
        while len(self._found) > MOST:
            self._found.popitem(last=False)

    def forget(self, key: _Key) -> None:
        """The name does not exist any more."""
        self._found.pop(key, None)


_KNOWN = Known()
"""Of the process: a changed configuration closes outputs, and must not lose what they would fall back on."""


class Resolver(AbstractResolver):
    """Looks names up for the outputs of one event loop. Get it by `lease`; whoever has it calls `release` once, and the
    last one thereby closes it. A connector does not close a resolver that was handed to it."""

    def __init__(self, known: Known | None = None) -> None:
        self.users = 0
        self._known = known or _KNOWN
        self._channel = Channel()
        self._asking: dict[_Key, asyncio.Task[_Addresses]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of a host, best first; OSError if there are none or nobody can tell."""
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=_NUMERIC)
            for address, kind in await self._addresses((host.lower(), int(family)))
        ]

    async def release(self) -> None:
        """Gives back what `lease` gave."""
        self.users -= 1
        if not self.users:
            await self.close()

    async def close(self) -> None:
        """Ends every lookup."""
        loop = asyncio.get_running_loop()
        if _leased.get(loop) is self:
            del _leased[loop]
        self._channel.cancel()
        try:
            if tasks := list(self._asking.values()):
                await asyncio.wait(tasks)
        finally:
            await self._channel.close()

    async def _addresses(self, key: _Key) -> _Addresses:
        asking = self._asking.get(key) or self._ask(key)
        remembered = self._known.get(key)
        await asyncio.wait([asking], timeout=SOON if remembered else None)
        if not asking.done() and remembered:
            return remembered
        try:
            return asking.result()
        except Unknown:
            raise
        except OSError:
            if remembered:
                return remembered
            raise

    def _ask(self, key: _Key) -> asyncio.Task[_Addresses]:
        """Begins a lookup; whoever waits for it may stop waiting."""
        task = asyncio.create_task(self._channel.ask(*key), name=f"look up {key[0]}")
        self._asking[key] = task
        task.add_done_callback(lambda done: self._learn(key, done))
        return task

    def _learn(self, key: _Key, task: asyncio.Task[_Addresses]) -> None:
        del self._asking[key]
        if task.cancelled():  # the event loop ends
            return
        error = task.exception()
        if error is None:
            self._known.put(key, task.result())
        elif isinstance(error, Unknown):
            self._known.forget(key)


_leased: WeakKeyDictionary[asyncio.AbstractEventLoop, Resolver] = WeakKeyDictionary()


def lease() -> Resolver:
    """The one resolver of the running event loop; `release` it."""
    loop = asyncio.get_running_loop()
    resolver = _leased.get(loop)
    if resolver is None:
        resolver = _leased[loop] = Resolver()
    resolver.users += 1
    return resolver
