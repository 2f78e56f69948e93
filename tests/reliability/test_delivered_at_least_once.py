"""Promise 2: every stored event reaches each Guaranteed output at least once, whatever the output does meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import sqlite3
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
from aiohttp import web

from auditpipeline.core.config import HttpOutput
from tests.dataplane.process import serving
from tests.dataplane.setting import Destination, Setting, ids, until
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, identities, settle

Events = list[dict[str, Any]]


def free_port() -> int:
    """A port that nobody listens on for now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def to(setting: Setting, url: str, **fields: Any) -> None:
    """Puts a configuration in place that delivers to that URL."""
    setting.write(setting.config(setting.route("siem", HttpOutput(url), **fields)))


async def test_an_output_that_is_down_and_up_again(
    setting: Setting, sender: Sender, destination: Destination, keep: Keep
) -> None:
    """Down from the start, up, down under load, over a restart of the process, and up again."""
    port = free_port()
    to(setting, f"http://127.0.0.1:{port}/in")
    async with serving(setting) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(2000)
            async with destination.listening(port=port):
                await until(lambda: len(destination.events) > 400)
            await sender.reaches(2000)
        assert await process.end(signal.SIGTERM) == 0
    async with serving(setting) as process, destination.listening(port=port):
        await process.listening()
        await drained(process, setting)
        assert (await process.report(setting)).events.dropped == 0
    keep(settle("output down, up, down, restart, up", sender, Counter(ids(destination.events))))


async def _500_at_first(count: int, events: Events) -> web.Response | None:
    return web.Response(status=500) if count < 3 else None


async def _429_now_and_then(count: int, events: Events) -> web.Response | None:
    return web.Response(status=429, headers={"Retry-After": "1"}) if count in (0, 4) else None


async def _413_for_more_than_64(count: int, events: Events) -> web.Response | None:
    return web.Response(status=413) if len(events) > 64 else None


async def _503_every_other_time(count: int, events: Events) -> web.Response | None:
    return web.Response(status=503) if count < 8 and count % 2 else None


@pytest.mark.parametrize(
    "answer", [_500_at_first, _429_now_and_then, _413_for_more_than_64, _503_every_other_time], ids=lambda f: f.__name__
)
async def test_an_output_that_answers_with_an_error(
    setting: Setting, sender: Sender, destination: Destination, keep: Keep, answer: Any
) -> None:
    """It is asked again, later or with less at once, and nothing becomes a dead letter."""
    count = itertools.count()
    destination.answer = lambda events: answer(next(count), events)
    async with destination.listening(), _load(setting, sender, destination.url) as report:
        assert (report.events.dropped, report.dead_letters) == (0, 0)
    keep(settle(f"output answers {answer.__name__[1:]}".replace("_", " "), sender, Counter(ids(destination.events))))


async def test_an_output_that_takes_half_and_resets(setting: Setting, sender: Sender, keep: Keep) -> None:
    """Every other request: half of the batch is kept, 200 is begun, and the connection is reset. What was kept comes
    again, which the account shows as duplicates."""
    halves = Halves()
    async with halves.listening(), _load(setting, sender, halves.url) as report:
        assert (report.events.dropped, report.dead_letters) == (0, 0)
    account = settle("output takes half of it and resets", sender, Counter(halves.found))
    assert account.duplicates > 0
    keep(account)


@asynccontextmanager
async def _load(setting: Setting, sender: Sender, url: str) -> AsyncIterator[Any]:
    """A process that delivers to the URL, and some load; its report when everything is delivered."""
    to(setting, url)
    async with serving(setting) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(4000)
        await drained(process, setting)
        yield await process.report(setting)


class Halves:
    """A server that answers every other request properly, and breaks off the rest in the middle of its headers."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.url = ""
        self._requests = itertools.count()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serves."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**24)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/in"
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                lines = (await reader.readexactly(length)).splitlines()
                if next(self._requests) % 2 == 0:
                    self.found += identities(lines[: len(lines) // 2])
                    writer.write(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
                    )  # with the blank line it would be an answer
                    await writer.drain()
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return
                self.found += identities(lines)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except asyncio.IncompleteReadError:
            writer.close()


async def test_what_is_refused_alone_is_a_dead_letter(
    setting: Setting, sender: Sender, destination: Destination
) -> None:
    """Two events that the output never takes stand in the dead letters, with the reason, and are counted; the rest
    arrives."""
    refused = (f"{sender.name}-1-7/", f"{sender.name}-2-9/")

    async def answer(events: Events) -> web.Response | None:
        return web.Response(status=422) if any(id_.startswith(refused) for id_ in ids(events)) else None

    destination.answer = answer
    async with destination.listening(), _load(setting, sender, destination.url) as report:
        assert (report.events.dropped, report.dead_letters) == (2, 2)
    with closing(sqlite3.connect(setting.spool)) as spool:
        letters = spool.execute("SELECT output, reason, key FROM dead").fetchall()
    assert {(output, reason) for output, reason, _ in letters} == {("siem", "answered 422 Unprocessable Entity")}
    assert all(key.startswith(refused) for *_, key in letters)
    acknowledged = {id_ for body in sender.acknowledged for id_ in body}
    assert {id_.partition("/")[0] + "/" for id_ in acknowledged - set(ids(destination.events))} == set(refused)
