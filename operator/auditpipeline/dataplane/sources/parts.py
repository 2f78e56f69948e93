"""The files that one log consists of: what was rotated away, oldest first, and last the one that is written to.

    lumberjack (kube-apiserver)     audit-2026-11-24T01-56-04.123.log[.gz] ... audit.log
    logrotate                       audit.log.2.gz  audit.log.1  audit.log
    logrotate, dateext              audit.log-20261123.gz  audit.log-20261124  audit.log   (or audit-20261124.log)

A part is known by its content, since neither names (logrotate's move up) nor inodes (used again, and another one in a
copy or a .gz) stay with it: `Mark` holds digests of its first bytes and of the last ones that were read. Every audit
event has its own auditID, so that no two parts begin alike. Synchronous; offsets are of inflated bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

EDGE = 1024
_STEP = 2**20
_STAMP = r"-(?:\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}|\d{8}(?:-?\d+)*)"
GZIP_FAULTS = (gzip.BadGzipFile, EOFError, zlib.error)

Inode = tuple[int, int]


class Part(NamedTuple):
    """One file of a log; `modified` is in nanoseconds."""

    path: Path
    inode: Inode
    size: int
    modified: int

    @property
    def packed(self) -> bool:
        """Whether it is a .gz: complete, and of another size than its content."""
        return self.path.suffix == ".gz"


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a log was read: all parts before this one, and this one up to `offset`.

    `head` and `foot` are digests of its first bytes, and of the last ones before `offset`, each of `EDGE` bytes or all
    that there are. `inode` only tells a part from its copy. The mark of nothing (`offset` 0) stands before all parts.
    """

    offset: int = 0
    head: str = ""
    foot: str = ""
    inode: Inode = (0, 0)
    modified: int = 0


def parts(path: Path) -> list[Part]:
    """The parts of the log at `path`, oldest first; none where there is no such folder.

    A file that is renamed while its folder is read may be missing: looks until it finds the same twice.
    """
    found = _parts(path)
    while True:
        again = _parts(path)
        if [part[:2] for part in found] == [part[:2] for part in again]:
            return again
        found = again


def _parts(path: Path) -> list[Part]:
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    dated = re.compile(rf"(?:{stem}({_STAMP}){suffix}|{re.escape(path.name)}({_STAMP}))(?:\.gz)?")
    numbered = re.compile(rf"{re.escape(path.name)}\.(\d{{1,9}})(?:\.gz)?")
    found: dict[tuple[int, int, str], Part] = {}
    try:
        with os.scandir(path.parent) as folder:
            entries = sorted(folder, key=lambda entry: entry.name)
    except OSError:
        return []
    for entry in entries:
        if match := numbered.fullmatch(entry.name):
            key = (0, -int(match[1]), "")
        elif match := dated.fullmatch(entry.name):
            key = (1, 0, re.sub(r"\D", "", match[1] or match[2]))
        elif entry.name == path.name:
            key = (2, 0, "")
        else:
            continue
        # A .gz beside the file that it is made from comes later in the alphabet: it may not be whole yet.
        if key not in found and (part := _part(Path(entry.path))):
            found[key] = part
    return [found[key] for key in sorted(found)]


def _part(path: Path) -> Part | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return Part(path, (stat.st_dev, stat.st_ino), stat.st_size, stat.st_mtime_ns)


def find(found: Sequence[Part], mark: Mark) -> int | None:
    """Which of the parts the mark stands in; None where none of them does."""
    ranked = sorted(range(len(found)), key=lambda index: (found[index].inode != mark.inode, -index))
    for index in ranked:
        part = found[index]
        if not part.packed and part.size < mark.offset:
            continue
        try:
            with Reader(part) as reader:
                if reader.resume(mark):
                    return index
        except OSError:
            continue
    return None


class Reader:
    """An open part, from an offset on: keeps its content within reach even where it is renamed or deleted meanwhile."""

    def __init__(self, part: Part) -> None:
        self._raw = part.path.open("rb", buffering=0)
        self._inflated = _Inflated(self._raw) if part.packed else None
        self.path = part.path
        self.offset = 0
        self._head = self._foot = b""
        stat = os.fstat(self._raw.fileno())
        self.inode = (stat.st_dev, stat.st_ino)

    @property
    def fault(self) -> str:
        """Why the rest of a .gz cannot be read; empty where it can."""
        return self._inflated.fault if self._inflated else ""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._raw.close()

    def resume(self, mark: Mark) -> bool:
        """Goes to where the mark stands; False where it stands in another part."""
        edge = min(EDGE, mark.offset)
        head = self._at(0, edge)
        if _digest(head) != mark.head:
            return False
        foot = self._at(mark.offset - edge, edge)
        if _digest(foot) != mark.foot:
            return False
        self.offset, self._head, self._foot = mark.offset, head, foot
        return True

    def has_more(self) -> bool:
        """Whether there is anything that was not read."""
        return bool(self._at(self.offset, 1))

    def read(self, least: int, most: int) -> bytes:
        """What comes next, to the first line end at least: `least` bytes, more where no line end is among them, up to
        `most`. Does not move on. Less only at the end of the part."""
        size = min(least, most)
        while True:
            data = self._at(self.offset, size)
            if len(data) < size or size == most or b"\n" in data:
                return data
            size = min(2 * size, most)

    def is_same(self) -> bool:
        """False where the content is another one by now: somebody cut the file off and began it anew."""
        if self._inflated:
            return True
        start = self.offset - len(self._foot)
        return self._at(0, len(self._head)) == self._head and self._at(start, len(self._foot)) == self._foot

    def line_end(self, start: int) -> int | None:
        """Where the line ends that holds the byte `start`: behind its line feed; None where it has no end yet."""
        while data := self._at(start, _STEP):
            found = data.find(b"\n")
            if found >= 0:
                return start + found + 1
            start += len(data)
        return None

    def advance(self, data: bytes) -> None:
        """Moves on behind `data`, which is what stood here."""
        self._head += data[: EDGE - len(self._head)]
        self._foot = (self._foot + data[-EDGE:])[-EDGE:]
        self.offset += len(data)

    def skip_to(self, offset: int) -> None:
        """Moves on to an offset behind `EDGE` bytes or more."""
        self._head = self._head if len(self._head) == EDGE else self._at(0, EDGE)
        self._foot = self._at(offset - EDGE, EDGE)
        self.offset = offset

    def mark(self) -> Mark:
        """Where the reader stands."""
        modified = os.fstat(self._raw.fileno()).st_mtime_ns
        return Mark(self.offset, _digest(self._head), _digest(self._foot), self.inode, modified)

    def size(self) -> int:
        """The size of the content."""
        return self._inflated.size() if self._inflated else os.fstat(self._raw.fileno()).st_size

    def to_end(self) -> Mark:
        """The mark of the end of the part."""
        size = self.size()
        edge = min(EDGE, size)
        self.offset, self._head, self._foot = size, self._at(0, edge), self._at(size - edge, edge)
        return self.mark()

    def _at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from an offset on; fewer only at the end."""
        if self._inflated:
            return self._inflated.at(offset, size)
        return os.pread(self._raw.fileno(), size, offset)


class _Inflated:
    """A .gz, read forwards: what was read last stays at hand, since going back means to inflate all of it again."""

    def __init__(self, raw: io.FileIO) -> None:
        self._file = gzip.GzipFile(fileobj=raw)
        self._start = 0
        self._data = b""
        self.fault = ""

    def at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from an offset on; fewer only at the end."""
        if self._start <= offset <= self._start + len(self._data):
            self._data = self._data[offset - self._start :]
        else:
            self._file.seek(offset)
            self._data = b""
        self._start = offset
        try:
            while len(self._data) < size and (data := self._file.read(size - len(self._data))):
                self._data += data
        except GZIP_FAULTS as error:
            self.fault = str(error)
        return self._data[:size]

    def size(self) -> int:
        """The size of the content, as far as it can be read."""
        start = self._start
        while data := self.at(start, _STEP):
            start += len(data)
        return start


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
