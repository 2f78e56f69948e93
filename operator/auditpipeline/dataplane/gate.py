"""From a listening socket to connections that the HTTP server owns, with a bound on each kind of them.

    accept --> handshake --+-- shows a certificate --------------> known
                           +-- shows none --> unknown --trust()--> known

1. A peer that has shown nothing takes no place of one that has. At most `handshakes` are under way, for at most
   HANDSHAKE_SECONDS each. If all of these places are taken, the oldest makes room for a newcomer once it is older than
   the gate's patience. That is a second at first; it becomes shorter with each peer that is displaced, and longer
   with each one that becomes known. So slow peers that come all at once are waited for, and peers that only hold
   their places are not.
2. The oldest unknown peer makes room for a new one: what an honest one asks for takes milliseconds. The known peer that
   has been silent for longest makes room for a new one: senders keep their connections, and open them again.
3. A peer that does not read its answers is closed: by the kernel if it takes nothing for UNREAD_SECONDS
   (TCP_USER_TIMEOUT), by `tidy` if it reads too slowly.
4. Where a connection came from does not matter: kube-apiserver shares 127.0.0.1 with others.
5. Nothing here is done for a request: a connection belongs to aiohttp once it is admitted.

If no descriptor is left, accepting pauses for a moment: it neither spins nor ends (uvloop's own server closes itself).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from auditpipeline.dataplane.descriptors import Places
from auditpipeline.dataplane.peer import Peer

HANDSHAKE_SECONDS = 10.0
SHUTDOWN_SECONDS = 5.0
"""For the end of TLS, when the connection is of no use any more, but still takes its descriptor."""
UNREAD_SECONDS = 30.0
UNKNOWN_IDLE_SECONDS = 20.0
_PATIENCE = (0.25, 1.0)
"""Least and most, in seconds. With the least, 64 places let 256 newcomers a second in: 400 that come back whenever they
are displaced hold up others for less than two seconds, and an honest one still has a quarter of a second."""
_PAUSE = 0.25
_BACKLOG = 512
_SEND_BUFFER = 2**17
"""In the kernel, for answers, which are small. Otherwise a peer that does not read could make it grow to megabytes."""
_WRITE_BUFFER = 2**16
"""In the process, before the server waits."""


Closing = Literal[
    "handshake_failed",
    "handshake_timeout",
    "handshake_displaced",
    "unknown_displaced",
    "unknown_idle",
    "known_displaced",
    "answer_unread",
    "accept_failed",
]


class Counts(NamedTuple):
    """Connections that are open, by kind, and those that were closed or refused since the start, by reason."""

    open: dict[str, int]
    closed: dict[Closing, int]


class _Porch(asyncio.Protocol):
    """Stands for the HTTP server until the handshake is done, so that handshakes cost no more than TLS."""

    def __init__(self, admit: Callable[[asyncio.Transport], None]) -> None:
        self._admit = admit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._admit(transport)  # type: ignore[arg-type]


class Gate:
    """Accepts for one server; belongs to one event loop. `open`, `close` once; `tidy` from time to time."""

    def __init__(self, server: web.Server, context: ssl.SSLContext, places: Places) -> None:
        self._server = server
        self._context = context
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._listening: list[socket.socket] = []
        self._handshakes: dict[Peer, None] = {}
        self._unknown: dict[RequestHandler, Peer] = {}
        self._known: dict[RequestHandler, Peer] = {}
        self._closed: Counter[Closing] = Counter()
        self._patience = _PATIENCE[1]
        self._crowded = False
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, host: str | None, port: int) -> int:
        """Listens on every address of the host (None: all there are) and starts to accept; the port. OSError if that
        fails."""
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                if made := _listening(family, (address[0], port, *address[2:])):
                    self._listening.append(made)
                    port = made.getsockname()[1]
        except OSError:
            self.close()
            raise
        self._resume()
        return port

    def counts(self) -> Counts:
        """The figures for metrics."""
        self._forget_closed()
        kinds = {"handshake": len(self._handshakes), "unknown": len(self._unknown), "known": len(self._known)}
        return Counts(kinds, dict(self._closed))

    def trust(self, handler: RequestHandler) -> None:
        """The peer has shown something that makes it known."""
        if peer := self._unknown.pop(handler, None):
            self._admit_known(handler, peer)

    def tidy(self) -> None:
        """Closes unknown peers that are silent, and peers that do not read."""
        self._forget_closed()
        for peer in list(self._unknown.values()):
            if peer.silence() > UNKNOWN_IDLE_SECONDS:
                self._abort(peer, "unknown_idle")
        now = self._loop.time()
        for handler, peer in [*self._unknown.items(), *self._known.items()]:
            peer.paused_since = (peer.paused_since or now) if handler.writing_paused else 0.0
            if peer.paused_since and now - peer.paused_since > UNREAD_SECONDS:
                self._abort(peer, "answer_unread")

    def close(self) -> None:
        """Stops to accept, and ends what is in its handshake. Other connections are the server's to end."""
        self._pause(None)
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        for peer in list(self._handshakes):
            self._displace(peer)

    def abort(self) -> None:
        """Cuts what is still open."""
        for peer in [*self._unknown.values(), *self._known.values()]:
            if peer.transport:
                peer.transport.abort()

    def _accept(self, listening: socket.socket) -> None:
        """One connection at a time: what is open gets its turn between any two."""
        if not self._has_place():
            return
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # EMFILE, ENFILE, ENOBUFS, ENOMEM: it may go on when something was closed
            self._closed["accept_failed"] += 1
            self._pause(_PAUSE)
            return
        connection.setblocking(False)
        peer = Peer(connection, self._loop.time())
        self._handshakes[peer] = None
        peer.task = self._loop.create_task(self._shake_hands(peer), name="handshake")

    def _has_place(self) -> bool:
        """Whether another handshake may begin; if not, accepting pauses until it may."""
        if len(self._handshakes) < self._places.handshakes:
            return True
        oldest = next(iter(self._handshakes))
        rest = oldest.since + self._patience - self._loop.time()
        if rest > 0:
            self._crowded = True
            self._pause(rest)
            return False
        self._patience = max(_PATIENCE[0], self._patience / 2)
        self._closed["handshake_displaced"] += 1
        self._displace(oldest)
        return True

    def _displace(self, peer: Peer) -> None:
        self._handshakes.pop(peer, None)
        if peer.task:
            peer.task.cancel()

    async def _shake_hands(self, peer: Peer) -> None:
        reason: Closing = "handshake_failed"
        try:
            await self._loop.connect_accepted_socket(
                lambda: _Porch(lambda transport: self._admit(peer, transport)),
                peer.socket,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except (ConnectionAbortedError, TimeoutError):
            reason = "handshake_timeout"
        except OSError:  # the peer went away, or speaks no TLS: SSLError is one, too
            pass
        finally:
            self._end_handshake(peer, reason)

    def _end_handshake(self, peer: Peer, reason: Closing) -> None:
        if peer in self._handshakes:
            del self._handshakes[peer]
            self._closed[reason] += 1
        if peer.handler is None:
            peer.socket.close()
        if self._crowded:
            self._resume()

    def _admit(self, peer: Peer, transport: asyncio.Transport) -> None:
        """Hands a connection over to the server, before anything of it is read."""
        self._handshakes.pop(peer, None)
        handler = self._server()
        peer.transport, peer.handler = transport, handler
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        if transport.get_extra_info("peercert"):
            self._admit_known(handler, peer)
        else:
            self._make_place(self._unknown, self._places.unknown, "unknown_displaced", lambda peer: -peer.since)
            self._unknown[handler] = peer
        transport.set_protocol(handler)
        handler.connection_made(transport)

    def _admit_known(self, handler: RequestHandler, peer: Peer) -> None:
        self._make_place(self._known, self._places.known, "known_displaced", Peer.silence)
        self._known[handler] = peer
        self._patience = min(_PATIENCE[1], self._patience * 2)

    def _make_place(
        self, peers: dict[RequestHandler, Peer], most: int, reason: Closing, worth: Callable[[Peer], float]
    ) -> None:
        """Makes sure that one more fits: the peer for which `worth` is largest goes."""
        if len(peers) >= most:
            self._forget_closed()
        while len(peers) >= most:
            handler = max(peers, key=lambda each: worth(peers[each]))
            self._abort(peers.pop(handler), reason)

    def _abort(self, peer: Peer, reason: Closing) -> None:
        self._closed[reason] += 1
        if peer.transport:
            peer.transport.abort()

    def _forget_closed(self) -> None:
        for peers in (self._unknown, self._known):
            for handler in [handler for handler, peer in peers.items() if not peer.open]:
                del peers[handler]

    def _pause(self, seconds: float | None) -> None:
        """Stops to accept; for good if `seconds` is None."""
        for listening in self._listening:
            self._loop.remove_reader(listening)
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._resume) if seconds is not None else None

    def _resume(self) -> None:
        self._crowded = False
        if self._timer:
            self._timer.cancel()
            self._timer = None
        for listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)


def _listening(family: int, address: tuple[str | int, ...]) -> socket.socket | None:
    """A socket that listens; None if the machine has no addresses of that family. What is set on it, connections
    inherit."""
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_SECONDS * 1000))
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
