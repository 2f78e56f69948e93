"""A disk that fails for a while: processes that are started with `Faulty.environment` get EIO from it, on demand.

    faulty = make(folder, "spool.sqlite")      files whose path has that in it
    async with serving(setting, environment=faulty.environment) as process:
        with faulty.failing("rw"):             r: reads, w: writes, s: syncs; r@INODE@OFFSET: reads of that byte
            ...

A preloaded library (shim/eio.c) does it, since no real disk fails when it is asked to. Tests compile it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parent / "shim" / "eio.c"


@dataclass(frozen=True)
class Faulty:
    """Files that fail while `failing`, in processes that have `environment`."""

    control: Path
    environment: dict[str, str]

    @contextmanager
    def failing(self, calls: str = "rws") -> Iterator[None]:
        """Lets these calls fail meanwhile."""
        self.begin(calls)
        try:
            yield
        finally:
            self.end()

    def begin(self, calls: str = "rws") -> None:
        """Lets these calls fail from now on."""
        scratch = self.control.with_suffix(".new")
        scratch.write_text(calls)
        scratch.rename(self.control)

    def end(self) -> None:
        """Lets no call fail any more."""
        self.control.unlink(missing_ok=True)


def make(folder: Path, path: str) -> Faulty:
    """For files whose path has `path` in it; the library and its control file lie in the folder."""
    library, control = folder / "eio.so", folder / "eio-control"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(_SOURCE), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        _refuse("cc is not installed")
    except subprocess.CalledProcessError as error:
        _refuse(error.stderr)
    variables = {"LD_PRELOAD": str(library), "EIO_PATH": path, "EIO_CONTROL": str(control)}
    return Faulty(control, variables)


def _refuse(problem: str) -> None:
    text = f"no disk that fails ({problem}): promise 1 is not tested on one; install a C compiler (gcc, libc6-dev)"
    if os.geteuid() == 0 or os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)
