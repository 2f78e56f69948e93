"""The data plane from start to end: configuration -> spool -> routes -> listeners, whatever changes, a graceful stop.

Twice a second the configuration file and the TLS files are looked at:

    routes      new ones start at the end of the spool, gone ones stop and their cursors go (in a gateway: when what
                waited has arrived, see `leaving`), changed ones go on from their cursor, unchanged ones do not notice
    TLS files   are loaded into the live contexts; a pair that does not fit is refused and the old one stays
    the rest    `name`, `max_body` and the spool's limit apply at once; another address or spool file needs a new start

A configuration that cannot be used is refused: one log line, `configError` in the report, and the old one stays in
force. At the start there is no old one: then this waits, as it waits for files that are not there yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from auditpipeline.core.config import Config
from auditpipeline.core.errors import Invalid, Retryable
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.door import Door
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.memory import one_arena
from auditpipeline.dataplane.plane import Plane
from auditpipeline.dataplane.route import Patience
from auditpipeline.dataplane.server import Listener, ops_app
from auditpipeline.dataplane.source import ConfigFile, Found
from auditpipeline.dataplane.spool import Spool, open_spool
from auditpipeline.dataplane.tls import ServerTls

LOOK_SECONDS = 0.5
OPEN_SECONDS = 300.0
"""At most so long between two tries to open a spool on a disk without room."""
Transform = Callable[[Config], Config]


async def run(
    config_path: Path,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[Plane], None] | None = None,
    transform: Transform | None = None,
    patience: Patience | None = None,
    log: Log | None = None,
) -> None:
    """Runs until `stop` is set. `on_ready` is called once, when both listeners take connections.

    Raises AuditPipelineError where the spool cannot be opened or a port is taken.
    """
    one_arena()
    log = log or logs.make()
    source = ConfigFile(config_path)
    found = await _first(source, transform, stop, log)
    if found is None:
        return
    plane: Plane | None = None
    listen = found.config.listen
    ops = Door("ops", Listener(ops_app(lambda: plane)), ServerTls(listen.ops_tls, False), log)
    try:
        if spool := await _opened(found.config, ops, stop, log):
            plane = Plane(found, spool, ops, log, patience)
            await plane.start()
            await _follow(plane, source, transform, stop, on_ready, log)
    finally:
        await (plane.stop() if plane else ops.listener.stop())


async def _first(source: ConfigFile, transform: Transform | None, stop: asyncio.Event, log: Log) -> Found | None:
    """Waits for a configuration that can be used; None when told to stop before."""
    if not source.path.exists():
        log.info("looking for the configuration", path=str(source.path))
    while not stop.is_set():
        try:
            if found := _transformed(source.changed(), transform):
                return found
        except Invalid as error:
            log.error("the configuration cannot be used; waiting for another", error=str(error))
        await _wait(stop)
    return None


async def _opened(config: Config, ops: Door, stop: asyncio.Event, log: Log) -> Spool | None:
    """The spool, which may take a while to be checked: health is served meanwhile. None when told to stop before."""
    opening = asyncio.create_task(_open(config, log))
    stopping = asyncio.create_task(stop.wait())
    try:
        while not (opening.done() or stop.is_set()):
            await ops.refresh(config.listen.ops)
            await asyncio.wait([opening, stopping], timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return await opening if opening.done() else None
    finally:
        opening.cancel()
        stopping.cancel()


async def _open(config: Config, log: Log) -> Spool:
    """Tries until there is room for what has to be written: a new start would find no more. Each try may write much, so
    that there is ever more time between two."""
    wait = LOOK_SECONDS
    while True:
        try:
            return await open_spool(config.spool, [route.name for route in config.routes], log)
        except Retryable as error:
            log.error("no events are taken: the spool cannot be opened", error=str(error), again_in_seconds=wait)
        await asyncio.sleep(wait)
        wait = min(2 * wait, OPEN_SECONDS)


async def _follow(
    plane: Plane,
    source: ConfigFile,
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
        try:
            if found := _transformed(source.changed(), transform):
                await plane.apply(found)
        except Invalid as error:
            plane.config_error = str(error)
            log.error("the new configuration is refused, the old one stays in force", error=str(error))
        except Retryable as error:
            source.forget()
            if plane.config_error != str(error):
                plane.config_error = str(error)
                log.warning("the new configuration cannot be put in force yet", error=str(error))
        await _wait(stop)


def _transformed(found: Found | None, transform: Transform | None) -> Found | None:
    return Found(transform(found.config), found.digest) if found and transform else found


async def _wait(stop: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            await stop.wait()
