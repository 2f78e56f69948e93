"""The process: how it starts, how it ends, and what a kill -9 leaves."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

import aiohttp
import msgspec
import pytest

from auditpipeline.core.errors import AuditPipelineError
from tests.dataplane.process import serving
from tests.dataplane.setting import Setting, event, event_list, ids, lines_in, until


async def test_200_means_stored_over_kill_9(setting: Setting) -> None:
    """Killed in the middle of load, a few times: every event that was answered 200 is in the file afterwards, and every
    line of it is whole."""
    setting.write(setting.config())
    acknowledged: list[str] = []
    context = setting.authority.client(setting.client_tls)

    async def load(session: aiohttp.ClientSession, url: str) -> None:
        while True:
            events = [event() for _ in range(20)]
            try:
                async with session.post(url, data=event_list(events), ssl=context) as response:
                    assert response.status == 200
            except (aiohttp.ClientError, OSError):
                return
            acknowledged.extend(ids(events))

    for round_ in range(1, 4):
        async with serving(setting) as process, aiohttp.ClientSession() as session:
            await process.listening()
            url = f"https://127.0.0.1:{process.ports['audit']}/audit"
            tasks = [asyncio.create_task(load(session, url)) for _ in range(4)]
            goal = round_ * 400
            await until(lambda goal=goal: len(acknowledged) >= goal)  # type: ignore[misc]
            await process.end(signal.SIGKILL)
            await asyncio.gather(*tasks)
    async with serving(setting) as process:
        await process.listening()
        await until(lambda: set(acknowledged) <= set(ids(lines_in(setting.file))))
        assert await process.end(signal.SIGTERM) == 0


async def test_sigterm_ends_it_although_an_output_hangs(setting: Setting) -> None:
    """Within the grace period, with exit code 0, and the event is still in the spool."""
    from auditpipeline.core.config import HttpOutput

    with socket.create_server(("127.0.0.1", 0)) as silent:
        output = HttpOutput(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        setting.write(setting.config(setting.route(output=output)))
        async with serving(setting) as process, aiohttp.ClientSession() as session:
            await process.listening()
            url = f"https://127.0.0.1:{process.ports['audit']}/audit"
            context = setting.authority.client(setting.client_tls)
            async with session.post(url, data=event_list([event()]), ssl=context) as response:
                assert response.status == 200
            assert await asyncio.wait_for(process.end(signal.SIGTERM), 15) == 0
    async with setting.running() as plane:
        assert (await plane.report()).outputs[0].pending == 1


async def test_a_taken_port_is_one_clear_line(setting: Setting) -> None:
    """The process ends with an error, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = setting.config()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        setting.write(msgspec.structs.replace(config, listen=msgspec.structs.replace(config.listen, audit=address)))
        with pytest.raises(AuditPipelineError, match=f"cannot listen on {address}: the port is taken"):
            async with setting.running():
                pass
        async with serving(setting) as process:
            assert await asyncio.wait_for(process.process.wait(), 30)
            errors = process.log.read_bytes()
            assert b"the port is taken" in errors
            assert b"Traceback" not in errors


async def test_it_waits_for_its_configuration_and_its_certificates(setting: Setting) -> None:
    """Both come in Secrets that may be made later."""
    keys = [(path, path.read_bytes()) for path in (setting.folder / "pki").glob("server.*")]
    for path, _ in keys:
        path.unlink()

    async def come_later() -> None:
        await until(lambda: setting.log_lines("looking for the configuration"))
        setting.path.write_bytes(b"{")
        await until(lambda: setting.log_lines("the configuration cannot be used; waiting for another"))
        setting.write(setting.config())
        await until(lambda: setting.log_lines("the TLS files cannot be used"))
        for path, body in keys:
            path.write_bytes(body)

    task = asyncio.create_task(come_later())
    async with setting.running() as plane:
        await task
        assert await plane.post([event()]) == 200


async def test_no_log_line_holds_a_secret(setting: Setting) -> None:
    """A token that a server refuses is in no line and in no report."""
    from aiohttp import web

    from auditpipeline.core.config import HttpOutput
    from tests.dataplane.setting import Destination

    token = setting.folder / "token"
    token.write_text("hunter2hunter2")

    async def refuse(_: object) -> web.Response:
        return web.Response(status=401)

    async with Destination().listening() as server:
        server.answer = refuse
        output = HttpOutput(server.url, bearer_token_file=str(token))
        async with setting.running(setting.config(setting.route(output=output))) as plane:
            assert await plane.post([event()]) == 200
            await until(lambda: setting.log_lines("the output fails"))
            assert "401" in (await plane.report()).outputs[0].last_error
            assert "hunter2" not in (await plane.get("/metrics"))[1].decode()
    assert "hunter2" not in setting.log.getvalue()


async def test_health_is_served_while_the_spool_is_opened(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of many gigabytes must not look like a process that hangs: alive, not ready, and it can be stopped."""
    import threading

    from auditpipeline.dataplane import log as logs
    from auditpipeline.dataplane import spool as spools
    from auditpipeline.dataplane.run import run

    checked, original = threading.Event(), spools.open_or_salvage

    def slowly(*args: Any) -> Any:
        assert checked.wait(30)
        return original(*args)

    monkeypatch.setattr(spools, "open_or_salvage", slowly)
    setting.write(setting.config())
    shown = setting.authority.client(setting.client_tls)
    try:
        for goes_on in (False, True):
            stop = asyncio.Event()
            task = asyncio.create_task(run(setting.path, stop=stop, log=logs.make(setting.log)))
            number = 2 if goes_on else 1
            await until(lambda number=number: len(setting.log_lines("listening")) == number)  # type: ignore[misc]
            port = setting.log_lines("listening")[-1]["port"]
            async with aiohttp.ClientSession() as session:

                async def answers(session: aiohttp.ClientSession = session, port: int = port) -> list[int]:
                    found = []
                    for path in ("healthz", "readyz", "status", "metrics"):
                        async with session.get(f"https://127.0.0.1:{port}/{path}", ssl=shown) as response:
                            found.append(response.status)
                    return found

                assert await answers() == [200, 503, 503, 503]
                if goes_on:
                    checked.set()

                    async def ready() -> bool:
                        return await answers() == [200] * 4

                    await until(ready)
            stop.set()
            await asyncio.wait_for(task, 10)
    finally:
        checked.set()
