"""Promise 1 on a disk that fails for a while (EIO): what was acknowledged arrives, what was refused does no harm, and
nothing that failed is held against later requests."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from auditpipeline.core.config import HttpOutput
from tests.dataplane.faults import HASTE, Fault
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Setting, until
from tests.reliability import faulty
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, in_files, settle
from tests.reliability.faulty import Faulty

WAITS = ("the disk fails: the spool is not held to be damaged yet", "no events are taken: the spool cannot be opened")
CALLS = ("rws", "ws", "s")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Faulty]:
    """What fails on demand: the spool and its journal."""
    made = faulty.make(tmp_path, "/spool.sqlite")
    yield made
    made.end()


async def refused(sender: Sender, requests: int = 20) -> None:
    """Waits until so many more requests were refused."""
    goal = sender.refused.total() + requests
    await until(lambda: sender.refused.total() >= goal)


async def ready(process: Process) -> bool:
    """What /readyz says."""
    url = f"https://127.0.0.1:{process.ports['ops']}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=False) as response:
        return response.status == 200


@pytest.mark.parametrize("calls", CALLS)
async def test_a_disk_that_fails_and_works_again(
    setting: Setting, sender: Sender, disk: Faulty, keep: Keep, calls: str
) -> None:
    """Requests are refused meanwhile and taken afterwards, by the same process and, after a clean stop, by the next."""
    setting.write(setting.config())
    async with serving(setting, environment=disk.environment) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            for _ in range(3):
                await sender.reaches(200)
                with disk.failing(calls):
                    await refused(sender)
            await sender.reaches(400)
        await drained(process, setting)
        report = await process.report(setting)
        assert await ready(process)
        assert report.events.dropped == 0
        assert await process.end(signal.SIGTERM) == 0
    async with serving(setting, environment=disk.environment) as process:
        await process.listening()
        before = sender.refused.total()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(400)
        await drained(process, setting)
        assert sender.refused.total() == before
        assert (await process.report(setting)).events.dropped == 0
    keep(settle(f"EIO on {calls}, then a clean start", sender, in_files(setting.file)))


@pytest.mark.parametrize("calls", ["rws", "s"])
async def test_a_process_that_is_killed_while_its_disk_fails(
    setting: Setting, sender: Sender, disk: Faulty, keep: Keep, calls: str
) -> None:
    """What a commit left in the journal that could not be synced is there or not, and does no harm in either case."""
    setting.write(setting.config())
    for _ in range(2):
        async with serving(setting, environment=disk.environment) as process:
            await process.listening()
            async with sender.sending(lambda: process.ports["audit"]):
                await sender.reaches(200)
                with disk.failing(calls):
                    await refused(sender)
                    await process.end(signal.SIGKILL)
    async with serving(setting) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(200)
        await drained(process, setting)
        assert (await process.report(setting)).events.dropped == 0
    keep(settle(f"EIO on {calls}, then a kill", sender, in_files(setting.file), kills=2))


@pytest.mark.parametrize("calls", ["r", "w", "s"])
async def test_a_disk_that_fails_at_the_start(
    setting: Setting, sender: Sender, disk: Faulty, keep: Keep, calls: str
) -> None:
    """A sound spool is not salvaged for that: nothing is put aside, and what waited arrives."""
    setting.write(setting.config(setting.route("siem", HttpOutput("http://127.0.0.1:1/"))))
    async with serving(setting) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(2000)
        await process.end(signal.SIGKILL)
    setting.write(setting.config(setting.route("siem")))
    disk.begin(calls)
    async with serving(setting, environment=disk.environment) as process:
        await until(lambda: any(each in process.log.read_text() for each in WAITS))
        disk.end()
        await process.listening()
        await drained(process, setting)
        assert (await process.report(setting)).events.dropped == 0
    assert not list(setting.folder.glob("*damaged*"))
    keep(settle(f"EIO on {calls} at the start", sender, in_files(setting.file), kills=1))


def place_in_a_row(spool: Path) -> tuple[int, int]:
    """The offset of a byte in the middle of a row that has pages of its own, and how many events the row holds."""
    with contextlib.closing(sqlite3.connect(spool)) as found:
        query = "SELECT count, data FROM events WHERE size > 20000 ORDER BY first LIMIT 1 OFFSET 3"
        events, data = found.execute(query).fetchone()
    at = spool.read_bytes().index(data[len(data) // 2 :][:256])
    return at, events


@pytest.mark.parametrize("needed_by", ["an output", "a commit"])
async def test_a_place_that_can_never_be_read_costs_its_row(
    setting: Setting, sender: Sender, disk: Faulty, needed_by: str
) -> None:
    """Such a row can neither be delivered nor deleted: the process ends after a while, and the next one takes over what
    can be read."""
    environment = {**disk.environment, **Fault(setting.folder, HASTE).environment}
    setting.write(setting.config(setting.route("siem", HttpOutput("http://127.0.0.1:1/"))))
    async with serving(setting) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(1000)
        await process.end(signal.SIGTERM)
    at, events = place_in_a_row(setting.spool)
    # If its output is removed, nobody waits for the row, and it is to be deleted.
    setting.write(setting.config(setting.route("siem" if needed_by == "an output" else "archive")))
    disk.begin(f"r@{setting.spool.stat().st_ino}@{at}")
    async with serving(setting, environment=environment) as process:
        await until(lambda: process.process.returncode is not None, 60)
        assert process.process.returncode == 1
        assert "the spool is broken" in process.log.read_text()
    async with serving(setting, environment=environment) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(200)
        await drained(process, setting)
        dropped = (await process.report(setting)).events.dropped
    if needed_by == "an output":
        account = settle("a place that cannot be read", sender, in_files(setting.file))
        assert account.lost == dropped == events
