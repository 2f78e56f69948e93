"""Packed parts of a log: told by their content, read to the last byte that can be read, within bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zstandard

from auditpipeline.dataplane.sources import packed
from auditpipeline.dataplane.sources.packed import Unpacked, packing

DATA = b"".join(b'{"auditID":"%d","x":"%s"}\n' % (number, os.urandom(20).hex().encode()) for number in range(5_000))
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


class Folder:
    """A file at a time, closed at the end."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path / "part"
        self._stack = stack

    def opened(self, data: bytes) -> Unpacked:
        """What is packed in a file of these bytes."""
        raw = self.raw(data)
        return Unpacked(raw, packing(raw))

    def raw(self, data: bytes) -> io.FileIO:
        """A file of these bytes."""
        self.path.write_bytes(data)
        return self._stack.enter_context(io.FileIO(self.path))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A folder for a file."""
    with ExitStack() as stack:
        yield Folder(tmp_path, stack)


@pytest.mark.parametrize("kind", PACK)
def test_content_tells_how_a_part_is_packed(folder: Folder, kind: str) -> None:
    """And it is read from any offset, forwards and backwards."""
    content = folder.opened(PACK[kind](DATA))
    assert packing(folder.raw(PACK[kind](DATA))) == kind
    for offset in (0, 5, 200_000, 100, len(DATA) - 3, len(DATA), len(DATA) + 5, 7):
        assert content.at(offset, 1000) == DATA[offset : offset + 1000]
    assert (content.size(), content.fault) == (len(DATA), "")


def test_what_is_not_packed_is_known(folder: Folder) -> None:
    """Also an empty file."""
    for data in (b"", b'{"kind"', b"\x1f"):
        assert packing(folder.raw(data)) == ""


@pytest.mark.parametrize("kind", PACK)
def test_streams_that_follow_each_other_are_one(folder: Folder, kind: str) -> None:
    """With zeros behind them."""
    pack = PACK[kind]
    content = folder.opened(pack(DATA[:1000]) + pack(b"") + pack(DATA[1000:]) + b"\0" * 512)
    assert content.at(0, len(DATA) + 1) == DATA
    assert content.fault == ""


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.999])
def test_everything_before_a_tear_is_read(folder: Folder, kind: str, share: float) -> None:
    """As much as the decoder gives of these bytes when it gets them one by one; then there is a fault in words."""
    whole = PACK[kind](DATA)
    torn = whole[: int(len(whole) * share)]
    content = folder.opened(torn)
    found = content.at(0, len(DATA))
    assert DATA.startswith(found)
    assert len(found) == _readable(kind, torn)
    assert "incomplete" in content.fault
    assert content.at(0, 10) == found[:10]
    end = max(0, len(found) - 5)
    assert content.at(end, 100) == found[end:]


def _readable(kind: str, data: bytes) -> int:
    decoders: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "xz": lzma.LZMADecompressor,
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }
    decoder = decoders[kind]()
    return sum(len(decoder.decompress(data[at : at + 1])) for at in range(len(data)))


@pytest.mark.parametrize("kind", PACK)
def test_a_flipped_byte_is_a_fault_and_no_exception(folder: Folder, kind: str) -> None:
    """Wherever it is; what is before it is read."""
    whole = PACK[kind](DATA[:10_000])
    for at in range(6, len(whole), max(1, len(whole) // 40)):
        content = folder.opened(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        found = content.at(0, 10**6)
        assert content.fault or found == DATA[:10_000]


def test_what_is_not_supported_is_said(folder: Folder) -> None:
    """With what is."""
    content = folder.opened(bz2.compress(DATA))
    assert content.at(0, 10) == b""
    assert "bzip2 is not supported: use gzip, xz or zstd" in content.fault


def test_a_decoder_may_not_take_more_memory_than_its_bound(folder: Folder) -> None:
    """Windows of more than that are refused."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    for data in (compressor.compress(DATA) + compressor.flush(), lzma.compress(DATA, preset=9)):
        content = folder.opened(data)
        assert content.at(0, 10) == b""
        assert "memory" in content.fault.lower()


@pytest.mark.parametrize("kind", PACK)
def test_a_file_that_inflates_too_much_is_a_fault(folder: Folder, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before the bound is read."""
    monkeypatch.setattr(packed, "SMALL", 2**20)
    monkeypatch.setattr(packed, "RATIO", 20)
    content = folder.opened(PACK[kind](DATA[:1000] + b"x" * 2**25))
    assert content.at(0, 1000) == DATA[:1000]
    assert content.size() == max(2**20, 20 * folder.path.stat().st_size)
    assert "once it is unpacked" in content.fault


def test_a_disk_that_fails_is_no_fault_of_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may pass: the error is raised, and the next try reads everything."""

    class Failing(io.FileIO):
        fails = False

        def readinto(self, *arguments: object) -> int:
            if self.fails:
                raise OSError(5, "Input/output error")
            return super().readinto(*arguments)  # type: ignore[arg-type]

        def read(self, size: int | None = -1, /) -> bytes:
            if self.fails:
                raise OSError(5, "Input/output error")
            return super().read(size) or b""

    for kind, pack in PACK.items():
        (tmp_path / "part").write_bytes(pack(DATA))
        with Failing(tmp_path / "part") as raw:
            content = Unpacked(raw, kind)
            assert content.at(0, 1000) == DATA[:1000]
            raw.fails = True
            with pytest.raises(OSError, match="Input/output"):
                content.at(0, len(DATA))
            raw.fails = False
            assert content.at(0, len(DATA)) == DATA
            assert content.fault == ""


@pytest.mark.parametrize("kind", PACK)
def test_a_hole_is_passed_over_in_a_packed_part_too(folder: Folder, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is mostly a hole packs to next to nothing, and what is behind the hole is read; not behind a bomb."""
    monkeypatch.setattr(packed, "SMALL", 2**20)
    monkeypatch.setattr(packed, "RATIO", 1)
    content = folder.opened(PACK[kind](DATA[:1000] + bytes(2**26) + DATA))
    assert content.at(1000 + 2**26, 2**20) == DATA
    assert (content.at(0, 500), content.size(), content.fault) == (DATA[:500], 1000 + 2**26 + len(DATA), "")
    monkeypatch.setattr(packed, "ZEROS", 2**25)
    content = folder.opened(PACK[kind](bytes(2**26) + DATA))
    assert "it has more than" in (content.size(), content.fault)[1]
