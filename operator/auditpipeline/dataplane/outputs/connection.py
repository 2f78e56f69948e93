"""Connections of the http output: names are looked up by our resolver, each address is judged as it is dialled, and an
answer's head does not need its body.

An answer has arrived with its status line and its headers. The parser throws both away if the body behind them is
broken and comes in the same piece: a server that stores everything, and frames its answers badly, would get the same
events for ever. So the head of each answer is given to the parser by itself.
"""

from __future__ import annotations

import asyncio
import functools
import ssl

import aiohttp
from aiohttp.client_proto import ResponseHandler

from auditpipeline.dataplane.egress import Dialler
from auditpipeline.dataplane.outputs.resolver import Resolver

_END = b"\r\n\r\n"
LIMIT = 4
"""Connections of one output."""


def connector(context: ssl.SSLContext, resolver: Resolver, dialler: Dialler) -> aiohttp.TCPConnector:
    """A connector for one output, whose sockets the dialler makes; the resolver stays its owner's."""
    return _Connector(context, resolver, dialler)


class _Connector(aiohttp.TCPConnector):
    """Makes connections of our kind."""

    def __init__(self, context: ssl.SSLContext, resolver: Resolver, dialler: Dialler) -> None:
        super().__init__(ssl=context, limit=LIMIT, resolver=resolver, socket_factory=dialler.socket)
        self._factory = functools.partial(_HeadFirst, asyncio.get_running_loop())  # type: ignore[assignment]


class _HeadFirst(ResponseHandler):
    """Gives what comes up to the end of the first head behind each request to the parser, and then the rest."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._last: bytes | None = None

    def set_response_params(self, **params: object) -> None:
        """A request is sent: the next answer begins."""
        self._last = b""
        super().set_response_params(**params)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """From the socket."""
        if self._last is not None:
            seen = self._last + data
            at = seen.find(_END)
            # The end of a head may come in two pieces.
            cut = at + len(_END) - len(self._last)
            self._last = seen[-3:] if at < 0 else None
            if at >= 0 and cut < len(data):
                super().data_received(data[:cut])
                data = data[cut:]
        super().data_received(data)
