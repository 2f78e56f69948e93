"""The journal of a spool (`-wal`), and how long it may be.

SQLite moves what is in it into the file, and begins it anew. While another process reads an old state of the spool
(`sqlite3`, a copy that takes hours), it can do neither, and the journal grows with each commit: it would fill the disk
that files of outputs share with it. So it is bounded: above the bound no events are taken, and cursors still move.
"""

from __future__ import annotations

import os
from pathlib import Path

MOST = 256 * 2**20
LEAST = 16 * 2**20
"""Bytes. A journal that is moved into the file as it should be may be longer than what a small disk would allow."""
_SHARE = 4


class Journal:
    """The journal of the spool at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}-wal")

    @property
    def size(self) -> int:
        """Its bytes; 0 if there is none."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def is_too_long(self) -> bool:
        """Whether it has more than MOST bytes, or than a quarter of what is free on its disk."""
        size = self.size
        return size > LEAST and size > min(MOST, max(LEAST, self.free // _SHARE))

    @property
    def free(self) -> int:
        """Bytes that are free on its disk."""
        found = os.statvfs(self._path.parent)
        return found.f_bavail * found.f_frsize
