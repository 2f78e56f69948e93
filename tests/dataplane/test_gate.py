"""Connections: what peers may hold, and that senders get in all the same."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import msgspec
import pytest

from auditpipeline.dataplane import gate
from tests.dataplane.setting import Running, Setting, event, until

SECRET = "a-token-of-some-length-4711"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection(port: int, context: ssl.SSLContext | None = None) -> AsyncIterator[Connection]:
    """A connection that is cut at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def closed(plane: Running, listener: str, reason: str) -> float:
    """How many connections were closed for that reason."""
    return await plane.metric(f'auditpipeline_connections_closed_total{{listener="{listener}",reason="{reason}"}}') or 0


async def opened(plane: Running, listener: str, kind: str) -> float:
    """How many connections of that kind are open."""
    return await plane.metric(f'auditpipeline_connections{{kind="{kind}",listener="{listener}"}}') or 0


async def test_senders_get_in_while_all_places_for_handshakes_are_taken(setting: Setting) -> None:
    """By peers that connect and say nothing; all but those that had to make room stay in their handshake."""
    async with setting.running(setting.config()) as plane, AsyncExitStack() as stack:
        for _ in range(64):
            await stack.enter_async_context(connection(plane.plane.audit_port))
        await until(lambda: _is(opened(plane, "audit", "handshake"), 64))
        assert await plane.post([event()]) == 200
        assert await closed(plane, "audit", "handshake_displaced") >= 1
        assert await opened(plane, "audit", "known") == 1


async def test_handshakes_that_fail_or_take_too_long_are_ended(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And counted, each by its reason."""
    monkeypatch.setattr(gate, "HANDSHAKE_SECONDS", 0.2)
    async with setting.running(setting.config()) as plane, connection(plane.plane.audit_port) as (silent, _):
        assert await silent.read() == b""
        assert await closed(plane, "audit", "handshake_timeout") == 1
        async with connection(plane.plane.audit_port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.read()
        with suppress(ConnectionError, ssl.SSLError):
            async with connection(plane.plane.audit_port, setting.authority.client(None)) as (reader, _):
                await reader.read()
        await until(lambda: _is(closed(plane, "audit", "handshake_failed"), 2))
        assert await opened(plane, "audit", "handshake") == 0


async def test_probes_get_in_while_peers_without_a_certificate_hold_connections(setting: Setting) -> None:
    """The oldest of them make room; holders of a certificate keep theirs."""
    async with setting.running(setting.config()) as plane, AsyncExitStack() as stack:
        shown = setting.authority.client(setting.client_tls)
        reader, writer = await stack.enter_async_context(connection(plane.plane.ops_port, shown))
        anonymous = setting.authority.client(None)
        held = [await stack.enter_async_context(connection(plane.plane.ops_port, anonymous)) for _ in range(100)]
        for _ in range(3):
            async with connection(plane.plane.ops_port, anonymous) as (probe, asking):
                asking.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b" 200 " in await probe.readline()
        assert await held[0][0].read() == b""
        assert not held[-1][0].at_eof()
        writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in await reader.readline()
        assert await closed(plane, "ops", "unknown_displaced") >= 36
        assert await opened(plane, "ops", "unknown") <= 64


async def test_peers_without_a_certificate_may_not_be_silent_for_long(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder of one may."""
    monkeypatch.setattr(gate, "UNKNOWN_IDLE_SECONDS", 0.1)
    async with setting.running(setting.config()) as plane:
        shown = setting.authority.client(setting.client_tls)
        async with (
            connection(plane.plane.ops_port, shown) as (known, _),
            connection(plane.plane.ops_port, setting.authority.client(None)) as (unknown, _),
        ):
            assert await unknown.read() == b""
            assert await opened(plane, "ops", "known") == 1
            assert not known.at_eof()
            assert await closed(plane, "ops", "unknown_idle") >= 1


async def test_a_token_makes_a_connection_known(setting: Setting) -> None:
    """Nobody who shows none can push it out."""
    token = setting.folder / "token"
    token.write_text(SECRET)
    config = setting.config()
    config = msgspec.structs.replace(config, listen=msgspec.structs.replace(config.listen, audit_token_file=str(token)))
    async with setting.running(config) as plane, AsyncExitStack() as stack:
        anonymous = setting.authority.client(None)
        reader, writer = await stack.enter_async_context(connection(plane.plane.audit_port, anonymous))
        assert await _posted(reader, writer, SECRET) == 200
        assert await opened(plane, "audit", "known") == 1
        for _ in range(80):
            await stack.enter_async_context(connection(plane.plane.audit_port, anonymous))
        await until(lambda: _is(opened(plane, "audit", "unknown"), 64))
        assert await _posted(reader, writer, SECRET) == 200
        assert await closed(plane, "audit", "unknown_displaced") >= 16


@pytest.mark.parametrize("by", ["kernel", "tidy"])
async def test_peers_that_never_read_their_answers_are_closed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """They ask, and ask again, and take nothing; what is kept for them is bounded, in bytes and in time."""
    monkeypatch.setattr(gate, "UNREAD_SECONDS", 0.3)
    if by == "kernel":
        monkeypatch.setattr(gate.Gate, "tidy", lambda _: None)
    async with setting.running(setting.config()) as plane, AsyncExitStack() as stack:
        if by == "tidy":
            _without_user_timeout(plane)
        shown = setting.authority.client(setting.client_tls)
        greedy = [
            asyncio.create_task(_ask_without_reading(await stack.enter_async_context(connection(port, shown))))
            for port in [plane.plane.ops_port] * 3
        ]
        await until(lambda: _is(opened(plane, "ops", "known"), 3))
        await until(lambda: _is(opened(plane, "ops", "known"), 0))
        for task in greedy:
            task.cancel()
        await asyncio.wait(greedy)
        assert (await plane.report()).events.received == 0


async def test_a_full_table_of_known_peers_lets_the_most_silent_one_go(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Senders open their connections again; a new one is never refused."""
    monkeypatch.setattr("auditpipeline.dataplane.descriptors.AUDIT", 16)
    async with setting.running(setting.config()) as plane, AsyncExitStack() as stack:
        shown = setting.authority.client(setting.client_tls)
        first, second, *_ = [
            await stack.enter_async_context(connection(plane.plane.audit_port, shown)) for _ in range(4)
        ]
        await until(lambda: _is(opened(plane, "audit", "known"), 4))
        await until(lambda: _posted(*first))
        await stack.enter_async_context(connection(plane.plane.audit_port, shown))
        assert await second[0].read() == b""
        assert await _posted(*first) == 200
        assert await closed(plane, "audit", "known_displaced") == 1


async def _is(found: object, value: float) -> bool:
    return await found == value  # type: ignore[misc, no-any-return]


async def _posted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str = "") -> int:
    """Posts nothing on an open connection; the status."""
    path = f"/audit/{token}" if token else "/audit"
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1])


async def _ask_without_reading(opened: Connection) -> None:
    reader, writer = opened
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    with suppress(ConnectionError):
        while True:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            await writer.drain()


def _without_user_timeout(plane: Running) -> None:
    """What a peer is to the kernel that reads a little now and then."""
    for listening in plane.plane._ops.listener._gate._listening:  # type: ignore[union-attr]
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
