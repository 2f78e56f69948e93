"""Promise 1 on a disk that fails at random moments, below a process that is killed at others: what was acknowledged is
there."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from auditpipeline.core.config import FileOutput
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Setting
from tests.reliability import faulty
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, in_files, settle
from tests.reliability.faulty import Faulty

CALLS = ("rws", "rw", "ws", "r", "w", "s")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Faulty]:
    """What fails: everything that the spool is made of."""
    made = faulty.make(tmp_path, "/spool.sqlite")
    yield made
    made.end()


async def _fail_and_kill(setting: Setting, chance: random.Random, disk: Faulty, ports: list[int]) -> int:
    """One process: its disk fails for a moment or until it ends, and it ends by a kill; how often the disk failed."""
    failures = 0
    async with serving(setting, environment=disk.environment) as process:
        if chance.random() < 0.1:
            disk.begin(chance.choice(CALLS))  # from the start on
        else:
            await _listening(process)
            ports.append(process.ports.get("audit", 1))
        for _ in range(chance.choice((1, 1, 1, 2))):
            await asyncio.sleep(chance.uniform(0, 0.3))
            disk.begin(chance.choice(CALLS))
            failures += 1
            await asyncio.sleep(chance.uniform(0, 0.3))
            if chance.random() < 0.6:
                disk.end()
                await asyncio.sleep(chance.uniform(0, 0.2))
        await process.end(signal.SIGKILL)
        disk.end()
    return failures


async def _listening(process: Process) -> None:
    """Waits until it takes events, or has ended, as it may with what the disk did to the one before."""
    waiting = asyncio.create_task(process.listening())
    ended = asyncio.create_task(process.process.wait())
    await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    ended.cancel()
    await asyncio.gather(waiting, ended, return_exceptions=True)


async def _often(setting: Setting, sender: Sender, disk: Faulty, keep: Keep, times: int, seed: int) -> None:
    """So many processes with a disk that fails, one after the other; the last one delivers what is left."""
    chance = random.Random(seed)
    setting.write(setting.config(setting.route(output=FileOutput(str(setting.file), max_bytes=2**23, keep=1000))))
    ports, failures = [1], 0
    async with sender.sending(lambda: ports[-1]):
        for _ in range(times):
            failures += await _fail_and_kill(setting, chance, disk, ports)
    async with serving(setting) as process:
        await process.listening()
        await drained(process, setting)
        report = await process.report(setting)
        assert await process.end(signal.SIGTERM) == 0
    assert sender.events > times * 40, "hardly any load: the test proves nothing"
    account = settle(f"kill -9, and EIO {failures} times", sender, in_files(setting.file), times)
    keep(account)
    assert report.events.dropped == 0


async def test_ten_kills_on_a_failing_disk(setting: Setting, sender: Sender, disk: Faulty, keep: Keep) -> None:
    """Every event that was answered 200 is in the file afterwards."""
    await _often(setting, sender, disk, keep, times=10, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_two_hundred_kills_on_a_failing_disk(setting: Setting, sender: Sender, disk: Faulty, keep: Keep) -> None:
    """As the short one, twenty times as long."""
    await _often(setting, sender, disk, keep, times=200, seed=2)
