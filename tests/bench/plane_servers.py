"""The servers that `plane` measures, each started as a process of its own."""

from __future__ import annotations

import asyncio
import copy
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from auditpipeline.core.config import FileOutput
from auditpipeline.core.policy import Policy
from tests.bench.plane_usage import pin
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Setting

_LARGE = 2**40


@dataclass(frozen=True)
class Server:
    """A running server, of one process or several, each with a port of its own. `arrived(events)` waits until so many
    events are where they belong; fails if they never are."""

    pids: list[int]
    ports: list[int]
    targets: list[Path]
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
        yield Server([process.pid], [port], [target], lambda _: asyncio.sleep(0))
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def ours(
    workers: int, setting: Setting, policy: Policy, cores: set[int], checkout: Path | None = None, **fields: Any
) -> AsyncIterator[Server]:
    """So many times `auditpipeline serve`, each with a spool and one file output of its own; of another checkout, if
    one is given. `fields` are further ones of the route."""
    async with AsyncExitStack() as stack:
        settings = [setting, *(_beside(setting, number) for number in range(1, workers))]
        found = [await stack.enter_async_context(_one(each, policy, cores, checkout, fields)) for each in settings]

        async def arrived(events: int) -> None:
            while True:
                reports = [await process.report(each) for each, process in zip(settings, found, strict=True)]
                if sum(report.events.delivered for report in reports) >= events:
                    break
                assert all(process.process.returncode is None for process in found), "a server ended"
                await asyncio.sleep(0.2)
            assert sum(report.events.received for report in reports) == events, reports
            assert not any(report.events.dropped for report in reports), reports

        pids, ports = [process.pid for process in found], [process.ports["audit"] for process in found]
        yield Server(pids, ports, [each.file for each in settings], arrived)


@asynccontextmanager
async def _one(
    setting: Setting, policy: Policy, cores: set[int], checkout: Path | None, fields: dict[str, Any]
) -> AsyncIterator[Process]:
    route = setting.route(output=FileOutput(str(setting.file), max_bytes=_LARGE), policies=(policy,), **fields)
    setting.write(setting.config(route, max_bytes=_LARGE))
    environment = {"PYTHONPATH": str(checkout / "operator")} if checkout else {}
    async with serving(setting, environment=environment) as process:
        pin(process.pid, cores)
        await process.listening()
        yield process


def _beside(setting: Setting, number: int) -> Setting:
    """Another plane with the same certificates."""
    made = copy.copy(setting)
    made.folder = setting.folder / f"worker-{number}"
    made.folder.mkdir()
    made.file, made.spool = made.folder / "out" / "events.jsonl", made.folder / "spool.sqlite"
    made.path = made.folder / "config.json"
    return made
