"""One connection of a peer: its socket, and what the kernel and the event loop know of it."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp.web_protocol import RequestHandler

_LAST_DATA = struct.Struct("=52xI")
"""`tcpi_last_data_recv` of struct tcp_info (linux/tcp.h): milliseconds since anything came."""


class Peer:
    """One connection; `transport` and `handler` are there when its handshake is done."""

    __slots__ = ("handler", "paused_since", "since", "socket", "task", "transport")

    def __init__(self, connection: socket.socket, now: float) -> None:
        self.socket = connection
        self.since = now
        self.paused_since = 0.0
        self.task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.handler: RequestHandler | None = None

    @property
    def open(self) -> bool:
        """Whether it still has its descriptor: the event loop closes that, and the socket object says so."""
        return self.socket.fileno() >= 0

    def silence(self) -> float:
        """Seconds since it sent anything."""
        try:
            found = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.size)
        except OSError:
            return float("inf")
        milliseconds: int = _LAST_DATA.unpack(found)[0]
        return milliseconds / 1000
