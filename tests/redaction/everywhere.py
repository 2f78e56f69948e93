"""All bytes that a folder holds, as whoever has the disk can read them: as they lie there, and inflated."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

from auditpipeline.dataplane import inspect
from auditpipeline.dataplane.frames import inflated
from auditpipeline.dataplane.inspect import Chosen

GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_LONGEST = 64 * 2**20


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each file below the folder, with its name; then what is compressed in it, in whatever place."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        yield str(path), data
        yield from ((f"{path} at {at}", inner) for at, inner in frames(data))


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Everything compressed that begins in it, as far as it goes: rows of a database and pages of its journal too, also
    those that were deleted."""
    for at in _starts(data, ZSTD):
        reader = zstandard.ZstdDecompressor().stream_reader(data[at : at + _LONGEST], read_across_frames=False)
        yield at, _readable(reader)
    for at in _starts(data, GZIP):
        try:
            yield at, zlib.decompressobj(31).decompress(data[at : at + _LONGEST])
        except zlib.error:
            continue


def _readable(reader: zstandard.ZstdDecompressionReader) -> bytes:
    parts = list[bytes]()
    try:
        while part := reader.read(2**14):
            parts.append(part)
    except zstandard.ZstdError:
        pass
    return b"".join(parts)


def _starts(data: bytes, magic: bytes) -> Iterator[int]:
    at = data.find(magic)
    while at >= 0:
        yield at
        at = data.find(magic, at + 1)


def spools(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What the product itself reads in each spool below the folder: events, and dead letters with their reasons."""
    for path in sorted(folder.rglob("*.sqlite")):
        for stored in inspect.events(path):
            yield f"event {stored.number} of {path}", stored.line or b""
        for letter in inspect.each_dead(path, Chosen(), 2**31):
            yield f"letter {letter.id} of {path}", f"{letter.reason} {letter.key} ".encode() + letter.data


def tables(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every value of every table in each spool, inflated where it is a frame: what the product may have forgotten."""
    for path in sorted(folder.rglob("*.sqlite")):
        with inspect.looking(path) as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in names:
                for row in connection.execute(f'SELECT * FROM "{name}"'):  # noqa: S608
                    yield f"{name} of {path}", b" ".join(map(_text, row))


def _text(value: object) -> bytes:
    if isinstance(value, bytes):
        try:
            return value + b" " + inflated(value)
        except zstandard.ZstdError:
            return value
    return str(value).encode(errors="replace")
