"""JSON lines in a file, rotated by size: `events.jsonl`, `events.jsonl.1` (the newest of the old ones) ... `.<keep>`.

1. Arrived means: on disk. A delivery ends with fsync, so the cursor never moves past what a power cut could take.
2. Every line of every file is whole. A delivery that fails half-way is cut off again; a torn last line that a crash
   left is cut off when the file is opened. Cutting rather than closing it with a line feed: that would leave a line
   which is no JSON, and nothing is lost, since the cursor had not moved and the event comes again, whole.
3. Rotation renames, so `tail -F` goes on with the new file. Events of one delivery stay in one file.
4. Files have mode 0600. One that somebody else moved or removed is made anew at the next delivery.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from auditpipeline.core.config import FileOutput
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.disk import sync_folder, write_all
from auditpipeline.dataplane.worker import Worker

_STEP = 2**16


class File:
    """One file and its older ones. Works in a thread of its own, since disks block."""

    def __init__(self, config: FileOutput) -> None:
        self._path = Path(config.path)
        self._max_bytes = config.max_bytes
        self._keep = config.keep
        self._worker = Worker("output-file")
        self._number: int | None = None

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Appends the lines; they are on disk when it returns."""
        data = b"".join(line + b"\n" for line in lines)
        await self._worker.run(lambda: self._append(data))

    async def close(self) -> None:
        """Closes the file after what is being written."""
        await self._worker.run(self._close)
        self._worker.stop()

    def _append(self, data: bytes) -> None:
        try:
            number = self._current(len(data))
            size = os.fstat(number).st_size
            try:
                write_all(number, data)
                os.fsync(number)
            except BaseException:
                os.ftruncate(number, size)
                raise
        except OSError as error:
            self._close()
            raise Retryable(f"{self._path} cannot be written: {error.strerror}") from error

    def _current(self, coming: int) -> int:
        """The descriptor to write to, after rotation where `coming` bytes would not fit."""
        number = self._number
        if number is None or self._is_gone(number):
            self._close()
            number = self._open()
        size = os.fstat(number).st_size
        if size and size + coming > self._max_bytes:
            self._close()
            self._rotate()
            number = self._open()
        self._number = number
        return number

    def _is_gone(self, number: int) -> bool:
        """Whether the path names another file by now, or none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return True
        mine = os.fstat(number)
        return (found.st_dev, found.st_ino) != (mine.st_dev, mine.st_ino)

    def _open(self) -> int:
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _mend(number)
            sync_folder(self._path.parent)
        except BaseException:
            os.close(number)
            raise
        return number

    def _rotate(self) -> None:
        older = [self._path.with_name(f"{self._path.name}.{index}") for index in range(1, self._keep + 1)]
        names = [self._path, *older]
        for source, target in reversed(list(itertools.pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                source.rename(target)
        if not older:
            self._path.unlink()

    def _close(self) -> None:
        if self._number is not None:
            os.close(self._number)
            self._number = None


def _mend(number: int) -> None:
    """Cuts off a last line that has no end."""
    end = size = os.fstat(number).st_size
    while end:
        start = max(0, end - _STEP)
        found = os.pread(number, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(number, end)
