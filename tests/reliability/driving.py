"""A sender that behaves as kube-apiserver does, and the account of what became of what it sent."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec

from auditpipeline.core.event import decode_event
from auditpipeline.core.report import Events
from tests.bench.events import some, stamps
from tests.dataplane.process import Process
from tests.dataplane.setting import Setting, until


class _Identity(msgspec.Struct):
    audit_id: str = msgspec.field(name="auditID")
    stage: str


# Several times as long as a cursor may take to the disk (dataplane/spool.py).
_REST = 0.3
_IDENTITIES = msgspec.json.Decoder(_Identity)


@dataclass
class Sender:
    """Posts bodies of real-shaped events, each event with an auditID of its own; what is not answered, or refused, is
    not sent again. `bodies` holds what identifies the events of each body, `auditID/stage`, by what became of it;
    `times` is when each body that was acknowledged was sent, in seconds of the monotonic clock."""

    context: ssl.SSLContext
    name: str
    bodies: tuple[bytes, ...] = ()
    acknowledged: list[list[str]] = field(default_factory=list)
    unanswered: list[list[str]] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._following = stamps(self.bodies or some(4, 40, 1500), self.name)

    @property
    def events(self) -> int:
        """How many events were acknowledged."""
        return sum(map(len, self.acknowledged))

    async def post(self, session: aiohttp.ClientSession, port: int) -> int:
        """Posts one body; the status, 0 where there was no answer."""
        body, ids = self._following()
        at = time.monotonic()
        try:
            async with session.post(f"https://127.0.0.1:{port}/audit", data=body, ssl=self.context) as response:
                status = response.status
        except (aiohttp.ClientError, OSError):
            self.unanswered.append(ids)
            return 0
        if status == 200:
            self.acknowledged.append(ids)
            self.times.append(at)
        else:
            self.refused[status] += 1
        return status

    @asynccontextmanager
    async def sending(self, port: Callable[[], int], connections: int = 4, pause: float = 0.0) -> AsyncIterator[None]:
        """Posts all the time, on so many connections; waits a moment where nobody answers, or takes."""

        async def go(session: aiohttp.ClientSession) -> None:
            while True:
                status = await self.post(session, port())
                await asyncio.sleep(pause if status == 200 else 0.02)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
            tasks = [asyncio.create_task(go(session)) for _ in range(connections)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                for error in done:
                    if isinstance(error, Exception):
                        raise error

    async def reaches(self, events: int, seconds: float = 60.0) -> None:
        """Waits until so many more events were acknowledged."""
        goal = self.events + events
        await until(lambda: self.events >= goal, seconds)


@dataclass(frozen=True)
class Account:
    """What became of acknowledged events: `found` of them are there, `lost` are not, `duplicates` are there again."""

    name: str
    kills: int
    acknowledged: int
    found: int
    lost: int
    duplicates: int


def settle(name: str, sender: Sender, found: Counter[str], kills: int = 0) -> Account:
    """Compares; fails where a body was taken in part: one is stored as a whole or not at all."""
    acknowledged = [id_ for ids in sender.acknowledged for id_ in ids]
    there = sum(id_ in found for id_ in acknowledged)
    torn = [ids[0] for ids in sender.unanswered if 0 < sum(id_ in found for id_ in ids) < len(ids)]
    assert not torn, f"stored in part: {torn[:3]}"
    return Account(name, kills, len(acknowledged), there, len(acknowledged) - there, sum(found.values()) - len(found))


def in_files(path: Path) -> Counter[str]:
    """What identifies the events of a file and of what was rotated away; fails where a line is not a whole event."""
    found: Counter[str] = Counter()
    for file in path.parent.glob(f"{path.name}*"):
        with file.open("rb") as lines:
            found.update(identities(lines))
    return found


def identities(lines: Iterable[bytes]) -> list[str]:
    """`auditID/stage` of each line."""
    found = []
    for line in lines:
        decode_event(line)
        identity = _IDENTITIES.decode(line)
        found.append(f"{identity.audit_id}/{identity.stage}")
    return found


async def drained(process: Process, setting: Setting, seconds: float = 60.0) -> None:
    """Waits until no output has anything left to deliver, and the counters have come to rest: they follow the cursors,
    which are on disk a moment after the delivery."""
    seen: list[Events] = []

    async def at_rest() -> bool:
        report = await process.report(setting)
        seen.append(report.events)
        idle = all(output.pending == 0 for output in report.outputs)
        if not idle:
            seen.clear()
            return False
        await asyncio.sleep(_REST / 4)
        return len(seen) > 4 and len(set(seen[-5:])) == 1

    await until(at_rest, seconds)
