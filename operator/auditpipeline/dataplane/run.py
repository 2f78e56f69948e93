"""The data plane from start to end: configuration -> spool -> routes -> listeners, whatever changes, a graceful stop.

Twice a second the configuration file and the TLS files are looked at:

    routes      new ones start at the end of the spool, gone ones stop and their cursors go (in a gateway: when what
                waited has arrived, see `leaving`), changed ones go on from their cursor, unchanged ones do not notice
    TLS files   are loaded into the live contexts; a pair that does not fit is refused and the old one stays
    the rest    `name`, `max_body` and the spool's limit apply at once; another address or spool file needs a new start

A configuration that cannot be used is refused: one log line, `configError` in the report, and the old one stays in
force. At the start there is no old one: then this waits, as it waits for files that are not there yet.

A full disk is waited for, at the start as later: health is served, and what is in the spool is delivered, which gives
room. What has to run is watched: if it ends by itself, so does the process, with an error. Ending takes END_SECONDS at
most, whatever hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from auditpipeline.core.config import Config
from auditpipeline.core.errors import Failed, Invalid, Retryable
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.descriptors import raise_limit, shares
from auditpipeline.dataplane.door import Door
from auditpipeline.dataplane.listener import Listener
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.memory import one_arena
from auditpipeline.dataplane.plane import Plane
from auditpipeline.dataplane.route import Patience
from auditpipeline.dataplane.server import ops_app
from auditpipeline.dataplane.source import ConfigFile, Found, Source
from auditpipeline.dataplane.spool import Spool, open_spool
from auditpipeline.dataplane.tls import ServerTls

LOOK_SECONDS = 0.5
OPEN_SECONDS = 300.0
"""At most so long between two tries to open a spool on a disk without room."""
END_SECONDS = 20.0
_FOLLOW_SECONDS = 3.0
"""For a change that is being put in force when the process is told to stop."""
Transform = Callable[[Config], Config]


async def run(
    config: Path | Source,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[Plane], None] | None = None,
    transform: Transform | None = None,
    patience: Patience | None = None,
    log: Log | None = None,
) -> None:
    """Runs until `stop` is set. `config` is the file, or what else gives the configuration. `on_ready` is called once,
    when both listeners take connections.

    Raises AuditPipelineError if the spool cannot be opened or a port is taken; Failed if something ended that has to
    run, or something hung at the end.
    """
    one_arena()
    log = log or logs.make()
    places = shares(raise_limit())
    source = ConfigFile(config) if isinstance(config, Path) else config
    found = await _first(source, transform, stop, log)
    if found is None:
        return
    plane: Plane | None = None
    opening = _Opening(found.config, log)
    listener = Listener(lambda _: ops_app(lambda: plane, lambda: opening.waits_for), places.ops)
    ops = Door("ops", listener, ServerTls(found.config.listen.ops_tls, False), log)
    try:
        if spool := await _opened(opening, ops, stop):
            plane = Plane(found, spool, ops, log, places.audit, patience)
            if await _started(plane, ops, stop, log):
                await _watched(plane, _follow(plane, source, transform, stop, on_ready, log), stop)
    finally:
        await _end(plane, ops, log)


async def _first(source: Source, transform: Transform | None, stop: asyncio.Event, log: Log) -> Found | None:
    """Waits for a configuration that can be used; None when told to stop before."""
    if missing := source.missing():
        log.info("looking for the configuration", path=missing)
    complaint = ""
    while not stop.is_set():
        try:
            if found := _transformed(source.changed(), transform):
                return found
        except Invalid as error:
            log.error("the configuration cannot be used; waiting for another", error=str(error))
        except Retryable as error:
            if str(error) != complaint:
                complaint = str(error)
                log.error("the configuration cannot be read; trying again", error=complaint)
        await _wait(stop)
    return None


class _Opening:
    """Opens the spool, and says what that waits for."""

    def __init__(self, config: Config, log: Log) -> None:
        self.config = config
        self.waits_for = "the spool is being opened"
        self._log = log

    async def open(self) -> Spool:
        """Tries until there is room for what has to be written: a new start would find no more. Each try may write
        much, so that there is ever more time between two."""
        wait = LOOK_SECONDS
        while True:
            try:
                return await open_spool(self.config.spool, [route.name for route in self.config.routes], self._log)
            except Retryable as error:
                self.waits_for = f"the spool cannot be opened: {error}"
                self._log.error(
                    "no events are taken: the spool cannot be opened", error=str(error), again_in_seconds=wait
                )
            await asyncio.sleep(wait)
            wait = min(2 * wait, OPEN_SECONDS)


async def _opened(opening: _Opening, ops: Door, stop: asyncio.Event) -> Spool | None:
    """The spool, which may take a while to be checked: health is served meanwhile. None when told to stop before."""
    task = asyncio.create_task(opening.open())
    stopping = asyncio.create_task(stop.wait())
    try:
        while not (task.done() or stop.is_set()):
            await ops.refresh(opening.config.listen.ops)
            await asyncio.wait([task, stopping], timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        stopping.cancel()


async def _started(plane: Plane, ops: Door, stop: asyncio.Event, log: Log) -> bool:
    """Starts the routes; False when told to stop before. On a disk without room new outputs wait for their cursors, and
    no event is taken, which they would miss; the others deliver. Failed if only a new start can help."""
    complaint = ""
    while not stop.is_set():
        try:
            await plane.start()
            return True
        except Retryable as error:
            if str(error) != complaint:
                complaint = str(error)
                log.error("no events are taken: the outputs cannot be started", error=complaint)
        if plane.failure:
            raise Failed(plane.failure)
        await ops.refresh(plane.config.listen.ops)
        await _wait(stop)
    return False


async def _watched(plane: Plane, following: Coroutine[None, None, None], stop: asyncio.Event) -> None:
    """Runs until told to stop, or until something ends that has to run: then its error is raised."""
    follow, watch = asyncio.create_task(following), asyncio.create_task(plane.watch())
    stopping = asyncio.create_task(stop.wait())
    tasks: list[asyncio.Task[Any]] = [follow, watch, stopping]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await asyncio.wait([follow], timeout=_FOLLOW_SECONDS)
        for task in (watch, follow):
            if task.done():
                await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1)


async def _follow(
    plane: Plane,
    source: Source,
    transform: Transform | None,
    stop: asyncio.Event,
    on_ready: Callable[[Plane], None] | None,
    log: Log,
) -> None:
    """Applies changes until told to stop."""
    while not stop.is_set():
        await plane.refresh_tls()
        await plane.tidy()
        if on_ready and plane.ready:
            on_ready(plane)
            on_ready = None
        found = None
        try:
            if found := _transformed(source.changed(), transform):
                await plane.apply(found)
        except Invalid as error:
            plane.config_error = str(error)
            log.error("the new configuration is refused, the old one stays in force", error=str(error))
        except (Retryable, OSError) as error:
            if found:
                source.forget()
            _complain(plane, log, str(error))
        except Exception as error:  # a fault of ours must not end what runs
            source.forget()
            _complain(plane, log, f"internal error: {type(error).__name__}", exc_info=True)
        await _wait(stop)


def _complain(plane: Plane, log: Log, message: str, exc_info: bool = False) -> None:
    """One line for a state, not one for each try."""
    if plane.config_error != message:
        plane.config_error = message
        log.warning("the new configuration cannot be put in force yet", error=message, exc_info=exc_info)


async def _end(plane: Plane | None, ops: Door, log: Log) -> None:
    """Ends what runs; Failed if that takes too long, when something hangs that cannot be ended."""
    try:
        async with asyncio.timeout(END_SECONDS):
            await (plane.stop() if plane else ops.listener.stop())
    except TimeoutError:
        log.error("the process hangs at its end: what was under way comes again after the next start")
        raise Failed(f"it did not end within {END_SECONDS:g} s: a disk or an output hangs") from None


def _transformed(found: Found | None, transform: Transform | None) -> Found | None:
    return found._replace(config=transform(found.config)) if found and transform else found


async def _wait(stop: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            await stop.wait()
