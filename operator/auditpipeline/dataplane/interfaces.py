"""The addresses of this machine (or of the Pod, in a network of its own), by netlink: rtnetlink(7), RTM_GETADDR.

A file such as /proc/net/fib_trie grows with the routes of the machine, and the C library's getifaddrs is not there for
Python. The addresses of kube-ipvs0 are those of all Services of the cluster, of which none is this machine: they are
left out.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address

from auditpipeline.core.egress import Address

FRESH = 10.0
"""Seconds for which what was read is used."""
_SERVICES = ("kube-ipvs0",)
_GETADDR, _ERROR, _DONE, _REQUEST_DUMP = 22, 2, 3, 0x301
_NEWADDR = 20
_ADDRESS, _LOCAL = 1, 2
_HEADER, _MESSAGE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=HH")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Interfaces:
    """The addresses, read again when they are older than FRESH. Where they cannot be read, there are none: what is
    refused without them stays refused."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = -FRESH
        self._found: frozenset[Address] = frozenset()

    def addresses(self) -> frozenset[Address]:
        """Takes 0.1 ms once in FRESH seconds."""
        now = self._clock()
        if now - self._read_at >= FRESH:
            self._read_at = now
            with suppress(OSError, AttributeError):  # AF_NETLINK is Linux'
                self._found = frozenset(_read())
        return self._found


def _read() -> Iterator[Address]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(1.0)
        kernel.bind((0, 0))
        kernel.send(_HEADER.pack(_HEADER.size + _MESSAGE.size, _GETADDR, _REQUEST_DUMP, 1, 0) + _MESSAGE.pack(*[0] * 5))
        while True:
            for kind, body in _parts(kernel.recv(2**18), _HEADER):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError("netlink refuses to list the addresses")
                if kind == _NEWADDR:
                    yield from _addresses(body)


def _addresses(body: bytes) -> Iterator[Address]:
    family, *_, index = _MESSAGE.unpack_from(body)
    if family not in _FAMILIES or _name(index) in _SERVICES:
        return
    found = dict(_parts(body[_MESSAGE.size :], _ATTRIBUTE))
    # On a link between two, the other one's address is _ADDRESS.
    if address := found.get(_LOCAL) or found.get(_ADDRESS):
        yield ip_address(address)


def _parts(data: bytes, head: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Type and content of each part; a length stands before the type, and parts begin at multiples of four."""
    at = 0
    while at + head.size <= len(data):
        first, second, *_ = head.unpack_from(data, at)
        if first < head.size:
            return
        yield second, data[at + head.size : at + first]
        at += (first + 3) & ~3


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
