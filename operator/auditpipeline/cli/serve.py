"""`auditpipeline serve`: the data plane, and what its gateway needs of a node."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import click

DATA_PLANE_UID = 65532
GRACE_SECONDS = 27.0
"""From a signal to the end of the process, whatever hangs; kubelet kills after 30."""
_LAST_SECONDS = 3.0


@click.command()
@click.option(
    "--config", type=click.Path(path_type=Path), required=True, help="Configuration rendered by the operator."
)
@click.option("--root", default="/", show_default=True, help="Folder below which every path of the configuration lies.")
@click.option("--listen-audit", metavar="HOST:PORT", help="Take audit here, instead of where the configuration says.")
@click.option("--listen-ops", metavar="HOST:PORT", help="Serve health, metrics and status here, likewise.")
def serve(config: Path, root: str, listen_audit: str | None, listen_ops: str | None) -> None:
    """Run the data plane: a receiver or a gateway, as the configuration says.

    Waits for the configuration where it is not there yet, and follows its changes. --root and the two --listen options
    are for running outside of a Pod.
    """
    from auditpipeline.cli.logs import configure
    from auditpipeline.core.config import relocated
    from auditpipeline.dataplane.run import run

    configure()
    transform = partial(relocated, root=root, audit=listen_audit, ops=listen_ops)

    async def composed(deadline: Deadline) -> None:
        await run(config, stop=stop_on_signals(deadline), transform=transform)

    run_to_end(composed)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
def gateway_init(folders: tuple[Path, ...]) -> None:
    """Give FOLDERS of a node to the data plane's user (65532), with everything in them.

    The init container of the gateway runs this as root; the gateway itself has no rights on the node.
    """
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, DATA_PLANE_UID, DATA_PLANE_UID, follow_symlinks=False)


class Deadline:
    """Ends the process with exit code 1 when its time is over, from a thread of its own: one that hangs in a write, and
    that Python waits for, must not keep the process from ending."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def within(self, seconds: float) -> None:
        """From now on the process has so many seconds, unless it had fewer before."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, _end)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """It has ended what it had to."""
        if self._timer:
            self._timer.cancel()


def _end() -> None:
    message = b"auditpipeline: it did not end in time, since something hangs: what was under way comes again\n"
    try:
        os.write(2, message)
    finally:
        os._exit(1)


def stop_on_signals(deadline: Deadline | None = None) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; the deadline is set to GRACE_SECONDS then."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        stop.set()
        if deadline:
            deadline.within(GRACE_SECONDS)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    return stop


def run_to_end(main: Callable[[Deadline], Coroutine[Any, Any, None]]) -> None:
    """Runs it on an event loop of its own. Once it has returned or raised, what is left has a few seconds."""
    import uvloop

    deadline = Deadline()

    async def bounded() -> None:
        try:
            await main(deadline)
        finally:
            deadline.within(_LAST_SECONDS)

    try:
        uvloop.run(bounded())
    finally:
        deadline.cancel()
