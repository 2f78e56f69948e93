"""One writer a file: two outputs of one file, by whatever name, in one process or in two, and what others do to it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from auditpipeline.core.config import FileOutput
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.outputs import claim
from auditpipeline.dataplane.outputs.compress import compress
from auditpipeline.dataplane.outputs.file import File
from tests.dataplane.setting import until

LINES = [b'{"n":1}', b'{"n":2}', b'{"n":3}']
BUSY = "give each output a file of its own"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to write, in a folder that is there."""
    (tmp_path / "audit").mkdir()
    return tmp_path / "audit" / "events.jsonl"


@asynccontextmanager
async def opened(path: Path, **config: Any) -> AsyncIterator[File]:
    """An output that is closed at the end."""
    output = File(FileOutput(str(path), **config))
    try:
        yield output
    finally:
        await output.close()


def found(folder: Path) -> list[dict[str, Any]]:
    """The events of all files of a folder, each file once; each line must be whole."""
    files = {at.stat().st_ino: at for at in sorted(folder.iterdir()) if not at.is_symlink()}
    return [json.loads(line) for at in files.values() for line in at.read_bytes().splitlines()]


class Disk:
    """A disk whose next fsync of a file hangs until it is told how that ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hanging = threading.Event()
        self.go = threading.Event()
        self._armed = True
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, number: int) -> None:
        if self._armed and not os.path.isdir(f"/proc/self/fd/{number}"):  # noqa: PTH112
            self._armed = False
            self.hanging.set()
            self.go.wait()
            raise OSError(errno.EIO, "Input/output error")
        self._sync(number)


def content(path: Path) -> bytes:
    """What the file holds."""
    return path.read_bytes()


def put(path: Path, data: bytes) -> None:
    """Makes a file."""
    path.write_bytes(data)


def same(path: Path) -> Path:
    """The same path."""
    return path


def symbolic(path: Path) -> Path:
    """A symbolic link to it, in another folder."""
    path.parent.with_name("other").mkdir()
    link = path.parent.with_name("other") / "link.jsonl"
    link.symlink_to(path)
    return link


def behind_folder(path: Path) -> Path:
    """The same file in a folder that is a symbolic link."""
    path.parent.with_name("other").symlink_to(path.parent)
    return path.parent.with_name("other") / path.name


def hard(path: Path) -> Path:
    """A hard link to it."""
    link = path.with_name("link.jsonl")
    path.touch()
    link.hardlink_to(path)
    return link


NAMES = pytest.mark.parametrize("name", [same, symbolic, behind_folder, hard])


@NAMES
async def test_a_file_has_one_writer(path: Path, name: Callable[[Path], Path]) -> None:
    """The second one is told what to do, and goes on by itself when the first one ends."""
    other = name(path)
    async with opened(other) as second:
        async with opened(path) as first:
            await first.deliver(LINES[:1])
            for _ in range(2):
                with pytest.raises(Retryable, match=BUSY):
                    await second.deliver(LINES[1:2])
            await first.deliver(LINES[2:])
        await second.deliver(LINES[1:2])
    assert content(path) == b'{"n":1}\n{"n":3}\n{"n":2}\n'


@NAMES
async def test_two_outputs_of_one_file_tear_nothing(path: Path, name: Callable[[Path], Path]) -> None:
    """Whoever has it writes and rotates; each line is whole, and none is there twice or lost."""
    other = name(path)
    config: dict[str, Any] = {"max_bytes": 300, "keep": 1000}
    delivered: list[int] = []

    async def go(at: Path, first: int) -> None:
        for number in range(first, first + 40):
            async with opened(at, **config) as output:
                line = b'{"n":%d,"p":"%s"}' % (number, b"x" * 60)
                while True:
                    try:
                        await output.deliver([line])
                        break
                    except Retryable as error:
                        assert BUSY in str(error) or "meanwhile" in str(error)  # noqa: PT017
                        await asyncio.sleep(0)
                delivered.append(number)

    await asyncio.gather(go(path, 0), go(other, 100))
    numbers = [event["n"] for folder in {path.parent, other.parent.resolve()} for event in found(folder)]
    assert sorted(numbers) == sorted(delivered) == [*range(40), *range(100, 140)]


OTHER = """
import asyncio, sys
from auditpipeline.core.config import FileOutput
from auditpipeline.dataplane.outputs.file import File

async def main(path):
    output = File(FileOutput(path))
    await output.deliver([b'{"n":0}'])
    print("delivered", flush=True)
    sys.stdin.read()

asyncio.run(main(sys.argv[1]))
"""


async def test_another_process_is_waited_for(path: Path) -> None:
    """Until it ends, however it ends."""
    async with opened(path) as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OTHER, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout
        assert await process.stdout.readline() == b"delivered\n"
        with pytest.raises(Retryable, match=BUSY):
            await output.deliver(LINES)
        process.kill()
        await process.wait()
        await output.deliver(LINES)
    assert [event["n"] for event in found(path.parent)] == [0, 1, 2, 3]


async def test_a_late_failure_cuts_off_nothing_of_the_next_output(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route has ended and the write hangs: the output that follows waits for it, and delivers behind it."""
    disk = Disk(monkeypatch)
    first = File(FileOutput(str(path)))
    async with opened(path, max_bytes=10_000) as second:
        task = asyncio.create_task(first.deliver(LINES[:1]))
        await asyncio.to_thread(disk.hanging.wait)
        task.cancel()
        closing = asyncio.create_task(first.close())
        with pytest.raises(Retryable, match=BUSY):
            await second.deliver(LINES[1:])
        closing.cancel()
        await asyncio.gather(task, closing, return_exceptions=True)
        disk.go.set()

        async def delivered() -> bool:
            try:
                await second.deliver(LINES)
            except Retryable:
                return False
            return True

        await until(delivered)
    assert content(path) == b"".join(line + b"\n" for line in LINES)
    await until(lambda: "output-file" not in {thread.name for thread in threading.enumerate()})


def add(path: Path) -> bytes:
    """Another program adds a line."""
    with path.open("ab") as file:
        file.write(b'{"theirs":1}\n')
    return b'{"n":0}\n{"n":1}\n{"theirs":1}\n'


def cut(path: Path) -> bytes:
    """As logrotate's copytruncate."""
    os.truncate(path, 0)
    return b""


def replace(path: Path) -> bytes:
    """Another file of that name."""
    path.with_name("new").write_bytes(b'{"theirs":1}\n')
    path.with_name("new").rename(path)
    return b'{"theirs":1}\n'


@pytest.mark.parametrize("done", [add, cut, replace])
async def test_only_what_a_write_has_put_at_the_end_is_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch, done: Callable[[Path], bytes]
) -> None:
    """Whoever else changed the file meanwhile does not ask for locks: what is there stays."""
    put(path, b'{"n":0}\n')
    disk = Disk(monkeypatch)
    async with opened(path) as output:
        task = asyncio.create_task(output.deliver(LINES[:1]))
        await asyncio.to_thread(disk.hanging.wait)
        left = done(path)
        disk.go.set()
        with pytest.raises(Retryable, match="Input/output error"):
            await task
        assert content(path) == left
        await output.deliver(LINES[:1])
    assert content(path) == left + b'{"n":1}\n'


async def test_the_file_is_claimed_over_rotation(path: Path) -> None:
    """Neither the new file nor the folder is anybody else's at any moment."""
    async with opened(path, max_bytes=10) as first, opened(path, max_bytes=10, keep=1) as second:
        for line in LINES:
            await first.deliver([line])
            with pytest.raises(Retryable, match=BUSY):
                await second.deliver(LINES)
    assert [event["n"] for event in found(path.parent)] == [3, 1, 2]


async def test_a_link_stays_one_over_rotation(path: Path) -> None:
    """What it points to is rotated, beside it; who reads the link goes on with the new file."""
    link = symbolic(path)
    async with opened(link, max_bytes=10) as output:
        for line in LINES:
            await output.deliver([line])
    assert link.is_symlink()
    assert [at.name for at in link.parent.iterdir()] == [link.name]
    assert link.read_bytes() == b'{"n":3}\n'
    assert len(list(path.parent.iterdir())) == 3


def test_a_file_that_is_still_written_is_not_compressed(path: Path) -> None:
    """By another name: its last lines would be missing."""
    path.write_bytes(b'{"n":0}\n')
    number = os.open(path, os.O_RDWR)
    claim.claim(number)
    assert not compress(path, "gzip", lambda: False)
    claim.release(number)
    assert compress(path, "gzip", lambda: False)
    assert [at.name for at in path.parent.iterdir()] == ["events.jsonl.gz"]


@pytest.mark.parametrize("problem", [errno.ENOLCK, errno.EOPNOTSUPP])
async def test_without_locks_the_outputs_of_a_process_keep_apart(
    path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    """Some network file systems have none."""

    def flock(_: int, __: int) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(fcntl, "flock", flock)
    await test_a_file_has_one_writer(path, same)


async def test_new_folders_are_synced_in_those_above(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut takes the folder, and the file with it."""
    synced: list[str] = []
    sync = os.fsync

    def fsync(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    deep = path.parent / "a" / "b" / "events.jsonl"
    async with opened(deep) as output:
        await output.deliver(LINES)
    assert synced == [*map(str, (path.parent, path.parent / "a", deep.parent)), str(deep)]


def test_a_file_whose_system_answers_no_more_is_released(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ESTALE, as of a network file system on which somebody removed it: else no output could ever write the file that
    has its inode next, and the descriptor would stay open."""
    number = os.open(path, os.O_RDWR | os.O_CREAT)
    claim.claim(number)
    with monkeypatch.context() as patched:

        def fstat(_: int) -> os.stat_result:
            raise OSError(errno.ESTALE, "Stale file handle")

        patched.setattr(os, "fstat", fstat)
        claim.release(number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    number = os.open(path, os.O_RDWR)
    claim.claim(number)
    claim.release(number)
