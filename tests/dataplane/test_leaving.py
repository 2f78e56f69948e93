"""A gateway's AuditSink is deleted, as it is when its pipeline is suspended, while events wait for it."""

from __future__ import annotations

import msgspec
import pytest

from auditpipeline.core.config import Config, HttpOutput, Route
from auditpipeline.dataplane import leaving
from tests.dataplane.setting import Destination, Running, Setting, event, ids, lines_in, until
from tests.reliability.test_delivered_at_least_once import free_port

REMOVED = 'auditpipeline_events_dropped_total{output="",reason="removed"}'


def gateway(setting: Setting, *routes: Route) -> Config:
    """A gateway's configuration: what is in the file goes on in any case."""
    return msgspec.structs.replace(setting.config(setting.route(), *routes), plane="gateway")


async def left(plane: Running) -> bool:
    """Whether the sink is gone for good."""
    return [output.name for output in (await plane.report()).outputs] == ["archive"]


async def test_what_waited_for_a_sink_that_was_deleted_arrives(setting: Setting, destination: Destination) -> None:
    """Up to its end and no further, when its receivers are there; nothing is lost, and nothing stays."""
    port = free_port()
    sink = setting.route("sink", HttpOutput(f"http://127.0.0.1:{port}/in"))
    before, after = [event() for _ in range(5)], [event() for _ in range(5)]
    async with setting.running(gateway(setting, sink)) as plane:
        assert await plane.post(before) == 200
        await plane.in_force(setting.write(gateway(setting)))
        assert await plane.post(after) == 200
        waiting = (await plane.report()).outputs[1]
        assert (waiting.name, waiting.pending) == ("sink", 5)
        async with destination.listening(port=port):
            await until(lambda: left(plane))
        assert ids(destination.events) == ids(before)
        assert (await plane.report()).events.dropped == 0
        await until(lambda: ids(lines_in(setting.file)) == ids(before + after))


async def test_a_sink_that_comes_back_meanwhile_goes_on(setting: Setting, destination: Destination) -> None:
    """What waited for it arrives, and what comes from then on."""
    port = free_port()
    sink = setting.route("sink", HttpOutput(f"http://127.0.0.1:{port}/in"))
    before, after = [event() for _ in range(5)], [event() for _ in range(5)]
    async with setting.running(gateway(setting, sink)) as plane:
        assert await plane.post(before) == 200
        await plane.in_force(setting.write(gateway(setting)))
        await plane.in_force(setting.write(gateway(setting, sink)))
        assert await plane.post(after) == 200
        async with destination.listening(port=port):
            await until(lambda: len(destination.events) == 10)
        assert ids(destination.events) == ids(before + after)
        assert (await plane.report()).events.dropped == 0


async def test_a_sink_that_is_not_there_is_not_waited_for_for_ever(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited for it is counted as lost, without what came after it."""
    sink = setting.route("sink", HttpOutput("http://127.0.0.1:1/in"))
    async with setting.running(gateway(setting, sink)) as plane:
        assert await plane.post([event() for _ in range(5)]) == 200
        await plane.in_force(setting.write(gateway(setting)))
        assert await plane.post([event() for _ in range(5)]) == 200
        assert not await left(plane)
        monkeypatch.setattr(leaving, "LEAVE_SECONDS", 0.0)
        await until(lambda: left(plane))
        assert await plane.metric(REMOVED) == 5


async def test_a_sink_that_leaves_is_given_up_at_a_restart(setting: Setting) -> None:
    """Its destination is in no configuration any more: it is counted."""
    sink = setting.route("sink", HttpOutput("http://127.0.0.1:1/in"))
    async with setting.running(gateway(setting, sink)) as plane:
        assert await plane.post([event() for _ in range(5)]) == 200
        await plane.in_force(setting.write(gateway(setting)))
    async with setting.running() as plane:
        assert await plane.metric(REMOVED) == 5
