"""A DNS server on loopback, over UDP, that answers, refuses, fails or hangs for each name, as a test tells it to."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

A, AAAA = 1, 28
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
Answer = int | tuple[str, ...] | None
"""A code, the addresses of a name, or None: nothing is said."""


@dataclass
class Dns(asyncio.DatagramProtocol):
    """`names` says what is answered, by name in lower case without the last dot; a name that is not there does not
    exist. `asked` are the names and types of all questions. `ttl` is in seconds."""

    names: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    ttl: int = 0
    port: int = 0
    _transport: asyncio.DatagramTransport | None = None

    @property
    def questions(self) -> set[str]:
        """The names that were asked for."""
        return {name for name, _ in self.asked}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Dns]:
        """Serves on a port of its own."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]
        try:
            yield self
        finally:
            self._transport.close()

    def resolv_conf(self, path: Path, *lines: str) -> Path:
        """A resolv.conf that names this server, with more lines."""
        path.write_text("\n".join([f"nameserver 127.0.0.1:{self.port}", *lines, ""]))
        return path

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answers one question."""
        name, kind, end = _question(data)
        self.asked.append((name, kind))
        answer = self.names.get(name, NXDOMAIN)
        if answer is None or self._transport is None:
            return
        code, records = (answer, []) if isinstance(answer, int) else (NOERROR, self._records(answer, kind))
        head = data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        self._transport.sendto(head + data[12:end] + b"".join(records), addr)

    def _records(self, addresses: tuple[str, ...], kind: int) -> list[bytes]:
        packed = [ipaddress.ip_address(found).packed for found in addresses]
        size = 4 if kind == A else 16
        return [struct.pack(">HHHIH", 0xC00C, kind, 1, self.ttl, size) + data for data in packed if len(data) == size]


def _question(data: bytes) -> tuple[str, int, int]:
    """Name and type of the first question, and where it ends."""
    labels, at = [], 12
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), struct.unpack(">H", data[at + 1 : at + 3])[0], at + 5
