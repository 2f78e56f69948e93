"""Follows a log through its parts: what comes next, and the file that says how far it was taken. Synchronous.

    next() -> Piece     the same one again until it was taken
    take()              moves on behind it, in memory
    store()             the position on disk; replaced at once, never torn

A part is left for the next one when that holds something, and after that the part was read to its end once more:
whoever writes to the next one writes to this one no longer. A part that cannot be read, or not to its end, costs what
cannot be read of it, and no other part: the next one is read, once `PATIENCE` tries have failed.

A piece ends where no line of a container runtime is open (`settled`), so that a position never stands within a line
that was cut in pieces. If such a line goes on in the next part, the piece holds both halves, and the position stays
before it until it was taken:

    part 1  ...lines  [P P            piece: P P + P F
    part 2             P F] lines...
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from auditpipeline.core.framing import settled
from auditpipeline.dataplane.disk import write_all
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.sources.parts import EDGE, Inode, Mark, Part, Reader, State, Unread, find, listing

READ_BYTES = 2**20
KEPT_BYTES = 2**16
PATIENCE = 10
_STRANGE = 100


class Piece(NamedTuple):
    """Whole lines, or the last one of a part, which never got its end. If `reason` says why something cannot be taken,
    `data` is what is kept of that. `skip`, `size` and `end` say where it stands: behind so many zeros, and of so many
    bytes in the open part, or up to an offset."""

    data: bytes
    reason: str = ""
    skip: int = 0
    size: int = 0
    end: int | None = None

    @property
    def is_note(self) -> bool:
        """Whether it only says something: nothing is passed by it."""
        return bool(self.reason) and not self.data


class _Coming(NamedTuple):
    """What comes next in a part: behind so many zeros, with what is carried before it; up to `end` it can be taken."""

    skip: int
    data: bytes
    end: int


class Tail:
    """A log at `path`, and the file `position`, whose folder is there."""

    def __init__(self, path: Path, position: Path, log: Log, max_line: int) -> None:
        self._path = path
        self._position = position
        self._log = log
        self._max_line = max(max_line, EDGE)
        self._mark: Mark | None = None
        self._reader: Reader | None = None
        self._carry = b""
        self._coming: Piece | None = None
        self._idle: State | None = None
        self._told = set[tuple[Inode, int]]()
        self._failures: dict[Inode, int] = {}
        self._strange = set[str]()
        self._newest = path
        self._may_restart = True
        self.absent = False
        """Whether there was no part at all when they were looked for last."""

    def start(self) -> None:
        """Goes to the stored position; if there is none, to the beginning of the part that is written to. OSError if
        the position cannot be read or stored; it may be called again then."""
        if self._mark is not None:
            return
        try:
            self._mark = msgspec.json.decode(self._position.read_bytes(), type=Mark)
        except FileNotFoundError:
            self._mark = self._before_newest()
            self.store()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._log.error("the position in the log cannot be read: the whole log is taken again", error=str(error))
            self._mark = Mark()

    def next(self) -> Piece | None:
        """What comes next; None if there is nothing yet. OSError if the log cannot be read."""
        while not self._coming and (self._reader or self._open()):
            reader = self._reader
            if reader and (found := self._tried(reader)):
                self._coming = found
            elif reader and self._reader is reader:
                if not reader.offset:
                    self.leave()  # it may be rotated before it can be told from others: the mark finds it again
                return None
        return self._coming

    def take(self) -> None:
        """Moves on behind the piece that `next` returned."""
        piece, self._coming = self._coming, None
        reader = self._reader
        if reader is None or piece is None or piece.is_note:
            return
        if piece.end is not None:
            if piece.end > reader.offset:
                reader.skip_to(piece.end)
        else:
            reader.advance(piece.data[len(piece.data) - piece.size :], piece.skip)
        self._carry = b""
        if reader.offset:
            self._mark = reader.mark()

    def store(self) -> None:
        """Puts the position on disk; OSError if that fails, and the old one stays."""
        fresh = self._position.with_name(f"{self._position.name}.new")
        number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(number, msgspec.json.encode(Stored.of(self._mark or Mark(), self._path)))
            os.fsync(number)
        finally:
            os.close(number)
        fresh.rename(self._position)

    def leave(self) -> None:
        """Closes what is open."""
        self._carry = b""
        if self._reader:
            self._reader.close()
            self._reader = None

    def _before_newest(self) -> Mark:
        """The end of the part before the one that is written to. A folder that cannot be read yet has nothing that was
        there before."""
        found = list[Part]()
        with suppress(OSError):
            found = self._parts()
        for part in reversed(found):
            if part.path != self._newest and part.size:
                with suppress(OSError), Reader(part) as reader:
                    return reader.to_end()
        return Mark()

    def _parts(self) -> list[Part]:
        """The parts; what only looks like one is said, once."""
        found = listing(self._path)
        self.absent = not found.parts
        self._newest = found.newest.path if found.newest else self._path
        self._may_restart = found.may_restart
        self._forget_all_but({part.inode for part in found.parts})
        for name in found.strange:
            if name not in self._strange and len(self._strange) < _STRANGE:
                self._strange.add(name)
                self._log.warning("a file looks like a part of the audit log, and is not read", file=name)
        return found.parts

    def _forget_all_but(self, inodes: set[Inode]) -> None:
        """Forgets the failures of parts that are gone: their inodes are used again."""
        if self._reader:
            inodes.add(self._reader.inode)
        self._failures = {inode: number for inode, number in self._failures.items() if inode in inodes}
        self._told = {(inode, offset) for inode, offset in self._told if inode in inodes}

    def _tried(self, reader: Reader) -> Piece | None:
        """As `_piece`; a part that cannot be read, time after time, is given up if there is a later one."""
        try:
            if piece := self._piece(reader):
                self._failures.pop(reader.inode, None)
            return piece
        except Unread:
            raise  # another part cannot be read; this one stays open
        except OSError as error:
            self._bear(reader.path, reader.inode, error)
            lost = self._lost(reader.path, reader.inode, reader.offset, str(error))
        if lost is None:
            later = self._later(reader)
            self.leave()
            self._open_first(later)
        return lost

    def _bear(self, path: Path, inode: Inode, error: OSError) -> None:
        """Raises the error again, unless that was tried often enough and the part is not the one that is written to."""
        if self._fails(inode) < PATIENCE or path == self._newest:
            self.leave()
            raise error

    def _fails(self, inode: Inode) -> int:
        """How often that part has failed by now."""
        self._failures[inode] = self._failures.get(inode, 0) + 1
        return self._failures[inode]

    def _piece(self, reader: Reader) -> Piece | None:
        """What comes next in this part. None if nothing does yet, or if another part is open by now. What has not ended
        is read again once the file has changed."""
        state = reader.state()
        if state != self._idle:
            coming = self._read(reader)
            if coming is None or coming.end:
                return self._settled(coming)
            self._idle = state
            if len(coming.data) > self._max_line:
                return self._too_long(reader, coming)
        later = self._later(reader)
        if not later:
            return None
        self._idle = None
        coming = self._read(reader)  # once more: it may have got the rest since
        if coming is None or coming.end:
            return self._settled(coming)
        if len(coming.data) > self._max_line:
            return self._too_long(reader, coming)
        return self._end_of_part(reader, later, coming)

    def _read(self, reader: Reader) -> _Coming | None:
        """What comes next, up to a line that can be taken at least; None, and the part is left, if its content is
        another one by now."""
        skip, size = reader.zeros(), READ_BYTES
        while True:
            data = reader.read(skip, size, self._max_line + 1)
            if not reader.is_same():
                self._log.info("the log was cut off and begun anew")
                self.leave()
                return None
            end = settled(self._carry + data)
            if end or len(data) < size or len(data) > self._max_line:
                return _Coming(skip, self._carry + data, end)
            size = 2 * len(data)

    def _settled(self, coming: _Coming | None) -> Piece | None:
        """The lines that can be taken."""
        if coming is None:
            return None
        return Piece(coming.data[: coming.end], skip=coming.skip, size=coming.end - len(self._carry))

    def _end_of_part(self, reader: Reader, later: Sequence[Part], coming: _Coming) -> Piece | None:
        """The last of a part that is written to no longer."""
        skip, data, _ = coming
        if not data.endswith(b"\n") and len(data) > len(self._carry):
            return Piece(data, skip=skip, size=len(data) - len(self._carry))
        if reader.fault and (lost := self._lost(reader.path, reader.inode, reader.offset, reader.fault)):
            return lost
        carry = data if data.endswith(b"\n") else b""
        self.leave()
        self._open_first(later)
        self._carry = carry if self._reader else b""
        return None

    def _lost(self, path: Path, inode: Inode, offset: int, fault: str) -> Piece | None:
        """What is said of the rest of a part that cannot be read; None if it was said before."""
        if (inode, offset) in self._told:
            return None
        self._told.add((inode, offset))
        return Piece(b"", f"the rest of {path.name} cannot be read: {fault}", end=offset)

    def _too_long(self, reader: Reader, coming: _Coming) -> Piece | None:
        """A line that has too many bytes; the lines of a runtime, or torn text before zeros, are taken as they are."""
        skip, data, _ = coming
        if b"\n" in data:
            end = data.rfind(b"\n") + 1
            return Piece(data[:end], skip=skip, size=end - len(self._carry))
        zeros = data.find(b"\0", len(self._carry))
        if zeros > 0:
            return Piece(data[:zeros], skip=skip, size=zeros - len(self._carry))
        stop = reader.line_end(reader.offset + skip + len(data) - len(self._carry))
        if stop is None and not self._later(reader):
            return None
        reason = f"the line has more than {self._max_line} bytes; this is its beginning"
        return Piece(data[:KEPT_BYTES], reason, end=stop or reader.size())

    def _later(self, reader: Reader) -> list[Part]:
        """The parts after this one that hold something."""
        if self._is_written(reader):
            return []
        found = self._parts()
        index = next((index for index, part in enumerate(found) if part.inode == reader.inode), None)
        if index is None and reader.offset:
            try:
                index = self._find(found, reader.mark())
            except FileNotFoundError:
                return []  # renamed since it was listed: it is looked for again
        return [part for part in self._behind(found, index, reader.mark()) if part.size]

    def _is_written(self, reader: Reader) -> bool:
        """Whether the part is still what is written to, which one look tells, however many parts there are."""
        if self._may_restart:
            return False
        try:
            found = self._path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == reader.inode

    def _find(self, found: Sequence[Part], mark: Mark) -> int | None:
        """As `find`; a part that cannot be read is given up, time after time."""
        try:
            return find(found, mark)
        except Unread as error:
            if self._fails(error.part.inode) < PATIENCE or error.part.path == self._newest:
                raise
        return None

    def _behind(self, found: Sequence[Part], index: int | None, mark: Mark) -> list[Part]:
        """The parts behind that one. If it is gone: those that were written to since, and the newest."""
        if index is not None:
            return list(found[index + 1 :])
        return [part for part in found if part.modified >= mark.modified or part.path == self._newest]

    def _open(self) -> bool:
        """Opens the part that the mark stands in, or the first one behind it that holds something; False if there is
        none."""
        mark, found = self._mark or Mark(), self._parts()
        if not mark.offset:
            return self._open_first(found)
        try:
            index = self._find(found, mark)
        except FileNotFoundError:
            return False  # renamed since it was listed: it is looked for again
        if index is None:
            self._open_first(self._behind(found, None, mark))
            if self._reader:
                self._log.warning(
                    "the part of the log that was read last is gone: what was written to it since is lost",
                    going_on_with=str(self._reader.path),
                )
            return self._reader is not None
        reader = _opened(found[index])
        if reader and (reader.resume(mark) or reader.is_shorter(mark)):
            if not reader.offset:
                reader.to_end()
            self._reader = reader
            return True
        if reader:
            reader.close()
        return False

    def _open_first(self, later: Sequence[Part]) -> bool:
        """Opens the first of these parts that holds something, and can be opened."""
        for part in later:
            try:
                reader = _opened(part)
            except OSError as error:
                self._bear(part.path, part.inode, error)
                self._coming = self._coming or self._lost(part.path, part.inode, 0, str(error))
                continue
            if reader is None:
                return False
            if reader.has_more() or reader.fault:
                self._reader = reader
                return True
            reader.close()
        return False


class Stored(Mark, frozen=True, omit_defaults=True):
    """A mark as it is on disk: also with the path of the log, so that several logs keep their positions apart."""

    path: str = ""

    @classmethod
    def of(cls, mark: Mark, path: Path) -> Stored:
        """The mark of the log at that path."""
        return cls(mark.offset, mark.head, mark.foot, mark.inode, mark.modified, str(path))


def stored_path(position: Path) -> str:
    """The log that a position file belongs to; empty if it does not say, or is not there."""
    try:
        return msgspec.json.decode(position.read_bytes(), type=Stored).path
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _opened(part: Part) -> Reader | None:
    """The part; None if its path names another one since it was listed."""
    try:
        reader = Reader(part)
    except FileNotFoundError:
        return None
    if reader.inode == part.inode:
        return reader
    reader.close()
    return None
