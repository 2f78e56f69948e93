"""The file that a file output writes, for one thread at a time: opened, mended, appended to, rotated, closed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from auditpipeline.core.config import FileOutput
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.disk import make_folders, sync_folder
from auditpipeline.dataplane.outputs import claim
from auditpipeline.dataplane.outputs.archive import Archive
from auditpipeline.dataplane.outputs.claim import Busy

_STEP = 2**16
_OURS_ALONE = "give each output a file of its own; an output that was changed goes on when the former one has ended"


class Live:
    """The file is claimed for as long as it is open. What blocks raises Retryable."""

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
            _append(number, texts, sync=self._config.fsync == "batch")
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
            number, self._number = self._number, None
            claim.release(number)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError):
                self._release()
            todo = f": {_OURS_ALONE}" if isinstance(error, Busy) else ""
            raise Retryable(f"{self._path} cannot be written: {error.strerror}{todo}") from error

    def _current(self, coming: int) -> int:
        """The descriptor to write to, after rotation where `coming` bytes would not fit."""
        number = self._number
        if number is None or self._is_gone(number):
            self.close()
            number = self._open()
        size = os.fstat(number).st_size
        if size and (size + coming > self._config.max_bytes or self.rest() == 0):
            self._sync_whole(number)
            number = self._rotated(number)
        return number

    def _rotated(self, number: int) -> int:
        """Sets the file aside and opens the next one; until then nobody else gets this one."""
        self.archive.set_aside(self._clock())
        self._number = None
        try:
            return self._open()
        finally:
            claim.release(number)

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
        # Rotation renames, and has to rename the file, not a link to it.
        self.archive.live = path = _real(self._path)
        make_folders(path.parent)
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            claim.claim(number)
        except BaseException:
            os.close(number)
            raise
        try:
            if self._is_gone(number):
                raise FileNotFoundError(errno.ENOENT, "somebody moved it meanwhile")
            _mend(number)
            sync_folder(path.parent)
            self.archive.clean()
            # How old a file is that was there before cannot be told, but not older than the last rotation.
            self._since = self.archive.newest() if os.fstat(number).st_size else None
        except BaseException:
            claim.release(number)
            raise
        self._number = number
        return number


def _real(path: Path) -> Path:
    """Where the file lies, behind links; the path itself if that is no file (`/dev/stdout`)."""
    real = Path(os.path.realpath(path))
    return real if real.exists() or not path.exists() else path


def _append(number: int, texts: Sequence[bytes], sync: bool) -> None:
    """Writes the texts at the end, or none of them: OSError, and cut off again what was written."""
    start = end = os.fstat(number).st_size
    try:
        for text in texts:
            rest = memoryview(text)
            while rest:
                written = os.write(number, rest)
                end += written
                rest = rest[written:]
        if sync:
            os.fsync(number)
    except BaseException:
        with suppress(OSError):  # what is torn then is mended when the file is opened again
            _cut(number, start, end)
        raise


def _cut(number: int, start: int, end: int) -> None:
    """Cuts off what lies between, if the file still ends there: what somebody else added or cut is not ours."""
    if start < end == os.fstat(number).st_size:
        os.ftruncate(number, start)


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
    _cut(number, end, size)
