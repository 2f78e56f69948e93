"""The files that one log consists of: what was rotated away, oldest first, and last the one that is written to.

`names` tells which files are parts, and their order. They lie in the log's folder; if the log is a symbolic link, also
beside what it leads to, with that name: a link may lead to the log elsewhere, or to the newest of several parts.

A part is known by its content, since neither names (logrotate's move up) nor inodes (used again, and another one in a
copy or a packed part) stay with it: `Mark` holds digests of its first bytes and of the last ones that were read. Every
audit event has its own auditID, so that no two parts begin alike. Its first bytes also tell how it is packed
(`packed`). Synchronous; offsets are of unpacked bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from auditpipeline.dataplane.sources.names import PACKED, Names, Place, ordered
from auditpipeline.dataplane.sources.packed import Unpacked, packing

EDGE = 1024
_STEP = 2**20
_LINKS = 8

Inode = tuple[int, int]
State = tuple[Inode, int, int, int]
"""Which file, up to where it was read, its size, and the time of its last change."""


class Part(NamedTuple):
    """One file of a log; `modified` is in nanoseconds."""

    path: Path
    inode: Inode
    size: int
    modified: int


class Listing(NamedTuple):
    """The parts of a log, oldest first; the last one of them, if it is one that is written to; the names of files
    beside the log that look like parts and are not; and whether restarts of a container are counted."""

    parts: list[Part]
    newest: Part | None
    strange: list[str]
    may_restart: bool


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


def listing(path: Path) -> Listing:
    """The parts of the log at `path`. OSError if its folder cannot be read, or if something else than a file is there.

    A file that is renamed while its folder is read may be missing: looks until it finds the same twice.
    """
    found = _listing(path)
    while True:
        again = _listing(path)
        if [part[:2] for part in found.parts] == [part[:2] for part in again.parts]:
            return again
        found = again


def parts(path: Path) -> list[Part]:
    """The parts alone."""
    return listing(path).parts


def _listing(path: Path) -> Listing:
    newest, last = _newest(path), list[Part]()
    found: dict[Inode, tuple[Place, int, Part]] = {}
    strange, places = list[Path](), list(_places(path))
    for number, place in enumerate(places):
        names, files = Names(place.name), sorted(_files(place.parent, missing=number > 0))
        strange += [place.with_name(name) for name in files if names.resembles(name)]
        for name in _unpacked_first(files):
            where = names.place(name)
            part = _part(place.with_name(name)) if where else None
            if where and part and (where.is_written or not (newest and part.inode == newest.inode)):
                found.setdefault(part.inode, (where, part.modified, part))
    rotated = ordered(found.values())
    known = {*places, *(part.path for part in rotated)}
    if newest and newest.inode not in found:
        last = [newest]
    elif rotated and next(where for where, _, part in found.values() if part == rotated[-1]).is_written:
        last = [rotated.pop()]
    may_restart = any(Names(place.name).may_restart for place in places)
    named = [str(name) for name in strange if name not in known]
    return Listing(rotated + last, next(iter(last), None), named, may_restart)


def _places(path: Path) -> Iterator[Path]:
    """The path, and what it leads to as a link, link by link."""
    for _ in range(_LINKS):
        yield path
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()


def _files(folder: Path, missing: bool) -> list[str]:
    """The names in a folder; it may be `missing` where a link leads into nothing."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        if missing:
            return []
        raise


def _unpacked_first(names: Sequence[str]) -> Iterator[str]:
    """The names without the packed part beside the file that it is made from: it may not be whole yet."""
    seen = set[str]()
    for name in sorted(names, key=lambda name: (PACKED.search(name) is not None, name)):
        plain = PACKED.sub("", name)
        if plain not in seen:
            seen.add(plain)
            yield name


def _newest(path: Path) -> Part | None:
    """The part that is written to; None if there is none. OSError if it cannot be, as in `listing`."""
    try:
        if (part := _as_part(path)) is None:
            raise OSError(errno.EINVAL, "this is not a file: name the one that kube-apiserver writes", str(path))
    except FileNotFoundError:
        return None
    return part


def _part(path: Path) -> Part | None:
    """The file of that name; None if there is none."""
    try:
        return _as_part(path)
    except OSError:
        return None


def _as_part(path: Path) -> Part | None:
    found = path.stat()
    regular = stat.S_ISREG(found.st_mode)
    return Part(path, (found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns) if regular else None


class Unread(OSError):
    """A part that cannot be read."""

    def __init__(self, part: Part, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(part.path))
        self.part = part


def find(found: Sequence[Part], mark: Mark) -> int | None:
    """Which of the parts the mark stands in; None if it is in none of them.

    If there is none, one that begins alike and ends before the mark: a copy that was made before its last lines were
    written, or a packed one that is torn. FileNotFoundError if a part was renamed meanwhile, and Unread if one cannot
    be read: that may be the one.
    """
    ranked = sorted(range(len(found)), key=lambda index: (found[index].inode != mark.inode, -index))
    shorter = unread = None
    for index in ranked:
        try:
            with Reader(found[index]) as reader:
                if reader.resume(mark):
                    return index
                if shorter is None and reader.is_shorter(mark):
                    shorter = index
        except FileNotFoundError:
            raise
        except OSError as error:
            unread = unread or Unread(found[index], error)
    if unread:
        raise unread
    return shorter


class Reader:
    """An open part, from an offset on: keeps its content within reach even where it is renamed or deleted meanwhile."""

    def __init__(self, part: Part) -> None:
        self._raw = part.path.open("rb", buffering=0)
        try:
            kind = packing(self._raw)
            found = os.fstat(self._raw.fileno())
        except OSError:
            self._raw.close()
            raise
        self._unpacked = Unpacked(self._raw, kind) if kind else None
        self.path = part.path
        self.offset = 0
        self._head = self._foot = b""
        self.inode = (found.st_dev, found.st_ino)

    @property
    def fault(self) -> str:
        """Why the rest of a packed part cannot be read; empty if it can."""
        return self._unpacked.fault if self._unpacked else ""

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

    def is_shorter(self, mark: Mark) -> bool:
        """Whether the part begins as the mark's does, and ends before the mark. Zeros tell no part from another."""
        if mark.offset <= EDGE:
            return False
        head = self._at(0, EDGE)
        return _digest(head) == mark.head and bool(head.strip(b"\0")) and not self._at(mark.offset - 1, 1)

    def has_more(self) -> bool:
        """Whether there is anything that was not read."""
        return bool(self._at(self.offset, 1))

    def zeros(self) -> int:
        """How many zeros come next. A writer that goes on at its old offset after its file was cut off leaves many,
        most of them as a hole, which is passed over without being read."""
        at, size = self.offset, EDGE
        while data := self._at(at, size):
            if rest := data.lstrip(b"\0"):
                return at + len(data) - len(rest) - self.offset
            at, size = self._behind_hole(at + len(data)), _STEP
        return at - self.offset

    def _behind_hole(self, offset: int) -> int:
        if self._unpacked:
            return offset
        try:
            return os.lseek(self._raw.fileno(), offset, os.SEEK_DATA)
        except OSError as error:
            return max(offset, self.size()) if error.errno == errno.ENXIO else offset

    def read(self, skip: int, least: int, most: int) -> bytes:
        """What comes behind the next `skip` bytes, to the first line end at least: `least` bytes, more if no line end
        is among them, up to `most`. Does not move on. Less only at the end of the part."""
        size = min(least, most)
        while True:
            data = self._at(self.offset + skip, size)
            if len(data) < size or size == most or b"\n" in data:
                return data
            size = min(2 * size, most)

    def is_same(self) -> bool:
        """False where the content is another one by now: somebody cut the file off and began it anew."""
        if self._unpacked:
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

    def advance(self, data: bytes, skip: int = 0) -> None:
        """Moves on behind `data`, which is what stood here, behind `skip` zeros."""
        self.offset += skip + len(data)
        data = bytes(min(skip, EDGE)) + data
        self._head += data[: EDGE - len(self._head)]
        self._foot = (self._foot + data[-EDGE:])[-EDGE:]

    def skip_to(self, offset: int) -> None:
        """Moves on to an offset."""
        edge = min(EDGE, offset)
        self._head = self._head if len(self._head) == EDGE else self._at(0, edge)
        self._foot = self._at(offset - edge, edge)
        self.offset = offset

    def mark(self) -> Mark:
        """Where the reader stands."""
        modified = os.fstat(self._raw.fileno()).st_mtime_ns
        return Mark(self.offset, _digest(self._head), _digest(self._foot), self.inode, modified)

    def state(self) -> State:
        """What changes if there is more to read."""
        found = os.fstat(self._raw.fileno())
        return self.inode, self.offset, found.st_size, found.st_mtime_ns

    def size(self) -> int:
        """The size of the content."""
        return self._unpacked.size() if self._unpacked else os.fstat(self._raw.fileno()).st_size

    def to_end(self) -> Mark:
        """The mark of the end of the part."""
        size = self.size()
        edge = min(EDGE, size)
        self.offset, self._head, self._foot = size, self._at(0, edge), self._at(size - edge, edge)
        return self.mark()

    def _at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from an offset on; fewer only at the end."""
        if self._unpacked:
            return self._unpacked.at(offset, size)
        return os.pread(self._raw.fileno(), size, offset)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
