"""Runs kopf: in a thread with an event loop of its own, because kopf takes every task of its loop for one of its own
when it stops, and the process's signal handlers when it runs in the main thread.

What it sees is handed over to the controller's loop, already boiled down to an Entry.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import kopf

from auditpipeline.control import access, names
from auditpipeline.control.handlers import Forgetful, Login, Tell, quiet_settings, registry
from auditpipeline.control.resources import Features
from auditpipeline.control.seen import Entry, Key, entry_of, key_of

Observer = Callable[[Key, str | None, Entry], None]
STOP_TIMEOUT = 15.0


async def watch(
    features: Features,
    namespaces: tuple[str, ...],
    kubeconfig: Path | None,
    observe: Observer,
    told: access.Told,
    stop: asyncio.Event,
) -> None:
    """Watch until `stop` is set; raises what kopf ended with, if it ended by itself.

    `observe` and `told` are called in this loop. `told` hears of each list that a watch begins with: what was deleted
    before it, `observe` is never told; and of each watch that goes on after its connection was lost.
    """
    loop = asyncio.get_running_loop()
    ending = threading.Event()
    done: asyncio.Future[None] = loop.create_future()
    handed = _Handed(told, loop, ending)

    def tell(plural: str, kind: str | None, body: dict[str, Any]) -> None:
        if not ending.is_set():
            loop.call_soon_threadsafe(observe, key_of(plural, body), kind, entry_of(plural, body))

    def finish(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(_operate(features, namespaces, lambda: access.connection(kubeconfig, handed), tell, ending))
        except BaseException as raised:
            # Handed over to the controller's loop, which raises it.
            error = raised
        loop.call_soon_threadsafe(finish, error)

    # kopf says once for each handler that it succeeded, and that signals are not its own here, which is meant.
    for name in ("kopf.objects", "kopf.activities.authentication", "kopf._core.reactor.running"):
        logging.getLogger(name).setLevel(logging.ERROR)
    thread = threading.Thread(target=run, name="kopf", daemon=True)
    thread.start()
    waiter: asyncio.Future[Any] = asyncio.create_task(stop.wait(), name="stop of watch")
    try:
        await asyncio.wait({waiter, done}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.set()
        waiter.cancel()
        async with asyncio.timeout(STOP_TIMEOUT):
            await asyncio.shield(done)


class _Handed:
    """Hands over from kopf's thread to `loop`."""

    def __init__(self, told: access.Told, loop: asyncio.AbstractEventLoop, ending: threading.Event) -> None:
        self._told, self._loop, self._ending = told, loop, ending

    def listed(self) -> None:
        if not self._ending.is_set():
            self._loop.call_soon_threadsafe(self._told.listed)

    def resumed(self, plural: str, version: str) -> None:
        if not self._ending.is_set():
            self._loop.call_soon_threadsafe(self._told.resumed, plural, version)


async def _operate(
    features: Features, namespaces: tuple[str, ...], login: Login, tell: Tell, ending: threading.Event
) -> None:
    stop = asyncio.Event()
    handlers = registry(features, login, tell)
    waiting = asyncio.create_task(_poll(ending, stop), name="stop of kopf")
    try:
        await kopf.operator(
            registry=handlers,
            settings=quiet_settings(features),
            memories=Forgetful(),
            standalone=True,
            clusterwide=False,
            namespaces=list(namespaces),
            stop_flag=stop,
            # kopf would ask for the name of the user, which a container with a bare number has not.
            identity=cast("Any", names.MANAGER),
        )
    finally:
        waiting.cancel()
        # TLS connections close in the background (aiohttp, "Graceful Shutdown").
        await asyncio.sleep(0.25)


async def _poll(ending: threading.Event, stop: asyncio.Event) -> None:
    """A thread's event for an asyncio one; no thread is parked for it, which could not be cancelled."""
    while not ending.is_set():  # noqa: ASYNC110 - it is set by another thread
        await asyncio.sleep(0.2)
    stop.set()
