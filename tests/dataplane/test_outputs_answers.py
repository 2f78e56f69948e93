"""Answers whose body is broken, endless or late: what the head says holds. Real sockets, since no server library would
send these."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from auditpipeline.core.config import HttpOutput
from auditpipeline.core.errors import Permanent, Retryable
from auditpipeline.dataplane.outputs import http
from auditpipeline.dataplane.outputs.http import Http
from tests.dataplane.setting import until

ENDLESS = b"endless"
HANG = b"hang"
CLOSE = b"close"
LINES = [b'{"a":1}', b'{"a":2}']
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


class Raw:
    """Answers each request with these pieces, each sent by itself, of which the last may say how it goes on."""

    def __init__(self, head: bytes, pieces: Sequence[bytes]) -> None:
        self._answer = [head + pieces[0], *pieces[1:]]
        self.bodies: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Raw]:
        """Serves on a port of its own."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    size = re.search(rb"(?i)content-length: (\d+)", head)
                    body = await reader.readexactly(int(size[1])) if size else await _chunks(reader)
                    self.bodies.append(body)
                    if not await self._reply(reader, writer):
                        return
        finally:
            self.open -= 1
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for piece in self._answer:
            if piece == CLOSE:
                return False
            while piece == ENDLESS:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                await writer.drain()
            if piece == HANG:
                return bool(await reader.read(1))
            writer.write(piece)
            await writer.drain()
        return True


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


BROKEN = {
    "broken chunks": [CHUNKED, b"zz\r\nno size\r\n", HANG],
    "broken chunks with the head": [CHUNKED + b"zz\r\nno size\r\n", HANG],
    "a chunk that ends early": [CHUNKED + b"ff\r\nshort", CLOSE],
    "endless chunks": [CHUNKED, ENDLESS],
    "a length that is too large": [b"Content-Length: 99\r\n\r\nshort", CLOSE],
    "a length that is never met": [b"Content-Length: 99\r\n\r\nshort", HANG],
    "a length that is too small": [b"Content-Length: 2\r\n\r\nlonger than that", HANG],
    "nothing behind the headers": [b"Content-Length: 5\r\n\r\n", HANG],
    "a head in pieces": [b"Content-Length: 5\r", b"\n", b"\r", b"\nnow", HANG],
    "neither length nor end": [b"\r\nsome", HANG],
    "a coding that it is not": [b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone"],
    "an unknown coding": [b"Content-Encoding: x\r\nContent-Length: 4\r\n\r\nnone"],
}
USED_AGAIN = ("a coding that it is not", "an unknown coding")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come is not waited for as long as in production."""
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.1)


@asynccontextmanager
async def opened(server: Raw) -> AsyncIterator[Http]:
    """An output to the server, closed at the end."""
    output = Http(HttpOutput(f"http://127.0.0.1:{server.port}/in"))
    try:
        yield output
    finally:
        await output.close()


@pytest.mark.parametrize("name", BROKEN)
async def test_2xx_has_arrived_whatever_its_body_is(name: str) -> None:
    """Else the same events would be sent for ever. A connection on which the body did not end is dropped."""
    async with Raw(b"HTTP/1.1 202 Accepted\r\n", BROKEN[name]).listening() as server, opened(server) as output:
        for _ in range(2):
            await output.deliver(LINES)
            if name not in USED_AGAIN:
                await until(lambda: server.open == 0)
        assert server.bodies == [b'{"a":1}\n{"a":2}\n'] * 2
        assert server.connections == (1 if name in USED_AGAIN else 2)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(
    ("status", "kind"), [(b"400 Bad Request", Permanent), (b"503 Busy", Retryable)], ids=["400", "503"]
)
async def test_a_refusal_is_one_whatever_its_body_is(name: str, status: bytes, kind: type[Exception]) -> None:
    """What the server asks for in its headers is heard as well."""
    head = b"HTTP/1.1 " + status + b"\r\nRetry-After: 7\r\n"
    async with Raw(head, BROKEN[name]).listening() as server, opened(server) as output:
        with pytest.raises(kind, match=f"answered {status[:3].decode()}") as caught:
            await output.deliver(LINES)
    refused: Any = caught.value
    assert kind is Permanent or refused.after == 7


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2", b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"],
    ids=["nothing", "half a head", "no HTTP", "no headers"],
)
async def test_half_an_answer_is_none(head: bytes) -> None:
    """Nobody knows what it would have said."""
    async with Raw(head, [b"", CLOSE]).listening() as server, opened(server) as output:
        with pytest.raises(Retryable):
            await output.deliver(LINES)
