"""The servers that `plane` measures, each started as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from auditpipeline.core.config import Config, FileOutput
from auditpipeline.core.policy import Policy
from tests.bench.plane_usage import pin
from tests.dataplane.process import serving
from tests.dataplane.setting import Setting

HAS_WORKERS = "workers" in {field.name for field in msgspec.structs.fields(Config)}
_LARGE = 2**40


@dataclass(frozen=True)
class Server:
    """A running server. `arrived(events)` waits until so many events are where they belong; fails if they never are."""

    pid: int
    port: int
    target: Path
    arrived: Callable[[int], Awaitable[None]]


@asynccontextmanager
async def compared(module: str, setting: Setting, policy: Policy, cores: set[int]) -> AsyncIterator[Server]:
    """`tests.bench.<module>`: what it has answered is in its file."""
    (setting.folder / "policy.json").write_bytes(msgspec.json.encode(policy))
    target = setting.folder / "target"
    command = [sys.executable, "-m", f"tests.bench.{module}", "--pki", str(setting.folder / "pki")]
    command += ["--target", str(target), "--policy", str(setting.folder / "policy.json")]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    pin(process.pid, cores)
    try:
        assert process.stdout
        port = int(await asyncio.wait_for(process.stdout.readline(), 30))
        yield Server(process.pid, port, target, lambda _: asyncio.sleep(0))
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def ours(workers: int, setting: Setting, policy: Policy, cores: set[int]) -> AsyncIterator[Server]:
    """`auditpipeline serve` with one file output."""
    route = setting.route(output=FileOutput(str(setting.file), max_bytes=_LARGE), policies=(policy,))
    config = setting.config(route, max_bytes=_LARGE, **({"workers": workers} if workers > 1 else {}))
    setting.write(config)
    async with serving(setting) as process:
        pin(process.pid, cores)
        await process.listening()

        async def arrived(events: int) -> None:
            while (found := await process.report(setting)).events.delivered < events:
                assert process.process.returncode is None, "the server ended"
                await asyncio.sleep(0.2)
            assert (found.events.received, found.events.dropped) == (events, 0), found

        yield Server(process.pid, process.ports["audit"], setting.file, arrived)
