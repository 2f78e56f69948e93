"""The floor: what is left of `auditpipeline serve` when nothing is parsed, filtered or queued.

The same event loop, TLS and way to read a body; the bytes are appended to a file as they came and synced, in a thread
as the spool's writer is one, and then answered.
"""

from __future__ import annotations

import asyncio
import os

import uvloop
from aiohttp import web

from auditpipeline.dataplane.body import read_bounded
from auditpipeline.dataplane.disk import write_all
from auditpipeline.dataplane.worker import Worker
from tests.bench.comparison import Handler, parser, serve


def receiver(number: int) -> Handler:
    """Appends bodies to that file descriptor."""
    worker = Worker("floor-writer")

    def store(body: bytes) -> None:
        write_all(number, body)
        os.fsync(number)

    async def receive(request: web.Request) -> web.Response:
        body = await read_bounded(request, 2**25) or b""
        await worker.run(lambda: store(body))
        return web.Response()

    return receive


async def run() -> None:
    """Serves until it is killed."""
    options = parser(__doc__).parse_args()
    number = os.open(options.target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    await serve(receiver(number), options.pki)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
