"""What a sender may cost: slow ones, large ones and many of them at once leave the process small and at work.

No promise of its own, but none of the promises holds in a process that was killed for its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import ssl
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import combinations
from pathlib import Path

import aiohttp
import pytest

from auditpipeline.core.config import FileOutput
from tests.bench.plane_usage import rss
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Setting, event, event_list, until
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, in_files, settle

MEGABYTE = 2**20
HEAD = b"POST /audit HTTP/1.1\r\nHost: x\r\n"
CONCURRENT = 500


@asynccontextmanager
async def _started(setting: Setting) -> AsyncIterator[Process]:
    # A file that is never rotated away, since all that arrived is counted at the end.
    setting.write(setting.config(setting.route(output=FileOutput(str(setting.file), max_bytes=2**40))))
    async with serving(setting) as process:
        await process.listening()
        yield process


@asynccontextmanager
async def _connection(
    setting: Setting, process: Process
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = setting.authority.client(setting.client_tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", process.ports["audit"], ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_a_gigabyte_is_refused_without_being_read_into_memory(setting: Setting) -> None:
    """Announced, it is refused by its header; sent in chunks, at the limit of 20 MiB. The rest is never taken."""
    async with _started(setting) as process:
        before = rss(process.pid)
        async with _connection(setting, process) as (reader, writer):
            writer.write(HEAD + b"Content-Length: 1073741824\r\n\r\n")
            assert b" 413 " in await asyncio.wait_for(reader.readline(), 10)
        sent, status = await _send_gigabyte(setting, process)
        assert b" 413 " in status
        assert sent < 64 * MEGABYTE, f"{sent} bytes were taken of it"
        grown = rss(process.pid) - before
        assert grown < 64 * MEGABYTE, f"the peak grew by {grown} bytes"
        assert (await process.report(setting)).events.received == 0


async def _send_gigabyte(setting: Setting, process: Process) -> tuple[int, bytes]:
    """Sends chunks until somebody has had enough; how many bytes, and the answer's first line."""
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    sent = 0
    async with _connection(setting, process) as (reader, writer):
        answer = asyncio.create_task(reader.readline())
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 2**30 and not answer.done():
                writer.write(chunk)
                await asyncio.wait_for(writer.drain(), 10)
                sent += len(chunk)
        return sent, await asyncio.wait_for(answer, 10)


async def test_slow_senders_keep_nobody_waiting(setting: Setting, sender: Sender, keep: Keep) -> None:
    """Three hundred connections that stop within their headers or their bodies: others are served, in order."""
    async with _started(setting) as process, AsyncExitStack() as stack:
        before = rss(process.pid)
        for number in range(300):
            _, writer = await stack.enter_async_context(_connection(setting, process))
            writer.write(HEAD if number % 2 else HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(1000))
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(2000)
        await drained(process, setting)
        assert rss(process.pid) - before < 100 * MEGABYTE
        assert await process.ops(setting, "/readyz") == b"ok\n"
        keep(settle("beside 300 slow senders", sender, in_files(setting.file)))


@pytest.mark.long
async def test_slow_senders_are_sent_away(setting: Setting) -> None:
    """Who does not come to the end of a header or a body in a minute or so is cut off."""
    async with _started(setting) as process:
        async with _connection(setting, process) as (half, first), _connection(setting, process) as (none, second):
            first.write(HEAD + b"Content-Length: 1000\r\n\r\n{")
            second.write(b"POST /audit HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionError):
                assert b" 408 " in await asyncio.wait_for(half.readline(), 120)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(none.read(), 120)
        assert (await process.report(setting)).events.received == 0


async def test_many_large_bodies_at_once_are_not_all_in_memory(setting: Setting) -> None:
    """Forty connections that each send 19 MiB, and not the last byte: 760 MiB that must not all be held."""
    async with _started(setting) as process, AsyncExitStack() as stack:
        before = rss(process.pid)

        async def send() -> None:
            _, writer = await stack.enter_async_context(_connection(setting, process))
            writer.write(HEAD + f"Content-Length: {19 * MEGABYTE + 1}\r\n\r\n".encode())
            with contextlib.suppress(ConnectionError, TimeoutError):
                for _ in range(19):
                    writer.write(bytes(MEGABYTE))
                    await asyncio.wait_for(writer.drain(), 5)

        await asyncio.gather(*(send() for _ in range(40)))
        grown = rss(process.pid) - before
        assert grown < 300 * MEGABYTE, f"the peak grew by {grown // MEGABYTE} MiB"


async def test_five_hundred_connections_at_once(setting: Setting) -> None:
    """All of them are served, and all that they sent is delivered. As real senders do, each connects again if it had to
    make room in its handshake: on a slow machine more than 64 are in theirs for longer than a second."""
    async with _started(setting) as process:
        url = f"https://127.0.0.1:{process.ports['audit']}/audit"
        context = setting.authority.client(setting.client_tls)
        open_ = asyncio.Barrier(CONCURRENT)

        async def post() -> int:
            body = event_list([event(), event()])
            async with AsyncExitStack() as stack:
                reader, writer = await _let_in(setting, process, stack)
                await open_.wait()
                writer.write(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                return int((await reader.readline()).split()[1])

        statuses = await asyncio.wait_for(asyncio.gather(*(post() for _ in range(CONCURRENT))), 60)
        assert set(statuses) == {200}
        await drained(process, setting)
        assert (await process.report(setting)).events.delivered == 2 * CONCURRENT
        async with aiohttp.ClientSession() as session, session.post(url, data=event_list([]), ssl=context) as response:
            assert response.status == 200
        assert in_files(setting.file).total() == 2 * CONCURRENT


async def _let_in(
    setting: Setting, process: Process, stack: AsyncExitStack
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which something was answered: with TLS 1.3 a client is done before the server is."""
    while True:
        try:
            reader, writer = await stack.enter_async_context(_connection(setting, process))
            nothing = event_list([])
            writer.write(HEAD + f"Content-Length: {len(nothing)}\r\n\r\n".encode() + nothing)
            if (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200"):
                return reader, writer
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.1)


@pytest.mark.timeout(180)
async def test_idle_connections_end_nothing(setting: Setting, sender: Sender, keep: Keep) -> None:
    """256 descriptors, 400 connections of nobody to each of the two ports, and more as soon as one is closed: senders
    that come later are served, so are probes, and the spool opens its files."""
    idle = [_say_nothing, _begin_a_handshake, _say_hello]
    setting.write(setting.config(setting.route(output=FileOutput(str(setting.file), max_bytes=2**20, keep=1000))))
    async with serving(setting, ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")) as process:
        await process.listening()
        holders = [
            asyncio.create_task(idle[number % len(idle)](setting, process.ports[listener]))
            for number in range(400)
            for listener in ("audit", "ops")
        ]
        try:
            await until(lambda: _crowded(process, setting), 60)
            async with sender.sending(lambda: process.ports["audit"]):
                await sender.reaches(4000)
                await until(lambda: _probed(setting, process))
                await sender.reaches(4000)
            assert _open_files(process.pid) < 200
            assert not any(holder.done() for holder in holders)
        finally:
            for holder in holders:
                holder.cancel()
            await asyncio.gather(*holders, return_exceptions=True)
        await drained(process, setting)
        assert "Traceback" not in process.log.read_text()
        assert await process.end(signal.SIGTERM) == 0
    assert not sender.refused
    keep(settle("beside 800 idle connections", sender, in_files(setting.file)))


async def test_no_descriptor_left_is_waited_for(setting: Setting) -> None:
    """Accepting neither ends nor spins: when there are descriptors again, those that waited are served."""
    async with _started(setting) as process, AsyncExitStack() as stack:
        url = f"https://127.0.0.1:{process.ports['ops']}/metrics"
        session = await stack.enter_async_context(aiohttp.ClientSession())
        context = setting.authority.client(setting.client_tls)

        async def failed() -> float:
            async with session.get(url, ssl=context) as response:
                lines = (await response.text()).splitlines()
            return sum(float(line.split()[1]) for line in lines if 'audit",reason="accept_failed"' in line)

        assert await failed() == 0
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (_open_files(process.pid), before[1]))
        waiting = asyncio.create_task(_posted(setting, process))
        await until(lambda: _at_least(failed, 3))
        assert await failed() < 100
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        assert await asyncio.wait_for(waiting, 30) == 200


async def _at_least(count: Callable[[], Awaitable[float]], least: float) -> bool:
    return await count() >= least


async def _posted(setting: Setting, process: Process) -> int:
    body = event_list([event()])
    async with _connection(setting, process) as (reader, writer):
        writer.write(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return int((await reader.readline()).split()[1])


async def _crowded(process: Process, setting: Setting) -> bool:
    """Whether idle connections have displaced each other at both listeners."""
    try:
        metrics = (await process.ops(setting, "/metrics")).decode()
    except (aiohttp.ClientError, OSError):
        return False
    return all(f'listener="{listener}",reason="handshake_displaced"' in metrics for listener in ("audit", "ops"))


async def _probed(setting: Setting, process: Process) -> bool:
    """Whether kubelet is answered, which shows no certificate, and tries again if it is not."""
    url = f"https://127.0.0.1:{process.ports['ops']}/healthz"
    context = setting.authority.client(None)
    try:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError):
        return False


async def _say_nothing(setting: Setting, port: int) -> None:
    """Connects, and again when it is closed."""
    await _hold(port, b"")


async def _begin_a_handshake(setting: Setting, port: int) -> None:
    """Sends a ClientHello, and nothing else."""
    written = ssl.MemoryBIO()
    client = setting.authority.client(None).wrap_bio(ssl.MemoryBIO(), written, server_hostname="audit-x.ns.svc")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    await _hold(port, written.read())


async def _say_hello(setting: Setting, port: int) -> None:
    """Shakes hands without a certificate, if it may."""
    await _hold(port, b"", setting.authority.client(None))


async def _hold(port: int, hello: bytes, context: ssl.SSLContext | None = None) -> None:
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                writer.write(hello)
                await reader.read()
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.2)


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope(samples: list[tuple[float, int]]) -> float:
    """Bytes a second, the median of the slopes between all pairs (Theil and Sen): single peaks do not move it."""
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2))


async def _soak(setting: Setting, sender: Sender, keep: Keep, seconds: float, warm: float, most: float) -> None:
    """A fixed rate for so long; after `warm` seconds memory may grow by `most` bytes until the end."""
    async with _started(setting) as process:
        clock = asyncio.get_running_loop().time
        begun, samples = clock(), list[tuple[float, int]]()
        async with sender.sending(lambda: process.ports["audit"], connections=2, pause=0.05):
            while (now := clock() - begun) < seconds:
                if now > warm:
                    samples.append((now, rss(process.pid, "VmRSS")))
                await asyncio.sleep(seconds / 200)
        await drained(process, setting)
        keep(settle(f"soak of {seconds:g} s", sender, in_files(setting.file)))
    assert not sender.refused
    grown = slope(samples) * (seconds - warm)
    assert grown < most, f"{grown / MEGABYTE:.1f} MiB more in {seconds - warm:g} s"


async def test_memory_stays_flat(setting: Setting, sender: Sender, keep: Keep) -> None:
    """Seconds at about 1,500 events a second."""
    await _soak(setting, sender, keep, seconds=7, warm=2, most=16 * MEGABYTE)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_memory_stays_flat_for_ten_minutes(setting: Setting, sender: Sender, keep: Keep) -> None:
    """Ten minutes at the same rate."""
    await _soak(setting, sender, keep, seconds=600, warm=60, most=8 * MEGABYTE)
