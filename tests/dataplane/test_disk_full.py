"""Promise 4 on a disk that is really full: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

from auditpipeline.core.errors import Retryable
from tests.dataplane.test_spool import lines_from, opened
from tests.reliability.namespace import small_disk


def test_a_full_disk_stops_events_and_never_cursors(tmp_path: Path) -> None:
    """The spool fills the disk; the output still moves its cursor, and then there is room for events again."""
    with small_disk(tmp_path / "small", "32m") as disk:
        command = [*disk.command, sys.executable, "-m", "tests.dataplane.test_disk_full", str(disk.folder)]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr


async def fill_and_drain(path: Path) -> None:
    """Runs on the small disk."""
    spool = await opened(path)
    stored: list[bytes] = []
    with contextlib.suppress(Retryable):
        while True:
            line = os.urandom(30_000).hex().encode()
            await spool.append([line])
            stored.append(line)
    assert spool.healthy
    assert len(stored) > 100
    assert await lines_from(spool) == stored
    for position in range(1, len(stored) + 1):
        await spool.advance("out", position, 1)
    while True:
        try:
            await spool.append([b"again"])
            break
        except Retryable:
            await asyncio.sleep(0.01)
    assert await lines_from(spool, len(stored)) == [b"again"]
    await spool.close()


def test_drop_oldest_gives_up_no_more_than_is_needed(tmp_path: Path) -> None:
    """On a disk that is full: once what is missing, however many requests are refused meanwhile, and nothing more when
    there is room again."""
    with small_disk(tmp_path / "small", "96m") as disk:
        command = [*disk.command, sys.executable, "-m", "tests.dataplane.test_disk_full", str(disk.folder), "drop"]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr


async def drop_and_go_on(path: Path) -> None:
    """Runs on the small disk, half of which belongs to somebody else."""
    (path.parent / "ballast").write_bytes(bytes(30 * 2**20))
    spool = await opened(path, backpressure="dropOldest")
    sent = refused = 0
    for _ in range(40):  # far more than fits, 50 requests at a time
        results = await asyncio.gather(
            *(spool.append([os.urandom(30_000).hex().encode()]) for _ in range(50)), return_exceptions=True
        )
        sent += sum(result is None for result in results)
        refused += sum(isinstance(result, Retryable) for result in results)
    await asyncio.gather(*(spool.figures() for _ in range(3)))
    overflow = sum(events for _, reason, events in (await spool.figures()).lost if reason == "overflow")
    assert refused > 50
    assert overflow > 0
    assert spool.end == sent
    # What is stored and what is lost are all of what was taken, and the spool was never emptied for nothing.
    assert len(await lines_from(spool, spool.cursors["out"].next)) == sent - overflow
    assert spool.size > 16 * 2**20
    await spool.close()


if __name__ == "__main__":
    do = drop_and_go_on if sys.argv[2:] == ["drop"] else fill_and_drain
    asyncio.run(do(Path(sys.argv[1]) / "spool.sqlite"))
