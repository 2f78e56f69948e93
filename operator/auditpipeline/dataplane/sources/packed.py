"""What is packed: gzip, xz and zstd, told by their first bytes, read forwards and within bounds.

Whatever a file holds, reading it ends with its last readable byte and a `fault` in words, never with an exception: a
part that was torn by a crash or a full disk keeps all that stands before the tear. A decoder has at most 64 MiB of
memory, and what comes out has at most `RATIO` times the bytes of the file, and `MOST` bytes. Zeros count apart, up to
`ZEROS`: a hole, which a log has that was cut off under its writer, packs to next to nothing.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, MemoryError)
"""What these libraries raise when they cannot go on."""
RATIO = 500
SMALL = 64 * 2**20
"""Bytes that come out of any file, whatever its ratio."""
MOST = 64 * 2**30
ZEROS = 4 * 2**30
_MEMORY = 64 * 2**20
_WINDOW = 2**25
_CHUNK = 2**16
_STEP = 2**20
_ZSTD_CHUNK = 512
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x50\x2a\x4d\x18": "zstd",
    b"BZh": "bzip2",
}
MAGIC = tuple(_MAGICS)
"""What packed files begin with."""


class _Decoder(Protocol):
    """Reads forwards."""

    def read1(self, most: int, /) -> bytes:
        """Up to so many bytes; none at the end."""


def packing(raw: io.FileIO) -> str:
    """How the file is packed; empty if it is not. OSError if it cannot be read."""
    head = os.pread(raw.fileno(), 6, 0)
    return next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "")


class Unpacked:
    """The content of a packed file by offsets. What was read last stays at hand, since going back means to unpack all
    of it again."""

    def __init__(self, raw: io.FileIO, kind: str) -> None:
        self._raw = raw
        self._kind = kind
        self._most = min(MOST, max(SMALL, RATIO * os.fstat(raw.fileno()).st_size))
        self._end = MOST
        self._zeros = 0
        self._decoder: _Decoder | None = None
        self._behind = 0  # where the decoder stands
        self._start = 0
        self._data = bytearray()
        self.fault = ""

    def at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from an offset on; fewer only at the end, or with a fault."""
        if not self._start <= offset <= self._behind:
            self._seek(offset)
        del self._data[: offset - self._start]
        self._start = offset
        while len(self._data) < size and (data := self._next(min(_CHUNK, size - len(self._data)))):
            self._data += data
        return bytes(self._data[:size])

    def size(self) -> int:
        """The size of the content, as far as it can be read."""
        start = self._start
        while data := self.at(start, _STEP):
            start += len(data)
        return start

    def _seek(self, offset: int) -> None:
        if offset < self._behind:
            self._rewind()
        while self._behind < offset and self._next(min(_CHUNK, offset - self._behind)):
            pass
        self._start, self._data = self._behind, bytearray()
        if self._behind < offset:
            self._start = offset  # beyond the end: there is nothing
            self._behind = max(self._behind, offset)

    def _rewind(self) -> None:
        self._decoder, self._behind, self._start, self._zeros = None, 0, 0, 0
        self._data = bytearray()

    def _next(self, most: int) -> bytes:
        """What comes next; nothing at the end, or at a fault. OSError if the file cannot be read."""
        if (left := self._left()) <= 0:
            self.fault = self.fault or f"it has more than {self._most} bytes once it is unpacked"
            return b""
        try:
            data = self._read(min(most, left))
        except FAULTS as error:
            data = self._last(error)
        self._behind += len(data)
        if data.count(0) == len(data):
            self._zeros += len(data)
        return data

    def _left(self) -> int:
        """How many bytes may come yet."""
        return min(self._end - self._behind, self._most - self._behind + min(self._zeros, ZEROS))

    def _read(self, most: int) -> bytes:
        if self._decoder is None:
            self._decoder = _decoder(self._raw, self._kind)
        return self._decoder.read1(most)

    def _last(self, error: Exception) -> bytes:
        """What can be read before the fault: a decoder that fails keeps what it had unpacked in that step, so all is
        unpacked again, the last of it in small steps."""
        if _is_of_disk(error):
            self._rewind()
            raise error
        at, found = 0, bytearray()
        try:
            self._decoder = _decoder(self._raw, self._kind)
            while at < self._behind:
                at += len(self._decoder.read1(min(_CHUNK, self._behind - at)))
            if isinstance(self._decoder, _Streams):
                self._decoder.chunk = 1
            while data := self._decoder.read1(1):
                found += data
        except FAULTS as again:
            if _is_of_disk(again):
                self._rewind()
                raise
            error = again
        self._end = self._behind + len(found)
        self.fault = f"its {self._kind} data is damaged or incomplete: {str(error) or type(error).__name__}"[:300]
        return bytes(found)


def _is_of_disk(error: Exception) -> bool:
    """Whether the file could not be read, which may pass; what is wrong in it stays."""
    return isinstance(error, OSError) and error.errno is not None


def _decoder(raw: io.FileIO, kind: str) -> _Decoder:
    raw.seek(0)
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if kind == "xz":
        return _Streams(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY), _CHUNK)
    if kind == "zstd":
        return _Streams(raw, _Zstd, _ZSTD_CHUNK)
    raise OSError(f"{kind} is not supported: use gzip, xz or zstd")


class _Stream(Protocol):
    """One stream, as lzma.LZMADecompressor has it."""

    @property
    def eof(self) -> bool:
        """Whether its end was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing comes without more input."""

    @property
    def unused_data(self) -> bytes:
        """What follows its end."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """What comes of more input."""


class _Streams:
    """The streams of a file, one behind the other; `chunk` bytes are read at once."""

    def __init__(self, raw: io.FileIO, fresh: Callable[[], _Stream], chunk: int) -> None:
        self._raw = raw
        self._fresh = fresh
        self.chunk = chunk
        self._stream = fresh()
        self._given = self._found = b""

    def read1(self, most: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        while not self._found:
            if self._stream.eof and not self._begin():
                return b""
            self._found = self._stream.decompress(self._input(), most)
        data, self._found = self._found[:most], self._found[most:]
        return data

    def _input(self) -> bytes:
        if not self._stream.needs_input:
            return b""
        given, self._given = self._given or self._raw.read(self.chunk), b""
        if not given:
            raise EOFError("the file ends before its stream does")
        return given

    def _begin(self) -> bool:
        """Begins the next stream, if there is one; zeros may stand before it."""
        self._given = self._stream.unused_data.lstrip(b"\0")
        while not self._given and (data := self._raw.read(self.chunk)):
            self._given = data.lstrip(b"\0")
        if self._given:
            self._stream = self._fresh()
        return bool(self._given)


class _Zstd:
    """A frame. The library bounds a window, and not what comes of an input: that is why the input is small."""

    needs_input = True

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        """Whether its end was reached."""
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        """What follows its end."""
        return self._frame.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """What comes of more input."""
        return self._frame.decompress(data)
