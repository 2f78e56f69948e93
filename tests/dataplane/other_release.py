"""What another release does with a spool, told as JSON. It runs as a file, with that release first on the path, and
uses nothing that this release has added:

    other_release.py SPOOL EVENTS     reads all, delivers half, stores EVENTS more and two dead letters
"""

from __future__ import annotations

import asyncio
import io
import json
import sys

from auditpipeline.core import config as contract
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.spool import open_spool
from auditpipeline.dataplane.store import Dead


async def work(path: str, events: int) -> None:
    """Works on the spool, and prints what it found."""
    log = io.StringIO()
    spool = await open_spool(contract.Spool(path), ("siem", "archive"), logs.make(log))
    await spool.use(["siem", "archive"])
    lines: list[bytes] = []
    position = spool.cursors["siem"].next
    while chunks := await spool.read(position, 2**20):
        for chunk in chunks:
            lines += chunk.lines or []
            position = chunk.first + chunk.events
    before = {name: cursor.next for name, cursor in spool.cursors.items()}
    figures = await spool.figures()
    await spool.advance("siem", before["siem"] + (spool.end - before["siem"]) // 2, 1)
    for _ in range(events):
        await spool.append([b'{"n":%d}' % spool.end])
    await spool.append([], "", [Dead("siem", "refused", b"{}"), Dead("", "unreadable", b"junk")])
    found = {
        "lines": [line.decode() for line in lines],
        "cursors": before,
        "lost": figures.lost,
        "dead": figures.dead,
        "removed": figures.dead_removed,
        "healthy": spool.healthy,
        "log": [json.loads(line)["event"] for line in log.getvalue().splitlines()],
    }
    await spool.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2])))
