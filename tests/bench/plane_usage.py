"""What a process and its children use, from /proc (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> Iterator[int]:
    """The process and everything below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from tree(int(child))


def cpu_seconds(*pids: int) -> float:
    """CPU time of the trees so far, user and system, in steps of 10 ms."""
    ticks = 0
    for each in (each for pid in pids for each in tree(pid)):
        # After the name, which may hold anything but ends with the last bracket, utime and stime are fields 14 and 15.
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def rss(pid: int, field: str = "VmHWM") -> int:
    """Bytes of memory of the tree: the peak (VmHWM) or now (VmRSS)."""
    total = 0
    for each in tree(pid):
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                total += int(line.split()[1]) * 1024
    return total


def pin(pid: int, cores: set[int]) -> None:
    """Keeps a process, and what it starts from now on, on these cores."""
    os.sched_setaffinity(pid, cores)
