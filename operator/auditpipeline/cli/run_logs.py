"""The audit logs that `auditpipeline run` reads: which position file each has, and all of them as one."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from auditpipeline.core.errors import Invalid

if TYPE_CHECKING:
    from auditpipeline.cli.run_folder import DataFolder
    from auditpipeline.dataplane.log import Log
    from auditpipeline.dataplane.plane import Plane

_STDOUT = (
    "- is not a file. If kube-apiserver writes its audit log to standard output (--audit-log-path=-), name the file "
    "in which the container runtime keeps it: /var/log/pods/kube-system_kube-apiserver-NODE_UID/kube-apiserver/0.log"
)


def checked(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The logs, absolute, each once. Invalid if one of them can never be read; one that is missing may come."""
    for path in paths:
        if str(path) == "-":
            raise Invalid("--audit-log", _STDOUT)
        with suppress(OSError):  # a folder above that cannot be read yet may be readable later
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                raise Invalid("--audit-log", f"{path} is a folder: name the file that kube-apiserver writes")
            if not stat.S_ISREG(mode):
                raise Invalid("--audit-log", f"{path} is not a file that can be read again: name a regular file")
    return tuple(dict.fromkeys(path.absolute() for path in paths))


def positions(folder: DataFolder, logs: Sequence[Path]) -> dict[Path, Path]:
    """The position file of each log. A single log has `log.position`; of several, the one that this was written for, or
    the first one if it does not say. The others have files of their own."""
    from auditpipeline.dataplane.sources.tail import stored_path

    own = {log: folder.path / f"log.{hashlib.sha256(bytes(log)).hexdigest()[:16]}.position" for log in logs}
    waiting = [log for log in logs if not own[log].exists()]
    owner = stored_path(folder.position) if len(logs) > 1 else ""
    first = Path(owner) if owner else next(iter(waiting), None)
    return {log: folder.position if log == first and log in waiting else own[log] for log in logs}


class Logs:
    """The sources of all logs; `start`, then `run`."""

    def __init__(self, logs: Sequence[Path], folder: DataFolder, plane: Plane, log: Log) -> None:
        from auditpipeline.dataplane.sources.log import LogSource

        found = positions(folder, logs)
        self._sources = [LogSource(path, found[path], plane.intake, log) for path in logs]
        plane.sources = [source.report for source in self._sources]

    async def start(self) -> None:
        """Finds the place in each log: every line that is written after this is taken."""
        for source in self._sources:
            await source.start()

    async def run(self, stop: asyncio.Event) -> None:
        """Reads all of them until `stop` is set. What one of them raises ends all, so that they can begin anew."""
        tasks = [asyncio.create_task(source.run(stop)) for source in self._sources]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
