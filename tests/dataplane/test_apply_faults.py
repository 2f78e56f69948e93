"""A change of the configuration that fails, at each of its steps: no route stops, and the next try finishes it."""

from __future__ import annotations

import asyncio
import http.client
import io
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from auditpipeline.core.config import FileOutput, Route
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.spool import Spool
from tests.dataplane.setting import Running, Setting, event, ids, lines_in, until


class Switch:
    """Makes the calls of one step fail while it is on."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.failed = 0

    def wrap(self, call: Callable[..., Any], fails: Callable[[], bool] = lambda: True) -> Callable[..., Any]:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.error and fails():
                self.failed += 1
                raise self.error
            return await call(*args, **kwargs)

        return wrapped


def second_of_each_try(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """True at every `use` that follows another one since `limit`."""
    calls = [0]
    limit = Spool.limit

    async def limited(self: Spool, config: Any) -> None:
        calls[0] = 0
        await limit(self, config)

    monkeypatch.setattr(Spool, "limit", limited)

    def is_second() -> bool:
        calls[0] += 1
        return calls[0] == 2

    return is_second


def arrange(step: str, switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the step fail."""
    match step:
        case "limit":
            monkeypatch.setattr(Spool, "limit", switch.wrap(Spool.limit))
        case "new cursors":
            monkeypatch.setattr(Spool, "use", switch.wrap(Spool.use))
        case "old cursors":
            monkeypatch.setattr(Spool, "use", switch.wrap(Spool.use, second_of_each_try(switch, monkeypatch)))


@pytest.mark.parametrize(
    ("error", "plane"),
    [
        (Retryable("the disk is full"), "receiver"),
        (Retryable("the disk is full"), "gateway"),
        (OSError(5, "Input/output error"), "receiver"),
        (RuntimeError(), "receiver"),
    ],
)
@pytest.mark.parametrize("step", ["limit", "new cursors", "old cursors"])
async def test_a_change_that_fails_stops_no_route(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception, plane: str
) -> None:
    """One route stays as it is, one is changed, one goes and one comes. While the change fails, the status says so and
    the routes that stay deliver; afterwards all of the new configuration is in force."""
    switch = Switch()
    arrange(step, switch, monkeypatch)
    old = setting.config(route(setting, "kept"), route(setting, "changed"), route(setting, "gone"))
    new = setting.config(route(setting, "kept"), route(setting, "changed", max_events=7), route(setting, "fresh"))
    old, new = (_as(plane, config) for config in (old, new))
    async with setting.running(old) as running:
        sent = [await posted(running)]
        switch.error = error
        digest = setting.write(new)
        await until(lambda: switch.failed >= 2)
        report = await running.report()
        assert report.config_error
        assert await running.metric("auditpipeline_config_valid") == 0
        sent.append(await posted(running))
        await until(lambda: arrived(setting, "kept", sent) and arrived(setting, "changed", sent))
        switch.error = None
        await running.in_force(digest)
        await until(lambda: _valid(running))
        sent.append(await posted(running))
        await until(lambda: arrived(setting, "kept", sent) and arrived(setting, "changed", sent))
        await until(lambda: arrived(setting, "fresh", sent[-1:]))
        names = {output.name for output in (await running.report()).outputs}
        assert names - {"gone"} == {"kept", "changed", "fresh"}
        assert set(running.plane._routes) == {"kept", "changed", "fresh"}


async def test_an_output_that_cannot_be_closed_stops_no_route(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its contract says that closing raises nothing; the others do not depend on it."""
    from auditpipeline.dataplane.outputs.file import File

    close = File.close

    async def fails(self: File) -> None:
        await close(self)
        raise RuntimeError("closing failed")

    monkeypatch.setattr(File, "close", fails)
    async with setting.running(setting.config(route(setting, "kept"), route(setting, "changed"))) as running:
        new = setting.config(route(setting, "kept"), route(setting, "changed", max_events=7))
        await running.in_force(setting.write(new))
        sent = [await posted(running)]
        await until(lambda: arrived(setting, "kept", sent) and arrived(setting, "changed", sent))
    assert setting.log_lines("the output met a fault of its own while it was closed")


async def test_a_start_without_room_for_new_cursors_delivers_what_there_is(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new output waits, and no event is taken that it would miss; the other one delivers meanwhile."""
    switch = Switch()
    setting.write(setting.config(route(setting, "kept", broken=True)))
    async with setting.running() as running:
        sent = [await posted(running)]
    (setting.folder / "kept").unlink()
    setting.log = io.StringIO()
    arrange("new cursors", switch, monkeypatch)
    switch.error = Retryable("the disk is full")
    setting.write(setting.config(route(setting, "kept"), route(setting, "fresh")))

    async def mend() -> None:
        (line,) = await until(lambda: setting.log_lines("listening"))
        assert line["listener"] == "ops"
        await until(lambda: arrived(setting, "kept", sent))
        status, body = await asyncio.to_thread(asked, setting, int(line["port"]), "/readyz")
        assert (status, body) == (503, "not taking events: the disk is full\n")
        assert (await asyncio.to_thread(asked, setting, int(line["port"]), "/healthz"))[0] == 200

    async def mend_in_any_case() -> None:
        try:
            await mend()
        finally:
            switch.error = None

    mending = asyncio.create_task(mend_in_any_case())
    async with setting.running() as running:
        await mending
        last = await posted(running)
        await until(lambda: arrived(setting, "fresh", [last]))
    assert len(setting.log_lines("no events are taken: the outputs cannot be started")) == 1


def asked(setting: Setting, port: int, path: str) -> tuple[int, str]:
    """What the ops listener answers."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=setting.authority.client(None))
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def route(setting: Setting, name: str, broken: bool = False, **fields: Any) -> Route:
    """A route to a file of that name; `broken`: a folder is in its place."""
    path = setting.folder / name
    if broken:
        path.symlink_to("/proc/nowhere")
    return setting.route(name, FileOutput(str(path)), **fields)


def _as(plane: str, config: Any) -> Any:
    return msgspec.structs.replace(config, plane=plane)


async def posted(running: Running) -> str:
    """Posts an event; which one."""
    sent = event()
    assert await running.post([sent]) == 200
    return ids([sent])[0]


def arrived(setting: Setting, name: str, wanted: list[str]) -> bool:
    """Whether these events are in the output's file."""
    path = setting.folder / name
    return path.is_file() and set(wanted) <= set(ids(lines_in(path)))


async def _valid(running: Running) -> bool:
    return not (await running.report()).config_error
