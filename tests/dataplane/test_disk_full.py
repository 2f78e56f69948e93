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


if __name__ == "__main__":
    asyncio.run(fill_and_drain(Path(sys.argv[1]) / "spool.sqlite"))
