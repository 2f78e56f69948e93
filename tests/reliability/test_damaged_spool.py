"""Promise 2 over a spool that the disk has damaged: what can be read arrives, what cannot is counted, and the process
starts in every case."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from auditpipeline.core.config import HttpOutput
from auditpipeline.core.report import Report
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Destination, Setting, ids, until
from tests.reliability.driving import Sender
from tests.reliability.test_delivered_at_least_once import free_port

PAGE = 4096
STARTS = 3
Harm = Callable[[Path, random.Random], None]


def cut_in_half(path: Path, chance: random.Random) -> None:
    """The file lost its second half."""
    _truncate(path, path.stat().st_size // 2)


def cut_within_a_page(path: Path, chance: random.Random) -> None:
    """The file ends somewhere."""
    _truncate(path, chance.randrange(PAGE, path.stat().st_size))


def empty(path: Path, chance: random.Random) -> None:
    """The file has no byte left."""
    _truncate(path, 0)


def flip_bytes(path: Path, chance: random.Random) -> None:
    """One byte in each of ten pages is another."""
    body = bytearray(path.read_bytes())
    for _ in range(10):
        body[chance.randrange(PAGE, len(body))] ^= 1 << chance.randrange(8)
    path.write_bytes(body)


def zero_pages(path: Path, chance: random.Random) -> None:
    """Three pages hold nothing."""
    body = bytearray(path.read_bytes())
    for _ in range(3):
        page = chance.randrange(1, len(body) // PAGE)
        body[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(body)


def zero_header(path: Path, chance: random.Random) -> None:
    """The first page is gone: nobody can say any more what is where."""
    body = path.read_bytes()
    path.write_bytes(bytes(PAGE) + body[PAGE:])


def garbage(path: Path, chance: random.Random) -> None:
    """The file is noise."""
    path.write_bytes(chance.randbytes(path.stat().st_size))


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


HARMS = (cut_in_half, cut_within_a_page, empty, flip_bytes, zero_pages, zero_header, garbage)


async def _harmed(setting: Setting, sender: Sender, destination: Destination, harm: Harm, seed: int) -> Report:
    """Fills a spool while its output is down, kills the process, does the harm, and lets a new one deliver."""
    port = free_port()
    setting.write(setting.config(setting.route("siem", HttpOutput(f"http://127.0.0.1:{port}/in"))))
    async with serving(setting) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(4000)
        await process.end(signal.SIGTERM)  # moves the journal into the file
    harm(setting.spool, random.Random(seed))
    async with destination.listening(port=port):
        for _ in range(STARTS):
            report = await _deliver(setting, sender)
            if report:
                return report
    pytest.fail(f"not healthy after {STARTS} starts: a crash loop")


async def _deliver(setting: Setting, sender: Sender) -> Report | None:
    """Starts a process, sends some more and waits until all is delivered; None if the process finds damage and ends, to
    be started again as kubelet or systemd would."""
    async with serving(setting) as process:
        await process.listening()
        report: Report | None = None

        async def judged() -> bool:
            nonlocal report
            report = await _report(process, setting)
            return not report or not any(output.pending for output in report.outputs)

        async with sender.sending(lambda: process.ports["audit"]):
            goal = sender.events + 400
            await until(lambda: sender.events >= goal or process.process.returncode is not None, 30)
        await until(judged, 30)
        assert await process.end(signal.SIGTERM) == (0 if report else 1)
        assert "Traceback" not in process.log.read_text()
    return report


async def _report(process: Process, setting: Setting) -> Report | None:
    """What a healthy process says; None of one that is about to end."""
    try:
        report = await process.report(setting)
        assert await process.ops(setting, "/healthz")
    except (aiohttp.ClientError, OSError, AssertionError):
        await asyncio.wait_for(process.process.wait(), 30)
        return None
    return report


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
async def test_a_damaged_file(setting: Setting, sender: Sender, destination: Destination, harm: Harm) -> None:
    """The process starts, takes events, delivers what is left, and counts what is not."""
    report = await _harmed(setting, sender, destination, harm, seed=5)
    await _conserved(sender, destination, report, harm)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("harm", [cut_within_a_page, flip_bytes, zero_pages], ids=lambda harm: harm.__name__)
async def test_a_file_damaged_in_other_places(
    setting: Setting, sender: Sender, destination: Destination, harm: Harm, seed: int
) -> None:
    """As above, with ten other places each."""
    report = await _harmed(setting, sender, destination, harm, seed)
    await _conserved(sender, destination, report, harm)


async def _conserved(sender: Sender, destination: Destination, report: Report, harm: Harm) -> None:
    """Each acknowledged event arrived, or is among those that are counted as damaged. Where nothing could be read at
    all, their number is not known, but it is not none. A file of no bytes looks like a new one: nothing is counted."""
    found = Counter(ids(destination.events))
    missing = [id_ for body in sender.acknowledged for id_ in body if id_ not in found]
    known = 0 if harm is empty else 1 if harm in (zero_header, garbage) else len(missing)
    assert report.events.dropped >= min(known, len(missing))
    assert sender.acknowledged[-1][0] in found
