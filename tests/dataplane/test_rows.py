"""Rows that a disk has damaged: each costs itself alone, whatever it claims."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from auditpipeline.core.config import HttpOutput
from auditpipeline.dataplane import frames
from auditpipeline.dataplane.frames import inflated
from tests.dataplane.setting import Destination, Setting, event, ids, until
from tests.dataplane.test_spool import aside, lines_from, opened

TEXT = b'{"n":1}\n' * 5000


def frame(text: bytes = TEXT) -> bytes:
    """As rows are compressed."""
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(text)


@pytest.mark.parametrize("at_once", [0, 2**26], ids=["in pieces", "at once"])
def test_a_frame_is_undone_within_bounds(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole ones are; a flipped bit in the first bytes, where size and window are claimed, is an error or harmless, and
    takes no memory that is worth speaking of."""
    monkeypatch.setattr(frames, "_AT_ONCE", at_once)
    data = frame()
    assert inflated(data) == TEXT
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bit in range(8 * 18):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            assert inflated(bytes(changed)) == TEXT
        except zstandard.ZstdError:
            continue
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize("at_once", [0, 2**26], ids=["in pieces", "at once"])
@pytest.mark.parametrize("data", [b"", b"\0" * 20, frame()[:-9], frame()[:4], frame()[:-5]])
def test_what_is_no_whole_frame_is_an_error(data: bytes, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torn, empty, or none."""
    monkeypatch.setattr(frames, "_AT_ONCE", at_once)
    with pytest.raises(zstandard.ZstdError):
        inflated(data)


def test_a_frame_that_claims_too_much_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not it is true."""
    monkeypatch.setattr(frames, "MOST", len(TEXT) - 1)
    with pytest.raises(zstandard.ZstdError, match=f"claims {len(TEXT)} bytes"):
        inflated(frame())


def with_header(data: bytes) -> bytes:
    """The frame with a header that claims an exabyte. RFC 8878, 3.1.1.1: a descriptor that announces eight bytes of
    size, no window, no checksum."""
    return data[:4] + b"\xe0" + (2**60).to_bytes(8, "little") + data[6:]


async def damaged(path: Path, change: str, outputs: tuple[str, ...] = ("out",)) -> None:
    """A spool with five rows of two events, of which the third is changed."""
    spool = await opened(path, outputs=outputs)
    for number in range(5):
        await spool.append([b'{"n":%d}' % (2 * number), b'{"n":%d}' % (2 * number + 1)])
    spool._store._db.create_function("with_header", 1, with_header)
    spool._store._db.execute(f"UPDATE events SET {change} WHERE first = 4")  # noqa: S608
    await spool.close()


DAMAGE = ("data = with_header(data)", "data = CAST(data AS TEXT)", "data = 17", "data = x''", "data = zeroblob(90)")


@pytest.mark.parametrize("change", DAMAGE)
async def test_a_damaged_row_costs_its_events_and_no_others(setting: Setting, change: str) -> None:
    """They are counted as damaged for the output that had not got them, and it goes on."""
    destination = Destination()
    spool = await opened(setting.spool, outputs=("siem",))
    for number in range(5):
        await spool.append(_events(number))
    spool._store._db.create_function("with_header", 1, with_header)
    spool._store._db.execute(f"UPDATE events SET {change} WHERE first = 4")  # noqa: S608
    await spool.close()
    async with destination.listening():
        config = setting.config(setting.route("siem", HttpOutput(destination.url)))
        async with setting.running(config) as plane:
            later = event()
            assert await plane.post([later]) == 200
            await until(lambda: later["auditID"] in {found["auditID"] for found in destination.events})
            report = await plane.report()
            assert report.outputs[0].dropped == 2
            assert await plane.metric('auditpipeline_events_dropped_total{output="siem",reason="damaged"}') == 2
    assert [found.split("/")[0] for found in ids(destination.events)][:8] == ["0", "1", "2", "3", "6", "7", "8", "9"]


def _events(row: int) -> list[bytes]:
    return [json.dumps(event(auditID=f"{2 * row + number}")).encode() for number in range(2)]


@pytest.mark.parametrize(
    "change", ["count = 1", "count = 66", "count = NULL", "count = 'x'", "filter = CAST(x'ff' AS TEXT)"]
)
@pytest.mark.parametrize("again", [False, True], ids=["while it runs", "after a start"])
async def test_a_row_whose_count_is_wrong_is_read_by_its_content(tmp_path: Path, change: str, again: bool) -> None:
    """Its checksum says that the content is right: nothing is lost, and nothing is counted."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path)
    for number in range(5):
        await spool.append([b'{"n":%d}' % (2 * number), b'{"n":%d}' % (2 * number + 1)])
    if "NULL" in change:
        spool._store._db.execute("PRAGMA writable_schema = 1")
        spool._store._db.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'count INTEGER NOT NULL', 'count INTEGER')"
        )
        spool._store._db.execute("PRAGMA writable_schema = RESET")
    spool._store._db.execute(f"UPDATE events SET {change} WHERE first = 4")  # noqa: S608
    spool._recent.forget(2**63)
    if again:
        await spool.close()
        spool = await opened(path)
    assert await lines_from(spool) == [b'{"n":%d}' % number for number in range(10)]
    assert (await spool.figures()).lost == []
    await spool.advance("out", 10, 10)
    await spool.append([b"{}"])
    assert await lines_from(spool, 10) == [b"{}"]
    await spool.close()
    assert not aside(tmp_path)


def test_a_salvage_is_not_stopped_by_a_frame_that_claims_everything(tmp_path: Path) -> None:
    """In a process that may have 1 GiB of address space: the row is counted, the others are there."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.dataplane.test_rows", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


async def salvaged(folder: Path) -> None:
    """Runs in a process of its own."""
    path = folder / "spool.sqlite"
    await damaged(path, "data = with_header(data)")
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    with path.open("r+b") as file:
        file.seek(60)
        file.write((99).to_bytes(4, "big"))  # the version: a reason to salvage
    spool = await opened(path)
    assert aside(folder)
    assert await lines_from(spool) == [b'{"n":%d}' % number for number in (0, 1, 2, 3, 6, 7, 8, 9)]
    assert (await spool.figures()).lost == [("out", "damaged", 2)]
    await spool.close()


if __name__ == "__main__":
    asyncio.run(salvaged(Path(sys.argv[1])))
