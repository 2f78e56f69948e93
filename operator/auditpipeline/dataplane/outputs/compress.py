"""Compresses a file in place, so that a crash at any moment loses nothing and counts nothing twice.

    write FILE.gz.partial -> fsync -> rename to FILE.gz -> sync the folder -> remove FILE

Before the renaming FILE is whole and the other is known by its name to be none; after it FILE.gz is whole, and FILE may
go. The partial file is locked while it is written: whoever cleans up (`discard`) leaves one that somebody works on.
"""

from __future__ import annotations

import fcntl
import gzip
import lzma
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO, cast

import zstandard

from auditpipeline.dataplane.disk import sync_folder
from auditpipeline.dataplane.outputs.claim import Busy, keep_still
from auditpipeline.dataplane.outputs.rotated import ENDINGS, PARTIAL

_STEP = 2**20
GZIP_LEVEL, ZSTD_LEVEL = 6, 3


def compress(source: Path, form: str, stopped: Callable[[], bool]) -> bool:
    """Replaces `source` by its compressed form (`gzip` or `zstd`); False, and everything as it was, where it is not
    there any more, somebody else is at it, or `stopped` says so on the way. OSError where the disk refuses. Blocks."""
    target = source.with_name(source.name + ENDINGS[form])
    partial = target.with_name(target.name + PARTIAL)
    try:
        number = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with source.open("rb") as plain:
            keep_still(plain.fileno())  # another output may still write it, by a hard link
            if not _copied(plain, number, form, stopped):
                return False
            found = os.fstat(plain.fileno())
            os.utime(number, ns=(found.st_atime_ns, found.st_mtime_ns))
            os.fsync(number)
            if not os.fstat(plain.fileno()).st_nlink or not _is_at(partial, number):
                return False
            partial.rename(target)
            sync_folder(target.parent)
            source.unlink(missing_ok=True)
            return True
    except (FileNotFoundError, BlockingIOError, Busy):
        return False
    finally:
        if _is_at(partial, number):
            partial.unlink()
        os.close(number)


def discard(partial: Path) -> None:
    """Removes a half-written file, unless somebody is writing it."""
    with suppress(FileNotFoundError, BlockingIOError), partial.open("rb") as found:
        fcntl.flock(found.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.unlink()


def _copied(plain: BinaryIO, number: int, form: str, stopped: Callable[[], bool]) -> bool:
    """Whether all of it was written; False where it was stopped."""
    mtime = os.fstat(plain.fileno()).st_mtime
    with open(number, "wb", closefd=False) as raw, packer(raw, form, mtime) as packed:
        while step := plain.read(_STEP):
            if stopped():
                return False
            packed.write(step)
    return True


def packer(raw: BinaryIO, form: str, mtime: float) -> IO[bytes]:
    """What packs into `raw`, which stays open (`gzip`, `xz` or `zstd`); gzip's header has the time `mtime`."""
    if form == "gzip":
        return cast("IO[bytes]", gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime))
    if form == "xz":
        return cast("IO[bytes]", lzma.LZMAFile(raw, "wb"))
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    return cast("IO[bytes]", compressor.stream_writer(raw, closefd=False))


def _is_at(path: Path, number: int) -> bool:
    """Whether the path names the file that is open as `number`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(number))
    except FileNotFoundError:
        return False
