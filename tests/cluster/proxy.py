"""A kube-proxy for the control plane alone: connections to a ClusterIP go to one of the Service's Ready Pods.

Every ClusterIP is a loopback address there, so that a plain TCP forwarder is enough. A connection to a Service without
a Ready Pod is closed at once. Ports below 1024 need root, as everywhere.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from typing import Any

Address = tuple[str, int]


class Proxy:
    """Forwarders in a thread of their own, brought up to date by `update`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-proxy", daemon=True)
        self._listeners: dict[Address, socket.socket] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._backends: dict[Address, list[Address]] = {}

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close every forwarder and connection, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def update(
        self,
        services: Iterable[Mapping[str, Any]],
        pods: Iterable[Mapping[str, Any]],
        ready: Mapping[tuple[str, str], str],
    ) -> None:
        """Serve exactly `services`; `ready` has the address of each Ready Pod by namespace and name."""
        known = list(pods)
        wanted = dict(backend for service in services for backend in _backends(service, known, ready))
        asyncio.run_coroutine_threadsafe(self._serve(wanted), self._loop).result(10)

    async def _serve(self, wanted: dict[Address, list[Address]]) -> None:
        # Not asyncio's servers: one that is closed while it accepts a connection leaves that open.
        self._backends = wanted
        for gone in self._listeners.keys() - wanted.keys():
            self._unlisten(gone)
        for address in wanted.keys() - self._listeners.keys():
            listener = self._listeners[address] = socket.create_server(address, backlog=128)
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener, address)

    def _unlisten(self, address: Address) -> None:
        listener = self._listeners.pop(address)
        self._loop.remove_reader(listener)
        listener.close()

    def _accept(self, listener: socket.socket, address: Address) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            task = self._loop.create_task(self._forward(connection, address))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _forward(self, connection: socket.socket, address: Address) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        with closing(writer), suppress(OSError, IndexError, KeyError):
            there_reader, there_writer = await asyncio.open_connection(*random.choice(self._backends[address]))
            with closing(there_writer):
                await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))

    async def _close(self) -> None:
        for address in list(self._listeners):
            self._unlisten(address)
        # A task that is cancelled before it began would leave its connection open.
        await asyncio.sleep(0)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(2**16):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    finally:
        writer.close()


def _backends(
    service: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], ready: Mapping[tuple[str, str], str]
) -> Iterable[tuple[Address, list[Address]]]:
    spec, namespace = service["spec"], service["metadata"]["namespace"]
    chosen = [pod for pod in pods if pod["metadata"]["namespace"] == namespace and _selects(spec["selector"], pod)]
    for port in spec["ports"]:
        targets = [
            (ready[namespace, pod["metadata"]["name"]], _target(port["targetPort"], pod))
            for pod in chosen
            if (namespace, pod["metadata"]["name"]) in ready
        ]
        yield (spec["clusterIP"], port["port"]), targets


def _selects(selector: Mapping[str, str], pod: Mapping[str, Any]) -> bool:
    labels: Mapping[str, str] = pod["metadata"].get("labels", {})
    return selector.items() <= labels.items()


def _target(port: int | str, pod: Mapping[str, Any]) -> int:
    if isinstance(port, int):
        return port
    named = {entry["name"]: entry["containerPort"] for entry in pod["spec"]["containers"][0]["ports"]}
    return int(named[port])
