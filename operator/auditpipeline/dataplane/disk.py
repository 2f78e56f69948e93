"""What files do not say in Python: write all of it, make names durable, keep room for when a disk is full."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

_LITTLE = _STEP = 2**20


def is_full(error: BaseException | None) -> bool:
    """Whether it is an OSError for want of room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def has_no_room(folder: Path) -> bool:
    """Whether its disk has less free than a file takes that is opened: SQLite has several errors for that."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize < _LITTLE


def write_all(number: int, *parts: bytes) -> None:
    """Writes all of the parts to a descriptor; OSError where that fails, when some of it may be written."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(number, rest) :]


def sync_folder(folder: Path) -> None:
    """Syncs a folder: the name of a new file is on disk only when its folder is."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def is_readable(path: Path) -> bool:
    """Whether every byte of the file can be read; a file that is not there is no hindrance."""
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(_STEP):
                pass
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def make_folders(folder: Path, mode: int = 0o700) -> None:
    """Makes a folder and those above it that are missing, each with `mode` less the umask, and syncs each new name in
    the folder above: a file that was synced in a folder whose own name was not is gone after a power cut.

    OSError if one cannot be made or synced; FileExistsError or NotADirectoryError if a file has the name. A folder
    whose name could not be synced is removed again, so that the next try syncs it.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            new.mkdir(mode)
        except FileExistsError:
            if not new.is_dir():
                raise
        try:
            sync_folder(new.parent)
        except OSError:
            with suppress(OSError):
                new.rmdir()
            raise


class Reserve:
    """Room on a disk, held by a file of `size` bytes, that is given back when there is no other."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def release(self) -> None:
        """Gives the room back."""
        self._path.unlink(missing_ok=True)

    def take(self) -> bool:
        """Sets the room aside, if it is not yet; False where the disk has not twice as much free."""
        with suppress(FileNotFoundError):
            if self._path.stat().st_size == self._size:
                return True
        number = -1
        try:
            found = os.statvfs(self._path.parent)
            if found.f_bavail * found.f_frsize < 2 * self._size:
                return False
            number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(number, 0, self._size)
        except OSError:
            self.release()
            return False
        finally:
            if number >= 0:
                os.close(number)
        return True
