"""A small disk of one's own: a tmpfs in a mount namespace, which nobody else sees and which goes with its holder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_HOLD = 'mount -t tmpfs -o size="$1" none "$2" && echo mounted && exec cat'


@dataclass(frozen=True)
class Disk:
    """A mounted disk. `command` is a prefix that runs a command where `folder` is that disk; `folder` is its path in
    there, `outside` the same for everybody else."""

    folder: Path
    command: tuple[str, ...]
    outside: Path


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    """A disk of that size (`32m`), mounted at `folder`, which is made.

    Skips where a user may make no namespace. Root may, and CI has to: there a failure is a failure, since promise 4
    stands on this.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = os.geteuid() == 0
    unshare = ["unshare", *([] if root else ["--map-root-user"]), "--mount", "--propagation", "private"]
    try:
        holder = subprocess.Popen(
            [*unshare, "sh", "-c", _HOLD, "sh", size, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        _refuse("unshare of util-linux is not installed")
    with holder:
        assert holder.stdout
        assert holder.stderr
        try:
            if holder.stdout.readline() != b"mounted\n":
                _refuse(holder.stderr.read().decode(errors="replace").strip())
            enter = ["nsenter", f"--target={holder.pid}", "--mount", *([] if root else ["--user"])]
            if not root:
                enter.append("--preserve-credentials")
            yield Disk(folder, (*enter, f"--wd={Path.cwd()}"), Path(f"/proc/{holder.pid}/root{folder}"))
        finally:
            holder.kill()


def _refuse(problem: str) -> None:
    text = f"no small disk ({problem}): promise 4 is not tested on a full disk; run as root with CAP_SYS_ADMIN"
    if os.geteuid() == 0 or os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def in_place_of(path: Path, file: Path) -> list[str]:
    """A prefix that runs a command for which `file` lies at `path`, as a Pod's resolv.conf does. Skips as `small_disk`
    does."""
    root = os.geteuid() == 0
    unshare = ["unshare", *([] if root else ["--map-root-user"]), "--mount", "--propagation", "private"]
    prefix = [*unshare, "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(file), str(path)]
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        _refuse("unshare of util-linux is not installed")
    if tried.returncode:
        _refuse(tried.stderr.strip())
    return prefix
