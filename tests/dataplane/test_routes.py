"""Promises 2, 3 and 6: each event reaches each output, at its own pace, or stands in the dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from aiohttp import web

from auditpipeline.core.config import FileOutput, HttpOutput, StdoutOutput, Throttle
from auditpipeline.dataplane.route import Patience
from tests.dataplane.setting import Destination, Running, Setting, event, ids, lines_in, until

Answer = Callable[[list[dict[str, Any]]], Coroutine[Any, Any, web.Response | None]]


def refusing(bad: Callable[[dict[str, Any]], bool], status: int) -> Answer:
    """A server that refuses a batch with such an event in it."""

    async def answer(events: list[dict[str, Any]]) -> web.Response | None:
        return web.Response(status=status) if any(map(bad, events)) else None

    return answer


async def test_an_output_that_was_down_gets_everything(setting: Setting) -> None:
    """Down at first, then up: in order, each once; one log line for the failing, one for the recovery."""
    server = Destination()
    async with server.listening():
        port = server.port
    output = HttpOutput(f"http://127.0.0.1:{port}/in", "event-list")
    events = [event() for _ in range(30)]
    async with setting.running(setting.config(setting.route(output=output))) as plane:
        for found in events:
            assert await plane.post([found]) == 200

        async def failing() -> bool:
            (report,) = (await plane.report()).outputs
            return (
                report.state == "Failing"
                and report.pending == 30
                and report.lag_seconds > 0
                and report.last_error != ""
            )

        await until(failing)
        async with server.listening(port=port):
            await until(lambda: len(server.events) >= 30)
            assert ids(server.events) == ids(events)

            async def idle() -> bool:
                (report,) = (await plane.report()).outputs
                return report.state == "Idle" and report.delivered == 30 and report.lag_seconds == 0

            await until(idle)
    assert len(setting.log_lines("the output fails")) == 1
    assert len(setting.log_lines("the output works again")) == 1


async def test_an_output_that_hangs_delays_no_other(setting: Setting, destination: Destination) -> None:
    """One never answers; the file has every event at once."""

    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    destination.answer = hang
    routes = (setting.route("hangs", HttpOutput(destination.url)), setting.route("archive"))
    events = [event() for _ in range(50)]
    async with setting.running(setting.config(*routes)) as plane:
        for found in events:
            assert await plane.post([found]) == 200
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == 50)

        async def counted() -> bool:
            """What is in the file is counted a moment later."""
            reports = {found.name: found for found in (await plane.report()).outputs}
            return (reports["hangs"].pending, reports["archive"].delivered) == (50, 50)

        await until(counted)


async def test_only_the_refused_event_becomes_a_dead_letter(setting: Setting, destination: Destination) -> None:
    """400, 413 and 422 are halved down to the event that is refused alone."""
    events = [event(bad=number == 11) for number in range(32)]
    for name, status in (("a", 400), ("b", 413), ("c", 422)):
        destination.events.clear()
        destination.answer = refusing(lambda found: found["bad"], status)
        route = setting.route(name, HttpOutput(destination.url))
        async with setting.running(setting.config(route)) as plane:
            assert await plane.post(events) == 200
            await until(lambda: len(destination.events) == 31)

            async def told() -> bool:
                report = await plane.report()
                (output,) = report.outputs
                return (output.delivered, output.dropped, output.pending) == (31, 1, 0)

            await until(told)
            assert await plane.metric(f'auditpipeline_events_dropped_total{{output="{name}",reason="refused"}}') == 1
    with sqlite3.connect(setting.spool) as found:
        keys = [key for (key,) in found.execute("SELECT key FROM dead")]
    found.close()
    assert len(keys) == 3
    assert all(key.startswith(f"{events[11]['auditID']}/ResponseComplete/") for key in keys)


async def test_when_all_are_refused_nothing_is_lost(setting: Setting, destination: Destination) -> None:
    """A wrong URL or format refuses everything: that is waited out, not buried."""
    destination.answer = refusing(lambda _: True, 400)
    async with setting.running(setting.config(setting.route(output=HttpOutput(destination.url)))) as plane:
        assert await plane.post([event() for _ in range(5)]) == 200

        async def failing() -> bool:
            return (await plane.report()).outputs[0].state == "Failing"

        await until(failing)
        assert (await plane.report()).dead_letters == 0
        destination.answer = None
        await until(lambda: len(destination.events) == 5)


async def test_a_refused_event_waits_for_an_accepted_one(setting: Setting, destination: Destination) -> None:
    """A lone event that is refused becomes a dead letter as soon as another one shows that the output works."""
    destination.answer = refusing(lambda found: bool(found.get("bad")), 413)
    async with setting.running(setting.config(setting.route(output=HttpOutput(destination.url)))) as plane:
        assert await plane.post([event(bad=True)]) == 200
        await until(lambda: len(destination.requests) > 2)
        assert await plane.post([event()]) == 200
        await until(lambda: len(destination.events) == 1)

        async def buried() -> bool:
            return (await plane.report()).dead_letters == 1

        await until(buried)


async def plane_is(plane: Running, figures: list[int]) -> bool:
    """Whether these are the delivered, dropped and pending events of the one output, and the dead letters."""
    report = await plane.report()
    (output,) = report.outputs
    return [output.delivered, output.dropped, output.pending, report.dead_letters] == figures


async def test_a_large_event_that_is_refused_is_buried_where_later_ones_are_taken(
    setting: Setting, destination: Destination
) -> None:
    """It fills a batch by itself, so that no other one stands beside it."""
    destination.answer = refusing(lambda found: bool(found.get("bad")), 400)
    large = event(bad=True, level="RequestResponse", requestObject={"x": "y" * 2**21})
    good = [event() for _ in range(30)]
    async with setting.running(setting.config(setting.route(output=HttpOutput(destination.url)))) as plane:
        assert await plane.post([large]) == 200
        assert await plane.post(good) == 200
        await until(lambda: plane_is(plane, [30, 1, 0, 1]))
        assert set(ids(destination.events)) == set(ids(good))
        assert (await plane.report()).outputs[0].state == "Idle"
    with contextlib.closing(sqlite3.connect(setting.spool)) as found:
        assert "answered 400" in found.execute("SELECT reason FROM dead").fetchone()[0]


async def test_full_batches_of_refused_events_are_buried_where_later_ones_are_taken(
    setting: Setting, destination: Destination
) -> None:
    """Three batches of them, then good ones, others again, and at last a good one: each either arrives or is buried."""
    destination.answer = refusing(lambda found: bool(found.get("bad")), 422)
    bad, good = ([event(bad=value) for _ in range(70)] for value in (True, False))
    route = setting.route(output=HttpOutput(destination.url), max_events=20)
    async with setting.running(setting.config(route)) as plane:
        assert await plane.post([*bad[:60], *good[:30], *bad[60:], good[30]]) == 200
        await until(lambda: plane_is(plane, [31, 70, 0, 70]))
        assert set(ids(destination.events)) == set(ids(good[:31]))


async def test_full_batches_wait_while_everything_is_refused(setting: Setting, destination: Destination) -> None:
    """However much there is: each try looks a batch further and then begins again, and nothing is buried."""
    destination.answer = refusing(lambda _: True, 400)
    events = [event() for _ in range(20)]
    async with setting.running(
        setting.config(setting.route(output=HttpOutput(destination.url), max_events=5))
    ) as plane:
        assert await plane.post(events) == 200
        last = events[-1]["auditID"].encode()
        await until(lambda: sum(last in body for body in destination.bodies) > 10)
        assert await plane_is(plane, [0, 0, 20, 0])
        destination.answer = None
        await until(lambda: plane_is(plane, [20, 0, 0, 0]))
        assert set(ids(destination.events)) == set(ids(events))


async def test_best_effort_gives_up_and_counts(setting: Setting, destination: Destination) -> None:
    """A few tries, then the batch is lost and said to be; later ones arrive when the server is back."""
    destination.answer = refusing(lambda _: True, 503)
    route = setting.route(output=HttpOutput(destination.url), delivery="BestEffort")
    async with setting.running(setting.config(route)) as plane:
        assert await plane.post([event() for _ in range(7)]) == 200

        async def dropped() -> bool:
            return (await plane.report()).outputs[0].dropped == 7

        await until(dropped)
        assert await plane.metric('auditpipeline_events_dropped_total{output="archive",reason="undelivered"}') == 7
        destination.answer = None
        assert await plane.post([event()]) == 200
        await until(lambda: len(destination.events) == 1)


async def test_best_effort_waits_between_batches_and_lets_nothing_pile_up(
    setting: Setting, destination: Destination
) -> None:
    """The server asks for a second each time. Two batches have their tries; then what waited goes without one."""

    async def busy(_: object) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "1"})

    destination.answer = busy
    route = setting.route(output=HttpOutput(destination.url), delivery="BestEffort", max_events=1)
    async with setting.running(setting.config(route), Patience(first=0.02, most=0.1, tries=2)) as plane:
        assert await plane.post([event() for _ in range(200)]) == 200

        async def dropped() -> bool:
            return (await plane.report()).outputs[0].dropped == 200

        await until(dropped)
        assert len(destination.requests) == 4
        assert (await plane.report()).outputs[0].state == "Failing"
        destination.answer = None
        found = event()
        assert await plane.post([found]) == 200
        await until(lambda: ids(destination.events) == ids([found]))


async def test_best_effort_loses_only_the_batch_that_fails(setting: Setting, destination: Destination) -> None:
    """A server that breaks at one event takes those behind it."""
    destination.answer = refusing(lambda found: bool(found.get("bad")), 500)
    events = [event(bad=number == 1) for number in range(6)]
    route = setting.route(output=HttpOutput(destination.url), delivery="BestEffort", max_events=1)
    async with setting.running(setting.config(route)) as plane:
        assert await plane.post(events) == 200
        await until(lambda: len(destination.events) == 5)
        await until(lambda: plane_is(plane, [5, 1, 0, 0]))
    assert len(destination.requests) == 5 + 4


async def test_a_throttle_bounds_batches(setting: Setting, destination: Destination) -> None:
    """Two at once, then ten a second: what waits goes together."""
    route = setting.route(output=HttpOutput(destination.url), throttle=Throttle(qps=10, burst=2))
    async with setting.running(setting.config(route)) as plane:
        started = asyncio.get_running_loop().time()
        for _ in range(60):
            assert await plane.post([event()]) == 200
        await until(lambda: len(destination.events) == 60)
        elapsed = asyncio.get_running_loop().time() - started
        assert len(destination.requests) <= 2 + 10 * elapsed + 1


async def test_a_batch_has_at_most_so_many_events(setting: Setting, destination: Destination) -> None:
    """A request of 100 goes out as 40, 40 and 20, in order; the cursor moves within a row."""
    events = [event() for _ in range(100)]
    route = setting.route(output=HttpOutput(destination.url, "json-array"), max_events=40)
    async with setting.running(setting.config(route)) as plane:
        assert await plane.post(events) == 200
        await until(lambda: len(destination.events) == 100)
    assert ids(destination.events) == ids(events)
    assert len(destination.requests) == 3


async def test_a_batch_waits_for_more_events_until_it_is_full_or_old(
    setting: Setting, destination: Destination
) -> None:
    """What comes one by one goes together: as soon as a batch is full, or has waited for so long."""
    output = HttpOutput(destination.url, "json-array", batch_max_wait=60.0)
    events = [event() for _ in range(12)]
    async with setting.running(setting.config(setting.route(output=output, max_events=5))) as plane:
        for found in events:
            assert await plane.post([found]) == 200
        await until(lambda: len(destination.events) == 10)
        assert len(destination.requests) == 2
        await until(lambda: plane_is(plane, [10, 0, 2, 0]))
        output = msgspec.structs.replace(output, batch_max_wait=0.01)
        setting.write(setting.config(setting.route(output=output, max_events=5)))
        await until(lambda: len(destination.events) == 12)
    assert ids(destination.events) == ids(events)


async def test_what_failed_does_not_wait_once_more(setting: Setting, destination: Destination) -> None:
    """Of a full batch one event arrives: those that are left are no full one, but old enough."""

    async def answer(events: list[dict[str, Any]]) -> web.Response | None:
        return web.Response(status={3: 400, 2: 503}[len(events)]) if len(events) > 1 else None

    destination.answer = answer
    output = HttpOutput(destination.url, batch_max_wait=60.0)
    async with setting.running(setting.config(setting.route(output=output, max_events=3))) as plane:
        assert await plane.post([event() for _ in range(3)]) == 200
        await until(lambda: len(destination.events) == 1 and len(destination.requests) > 4)
        destination.answer = None
        await until(lambda: len(destination.events) == 3)


async def test_a_restart_goes_on_from_the_cursor_and_counters_survive(
    setting: Setting, destination: Destination
) -> None:
    """What was delivered does not come again, what waited comes, and the figures go on."""
    routes = (setting.route("web", HttpOutput(destination.url)), setting.route("archive"))
    first, second = [event() for _ in range(10)], [event() for _ in range(10)]
    async with setting.running(setting.config(*routes)) as plane:
        assert await plane.post(first) == 200
        await until(lambda: len(destination.events) == 10 and len(lines_in(setting.file)) == 10)
        destination.answer = refusing(lambda _: True, 503)
        assert await plane.post([*second, 17]) == 200
        await until(lambda: len(lines_in(setting.file)) == 20)
    destination.answer = None
    async with setting.running() as plane:
        await until(lambda: len(destination.events) == 20)

        async def counted() -> bool:
            events = (await plane.report()).events
            return (events.received, events.delivered, events.dropped) == (20, 40, 1)

        await until(counted)
        assert (await plane.report()).dead_letters == 1
    assert ids(destination.events) == ids(first + second)
    assert ids(lines_in(setting.file)) == ids(first + second)


async def test_a_gateway_feeds_a_receiver(setting: Setting) -> None:
    """Two planes in a row: what kube-apiserver posts to the first is in the file of the second."""
    gateway = Setting(setting.folder / "gateway")
    async with setting.running(setting.config()) as receiver:
        output = HttpOutput(
            "https://audit-x.ns.svc/audit",
            "event-list",
            address=f"127.0.0.1:{receiver.plane.audit_port}",
            ca=setting.authority.ca.read_text(),
            client_tls=setting.client_tls,
        )
        async with gateway.running(gateway.config(gateway.route("audit-test", output))) as plane:
            events = [event() for _ in range(500)]
            assert await plane.post(events) == 200
            await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == 500)
            assert lines_in(setting.file) == events


async def test_stdout_and_file_can_stand_together(setting: Setting, capfdbinary: Any) -> None:
    """Two outputs of one plane."""
    routes = (setting.route("a", StdoutOutput()), setting.route("b", FileOutput(str(setting.file))))
    async with setting.running(setting.config(*routes)) as plane:
        found = event()
        assert await plane.post([found]) == 200
        await until(lambda: setting.file.exists() and lines_in(setting.file))

        async def both() -> bool:
            return (await plane.report()).events.delivered == 2

        await until(both)
    assert found["auditID"].encode() in capfdbinary.readouterr().out


async def test_a_row_that_the_disk_lost_is_counted_and_passed(setting: Setting, destination: Destination) -> None:
    """The rows around it arrive, in order; the loss has a reason."""
    down = setting.config(setting.route(output=HttpOutput("http://127.0.0.1:1/")))
    events = [event() for _ in range(5)]
    async with setting.running(down) as plane:
        for found in events:
            assert await plane.post([found, event(second=True)]) == 200
    with contextlib.closing(sqlite3.connect(setting.spool)) as found_spool, found_spool:
        found_spool.execute("UPDATE events SET data = x'00' WHERE first = 4")
    async with setting.running(setting.config(setting.route(output=HttpOutput(destination.url)))) as plane:
        await until(lambda: len(destination.events) == 8)

        async def counted() -> bool:
            (report,) = (await plane.report()).outputs
            return (report.delivered, report.dropped, report.pending) == (8, 2, 0)

        await until(counted)
        assert await plane.metric('auditpipeline_events_dropped_total{output="archive",reason="damaged"}') == 2
    assert events[2]["auditID"] not in {found["auditID"] for found in destination.events}
