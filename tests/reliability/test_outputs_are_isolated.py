"""Promise 3: outputs are isolated. One that hangs or fails delays no other one, nor the acknowledgement."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from auditpipeline.core.config import HttpOutput, Spool, StdoutOutput
from auditpipeline.dataplane.route import OVERTAKEN
from tests.dataplane.process import serving
from tests.dataplane.setting import Destination, Setting, event, lines_in, until
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, in_files, settle


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and nothing else: neither reads nor answers. Its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


async def test_the_others_do_not_notice(setting: Setting, sender: Sender, destination: Destination, keep: Keep) -> None:
    """Beside a server that hangs before it reads, one that hangs before it answers, one that always fails, and a pipe
    that nobody reads, a file gets every event."""

    async def hang(_: object) -> web.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    async def fail(_: object) -> web.Response:
        return web.Response(status=500)

    failing = Destination()
    destination.answer, failing.answer = hang, fail
    reading, writing = os.pipe()
    with silent_server() as silent, closing(os.fdopen(reading, "rb")), closing(os.fdopen(writing, "wb")):
        async with destination.listening(), failing.listening():
            setting.write(
                setting.config(
                    setting.route("silent", HttpOutput(silent)),
                    setting.route("hanging", HttpOutput(destination.url)),
                    setting.route("failing", HttpOutput(failing.url)),
                    setting.route("pipe", StdoutOutput()),
                    setting.route("archive"),
                )
            )
            async with serving(setting, stdout=writing) as process:
                await process.listening()
                async with sender.sending(lambda: process.ports["audit"]):
                    await sender.reaches(8000)

                async def archived() -> bool:
                    outputs = {output.name: output for output in (await process.report(setting)).outputs}
                    return outputs["archive"].pending == 0

                await until(archived, 60)
                outputs = {output.name: output for output in (await process.report(setting)).outputs}
                assert outputs["archive"].state == "Idle"
                stuck = {name: outputs[name].delivered for name in ("silent", "hanging", "failing")}
                assert stuck == {"silent": 0, "hanging": 0, "failing": 0}
                assert outputs["pipe"].pending > 0
                assert (await process.report(setting)).events.dropped == 0
    keep(settle("file beside four outputs that hang", sender, in_files(setting.file)))


async def test_a_dead_output_of_an_isolating_spool_stops_nobody(setting: Setting) -> None:
    """As in a gateway: no request is refused for its sake, who works gets all, and who does not says what it lost."""
    dead = setting.route("dead", HttpOutput("http://127.0.0.1:1/in"))
    config = setting.config(dead, setting.route())
    config = msgspec.structs.replace(config, spool=Spool(str(setting.spool), 2**20, isolate=True))
    async with setting.running(config) as plane:
        for _ in range(40):
            found = event(level="RequestResponse", requestObject={"noise": os.urandom(40_000).hex()})
            assert await plane.post([found]) == 200
            await until(partial(_arrived, setting, found))

        async def counted() -> bool:
            return (await plane.report()).outputs[1].delivered == 40

        await until(counted)
        gave_up, archive = (await plane.report()).outputs
        assert (archive.delivered, archive.dropped, archive.last_error) == (40, 0, "")
        assert 0 < gave_up.dropped < 40 == gave_up.dropped + gave_up.pending
        assert OVERTAKEN in gave_up.last_error
        overflow = 'auditpipeline_events_dropped_total{output="dead",reason="overflow"}'
        assert await plane.metric(overflow) == gave_up.dropped


def _arrived(setting: Setting, found: dict[str, Any]) -> bool:
    return any(line["auditID"] == found["auditID"] for line in lines_in(setting.file)[-1:])
