"""What has to run is watched: its end is the end of the process, and nothing that hangs keeps it from ending."""

from __future__ import annotations

import asyncio
import io
import signal

import aiohttp
import pytest

from auditpipeline.core.errors import Failed
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.supervise import Supervised
from tests.dataplane.faults import DIE_AT_COMMIT, HANG_AT_COMMIT, Fault
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Setting, event, event_list, ids, lines_in, until


async def post(setting: Setting, process: Process) -> int:
    """Posts an event; the status, 0 if there was no answer."""
    url = f"https://127.0.0.1:{process.ports['audit']}/audit"
    context = setting.authority.client(setting.client_tls)
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=event_list([event()]), ssl=context) as response,
        ):
            return response.status
    except aiohttp.ClientError:
        return 0


async def test_a_route_that_ends_by_itself_ends_the_process(setting: Setting) -> None:
    """Nobody would deliver what it has, and nobody would know."""

    async def break_it() -> None:
        async with setting.running(setting.config()) as plane:
            task = plane.plane._routes["archive"]._task
            assert task
            task.cancel()
            await until(lambda: plane.plane._stopping)

    with pytest.raises(Failed, match="a route ended by itself: archive"):
        await break_it()


async def test_a_writer_that_ends_by_itself_ends_the_process(setting: Setting) -> None:
    """With exit code 1, so that it is started again; then everything acknowledged is there."""
    fault = Fault(setting.folder, DIE_AT_COMMIT)
    setting.write(setting.config())
    async with serving(setting, environment=fault.environment) as process:
        await process.listening()
        assert await post(setting, process) == 200
        fault.begin()
        posting = asyncio.create_task(post(setting, process))
        assert await asyncio.wait_for(process.process.wait(), 40) == 1
        assert await posting != 200
        assert "the spool is broken" in process.log.read_text()
        fault.end()
    async with serving(setting, environment=fault.environment) as process:
        await process.listening()
        assert await post(setting, process) == 200
        await until(lambda: setting.file.exists() and len(set(ids(lines_in(setting.file)))) == 2)


async def test_sigterm_ends_it_although_a_write_hangs(setting: Setting) -> None:
    """With exit code 1, since it did not end as it should; nothing that was acknowledged is lost."""
    fault = Fault(setting.folder, HANG_AT_COMMIT)
    setting.write(setting.config())
    async with serving(setting, environment=fault.environment) as process:
        await process.listening()
        assert await post(setting, process) == 200
        fault.begin()
        posting = asyncio.create_task(post(setting, process))
        await until(lambda: _under_way(setting, process))
        assert await process.end(signal.SIGTERM) == 1
        assert await posting != 200
        fault.end()
    async with serving(setting, environment=fault.environment) as process:
        await process.listening()
        await until(lambda: setting.file.exists() and lines_in(setting.file))
        assert await process.end(signal.SIGTERM) == 0


async def _under_way(setting: Setting, process: Process) -> bool:
    """Whether a body is being taken."""
    lines = (await process.ops(setting, "/metrics")).decode().splitlines()
    return any(line.startswith("auditpipeline_body_bytes ") and float(line.split()[1]) > 0 for line in lines)


async def test_what_ends_is_started_again_and_said() -> None:
    """Whether it raises or returns; the reason is there for as long as it does not run."""
    stop, stream = asyncio.Event(), io.StringIO()
    supervised = Supervised("the part", logs.make(stream), first=0.001)
    seen: list[str] = []

    async def attempt() -> None:
        seen.append(supervised.error)
        match len(seen):
            case 1:
                raise RuntimeError("nobody thought of this")
            case 2:
                return
        await stop.wait()

    task = asyncio.create_task(supervised.run(attempt, stop))
    await until(lambda: len(seen) == 3)
    assert supervised.restarts == 2
    stop.set()
    await task
    assert seen == ["", "", ""]
    assert supervised.error == ""
    assert "nobody thought of this" in stream.getvalue()
    assert "it ended by itself" in stream.getvalue()


async def test_a_failure_at_the_end_is_said_too() -> None:
    """It is not taken for an end in peace."""
    stop, stream = asyncio.Event(), io.StringIO()
    supervised = Supervised("the part", logs.make(stream), first=0.001)

    async def attempt() -> None:
        await stop.wait()
        raise RuntimeError("at the end")

    task = asyncio.create_task(supervised.run(attempt, stop))
    await asyncio.sleep(0)
    stop.set()
    await task
    assert supervised.error == "the part does not run: at the end"
    assert supervised.restarts == 0
