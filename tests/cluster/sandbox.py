"""Private mount, network, PID, UTS and IPC namespaces that look like a machine to a Kubernetes node.

Promises: the node needs no free port, reaches nothing outside, and its paths (/var, /etc, /run) are its own; everything
that runs in it dies with one process, which dies with this interpreter; `kill()` removes the cgroups too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .processes import Process, children, wait_for

_CGROUPS = Path("/sys/fs/cgroup")
_PREFIX = "auditpipeline-"
_SCRIPT = Path(__file__).with_name("sandbox.sh")


class Sandbox:
    """The namespaces of one node; needs root."""

    def __init__(self, data: Path, address: str, services: str, bootstrap: Path | None = None) -> None:
        self._data = data
        self.cgroup = f"{_PREFIX}{os.getpid()}-{data.name[len(_PREFIX) :]}"
        namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        arguments = [str(data), self.cgroup, address, services, str(bootstrap.absolute()) if bootstrap else ""]
        command = ["unshare", *namespaces, "sh", str(_SCRIPT), *arguments]
        self._process = Process("sandbox", command, data / "sandbox.log")
        self.pid = 0

    def start(self) -> None:
        """Make the namespaces and wait until they are set up."""
        _remove_cgroups_of_the_dead()
        self._process.start()
        wait_for("namespaces", (self._data / "sandbox-ready").exists, 30, [self._process])
        (self.pid,) = children(self._process.pid)

    def kill(self) -> None:
        """Kill everything inside; returns when it is gone."""
        # With its first process the kernel kills every other one of the PID namespace, before `unshare` returns.
        self._process.stop()
        self.pid = 0
        wait_for("removal of the cgroups", lambda: _remove_cgroups(self.cgroup), 10)

    def inside(self, command: Sequence[str]) -> list[str]:
        """A command line that runs in every namespace; paths must be absolute."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--uts", "--ipc", "--", *command]

    def entered(self, command: Sequence[str]) -> list[str]:
        """A command line that runs in the node's network only, with the files and the working directory of the host."""
        return ["nsenter", f"--target={self.pid}", "--net", "--", *command]


def _remove_cgroups_of_the_dead() -> None:
    # A killed run cannot remove its own. The name tells whose it was; a group in use cannot be removed anyway.
    names = {path.name for depth in ("*", "*/*") for path in _CGROUPS.glob(f"{depth[:-1]}{_PREFIX}*")}
    for name in names:
        owner = name.removeprefix(_PREFIX).split("-")[0]
        if not Path("/proc", owner).exists():
            _remove_cgroups(name)


def _remove_cgroups(name: str) -> bool:
    """Remove every cgroup of this name, the deepest first; false when one is still in use."""
    left = False
    for top in (*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")):
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                left = True
    return not left
