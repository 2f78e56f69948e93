"""Child processes that leave nothing behind, and waiting for a state instead of sleeping.

Promises: a `Process` runs in a process group of its own and the whole group goes with `stop()`; the kernel kills it
when this interpreter dies, however it dies; what it prints is in its log, whose end is part of every failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

POLL = 0.05
"""Seconds between two looks at a state that is waited for."""

# PR_SET_PDEATHSIG fires when the *thread* that forked ends, not the process. One thread that lives as long as the
# interpreter starts every child, so that a cluster may be started from a thread that ends.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="process-starter")


class Failed(RuntimeError):
    """A process ended early, or a state did not come in time; the message has the end of the logs."""


class Process:
    """One long-running command; may be started again after it was stopped."""

    def __init__(self, name: str, command: Sequence[str], log: Path, cwd: Path | None = None) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, or 0 when it was not started."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; the log is appended to."""
        with self.log.open("ab") as log:
            self._process = _starter.submit(
                subprocess.Popen,
                [*_bound_to_parent(), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                start_new_session=True,
            ).result()

    def stop(self, sig: int = signal.SIGKILL, timeout: float = 120) -> None:
        """Send `sig` to the group, wait up to `timeout` seconds, then kill what is left of the group."""
        if self._process is None:
            return
        # What entered other namespaces is the child of one that waits for it, reaps it and then ends in the same way;
        # killed together, the child would be left to the machine's first process, which may take its time.
        for pid in children(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
        if not children(self.pid):
            _signal_group(self.pid, sig)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        _signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"--- {self.name} ({self.log})\n" + "\n".join(text.splitlines()[-lines:])


def wait_for(what: str, state: Callable[[], bool], timeout: float, watched: Iterable[Process] = ()) -> None:
    """Wait until `state()` is true.

    Raises `Failed` after `timeout` seconds, or at once when one of the `watched` processes has ended.
    """
    processes = list(watched)
    deadline = time.monotonic() + timeout
    while not state():
        ended = [process for process in processes if not process.running]
        if ended:
            raise Failed(f"{ended[0].name} ended while waiting for {what}\n{ended[0].tail()}")
        if time.monotonic() > deadline:
            logs = "\n".join(process.tail() for process in processes)
            raise Failed(f"no {what} within {timeout:g} s\n{logs}")
        time.sleep(POLL)


def run(command: Sequence[str], stdin: str | None = None, timeout: float = 120) -> str:
    """Run a short command and return what it prints; `Failed` carries its standard error."""
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command)}: not done within {timeout:g} s") from error
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{output}")
    return done.stdout


def piped(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command whose lines are read as they come; it dies with this interpreter."""
    return _starter.submit(
        subprocess.Popen,
        [*_bound_to_parent(), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).result()


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that were not reaped."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def resident(group: int) -> int:
    """Resident bytes of all processes of a process group."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; what follows it is plain: state, parent, group, ...
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if int(fields[2]) == group:
            total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


def _bound_to_parent() -> list[str]:
    # setpriv is part of util-linux. Elsewhere (macOS) children of a killed parent have to be killed by hand.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _signal_group(group: int, sig: int) -> None:
    with suppress(ProcessLookupError):  # every member of the group has ended
        os.killpg(group, sig)
