"""An old log, replaced by one without its secrets: at any moment, also after a crash, the old or the new one is whole.

    claim FILE -> copy to .FILE.*.redacting -> fsync -> link FILE to .FILE.*.replaced -> rename -> fsync of the folder
               -> check that the old one has no writer -> remove .FILE.*.replaced

1. No program writes meanwhile. The kernel refuses a read lease (fcntl(2)) while a program has the file open to write,
   in any container. A program that opens it later waits until the lease has gone, which is checked before and after
   the renaming: then the old file gets its name back. Outputs of ours ask for a lock as well (`claim`).
2. A file without anything to take is only read.
3. Files that a crash leaves are not locked, and the next run removes them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from auditpipeline.core.errors import Invalid
from auditpipeline.dataplane.disk import is_full, write_all
from auditpipeline.dataplane.outputs import claim
from auditpipeline.dataplane.outputs.compress import packer
from auditpipeline.dataplane.sources.packed import Unpacked, packing

_BLOCK = 2**20
_WRITTEN = (
    "somebody has it open for writing, and would go on with the old file: rotate it first, then clean what was "
    "rotated away"
)
_CHANGED = "it was changed meanwhile, and stays as it is: rotate it first, then clean what was rotated away"
_NOT_MINE = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL)
"""Labels that only the system sets."""


class Pass(Protocol):
    """One pass over a log."""

    @property
    def changed(self) -> int:
        """How many events have lost something so far."""

    def rewritten(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """What becomes of the log."""


def clean(path: Path, begin: Callable[[], Pass]) -> bool:
    """Whether the log was replaced; if not, there was nothing to take from it. `begin` is called for each pass over it:
    a second one comes if the first one finds something. Invalid and OSError leave the file as it is."""
    with _signals(), _Log(path) as log:
        found = begin()
        if not any(found.changed for _ in found.rewritten(log.blocks())) and not found.changed:
            return False
        log.replace(begin())
        return True


class _Log:
    """A regular file with one name that no program has open for writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = path.name
        self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._number = -1
        self._leased = False

    def __enter__(self) -> _Log:
        try:
            self._remove_left()
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._number >= 0:
            claim.release(self._number)
        os.close(self._folder)

    def blocks(self) -> Iterator[bytes]:
        """The content of the file, unpacked, in blocks; Invalid if it is damaged or changes."""
        with io.FileIO(self._number, closefd=False) as raw:
            content = Unpacked(raw, self._kind) if self._kind else None
            offset = 0
            while data := content.at(offset, _BLOCK) if content else os.pread(self._number, _BLOCK, offset):
                self._check()
                offset += len(data)
                yield data
            if content and content.fault:
                raise self._refused(f"{content.fault}; it stays as it is: unpack what can be read, and clean that")
            self._check()

    def replace(self, found: Pass) -> None:
        """Puts what `found` makes of it in its place."""
        mark = secrets.token_hex(4)
        partial, replaced = f".{self._name}.{mark}.redacting", f".{self._name}.{mark}.replaced"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        number = os.open(partial, flags, 0o600, dir_fd=self._folder)
        try:
            with suppress(OSError):  # without locks, no run removes what a crash left
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(number, found)
            self._make_alike(number)
            os.fsync(number)
            with _uninterrupted():
                self._exchange(partial, replaced)
        except OSError as error:
            if is_full(error):
                raise self._refused("the disk is full: it stays as it is; a copy of it has to fit beside it") from None
            raise
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=self._folder)
            os.close(number)

    def _open(self) -> None:
        self._number = self._opened()
        self._found = os.fstat(self._number)
        if not stat.S_ISREG(self._found.st_mode):
            raise self._refused("it is not a regular file")
        if self._found.st_nlink > 1:
            raise self._refused("it has other names (hard links), which would keep the secrets: leave it one name")
        self._claim()
        try:
            fcntl.fcntl(self._number, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            self._leased = True
        except BlockingIOError:
            raise self._refused(_WRITTEN) from None
        except OSError:  # the file system has no leases, or the file is somebody else's
            if _has_writer(self._found):
                raise self._refused(_WRITTEN) from None
        with io.FileIO(self._number, closefd=False) as raw:
            self._kind = packing(raw)
        if self._kind == "bzip2":
            raise self._refused("bzip2 is not supported: unpack it first")

    def _opened(self) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(self._name, flags, dir_fd=self._folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._refused(f"it is a symbolic link: name {self._path.resolve()}") from None
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def _claim(self) -> None:
        try:
            claim.claim(self._number)
        except claim.Busy as error:
            raise self._refused(f"{error.strerror}: clean what it has rotated away") from None
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            claim.keep_still(self._number)  # NFS gives readers no lock of a writer

    def _check(self) -> None:
        """Invalid if somebody has written to the file, or opened it for that."""
        found = os.fstat(self._number)
        if (found.st_size, found.st_mtime_ns) != (self._found.st_size, self._found.st_mtime_ns):
            raise self._refused(_CHANGED)
        if self._leased and fcntl.fcntl(self._number, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise self._refused(_CHANGED)

    def _write(self, number: int, found: Pass) -> None:
        lines = found.rewritten(self.blocks())
        if not self._kind:
            for data in lines:
                if data.strip(b"\0"):
                    write_all(number, data)
                else:
                    os.lseek(number, len(data), os.SEEK_CUR)  # a hole stays one
            os.ftruncate(number, os.lseek(number, 0, os.SEEK_CUR))
            return
        digest = hashlib.blake2b()
        with (
            open(number, "wb", closefd=False) as raw,
            packer(raw, self._kind, self._found.st_mtime) as packed,
        ):
            for data in lines:
                digest.update(data)
                packed.write(data)
        self._compare(number, digest.digest())

    def _compare(self, number: int, wanted: bytes) -> None:
        """Unpacks the copy: the old file goes only if all of it is there."""
        digest, offset = hashlib.blake2b(), 0
        with io.FileIO(number, closefd=False) as raw:
            content = Unpacked(raw, self._kind)
            while data := content.at(offset, _BLOCK):
                self._check()  # a program that opens the file meanwhile must not wait for long
                digest.update(data)
                offset += len(data)
        if content.fault or digest.digest() != wanted:
            raise self._refused(
                f"the copy cannot be unpacked again ({content.fault or 'it differs'}): it stays as it is"
            )

    def _make_alike(self, number: int) -> None:
        """Owner, attributes (access lists are some), mode and times are the old file's."""
        mine, theirs = os.fstat(number), self._found
        if (mine.st_uid, mine.st_gid) != (theirs.st_uid, theirs.st_gid):
            try:
                os.fchown(number, theirs.st_uid, theirs.st_gid)
            except PermissionError:
                raise self._refused("it belongs to another user or group: run this as root") from None
        os.fchmod(number, stat.S_IMODE(theirs.st_mode))
        for name in _attributes(self._number):
            try:
                os.setxattr(number, name, os.getxattr(self._number, name))
            except OSError as error:
                if name.startswith("system.") or error.errno not in _NOT_MINE:
                    raise
        os.utime(number, ns=(theirs.st_atime_ns, theirs.st_mtime_ns))

    def _exchange(self, partial: str, replaced: str) -> None:
        """Renames the copy; the old file keeps another name until no program can have opened it meanwhile."""
        self._check()
        here = {"src_dir_fd": self._folder, "dst_dir_fd": self._folder}
        os.link(self._name, replaced, follow_symlinks=False, **here)
        try:
            if not os.path.samestat(os.stat(replaced, dir_fd=self._folder, follow_symlinks=False), self._found):
                raise self._refused("another file has its name now")
            os.rename(partial, self._name, **here)  # noqa: PTH104
        except BaseException:
            os.unlink(replaced, dir_fd=self._folder)
            raise
        try:
            self._check()
            os.fsync(self._folder)
            self._check()
        except BaseException:
            os.rename(replaced, self._name, **here)  # noqa: PTH104
            raise
        os.unlink(replaced, dir_fd=self._folder)
        os.fsync(self._folder)

    def _remove_left(self) -> None:
        """Removes what a killed run left: files with such names that are not locked."""
        pattern = re.compile(rf"\.{re.escape(self._name)}\.[0-9a-f]{{8}}\.(redacting|replaced)")
        for name in filter(pattern.fullmatch, os.listdir(self._folder)):  # noqa: PTH208
            with suppress(OSError):
                number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
                try:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=self._folder)
                finally:
                    os.close(number)

    def _refused(self, message: str) -> Invalid:
        return Invalid(str(self._path), message)


def _attributes(number: int) -> list[str]:
    try:
        return os.listxattr(number)
    except OSError:  # a file system without any
        return []


def _has_writer(found: os.stat_result) -> bool:
    """Whether a process that this one can look at has the file open for writing."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError, ValueError, IndexError):
            if os.path.samestat(link.stat(), found):
                info = (link.parents[1] / "fdinfo" / link.name).read_text()
                if int(info.partition("flags:")[2].split()[0], 8) & (os.O_WRONLY | os.O_RDWR):
                    return True
    return False


@contextmanager
def _signals() -> Iterator[None]:
    """SIGIO, by which the kernel says that a lease has to go, does not end the process, and SIGTERM ends it as Ctrl-C
    does: without a copy that stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGIO, signal.SIG_IGN), signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGIO, before[0])
        signal.signal(signal.SIGTERM, before[1])


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
