"""`auditpipeline serve`: the data plane, and what its gateway needs of a node."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import click

DATA_PLANE_UID = 65532


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
    import uvloop

    from auditpipeline.cli.logs import configure
    from auditpipeline.core.config import relocated
    from auditpipeline.dataplane.run import run

    configure()
    transform = partial(relocated, root=root, audit=listen_audit, ops=listen_ops)

    async def composed() -> None:
        await run(config, stop=stop_on_signals(), transform=transform)

    uvloop.run(composed())


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
def gateway_init(folders: tuple[Path, ...]) -> None:
    """Give FOLDERS of a node to the data plane's user (65532), with everything in them.

    The init container of the gateway runs this as root; the gateway itself has no rights on the node.
    """
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, DATA_PLANE_UID, DATA_PLANE_UID, follow_symlinks=False)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
