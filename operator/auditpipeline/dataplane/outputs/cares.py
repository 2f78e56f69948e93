"""One question after addresses, asked by c-ares: what the C library's getaddrinfo does, without a thread that waits.

/etc/hosts, nameservers, timeouts and attempts are c-ares' own business. What it does differently is mended here:

1. It reads resolv.conf when it starts, and the file may be replaced: a changed file makes a new channel, and questions
   under way end on the old one.
2. It gives up a search at the first name whose server fails. The C library goes on, so that one broken search domain
   does not hide the names of the others.
3. It takes one domain of LOCALDOMAIN, so that it gets the search list from us.
4. It asks for IPv6 addresses on a host that has none.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakSet

import aiodns
import pycares
from aiodns.error import ARES_EBADNAME, ARES_ENODATA, ARES_ENOTFOUND, ARES_ESERVFAIL, DNSError

from auditpipeline.dataplane.outputs.search import Search, candidates, parse

RESOLV_CONF = Path("/etc/resolv.conf")
NAMESERVERS: Sequence[str] | None = None
"""Addresses (`ip` or `ip:port`) to ask in place of those in resolv.conf, for tests."""
_NSSWITCH = Path("/etc/nsswitch.conf")
_IF_INET6 = Path("/proc/net/if_inet6")
_ABSENT = (ARES_EBADNAME, ARES_ENODATA, ARES_ENOTFOUND)


class Unknown(OSError):
    """The name does not exist, or has no address: an answer, and no failure."""


class Channel:
    """Asks for addresses; for one event loop. A thread of c-ares waits for the answers of all questions."""

    def __init__(self) -> None:
        self._resolver: aiodns.DNSResolver | None = None
        self._open: WeakSet[aiodns.DNSResolver] = WeakSet()
        self._closed = False
        self._search = Search()
        self._stamp: object = None

    async def ask(self, host: str, family: int) -> list[tuple[str, int]]:
        """The addresses of a host and the family of each, best first. Unknown if there are none; OSError if nobody can
        tell."""
        try:
            resolver = self._current()
            return await _asked(resolver, host, family)
        except pycares.AresError as error:
            raise OSError(None, f"the host name cannot be resolved now: {error}") from error
        except DNSError as error:
            if error.args[0] != ARES_ESERVFAIL:
                raise _translated(error) from error
            failure = error
        for name in candidates(host, self._search):
            try:
                return await _asked(resolver, name, family)
            except DNSError as error:
                if error.args[0] not in (*_ABSENT, ARES_ESERVFAIL):
                    raise _translated(error) from error
        raise _translated(failure) from failure

    def cancel(self) -> None:
        """Ends all questions: they fail, and so does every later one. What asks has to end before `close`: an answer
        comes from another thread, which needs the event loop."""
        self._closed = True
        for resolver in self._open:
            resolver.cancel()

    async def close(self) -> None:
        """Ends the threads of c-ares."""
        self._closed, self._resolver = True, None
        for resolver in list(self._open):
            await resolver.close()

    def _current(self) -> aiodns.DNSResolver:
        if self._closed:
            raise OSError(None, "the resolver is closed")
        stamp = _stamp(RESOLV_CONF), _stamp(_NSSWITCH)
        if self._resolver is None or stamp != self._stamp:
            # Who waits for the old one holds it; it closes itself when nobody does.
            found = self._search = parse(_read(RESOLV_CONF), os.environ)
            self._resolver = aiodns.DNSResolver(NAMESERVERS, domains=found.domains, ndots=found.dots)
            self._open.add(self._resolver)
            self._stamp = stamp
        return self._resolver


async def _asked(resolver: aiodns.DNSResolver, host: str, family: int) -> list[tuple[str, int]]:
    wanted = socket.AddressFamily(family)
    if wanted == socket.AF_UNSPEC and not _has_ipv6():
        wanted = socket.AF_INET
    found = await resolver.getaddrinfo(host, family=wanted, type=socket.SOCK_STREAM)
    return [(_text(node), node.family) for node in found.nodes]


def _text(node: pycares.AddrInfoNode) -> str:
    """An address as text, with the interface of one that is good on a single link."""
    address = node.addr[0].decode("ascii")
    scope = node.addr[3] if len(node.addr) > 3 else 0
    return f"{address}%{scope}" if scope else address


def _translated(error: DNSError) -> OSError:
    code, words = error.args[0], str(error.args[1])
    if code in _ABSENT:
        return Unknown(None, f"the host name cannot be resolved: {words}")
    return OSError(None, f"the host name cannot be resolved now: {words}")


def _has_ipv6() -> bool:
    """Whether an interface other than the loopback has an IPv6 address, as AI_ADDRCONFIG asks; True if unknown."""
    try:
        text = _IF_INET6.read_text()
    except FileNotFoundError:
        return False  # IPv6 is not in the kernel, or is switched off
    except OSError:
        return True
    return any(line.split()[-1:] != ["lo"] for line in text.splitlines())


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
