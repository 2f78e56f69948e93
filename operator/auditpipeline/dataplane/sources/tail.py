"""Follows a log through its parts: what comes next, and the file that says how far it was taken. Synchronous.

    next() -> Piece     the same one again until it was taken
    take()              moves on behind it, in memory
    store()             the position on disk; replaced at once, never torn

A part is left for the next one when that holds something, and after that the part was read to its end once more:
whoever writes to the next one writes to this one no longer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from auditpipeline.dataplane.disk import write_all
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.sources.parts import EDGE, Mark, Part, Reader, find, parts

READ_BYTES = 2**20
KEPT_BYTES = 2**16


class Piece(NamedTuple):
    """Whole lines. Where `reason` says why something cannot be taken, `data` is what is kept of that, and `end` the
    offset behind it."""

    data: bytes
    reason: str = ""
    end: int = 0


class Tail:
    """A log at `path`, and the file `position`, whose folder is there."""

    def __init__(self, path: Path, position: Path, log: Log, max_line: int) -> None:
        self._path = path
        self._position = position
        self._log = log
        self._max_line = max(max_line, EDGE)
        self._mark = Mark()
        self._reader: Reader | None = None
        self._coming: Piece | None = None
        self._torn: Path | None = None

    def start(self) -> None:
        """Goes to the stored position; where there is none, to the beginning of the part that is written to. OSError
        where the position cannot be read or stored."""
        try:
            self._mark = msgspec.json.decode(self._position.read_bytes(), type=Mark)
        except FileNotFoundError:
            self._mark = self._before_newest()
            self.store()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._log.error("the position in the log cannot be read: the whole log is taken again", error=str(error))
            self._mark = Mark()

    def next(self) -> Piece | None:
        """What comes next; None where there is nothing yet. OSError where the log cannot be read."""
        while not self._coming and (self._reader or self._open()):
            reader = self._reader
            if reader and (found := self._piece(reader)):
                self._coming = found
            elif reader and self._reader is reader:
                if not reader.offset:
                    self.leave()  # it may be rotated before it can be told from others: the mark finds it again
                return None
        return self._coming

    def take(self) -> None:
        """Moves on behind the piece that `next` returned."""
        piece, self._coming = self._coming, None
        if self._reader is None or piece is None:
            return
        if not piece.reason:
            self._reader.advance(piece.data)
        elif piece.end > self._reader.offset:
            self._reader.skip_to(piece.end)
        if self._reader.offset:
            self._mark = self._reader.mark()

    def store(self) -> None:
        """Puts the position on disk; OSError where that fails, and the old one stays."""
        fresh = self._position.with_name(f"{self._position.name}.new")
        number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(number, msgspec.json.encode(self._mark))
            os.fsync(number)
        finally:
            os.close(number)
        fresh.rename(self._position)

    def leave(self) -> None:
        """Closes what is open."""
        if self._reader:
            self._reader.close()
            self._reader = None

    def _before_newest(self) -> Mark:
        for part in reversed(parts(self._path)):
            if part.path != self._path and part.size:
                with Reader(part) as reader:
                    return reader.to_end()
        return Mark()

    def _piece(self, reader: Reader) -> Piece | None:
        """What comes next in this part. None where nothing does yet, and none open any more where another is next."""
        data = self._read(reader)
        if data is None or b"\n" in data:
            return _lines(data)
        if len(data) > self._max_line:
            return self._too_long(reader, data)
        later = self._later(reader)
        if not later:
            return None
        data = self._read(reader)  # once more: it may have got the rest since
        if data:
            return _lines(data) or Piece(data)
        if reader.fault and self._torn != reader.path:
            self._torn = reader.path
            return Piece(b"", f"the rest of {reader.path.name} cannot be read: {reader.fault}", reader.offset)
        self.leave()
        self._open_first(later)
        return None

    def _read(self, reader: Reader) -> bytes | None:
        """The next bytes; None, and the part is left, where its content is another one by now."""
        data = reader.read(READ_BYTES, self._max_line + 1)
        if reader.is_same():
            return data
        self._log.info("the log was cut off and begun anew")
        self.leave()
        return None

    def _too_long(self, reader: Reader, data: bytes) -> Piece | None:
        end = reader.line_end(reader.offset + len(data))
        if end is None and not self._later(reader):
            return None
        reason = f"the line has more than {self._max_line} bytes; this is its beginning"
        return Piece(data[:KEPT_BYTES], reason, end or reader.size())

    def _later(self, reader: Reader) -> list[Part]:
        """The parts after this one that hold something."""
        found = parts(self._path)
        index = next((index for index, part in enumerate(found) if part.inode == reader.inode), None)
        if index is None and reader.offset:
            index = find(found, reader.mark())
        return [part for part in self._behind(found, index, reader.mark()) if part.size]

    def _behind(self, found: Sequence[Part], index: int | None, mark: Mark) -> list[Part]:
        """The parts behind that one. Where it is gone: those that were written to since, and the newest."""
        if index is not None:
            return list(found[index + 1 :])
        return [part for part in found if part.modified >= mark.modified or part.path == self._path]

    def _open(self) -> bool:
        """Opens the part that the mark stands in, or the first one behind it that holds something; False where there
        is none."""
        found = parts(self._path)
        if not self._mark.offset:
            return self._open_first(found)
        index = find(found, self._mark)
        if index is None:
            self._open_first(self._behind(found, None, self._mark))
            if self._reader:
                self._log.warning(
                    "the part of the log that was read last is gone: what was written to it since is lost",
                    going_on_with=str(self._reader.path),
                )
            return self._reader is not None
        reader = _opened(found[index])
        if reader and reader.resume(self._mark):
            self._reader = reader
            return True
        if reader:
            reader.close()
        return False

    def _open_first(self, later: Sequence[Part]) -> bool:
        """Opens the first of these parts that holds something."""
        for part in later:
            reader = _opened(part)
            if reader is None:
                return False
            if reader.has_more() or reader.fault:
                self._reader = reader
                return True
            reader.close()
        return False


def _opened(part: Part) -> Reader | None:
    """The part; None where its path names another one since it was listed."""
    try:
        reader = Reader(part)
    except FileNotFoundError:
        return None
    if reader.inode == part.inode:
        return reader
    reader.close()
    return None


def _lines(data: bytes | None) -> Piece | None:
    """The whole lines of what was read."""
    end = data.rfind(b"\n") + 1 if data else 0
    return Piece(data[:end]) if data and end else None
