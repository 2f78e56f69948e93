"""The operator's memory: what was large for a moment is given back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import os
from auditpipeline.cli.lean import give_memory_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

if {lean}:
    give_memory_back()
bytearray(2**20)  # of glibc's own accord, what is smaller than this comes out of the heap from now on
large, small = b"x" * 2**19, b"x" * 2**14
before = resident()
kept = [(bytearray(large), bytearray(small)) for _ in range(100)]
kept = [stays for _, stays in kept]
print(resident() - before)
"""


def growth(*, lean: bool) -> int:
    """Bytes by which a process grows that has had 50 MiB in large pieces between small ones, which stay."""
    command = [sys.executable, "-c", PROGRAM.format(lean=lean)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt") or sys.platform != "linux", reason="needs glibc")
def test_what_was_large_for_a_moment_is_given_back() -> None:
    """Though what stays lies between: that is what a list of many objects leaves."""
    assert growth(lean=True) < 2**23 < growth(lean=False)
