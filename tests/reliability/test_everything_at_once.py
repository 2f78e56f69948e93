"""`auditpipeline run` on a bad day: every acknowledged event arrives at the output that works, whatever the others,
idle peers and the disk do meanwhile."""

from __future__ import annotations

import asyncio
import socket
import ssl
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.running import Bench, archive, pipeline
from tests.dataplane.setting import until
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, in_files, settle
from tests.reliability.namespace import Disk, small_disk

HOPELESS = 6
IDLE = 400


@asynccontextmanager
async def idle_peers(port: int, number: int) -> AsyncIterator[None]:
    """So many connections that never say a word, and are opened again when they are closed."""

    loop = asyncio.get_running_loop()

    async def hold() -> None:
        while True:
            with suppress(OSError), socket.socket() as peer:
                peer.setblocking(False)
                await loop.sock_connect(peer, ("127.0.0.1", port))
                await loop.sock_recv(peer, 1)
            await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(hold()) for _ in range(number)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def breathing(disk: Disk) -> AsyncIterator[Callable[[], int]]:
    """A disk that somebody else fills and empties; says how often it was full."""
    times = 0

    async def fill() -> None:
        nonlocal times
        while True:
            await asyncio.sleep(1.0)
            with (disk.outside / "ballast").open("wb", buffering=0) as ballast:
                try:
                    while True:
                        ballast.write(bytes(2**20))
                except OSError:
                    times += 1
            await asyncio.sleep(1.0)
            (disk.outside / "ballast").unlink()

    task = asyncio.create_task(fill())
    try:
        yield lambda: times
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (disk.outside / "ballast").unlink(missing_ok=True)


@asynccontextmanager
async def arrivals(path: Path) -> AsyncIterator[dict[str, float]]:
    """When each event was first seen in the file, in seconds of the monotonic clock."""
    seen: dict[str, float] = {}

    async def look() -> None:
        while True:
            now = time.monotonic()
            for identity in in_files(path):
                seen.setdefault(identity, now)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(look())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.timeout(300)
async def test_a_bad_day(tmp_path: Path, keep: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    """Six outputs whose names never resolve, 400 idle connections to each listener, and a disk that is full every other
    second. How long events took to the healthy output is printed."""
    bench = Bench(tmp_path)
    hopeless = [
        {"name": f"siem-{number}", "http": {"url": f"https://siem-{number}.invalid/in"}} for number in range(HOPELESS)
    ]
    bench.write(pipeline(archive(), *hopeless))
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(small_disk(bench.data, "96m"))
        process = await stack.enter_async_context(bench.running(prefix=disk.command))
        ready = bench.lines("ready")[0]
        ports = [int(str(ready[name]).rpartition(":")[2].partition("/")[0]) for name in ("audit", "ops")]
        context = ssl.create_default_context(cafile=str(disk.outside / "ca.crt"))
        context.load_cert_chain(str(disk.outside / "client.crt"), str(disk.outside / "client.key"))
        sender = Sender(context, "bad-day")
        for port in ports:
            await stack.enter_async_context(idle_peers(port, IDLE))
        async with arrivals(bench.output()) as seen, breathing(disk) as full:
            async with sender.sending(lambda: ports[0], connections=2, pause=0.05):
                await until(lambda: full() >= 5 and sender.events > 2000, 120)
            acknowledged = {identity for ids in sender.acknowledged for identity in ids}
            await until(lambda: acknowledged <= seen.keys(), 60)
            took = sorted(seen[ids[0]] - at for ids, at in zip(sender.acknowledged, sender.times, strict=True))
        assert process.returncode is None
    account = settle("a bad day", sender, Counter(in_files(bench.output())))
    with capsys.disabled():
        p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
        print(f"\na bad day: {account.acknowledged} events, p50 {p50:.2f} s, p99 {p99:.2f} s (looked at every 0.1 s)")
    keep(account)
