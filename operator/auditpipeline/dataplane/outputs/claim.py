"""One writer a file, in all processes: a lock that ends with the descriptor, so that no crash leaves one behind.

flock(2) belongs to an open file, not to a process or a path: it holds between two outputs of one process as between two
processes, and whatever names (symbolic or hard links) they have for the file. Readers and those that rename or remove
the file (tail, logrotate, Fluent Bit) do not ask for it. Some network file systems have no locks: there the outputs of
one process still keep apart.

No call that a disk can hold up is made with the mutex held: one file that hangs must not stop the others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_mutex = threading.Lock()
_written: dict[int, tuple[int, int]] = {}
"""The files that outputs of this process write, by descriptor: device and inode. They are not asked for again at the
release, when the file system may not answer any more (ESTALE)."""


class Busy(OSError):
    """Somebody else writes the file."""


def claim(number: int) -> None:
    """Makes the open file `number` this writer's alone until `release`; Busy if it is somebody else's."""
    name = _name(number)
    with _mutex:
        if name in _written.values():
            raise Busy(errno.EBUSY, "another output writes it")
        _written[number] = name
    try:
        _lock(number, fcntl.LOCK_EX)
    except BaseException:
        _forget(number)
        raise


def release(number: int) -> None:
    """Closes a file that was claimed, whatever its file system says of it."""
    _forget(number)  # first: once it is closed, another file may have its number
    os.close(number)


def keep_still(number: int) -> None:
    """Keeps writers from an open file until it is closed; Busy if there is one."""
    name = _name(number)
    with _mutex:
        if name in _written.values():
            raise Busy(errno.EBUSY, "an output writes it")
    _lock(number, fcntl.LOCK_SH)


def _lock(number: int, kind: int) -> None:
    try:
        fcntl.flock(number, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(errno.EBUSY, "another output or process writes it") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _name(number: int) -> tuple[int, int]:
    found = os.fstat(number)
    return found.st_dev, found.st_ino


def _forget(number: int) -> None:
    with _mutex:
        _written.pop(number, None)
