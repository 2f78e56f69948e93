"""The memory of bodies: bounded together, waited for in turn, and never waited for in a circle."""

from __future__ import annotations

import asyncio

import pytest

from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane import body as bodies
from auditpipeline.dataplane.room import Room
from tests.dataplane.setting import Running, Setting, event, event_list, until


async def test_who_finds_no_room_waits_until_others_go() -> None:
    """And then has it."""
    room = Room(100)
    order: list[str] = []

    async def late() -> None:
        with room.guest() as guest:
            await guest.take(50)
            order.append("late")

    with room.guest() as first:
        await first.take(60)
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
        assert (room.used, order) == (60, [])
        order.append("first")
    await task
    assert (room.used, order) == (0, ["first", "late"])


async def test_the_eldest_always_gets_on() -> None:
    """Two bodies that are half read fill the room: the elder one is read to its end, the other one after it."""
    room = Room(100)

    async def read(pieces: int) -> None:
        with room.guest() as guest:
            for _ in range(pieces):
                await guest.take(40)
                await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await asyncio.gather(*(read(5) for _ in range(10)))
    assert room.used == 0


async def test_who_waits_too_long_is_told_to_come_again() -> None:
    """And leaves nothing taken."""
    room = Room(100, wait=0.01)
    with room.guest() as first:
        await first.take(90)
        with room.guest() as second:
            await second.take(10)
            with pytest.raises(Retryable, match="used up"):
                await second.take(1)
        assert room.used == 90
    assert room.used == 0


async def test_many_large_bodies_at_once_stay_within_the_bound(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All arrive, gzipped ones counted by what they become; the sum is bounded, and so is what is read ahead."""
    import gzip

    body = event_list([event(userAgent="x" * 300_000) for _ in range(3)])
    peak = 0
    async with setting.running(setting.config()) as plane:
        room = plane.plane.intake.room
        room.most = 2 * len(body)
        fits = room.fits

        def noted(*args: object) -> bool:
            nonlocal peak
            peak = max(peak, room.used)
            return fits(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(room, "fits", noted)
        zipped = gzip.compress(body)
        posts = [plane.post(body) for _ in range(10)] + [posted(plane, zipped) for _ in range(10)]
        assert await asyncio.gather(*posts) == [200] * 20
        assert room.used == 0
        assert 0 < peak <= room.most + len(body)
        report = await plane.report()
        assert report.events.received == 60


async def test_a_body_that_waits_in_vain_is_answered_503(setting: Setting) -> None:
    """With Retry-After, and the connection is closed; slow senders are what others wait for."""
    async with setting.running(setting.config()) as plane:
        room = plane.plane.intake.room
        room.most, room._wait = 1000, 0.05
        _, slow = await asyncio.open_connection("127.0.0.1", plane.plane.audit_port, ssl=plane.context)
        slow.write(b"POST /audit HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n" + bytes(900))
        await until(lambda: room.used == 900)
        body = event_list([event(userAgent="x" * 500)])
        async with plane.session.post(plane.audit, data=body, ssl=plane.context) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
        slow.close()
        await until(lambda: room.used == 0)
        assert await plane.post(body) == 200


async def posted(plane: Running, zipped: bytes) -> int:
    """Posts a gzipped body; the status."""
    headers = {"Content-Encoding": "gzip"}
    async with plane.session.post(plane.audit, data=zipped, headers=headers, ssl=plane.context) as response:
        return response.status


async def test_a_gzipped_body_is_inflated_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is asked for before more is inflated; both ways to inflate agree."""
    import gzip

    monkeypatch.setattr(bodies, "_STEP", 1000)
    data = bytes(range(256)) * 40
    zipped = gzip.compress(data)
    room = Room(2**20)
    with room.guest() as guest:
        assert await bodies.inflate_within(guest, zipped, "gzip", 2**20) == data
        assert guest.size == len(data)
        assert await bodies.inflate_within(guest, zipped, "gzip", len(data) - 1) is None
    assert bodies.inflate(zipped, "gzip", 2**20) == data
    assert bodies.inflate(zipped, "gzip", len(data) - 1) is None
    assert bodies.inflate(data, "", 1) == data
