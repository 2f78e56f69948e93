"""JSON lines in a file, rotated by size and by age; how rotated files are called is in `rotated.py`.

1. Arrived means: on disk. With `fsync: batch` a delivery ends with fsync, so that the cursor never moves past what a
   power cut could take. With `rotation` only what was rotated (or closed) is safe from that, with `never` what the
   kernel has written by itself. A process that is killed costs no event with any of them.
2. Every line of every file is whole. A delivery that fails half-way is cut off again; a torn last line that a crash
   left is cut off when the file is opened. Cutting rather than closing it with a line feed: that would leave a line
   which is no JSON, and nothing is lost, since the cursor had not moved and the event comes again, whole.
3. Rotation renames, so `tail -F` goes on with the new file. Events of one delivery stay in one file.
4. Files have mode 0600, folders that are made 0700. A file that somebody else moved or removed is made anew at the next
   delivery.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from auditpipeline.core.config import FileOutput
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.disk import sync_folder, write_all
from auditpipeline.dataplane.lines import as_lines
from auditpipeline.dataplane.outputs.archive import Archive
from auditpipeline.dataplane.outputs.writer import Writer
from auditpipeline.dataplane.worker import Worker

_STEP = 2**16


class File:
    """One file and its older ones. Works in threads of its own, since disks block. `clock` is in seconds since the
    epoch: ages outlive the process."""

    def __init__(self, config: FileOutput, clock: Callable[[], float] = time.time) -> None:
        self._writer = Writer("output-file")
        self._live = _Live(config, clock)
        self._archive = self._live.archive
        self._packer: Worker | None = None
        self._packing: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._rotation: asyncio.Task[None] | None = None
        self._closed = False

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Appends the lines; they are on disk when it returns."""
        await self._writer.write(as_lines(lines).texts, self._live.append)
        self._compress()
        self._set_alarm()

    async def close(self) -> None:
        """Closes the file after what is being written."""
        if self._closed:
            return
        self._closed = True
        self._archive.stop()
        if self._alarm:
            self._alarm.cancel()
        await self._writer.run(self._live.close)
        self._writer.stop()
        if self._packer and self._packing:
            await asyncio.wait([self._packing])
            self._packer.stop()

    def _compress(self) -> None:
        """Sees to it that rotated files are compressed, while deliveries go on."""
        if self._archive.waiting and not self._closed and (self._packing is None or self._packing.done()):
            self._packer = self._packer or Worker("output-file-compress")
            self._packing = asyncio.ensure_future(self._packer.run(self._archive.compress))
            self._packing.add_done_callback(lambda _: self._compress())

    def _set_alarm(self) -> None:
        """A file that nothing comes into any more grows old all the same."""
        if self._alarm:
            self._alarm.cancel()
        rest = self._live.rest()
        if rest is not None and not self._closed:
            self._alarm = asyncio.get_running_loop().call_later(rest, self._ring)

    def _ring(self) -> None:
        self._rotation = asyncio.ensure_future(self._rotate())

    async def _rotate(self) -> None:
        try:
            await self._writer.run(self._live.rotate_old)
        except Retryable:
            return  # the next delivery meets the same, and says so
        self._compress()
        self._set_alarm()


class _Live:
    """The file that is written, for one thread at a time. What blocks raises Retryable."""

    def __init__(self, config: FileOutput, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._path = Path(config.path)
        self._number: int | None = None
        self._since: float | None = None
        self.archive = Archive(self._path, config.keep, config.compression)

    def append(self, texts: Sequence[bytes]) -> None:
        """Writes the texts behind what is there, or into a new file where it does not fit or the old one is too old."""
        with self._trouble():
            number = self._current(sum(map(len, texts)))
            size = os.fstat(number).st_size
            try:
                write_all(number, *texts)
                if self._config.fsync == "batch":
                    os.fsync(number)
            except BaseException:
                os.ftruncate(number, size)
                raise
            if not os.fstat(number).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "somebody removed it meanwhile")
            if self._since is None:
                self._since = self._clock()

    def rotate_old(self) -> None:
        """Rotates the file where it is too old, whether or not anything comes."""
        with self._trouble():
            if self._number is not None and self.rest() == 0:
                self._current(0)

    def rest(self) -> float | None:
        """Seconds until the file is too old; None where it never is, or has nothing in it."""
        if self._config.max_age is None or self._since is None:
            return None
        # A clock that was set back must not keep the file for longer than its age.
        now = self._clock()
        self._since = min(self._since, now)
        return max(0.0, self._since + self._config.max_age - now)

    def close(self) -> None:
        """Closes the file; raises nothing."""
        if self._number is None:
            return
        with suppress(OSError):  # `rotation` promises nothing that a disk which fails now could break
            self._sync_whole(self._number)
        self._release()

    def _release(self) -> None:
        if self._number is not None:
            os.close(self._number)
            self._number = None

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._release()
            raise Retryable(f"{self._path} cannot be written: {error.strerror}") from error

    def _current(self, coming: int) -> int:
        """The descriptor to write to, after rotation where `coming` bytes would not fit."""
        number = self._number
        if number is None or self._is_gone(number):
            self.close()
            number = self._open()
        size = os.fstat(number).st_size
        if size and (size + coming > self._config.max_bytes or self.rest() == 0):
            self._sync_whole(number)
            self._release()
            self.archive.set_aside(self._clock())
            number = self._open()
        return number

    def _sync_whole(self, number: int) -> None:
        """What `fsync: rotation` is about; with `batch` there is nothing left to sync."""
        if self._config.fsync == "rotation":
            os.fsync(number)

    def _is_gone(self, number: int) -> bool:
        """Whether the path names another file by now, or none."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(number))
        except FileNotFoundError:
            return True

    def _open(self) -> int:
        _make_folder(self._path.parent)
        number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _mend(number)
            sync_folder(self._path.parent)
            self.archive.clean()
            # How old a file is that was there before cannot be told, but not older than the last rotation.
            self._since = self.archive.newest() if os.fstat(number).st_size else None
        except BaseException:
            os.close(number)
            raise
        self._number = number
        return number


def _make_folder(folder: Path) -> None:
    """Makes the folder and what is missing above it, for its owner only."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


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
