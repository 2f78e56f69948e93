"""`auditpipeline serve` as a process of its own, for tests and benches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from auditpipeline.core import report as reports
from auditpipeline.core.report import Report
from tests.dataplane.setting import Setting

LISTENERS = 2


class Process:
    """A process, where it listens, and the file that holds its log."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.ports: dict[str, int] = {}

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def lines(self) -> list[dict[str, object]]:
        """What it logged, without what is no JSON (a line that is half written, a traceback)."""
        found = []
        for line in self.log.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    async def listening(self, seconds: float = 30.0) -> None:
        """Waits until both listeners say that they take connections."""
        async with asyncio.timeout(seconds):
            while len(self.ports) < LISTENERS:
                for line in self.lines():
                    if line["event"] == "listening":
                        self.ports[str(line["listener"])] = int(str(line["port"]))
                assert self.process.returncode is None, f"it ended before it listened: {self.log.read_text()[-2000:]}"
                await asyncio.sleep(0.01)

    async def report(self, setting: Setting) -> Report:
        """What /status says."""
        return reports.decode(await self.ops(setting, "/status"))

    async def ops(self, setting: Setting, path: str) -> bytes:
        """What the ops listener answers to the operator."""
        url = f"https://127.0.0.1:{self.ports['ops']}{path}"
        context = setting.authority.client(setting.client_tls)
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
            assert response.status == 200
            return await response.read()

    async def end(self, number: int) -> int:
        """Sends a signal; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def serving(
    setting: Setting,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> AsyncIterator[Process]:
    """A process that runs the configuration which is in place; killed at the end.

    `prefix` is a command that runs it (`unshare ...`), `environment` is added to this process's, `stdout` is a file
    descriptor.
    """
    log = setting.folder / "serve.log"
    command = [*prefix, sys.executable, "-m", "auditpipeline.cli.main", "serve", "--config", str(setting.path)]
    with log.open("wb") as errors:
        made = await asyncio.create_subprocess_exec(
            *command, stdout=stdout, stderr=errors, env={**os.environ, **(environment or {})}
        )
    process = Process(made, log)
    try:
        yield process
    finally:
        await process.end(signal.SIGKILL)
