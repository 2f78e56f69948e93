"""Promise 1: 200 means stored. The process is killed at random moments, under load, again and again."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from auditpipeline.core.config import FileOutput
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Setting
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, in_files, settle


async def _kill(setting: Setting, chance: random.Random, ports: list[int]) -> None:
    """Starts a process and kills it: mostly under load, one time in five while it starts."""
    async with serving(setting) as process:
        if chance.random() < 0.2:
            await asyncio.sleep(chance.uniform(0, 0.6))
        else:
            await process.listening()
            ports.append(process.ports["audit"])
            await asyncio.sleep(chance.uniform(0, 0.4))
        await process.end(signal.SIGKILL)


async def _kill_often(setting: Setting, sender: Sender, keep: Keep, kills: int, seed: int) -> None:
    """Kills so often, then lets one process deliver what is left, and compares."""
    chance = random.Random(seed)
    # Small files, so that processes die while they rotate, too.
    setting.write(setting.config(setting.route(output=FileOutput(str(setting.file), max_bytes=2**23, keep=1000))))
    ports = [1]
    async with sender.sending(lambda: ports[-1]):
        for _ in range(kills):
            await _kill(setting, chance, ports)
    async with serving(setting) as process:
        await process.listening()
        await drained(process, setting)
        report = await process.report(setting)
        assert await process.end(signal.SIGTERM) == 0
        _never_damaged(setting, process)
    assert sender.events > kills * 100, "hardly any load: the test proves nothing"
    assert report.events.dropped == 0
    keep(settle("kill -9 under load", sender, in_files(setting.file), kills))


def _never_damaged(setting: Setting, process: Process) -> None:
    """A kill damages no file: nothing was put aside."""
    assert not list(setting.folder.glob("*damaged*")), process.log.read_text()


async def test_twenty_kills(setting: Setting, sender: Sender, keep: Keep) -> None:
    """Every event that was answered 200 is in the file afterwards, and every line of it is whole."""
    await _kill_often(setting, sender, keep, kills=20, seed=1)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_hundred_kills(setting: Setting, sender: Sender, keep: Keep) -> None:
    """As the short one, ten times as long."""
    await _kill_often(setting, sender, keep, kills=220, seed=2)
