"""Promises 1, 4 and 5: what a sender is told, and what became of the events by then."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import sqlite3
import ssl

import aiohttp
import msgspec
import pytest

from auditpipeline.core.config import HttpOutput
from auditpipeline.core.policy import GroupResources, Policy, Rule
from tests.dataplane.pki import Authority
from tests.dataplane.setting import (
    DATA,
    Destination,
    Running,
    Setting,
    event,
    event_list,
    ids,
    lines_in,
    real_events,
    until,
)


async def test_what_kube_apiserver_posted_arrives_byte_for_byte(setting: Setting) -> None:
    """Real request bodies of a real API server, and the file has each event as it was."""
    bodies = [path.read_bytes() for path in sorted((DATA / "batches").glob("*.json"))]
    sent = [found for body in bodies for found in json.loads(body)["items"]]
    async with setting.running(setting.config()) as plane:
        for body in bodies:
            assert await plane.post(body) == 200
        await until(lambda: len(lines_in(setting.file)) == len(sent))
        assert lines_in(setting.file) == sent

        async def counted() -> bool:
            events = (await plane.report()).events
            return (events.received, events.delivered, events.dropped) == (len(sent), len(sent), 0)

        await until(counted)


async def test_what_no_route_wants_is_never_stored(setting: Setting) -> None:
    """The policy decides before the disk."""
    policy = Policy(rules=(Rule(level="Metadata", resources=(GroupResources(resources=("secrets",)),)),))
    async with setting.running(setting.config(setting.route(policies=(policy,)))) as plane:
        wanted = event(objectRef={"resource": "secrets"}, level="Request", requestObject={"a": 1})
        assert await plane.post([event(), wanted, event()]) == 200
        await until(lambda: setting.file.exists() and lines_in(setting.file))
        (got,) = lines_in(setting.file)
        assert got["level"] == "Metadata"
        assert "requestObject" not in got
        assert (await plane.report()).events.received == 1
        assert await plane.metric("auditpipeline_events_filtered_total") == 2


async def test_two_routes_each_get_their_own_level(setting: Setting) -> None:
    """One row is stored at the widest level; each route narrows it."""
    other = setting.folder / "out2" / "b.jsonl"
    routes = (
        setting.route("full"),
        setting.route(
            "thin", type(setting.route().output)(str(other)), policies=(Policy(rules=(Rule(level="Metadata"),)),)
        ),
    )
    async with setting.running(setting.config(*routes)) as plane:
        assert await plane.post([event(level="Request", requestObject={"a": 1})]) == 200
        await until(lambda: setting.file.exists() and other.exists() and lines_in(setting.file) and lines_in(other))
        assert lines_in(setting.file)[0]["requestObject"] == {"a": 1}
        assert lines_in(other)[0]["level"] == "Metadata"


@pytest.mark.parametrize(
    ("body", "letters", "delivered"),
    [
        (b"no json", 1, 0),
        (b"", 1, 0),
        (b"\xff\xfe", 1, 0),
        (b"[]", 1, 0),
        (b'{"kind":"PodList","apiVersion":"v1","items":[]}', 1, 0),
        (event_list([]), 0, 0),
        (event_list([event(), 17, event()]), 1, 2),
        (event_list([event(), event(level="Everything"), event()]), 1, 2),
        (event_list([event(), event(user="root"), {}]), 2, 1),
        (event_list([event(), event(note="QQ")]).replace(b"QQ", b"\xff"), 0, 2),
        (json.dumps({"kind": "Event", "apiVersion": "audit.k8s.io/v1", **event()}).encode(), 0, 1),
        (json.dumps(json.loads(event_list([event()])), indent=2).encode(), 0, 1),
        (b"[" * 100_000, 1, 0),
    ],
    ids=[
        "not JSON", "empty", "not UTF-8", "a list", "another kind", "an empty list", "a number among events",
        "an unknown level", "a wrong type and an empty event", "an event not UTF-8", "a single Event", "indented",
        "nested too deep",
    ],
)  # fmt: skip
async def test_what_cannot_be_read_is_kept_and_answered_200(
    setting: Setting, body: bytes, letters: int, delivered: int
) -> None:
    """kube-apiserver would send it again for ever; the good events of the same body arrive."""
    async with setting.running(setting.config()) as plane:
        assert await plane.post(body) == 200
        await until(lambda: delivered == 0 or (setting.file.exists() and len(lines_in(setting.file)) == delivered))
        report = await plane.report()
        assert (report.dead_letters, report.events.dropped, report.events.received) == (letters, letters, delivered)
    with sqlite3.connect(setting.spool) as found:
        assert found.execute("SELECT count(*) FROM dead WHERE length(reason) > 10").fetchone()[0] == letters
    found.close()


async def zipped(plane: Running, body: bytes) -> int:
    """Posts a body that says that it is gzip; the status."""
    headers = {"Content-Encoding": "gzip"}
    async with plane.session.post(plane.audit, data=body, headers=headers, ssl=plane.context) as response:
        return response.status


async def test_a_compressed_body_is_bounded_by_what_it_becomes(setting: Setting) -> None:
    """A few kilobytes of gzip must not become gigabytes of memory; a torn stream is a dead letter."""
    async with setting.running(setting.config(max_body=2**20)) as plane:
        good = gzip.compress(event_list([event()]))
        cases = ((good, 200), (gzip.compress(bytes(2**24)), 413), (good[:-9], 200), (b"no gzip", 200))
        for body, status in cases:
            assert await zipped(plane, body) == status
        report = await plane.report()
        assert (report.events.received, report.dead_letters) == (1, 2)


@pytest.mark.parametrize(
    ("written", "status"),
    [
        (["gzip"], 200),
        (["GZIP"], 200),
        (["x-gzip"], 200),
        (["identity, X-GZip"], 200),
        (["br"], 415),
        (["gzip, gzip"], 415),
        (["gzip", "br"], 415),
        (["x" * 4000], 415),
    ],
)
async def test_codings_have_no_case_and_unknown_ones_are_refused(
    setting: Setting, written: list[str], status: int
) -> None:
    """RFC 9110, 8.4.1 and 15.5.16. Nothing is kept of what is refused, nor made a dead letter; the answer says what is
    taken."""
    async with setting.running(setting.config()) as plane:
        headers = [("Content-Encoding", value) for value in written]
        body = gzip.compress(event_list([event()]))
        async with plane.session.post(plane.audit, data=body, headers=headers, ssl=plane.context) as response:
            assert response.status == status
            assert response.headers.get("Accept-Encoding") == (None if status == 200 else "gzip")
        report = await plane.report()
        assert (report.events.received, report.dead_letters) == (int(status == 200), 0)
        assert await plane.metric(f'auditpipeline_requests_total{{code="{status}"}}') == 1


async def test_a_gzip_of_two_members_is_one_body(setting: Setting) -> None:
    """RFC 1952 lets them follow each other, cut wherever the sender likes; zeros may follow the last one."""
    events = [event() for _ in range(4)]
    first, second = event_list(events[:2]), event_list(events[2:])
    bodies = (
        gzip.compress(first[:90]) + gzip.compress(b"") + gzip.compress(first[90:]),
        gzip.compress(second[:5]) + gzip.compress(second[5:]) + bytes(512),
    )
    async with setting.running(setting.config()) as plane:
        for body in bodies:
            assert await zipped(plane, body) == 200
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == 4)
        assert ids(lines_in(setting.file)) == ids(events)
        assert (await plane.report()).dead_letters == 0


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (gzip.compress(b"{}"), "not an audit.k8s.io/v1"),
        (b"no member", "no gzip"),
        (bytes(9) + b"\x1f", "no gzip"),
        (gzip.compress(b" " * 500)[:-9], "torn"),
        (gzip.compress(b"") * 1000, "members"),
    ],
    ids=["another object", "no gzip", "behind zeros", "torn", "members without end"],
)
async def test_nothing_behind_the_first_member_is_lost(setting: Setting, rest: bytes, reason: str) -> None:
    """What cannot be read with it is a dead letter, as a whole."""
    async with setting.running(setting.config()) as plane:
        assert await zipped(plane, gzip.compress(event_list([event()])) + rest) == 200
        assert (await plane.report()).dead_letters == 1
    with contextlib.closing(sqlite3.connect(setting.spool)) as found:
        assert reason in found.execute("SELECT reason FROM dead").fetchone()[0]


async def test_members_together_are_bounded(setting: Setting) -> None:
    """Each fits, all do not."""
    async with setting.running(setting.config(max_body=2**20)) as plane:
        assert await zipped(plane, gzip.compress(bytes(2**19)) * 3) == 413


async def test_too_large_is_refused_before_it_is_read(setting: Setting) -> None:
    """By Content-Length at once, without one as soon as the bound is passed."""

    async def chunks() -> object:
        for _ in range(64):
            yield bytes(2**16)

    async with setting.running(setting.config(max_body=2**16)) as plane:
        assert await plane.post(bytes(2**16 + 1)) == 413
        async with plane.session.post(plane.audit, data=chunks(), ssl=plane.context) as response:
            assert response.status == 413
        assert await plane.post([event()]) == 200
        assert (await plane.report()).dead_letters == 0


async def test_a_gigabyte_is_refused_by_its_header_alone(setting: Setting) -> None:
    """The answer comes although the body never does."""
    async with setting.running(setting.config()) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.plane.audit_port, ssl=plane.context)
        writer.write(b"POST /audit HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n")
        answer = await asyncio.wait_for(reader.readline(), 5)
        assert b" 413 " in answer
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("shown", ["none", "another CA"])
async def test_a_stranger_gets_no_answer(setting: Setting, shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No certificate, or one of another CA: the handshake ends it, and the log stays quiet."""
    stranger = Authority(setting.folder / "other").issue("stranger") if shown == "another CA" else None
    async with setting.running(setting.config()) as plane:
        context = setting.authority.client(stranger)
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await plane.session.post(plane.audit, data=event_list([event()]), ssl=context)
        assert (await plane.report()).events.received == 0
    assert "Traceback" not in capfd.readouterr().err + setting.log.getvalue()


async def test_ops_shows_health_to_everybody_and_status_to_the_known(setting: Setting) -> None:
    """/status holds names; the rest is for the kubelet and Prometheus."""
    async with setting.running(setting.config()) as plane:
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/status", 401), ("/audit", 404)):
            assert (await plane.get(path))[0] == status, path
        assert (await plane.report()).plane == "receiver"
        expiry = await plane.metric('auditpipeline_certificate_expiry_timestamp_seconds{listener="audit"}')
        assert expiry == (await plane.report()).certificate_not_after


async def test_a_full_spool_is_back_pressure_until_there_is_room(setting: Setting) -> None:
    """Promise 4: 503 with Retry-After; when the output works again everything acknowledged arrives, and posts go on."""
    events = real_events()[:800]
    server = Destination()
    async with server.listening():
        port = server.port
    output = HttpOutput(f"http://127.0.0.1:{port}/in", "json-array")
    config = setting.config(setting.route(output=output), max_bytes=2**20)
    acknowledged: list[str] = []
    async with setting.running(config) as plane:
        for round_ in range(200):
            batch = [{**found, "auditID": f"{round_}-{found['auditID']}-{'x' * 64}"} for found in events]
            async with plane.session.post(plane.audit, data=event_list(batch), ssl=plane.context) as response:
                if response.status == 503:
                    assert int(response.headers["Retry-After"]) > 0
                    break
                assert response.status == 200
                acknowledged += ids(batch)
        else:
            pytest.fail("the spool never was full")
        assert 0 < (await plane.report()).spool_bytes <= 2**20
        async with server.listening(port=port):
            await until(lambda: len(server.events) >= len(acknowledged))
            assert ids(server.events) == acknowledged

            async def taken() -> bool:
                return await plane.post([event()]) == 200

            await until(taken)
            await until(lambda: len(server.events) > len(acknowledged))
            assert (await plane.report()).events.dropped == 0


async def test_where_the_oldest_make_room_nobody_is_refused(setting: Setting) -> None:
    """`dropOldest`, put in force while it runs: every post is answered 200, what the output has not got by then is
    counted, and the rest arrives, in order."""
    server = Destination()
    async with server.listening():
        port = server.port
    output = HttpOutput(f"http://127.0.0.1:{port}/in", "json-array")
    full = setting.config(setting.route(output=output), max_bytes=2**20)
    spool = msgspec.structs.replace(full.spool, backpressure="dropOldest")
    sent: list[str] = []
    async with setting.running(full) as plane:
        await plane.in_force(setting.write(msgspec.structs.replace(full, spool=spool)))
        for _ in range(30):
            batch = [event(userAgent=os.urandom(30_000).hex()) for _ in range(3)]
            assert await plane.post(batch) == 200
            sent += ids(batch)
        dropped = (await plane.report()).events.dropped
        assert 0 < dropped < len(sent)
        assert await plane.metric('auditpipeline_events_dropped_total{output="archive",reason="overflow"}') == dropped
        async with server.listening(port=port):

            async def idle() -> bool:
                (found,) = (await plane.report()).outputs
                return found.pending == 0 and found.delivered + found.dropped == len(sent)

            await until(idle)
            got = ids(server.events)
            assert got == [each for each in sent if each in set(got)]
            assert set(sent[dropped:]) <= set(got)


@pytest.mark.parametrize("sent", [b"Content-Length: 200\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b""])
async def test_a_sender_that_breaks_off_leaves_no_trace(
    setting: Setting, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a body, chunks that are none, half a header: no event, no dead letter, no traceback; the next is served."""
    async with setting.running(setting.config()) as plane:
        _, writer = await asyncio.open_connection("127.0.0.1", plane.plane.audit_port, ssl=plane.context)
        writer.write(b"POST /audit HTTP/1.1\r\nHost: x\r\n" + sent)
        await writer.drain()
        writer.transport.abort()
        assert await plane.post([event()]) == 200
        report = await plane.report()
        assert (report.events.received, report.dead_letters) == (1, 0)
    assert not caplog.records
