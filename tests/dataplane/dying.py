"""A process that salvages a spool until it is killed, before one of the steps that leave something on the disk.

Run as `python -m tests.dataplane.dying SPOOL STEP`: it imports little, as a test starts dozens.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane import salvage

STEPS = ("os.rename", "os.remove", "sqlite3.connect", "open")


def die(path: Path, step: int) -> None:
    """Salvages until that step: a file is opened, renamed or removed, or the copy is about to be ended."""
    left = step

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event in STEPS and str(args[0]).startswith(str(path)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    settle = salvage._settle_numbers

    def settled(*args: Any) -> int:
        count("open", (path,))
        return settle(*args)

    salvage._settle_numbers = settled  # type: ignore[assignment]
    sys.addaudithook(count)
    salvage.open_or_salvage(path, ["out"], logs.make(io.StringIO()))
    os._exit(0)


if __name__ == "__main__":
    die(Path(sys.argv[1]), int(sys.argv[2]))
