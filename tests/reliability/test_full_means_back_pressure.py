"""Promise 4: full means back-pressure, on disks that are really full."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import suppress

import aiohttp
import msgspec
import pytest

from auditpipeline.core.config import FileOutput, HttpOutput, Spool
from tests.bench.events import incompressible, some
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Destination, Setting, ids, until
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, in_files, settle
from tests.reliability.namespace import small_disk
from tests.reliability.test_delivered_at_least_once import free_port


@pytest.fixture
def sender(setting: Setting) -> Sender:
    """Sends what no compression makes smaller."""
    bodies = incompressible(some(4, 40, 1500), 4000)
    return Sender(setting.authority.client(setting.client_tls), "full", bodies)


async def test_a_full_disk_refuses_and_recovers(
    setting: Setting, sender: Sender, destination: Destination, keep: Keep
) -> None:
    """The output is down and the spool fills its disk: 503, and still healthy. Killed and started again on the full
    disk, it goes on; when the output is back, everything acknowledged arrives and bodies are taken again."""
    port = free_port()
    with small_disk(setting.folder / "small", "32m") as disk:
        config = setting.config(setting.route("siem", HttpOutput(f"http://127.0.0.1:{port}/in")))
        setting.write(msgspec.structs.replace(config, spool=Spool(str(disk.folder / "spool.sqlite"), 2**40)))
        async with serving(setting, disk.command) as process:
            await process.listening()
            async with sender.sending(lambda: process.ports["audit"]):
                await until(lambda: sender.refused[503] > 20, 60)
                assert await process.ops(setting, "/healthz") == b"ok\n"
            await process.end(signal.SIGKILL)
        async with serving(setting, disk.command) as process:
            await process.listening()
            async with destination.listening(port=port):
                await drained(process, setting)
                async with sender.sending(lambda: process.ports["audit"]):
                    await sender.reaches(400)
                await drained(process, setting)
            assert (await process.report(setting)).events.dropped == 0
            assert set(sender.refused) == {503}
            assert await process.end(signal.SIGTERM) == 0
    assert not any(line["level"] == "error" for line in process.lines())
    keep(settle("spool on a full disk, killed there", sender, Counter(ids(destination.events)), kills=1))


async def test_a_start_without_room_waits_and_says_so(setting: Setting, sender: Sender) -> None:
    """There is no spool yet, and no room for one: alive and not ready, with the reason; events are taken as soon as
    there is room."""
    with small_disk(setting.folder / "small", "24m") as disk:
        ballast = disk.outside / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        config = setting.config()
        path = str(disk.folder / "new" / "spool.sqlite")
        setting.write(msgspec.structs.replace(config, spool=Spool(path, 2**40)))
        async with serving(setting, disk.command) as process:
            reason = "no events are taken: the spool cannot be opened"
            await until(lambda: any(line["event"] == reason for line in process.lines()))
            (port,) = (line["port"] for line in process.lines() if line["event"] == "listening")
            process.ports["ops"] = int(str(port))
            assert await process.ops(setting, "/healthz") == b"ok\n"
            assert await _not_ready(setting, process)
            ballast.unlink()
            await process.listening()
            async with sender.sending(lambda: process.ports["audit"]):
                await sender.reaches(400)
            await drained(process, setting)
            assert await process.end(signal.SIGTERM) == 0


async def _not_ready(setting: Setting, process: Process) -> bool:
    url = f"https://127.0.0.1:{process.ports['ops']}/readyz"
    context = setting.authority.client(setting.client_tls)
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        body = await response.text()
        return response.status == 503 and "small" in body and ("No space left" in body or "no room" in body)


async def test_a_full_disk_below_an_output_loses_nothing(setting: Setting, sender: Sender, keep: Keep) -> None:
    """The file output has no room: the spool keeps the events; when there is room again, they arrive, each line
    whole."""
    with small_disk(setting.folder / "small", "64m") as disk:
        ballast = disk.outside / "ballast"
        ballast.write_bytes(bytes(60 * 2**20))
        output = FileOutput(str(disk.folder / "events.jsonl"), max_bytes=2**30)
        setting.write(setting.config(setting.route(output=output)))
        async with serving(setting, disk.command) as process:
            await process.listening()
            async with sender.sending(lambda: process.ports["audit"], pause=0.05):
                await _fails(process, setting)
            assert sender.refused == Counter()
            ballast.unlink()
            await drained(process, setting)
            keep(settle("output on a full disk", sender, in_files(disk.outside / "events.jsonl")))


async def _fails(process: Process, setting: Setting) -> None:
    async def failing() -> bool:
        (output,) = (await process.report(setting)).outputs
        return output.state == "Failing" and "No space left" in output.last_error

    await until(failing, 60)


async def test_a_full_spool_refuses_and_cursors_move(
    setting: Setting, sender: Sender, destination: Destination, keep: Keep
) -> None:
    """At the spool's limit, with room on the disk: 503 until the output has taken something."""
    port = free_port()
    route = setting.route("siem", HttpOutput(f"http://127.0.0.1:{port}/in"))
    setting.write(setting.config(route, max_bytes=2**20))
    async with serving(setting) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await until(lambda: sender.refused[503] > 20, 60)
            assert (await process.report(setting)).spool_bytes <= 2**20
            async with destination.listening(port=port):
                await sender.reaches(2000)
        async with destination.listening(port=port):
            await drained(process, setting)
        assert set(sender.refused) == {503}
    keep(settle("spool at its limit", sender, Counter(ids(destination.events))))
