"""The file output on a real disk: rotation, compression, fsync, and what others do to its files."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditpipeline.core.config import FileOutput
from auditpipeline.core.destination import FileCompression, Fsync
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.outputs import rotated
from auditpipeline.dataplane.outputs.compress import compress, discard
from auditpipeline.dataplane.outputs.file import File
from auditpipeline.dataplane.outputs.rotated import Rotated
from tests.dataplane.setting import until

LINES = [b'{"a":1}', b'{"a":2}', b'{"a":3}']
HOUR = 3600.0
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp()


def content(path: Path) -> bytes:
    """What a file holds, inflated: it must be whole."""
    data = path.read_bytes()
    match path.suffix:
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            return zstandard.ZstdDecompressor().stream_reader(data).read()
        case _:
            return data


def old_files(path: Path) -> list[Path]:
    """The files that were rotated away, oldest first."""
    return sorted(found for found in path.parent.iterdir() if found != path)


def numbers(path: Path) -> list[int]:
    """The numbers that were written, oldest first; each line must be whole."""
    files = [*old_files(path), *([path] if path.exists() else [])]
    return [json.loads(line)["n"] for found in files for line in content(found).splitlines()]


def lines_of(path: Path) -> list[bytes]:
    """What a file holds."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return data.splitlines()


def put(path: Path, data: bytes) -> None:
    """Makes a file."""
    path.write_bytes(data)


def modes_below(folder: Path) -> dict[str, int]:
    """The modes of all that is in the folder, by name."""
    return {found.name: stat.S_IMODE(found.stat().st_mode) for found in folder.rglob("*")}


def line(number: int, size: int = 60) -> bytes:
    """A line of about that size."""
    return b'{"n":%d,"p":"%s"}' % (number, b"x" * (size - 15))


async def delivered(path: Path, amount: int, **config: Any) -> None:
    """Delivers so many numbers, in a file each two."""
    output = File(FileOutput(str(path), max_bytes=130, **config))
    for number in range(amount):
        await output.deliver([line(number)])
    await until(lambda: config.get("compression", "none") == "none" or all(map(is_packed, old_files(path))))
    await output.close()


def is_packed(path: Path) -> bool:
    """Whether it is compressed, and whole."""
    return path.suffix in (".gz", ".zst")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to write, in a folder that is there."""
    (tmp_path / "audit").mkdir()
    return tmp_path / "audit" / "events.jsonl"


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Noon."""
    return Clock()


@pytest.fixture
async def aging(path: Path, clock: Clock) -> AsyncIterator[File]:
    """A file that rotates after an hour."""
    output = File(FileOutput(str(path), max_age=HOUR), clock)
    yield output
    await output.close()


async def test_files_and_folders_are_their_owners_only(tmp_path: Path) -> None:
    """Audit events are nobody else's business. A folder that is there stays as it is."""
    (there := tmp_path / "there").mkdir(mode=0o755)
    await delivered(there / "deep" / "er" / "events.jsonl", 6, compression="gzip")
    modes = modes_below(tmp_path)
    assert [modes.pop(name) for name in ("there", "deep", "er")] == [0o755, 0o700, 0o700]
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}


async def test_a_file_rotates_by_size_and_keeps_so_many(path: Path) -> None:
    """What is older than `keep` goes, and the names of what stays never change."""
    await delivered(path, 9, keep=3)
    names = old_files(path)
    assert numbers(path) == [2, 3, 4, 5, 6, 7, 8]
    assert all(found.stat().st_size <= 130 for found in names)
    await delivered(path, 1, keep=3)
    assert old_files(path) == names
    await delivered(path, 1, keep=3)
    assert old_files(path)[:2] == names[1:]


async def test_events_of_one_delivery_stay_in_one_file(path: Path) -> None:
    """Also where they are more than fits."""
    output = File(FileOutput(str(path), max_bytes=130))
    await output.deliver([line(0)])
    await output.deliver([line(number) for number in range(1, 10)])
    await output.close()
    assert [len(found.read_bytes().splitlines()) for found in (*old_files(path), path)] == [1, 9]


async def test_a_file_rotates_by_age(aging: File, path: Path, clock: Clock) -> None:
    """Counted from its first line; its name says when it was rotated."""
    await aging.deliver(LINES[:1])
    clock.now += HOUR - 1
    await aging.deliver(LINES[1:2])
    assert old_files(path) == []
    clock.now += 1
    await aging.deliver(LINES[2:])
    (old,) = old_files(path)
    assert old.name == "events.jsonl.20260102T130000.000000Z"
    assert (lines_of(old), lines_of(path)) == (LINES[:2], LINES[2:])


async def test_a_file_into_which_nothing_comes_any_more_rotates_too(path: Path) -> None:
    """An archive wants it in time; a new file is there at once, and an empty one never rotates."""
    output = File(FileOutput(str(path), max_age=0.05, compression="gzip"))
    await output.deliver(LINES)
    await until(lambda: [found.suffix for found in old_files(path)] == [".gz"])
    assert lines_of(path) == []
    await asyncio.sleep(0.2)
    assert len(old_files(path)) == 1
    await output.close()


@pytest.mark.parametrize("away", [HOUR / 2, HOUR * 2], ids=["young", "old"])
async def test_an_age_outlives_the_process(path: Path, clock: Clock, away: float) -> None:
    """It is counted from the rotation before, which stands in a name; where there was none, none is known."""
    config = FileOutput(str(path), max_age=HOUR)
    for number, later in enumerate((0.0, HOUR, away)):
        clock.now += later
        output = File(config, clock)
        await output.deliver([line(number)])
        await output.close()
    assert len(old_files(path)) == (2 if away > HOUR else 1)
    assert numbers(path) == [0, 1, 2]


async def test_a_clock_that_was_set_back_changes_no_order(aging: File, path: Path, clock: Clock) -> None:
    """Names sort by age all the same, and a file does not get older than its age by the new clock."""
    for number, jump in enumerate((0, 2 * HOUR, -10 * HOUR, HOUR, HOUR)):
        clock.now += jump
        await aging.deliver([line(number)])
    assert numbers(path) == [0, 1, 2, 3, 4]
    assert len(old_files(path)) == 3


@pytest.mark.parametrize(("form", "ending"), [("gzip", ".gz"), ("zstd", ".zst")])
async def test_rotated_files_are_compressed(path: Path, form: FileCompression, ending: str) -> None:
    """Each one once, whole, with the time of the last event; the file that is written never."""
    await delivered(path, 9, keep=3, compression=form)
    assert numbers(path) == [2, 3, 4, 5, 6, 7, 8]
    assert [found.suffix for found in old_files(path)] == [ending] * 3
    times = [found.stat().st_mtime for found in (*old_files(path), path)]
    assert times == sorted(times)
    assert lines_of(path) == [line(8)]


async def test_keep_counts_rotated_files_of_either_form(path: Path) -> None:
    """Somebody changed the compression twice."""
    await delivered(path, 5, keep=10)
    await delivered(path, 4, keep=10, compression="none")
    assert not any(map(is_packed, old_files(path)))
    before = old_files(path)
    compress(before[-1], "gzip", lambda: False)
    await delivered(path, 4, keep=3)
    assert len(old_files(path)) == 3
    await delivered(path, 1, keep=3, compression="zstd")
    assert all(map(is_packed, old_files(path)))


async def test_files_of_others_stay(path: Path) -> None:
    """Also those whose names begin in the same way."""
    others = ["events.jsonl.1", "events.jsonl.bak", "events.jsonl2", "events.jsonl.20260102T030405Z", "x.partial",
              "events.jsonl.99999999T999999.999999Z", "events.jsonl.20260102T030405.000000Z.partial"]  # fmt: skip
    for name in others:
        path.with_name(name).write_text("{}\n")
    await delivered(path, 6, keep=1)
    assert {found.name for found in old_files(path)} >= set(others)
    assert len(old_files(path)) == len(others) + 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":0}\n{"tor', b'{"a":0}\n'),
        (b'{"torn', b""),
        (b'{"a":0}\n' + b'{"' + b"x" * 200_000, b'{"a":0}\n'),
        (b'{"a":0}\n' + bytes(5000), b'{"a":0}\n'),
        (b'{"a":0}\n', b'{"a":0}\n'),
        (b"", b""),
    ],
    ids=["torn", "only a torn line", "torn and long", "zeros, as a power cut leaves them", "whole", "empty"],
)
async def test_a_torn_last_line_is_cut_off(path: Path, before: bytes, after: bytes) -> None:
    """Its event was never acknowledged by the output, so it comes again, whole."""
    put(path, before)
    output = File(FileOutput(str(path)))
    await output.deliver(LINES[:1])
    await output.close()
    assert lines_of(path) == [*after.splitlines(), LINES[0]]


def remove(path: Path) -> None:
    """The file."""
    path.unlink()


def remove_folder(path: Path) -> None:
    """The file and its folder."""
    path.unlink()
    path.parent.rmdir()


def move(path: Path) -> None:
    """As logrotate does."""
    path.rename(path.parent.with_name("moved"))


def replace(path: Path) -> None:
    """Another file of that name."""
    path.with_name("new").write_bytes(b'{"theirs":1}\n')
    path.with_name("new").rename(path)


@pytest.mark.parametrize("done", [remove, remove_folder, move, replace])
async def test_what_others_do_to_the_file_is_noticed(path: Path, done: Callable[[Path], None]) -> None:
    """The next delivery goes to a file of that name."""
    output = File(FileOutput(str(path)))
    await output.deliver(LINES[:1])
    done(path)
    await output.deliver(LINES[1:2])
    await output.close()
    assert lines_of(path)[-1] == LINES[1]
    assert len(lines_of(path)) == (2 if done is replace else 1)


async def test_a_file_that_is_removed_while_it_is_written_is_written_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a whole batch would have arrived nowhere."""
    output = File(FileOutput(str(path)))
    sync = os.fsync

    def fsync(number: int) -> None:
        if stat.S_ISREG(os.fstat(number).st_mode):
            path.unlink()
            monkeypatch.setattr(os, "fsync", sync)
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Retryable, match="removed it meanwhile"):
        await output.deliver(LINES)
    await output.deliver(LINES)
    await output.close()
    assert lines_of(path) == LINES


async def test_a_file_that_cannot_be_written_is_tried_again(path: Path) -> None:
    """A folder in its place: Retryable, with the path in the message."""
    os.mkdir(path)  # noqa: PTH102
    output = File(FileOutput(str(path)))
    with pytest.raises(Retryable, match=r"events\.jsonl"):
        await output.deliver(LINES)
    os.rmdir(path)  # noqa: PTH106
    await output.deliver(LINES)
    await output.close()
    assert lines_of(path) == LINES


async def test_a_full_disk_leaves_no_half_line() -> None:
    """/dev/full stands for the disk: writing fails, and later works again."""
    output = File(FileOutput("/dev/full"))
    with pytest.raises(Retryable):
        await output.deliver(LINES)
    await output.close()


async def test_what_could_not_be_synced_is_cut_off_and_written_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync nobody knows what is on the disk; so the events are not in the file twice."""
    output = File(FileOutput(str(path)))
    await output.deliver(LINES[:1])
    sync = os.fsync

    def fsync(_: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Retryable, match="Input/output error"):
        await output.deliver(LINES[1:])
    assert lines_of(path) == LINES[:1]
    await output.deliver(LINES[1:])
    await output.close()
    assert lines_of(path) == LINES


SIZE = len(line(0)) + 1


@pytest.mark.parametrize(
    ("policy", "counts", "sizes"),
    [
        ("batch", [1, 2, 3, 3], [SIZE, 2 * SIZE, SIZE]),
        ("rotation", [0, 0, 1, 2], [2 * SIZE, SIZE]),
        ("never", [0, 0, 0, 0], []),
    ],
)
async def test_when_a_file_is_synced(
    path: Path, policy: Fsync, counts: list[int], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`batch`: before each delivery returns. `rotation`: when the file is done with. `never`: not by us."""
    synced: list[int] = []
    sync = os.fsync

    def fsync(number: int) -> None:
        found = os.fstat(number)
        if stat.S_ISREG(found.st_mode):
            synced.append(found.st_size)
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    output = File(FileOutput(str(path), max_bytes=130, fsync=policy))
    seen = []
    for number in range(3):
        await output.deliver([line(number)])
        seen.append(len(synced))
    await output.close()
    assert ([*seen, len(synced)], synced) == (counts, sizes)


async def test_a_delivery_that_was_given_up_is_not_written_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs for hours: the route tries again and again, and one copy is written, held once in memory."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    sync = os.fsync

    def fsync(number: int) -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    output = File(FileOutput(str(path)))
    for _ in range(20):
        task = asyncio.create_task(output.deliver(LINES))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    release.set()
    await output.deliver(LINES)
    await output.deliver(LINES)
    await output.close()
    assert lines_of(path) == LINES * 2


async def test_tail_follows_over_rotation(path: Path) -> None:
    """`tail -F`, as people and collectors do it, sees each line once."""
    output = File(FileOutput(str(path), max_bytes=130, compression="gzip"))
    await output.deliver([line(0)])
    tail = await asyncio.create_subprocess_exec(
        "tail", "-n", "+1", "-F", str(path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert tail.stdout
    for number in range(1, 9):
        assert await asyncio.wait_for(tail.stdout.readline(), 30) == line(number - 1) + b"\n"
        await output.deliver([line(number)])
    assert await asyncio.wait_for(tail.stdout.readline(), 30) == line(8) + b"\n"
    tail.terminate()
    await tail.wait()
    await output.close()
    assert len(old_files(path)) == 4


async def test_what_cannot_be_compressed_stays_and_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Deliveries go on, and it is tried again after the next rotation and at the next start."""
    await delivered(path, 3)
    (first,) = old_files(path)
    blocked = first.with_name(f"{first.name}.gz")
    blocked.mkdir()
    with caplog.at_level(logging.WARNING):
        output = File(FileOutput(str(path), max_bytes=130, compression="gzip"))
        for number in range(3, 9):
            await output.deliver([line(number)])
        await until(lambda: len([found for found in old_files(path) if found.is_file() and is_packed(found)]) == 3)
        await output.close()
    (record,) = caplog.records
    assert "cannot be compressed and stays as it is: Is a directory" in record.message
    assert first.exists()
    blocked.rmdir()
    await delivered(path, 1, compression="gzip")
    assert not first.exists()
    assert numbers(path) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]


async def test_compression_ends_with_the_output(path: Path) -> None:
    """A large file may take minutes: what was begun is given up, and done at the next start."""
    await delivered(path, 3)
    (old,) = old_files(path)
    with old.open("ab") as grown:
        grown.write(os.urandom(64 * 2**20))
    output = File(FileOutput(str(path), compression="gzip"))
    await output.deliver([line(3)])
    await output.close()
    assert old_files(path) == [old]


def test_a_file_that_is_being_compressed_is_left_to_whom_compresses_it(path: Path) -> None:
    """The configuration was changed, and the output before has not ended yet."""
    old = path.with_name("old")
    old.write_bytes(b"x" * 3 * 2**20)
    partial = old.with_name("old.gz.partial")

    def meanwhile() -> bool:
        discard(partial)
        assert partial.exists()
        assert not compress(old, "gzip", lambda: False)
        return False

    assert compress(old, "gzip", meanwhile)
    assert gzip.decompress(old.with_name("old.gz").read_bytes()) == b"x" * 3 * 2**20
    assert not old.exists()
    assert not compress(old, "gzip", lambda: False)
    partial.write_bytes(b"half")
    discard(partial)
    assert [found.name for found in path.parent.iterdir()] == ["old.gz"]


def test_a_file_that_goes_while_it_is_compressed_does_not_come_back(path: Path) -> None:
    """`keep` removed it."""
    path.write_bytes(b"x" * 3 * 2**20)

    def meanwhile() -> bool:
        path.unlink(missing_ok=True)
        return False

    assert not compress(path, "zstd", meanwhile)
    assert list(path.parent.iterdir()) == []


# What a crash leaves, at each point of compressing one file.
STATES = {
    "not begun": [""],
    "begun": ["", "{}.partial"],
    "renamed": ["", "{}"],
    "done": ["{}"],
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    states=st.lists(st.tuples(st.sampled_from(sorted(STATES)), st.sampled_from(["gzip", "zstd"])), max_size=6),
    keep=st.integers(1, 7),
    form=st.sampled_from(["none", "gzip", "zstd"]),
    torn=st.binary(max_size=20),
)
def test_the_next_start_mends_what_a_crash_left(
    tmp_path_factory: pytest.TempPathFactory,
    states: list[tuple[str, str]],
    keep: int,
    form: FileCompression,
    torn: bytes,
) -> None:
    """Each rotated file once, whole, the newest `keep`, none half-written, and all compressed if that is wanted."""
    path = tmp_path_factory.mktemp("audit") / "events.jsonl"
    for number, (state, packer) in enumerate(states):
        stamp = rotated.next_stamp(NOON, rotated.rotated(path.name, (found.name for found in path.parent.iterdir())))
        data = line(number) + b"\n"
        whole = gzip.compress(data) if packer == "gzip" else zstandard.compress(data)
        for ending in STATES[state]:
            name = f"{path.name}.{stamp}{ending.format(rotated.ENDINGS[packer])}"
            content = data if not ending else whole[: len(whole) // 2] if name.endswith(".partial") else whole
            path.with_name(name).write_bytes(content)
    path.write_bytes(line(len(states)) + b"\n" + torn.replace(b"\n", b""))

    async def start() -> None:
        output = File(FileOutput(str(path), keep=keep, compression=form))
        await output.deliver([line(len(states) + 1)])
        await until(lambda: form == "none" or all(map(is_packed, old_files(path))))
        await output.close()

    asyncio.run(start())
    assert numbers(path) == list(range(len(states) + 2))[-keep - 2 :]
    assert len(old_files(path)) == min(keep, len(states))


STAMPS = st.datetimes(datetime(1970, 1, 2), datetime(8999, 1, 1)).map(lambda time: time.strftime("%Y%m%dT%H%M%S.%fZ"))  # noqa: DTZ001
FILES = st.lists(
    st.builds(Rotated, STAMPS, st.sampled_from(["", ".gz", ".zst"]), st.just(False))
    | st.builds(Rotated, STAMPS, st.sampled_from([".gz", ".zst"]), st.just(True)),
    max_size=12,
    unique=True,
)


@given(FILES, st.floats(0, 2**37))
def test_names_are_read_as_they_are_written_and_sort_by_age(files: list[Rotated], now: float) -> None:
    """A new stamp is later than all that are there, whatever the clock says."""
    names = [f"live{file.name}" for file in files]
    assert rotated.rotated("live", [*names, "live", "other", "live.x"]) == sorted(files)
    stamp = rotated.next_stamp(now, files)
    assert all(stamp > file.stamp for file in files)
    assert rotated.rotated("live", [f"live.{stamp}"]) == [Rotated(stamp, "", partial=False)]
    assert rotated.newest_time([Rotated(stamp, "", partial=False)]) >= now - 1e-5 or now > 2**37 - 1


@given(FILES, st.integers(1, 5), st.booleans())
def test_a_plan_keeps_the_newest_once_each(files: list[Rotated], keep: int, wanted: bool) -> None:
    """Nothing half-written stays, a second plan has nothing to do, and a compressed form is preferred."""
    plan = rotated.plan(sorted(files), keep, wanted)
    left = [file for file in files if file.name not in plan.remove]
    newest = sorted({file.stamp for file in files if not file.partial})[-keep:]
    assert sorted(file.stamp for file in left) == newest
    assert not [file for file in left if file.partial]
    packed = {file.stamp for file in files if file.ending and not file.partial}
    assert all(file.ending or file.stamp not in packed for file in left)
    again = rotated.plan(sorted(left), keep, wanted)
    assert again == ([], plan.compress)
    assert set(plan.compress) == {file.name for file in left if wanted and not file.ending}


KILLED = """
import asyncio, json, sys
from auditpipeline.core.config import FileOutput
from auditpipeline.dataplane.outputs.file import File

async def main(path, first, form):
    output = File(FileOutput(path, max_bytes=200_000, keep=1000, compression=form))
    for number in range(first, 10**9):
        await output.deliver([json.dumps({"n": number, "p": "x" * 2000}).encode()])
        print(number, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
"""


def killed(path: Path, first: int, form: FileCompression, after: int) -> int:
    """The last number that a process acknowledged, which began at `first` and was killed `after` so many or more."""
    command = [sys.executable, "-c", KILLED, str(path), str(first), form]
    acknowledged = first - 1
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        for told in child.stdout:
            acknowledged = int(told) if told.endswith("\n") else acknowledged
            if acknowledged == first + after:
                child.kill()
    return acknowledged


@pytest.mark.parametrize("form", ["gzip", "zstd"])
async def test_a_process_that_is_killed_loses_and_doubles_nothing(path: Path, form: FileCompression) -> None:
    """kill -9 at random moments, with a file being compressed at most of them: what was acknowledged is there, whole,
    once (but for what was under way), and nothing half-written stays."""
    random, acknowledged = Random(form), -1
    for _ in range(8):
        acknowledged = await asyncio.to_thread(killed, path, acknowledged + 1, form, random.randrange(100, 900))
    output = File(FileOutput(str(path), max_bytes=200_000, keep=1000, compression=form))
    await output.deliver([b'{"n":%d}' % (acknowledged + 1)])
    await until(lambda: all(map(is_packed, old_files(path))))
    await output.close()
    found = numbers(path)
    assert sorted(set(found)) == list(range(acknowledged + 2))
    assert len(found) - len(set(found)) <= 8
    stamps = [tuple(name.name.split(".")[2:4]) for name in old_files(path)]
    assert len(stamps) > 10
    assert len(set(stamps)) == len(stamps)
