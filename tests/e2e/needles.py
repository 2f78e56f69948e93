"""Random values that are planted as secrets, and the search for them in everything that was written meanwhile."""

from __future__ import annotations

import base64
import gzip
import secrets
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

from auditpipeline.core.errors import AuditPipelineError
from auditpipeline.dataplane import inspect

_AWKWARD = '"<&>\\ ü%+/='
"""What JSON, JSON in JSON, URLs and UTF-8 write in different ways."""


class Needles:
    """Values by what they were planted as."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._patterns: dict[bytes, str] = {}

    def plain(self, what: str) -> str:
        """A new value of letters and digits."""
        value = secrets.token_hex(16)
        self.note(what, value)
        return value

    def awkward(self, what: str) -> str:
        """A new value with characters that are escaped in many ways; each half of it counts as readable."""
        first, last = secrets.token_hex(12), secrets.token_hex(12)
        value = f"{first}{_AWKWARD}{last}"
        self.note(what, value, first, last)
        return value

    def note(self, what: str, value: str, *parts: str) -> None:
        """A value that somebody else has made. `parts` are what is looked for, in letters and digits."""
        self.values[what] = value
        for part in parts or (value,):
            self._patterns.update(dict.fromkeys(_spellings(part.encode()), what))

    def found_in(self, data: bytes) -> set[str]:
        """Which of the values can be read in the data, in whatever spelling."""
        return {what for pattern, what in self._patterns.items() if pattern in data}

    def readable(self, folders: Iterable[Path]) -> list[str]:
        """Where a value can be read below the folders: in a file, unpacked if it is compressed, or in a spool."""
        return sorted(
            f"{what}: {where}"
            for folder in folders
            for path in _files(folder)
            for where, data in _contents(path)
            for what in self.found_in(data)
        )


def _spellings(part: bytes) -> Iterator[bytes]:
    """As it is, which JSON and percent-encoding leave alone, and in the base64 of any text that holds it."""
    yield part
    for shift in range(3):
        # The characters at both ends have bits of what stands beside it.
        first, last = -(-shift * 8 // 6), (shift + len(part)) * 8 // 6
        yield base64.b64encode(b"\0" * shift + part)[first:last]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """What a file holds, with a name for each part of it."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return  # it was rotated away, or its process ended
    yield str(path), data
    if data.startswith(b"\x1f\x8b"):
        yield f"{path}, inflated", _inflated(data)
    elif data.startswith(zstandard.FRAME_HEADER):
        yield f"{path}, inflated", _unpacked(data)
    elif path.name == "spool.sqlite":
        yield from _stored(path)


def _inflated(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error):
        return zlib.decompressobj(wbits=31).decompress(data)  # it is being written


def _unpacked(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _stored(path: Path) -> Iterator[tuple[str, bytes]]:
    """The events and dead letters that the product's own readers see."""
    for event in inspect.events(path):
        yield f"{path}, event {event.number}", event.line or b""
    for letter in inspect.each_dead(path, inspect.Chosen(), 2**31):
        yield f"{path}, dead letter {letter.id}", letter.data + letter.reason.encode()


def stored_lines(folders: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
    """The events that are in the spools below the folders now, each with its spool."""
    for folder in folders:
        for path in folder.rglob("spool.sqlite"):
            try:
                yield from ((path, event.line) for event in inspect.events(path) if event.line)
            except AuditPipelineError:
                continue  # its process is just making it
