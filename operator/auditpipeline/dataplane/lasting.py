"""Tells a place of a file that its disk can never read again from a disk that fails for a while.

SQLite cannot pass over such a place: an output would wait for its row for ever, and a row that cannot be read cannot
be deleted either, so that every commit fails once all outputs have passed it. Only a new start helps, which takes over
what can be read (`salvage`).

    reads of one place fail for SECONDS, and none of them succeeds --+-- the file's head can be read: it is the place
                                                                     +-- it cannot: it is the disk; wait on
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 300.0
_MOST = 64
_HEAD = 4096
_READS = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)


class Lasting:
    """The places of one file that cannot be read; each a number of the caller's. `clock` is in seconds and never set
    back."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._since: dict[int, float] = {}

    def works(self, place: int) -> None:
        """What needs the place was done."""
        self._since.pop(place, None)

    def failed(self, place: int, error: BaseException) -> bool:
        """Notes why that could not be done; whether it never will be."""
        if getattr(error, "sqlite_errorcode", 0) not in _READS:
            return False
        now = self._clock()
        since = self._since.setdefault(place, now)
        while len(self._since) > _MOST:
            del self._since[next(iter(self._since))]
        return now - since >= SECONDS and _has_head(self._path)


def _has_head(path: Path) -> bool:
    """Whether the disk, and not a copy in memory, has the first bytes of the file."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.posix_fadvise(number, 0, _HEAD, os.POSIX_FADV_DONTNEED)
        return bool(os.pread(number, _HEAD, 0))
    except OSError:
        return False
    finally:
        os.close(number)
