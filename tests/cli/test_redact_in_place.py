"""`auditpipeline redact --in-place`: an old log is replaced, and nothing of it is ever lost."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard

from auditpipeline.cli import redact_inplace
from auditpipeline.core.config import FileOutput
from auditpipeline.core.redaction.redactor import Redacted, Redactor
from auditpipeline.dataplane.outputs.file import File
from tests.cli.planted import event, is_clean, log, secret, token
from tests.cli.test_redact import call
from tests.reliability.namespace import small_disk

OLD = log(event(1), secret(2), event(3), token(4), event(5))
FORMS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "plain": (bytes, bytes),
    "gzip": (gzip.compress, gzip.decompress),
    "xz": (lzma.compress, lzma.decompress),
    "zstd": (zstandard.compress, lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An old log, in a folder of its own."""
    (tmp_path / "log").mkdir()
    found = tmp_path / "log" / "audit-2026.log"
    found.write_bytes(OLD)
    return found


def clean(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Runs the command."""
    return call(capsys, "--in-place", path)


def alone(path: Path) -> bool:
    """Whether nothing else is in its folder."""
    return [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("form", FORMS)
def test_a_log_is_replaced_by_one_of_its_form(path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """With its mode, owner and times; a second run does not touch it."""
    pack, unpack = FORMS[form]
    path.write_bytes(pack(OLD))
    path.chmod(0o640)
    with suppress(OSError):  # not every file system has them
        os.setxattr(path, "user.note", b"kept")
    attributes = os.listxattr(path)
    os.utime(path, (1_600_000_000, 1_600_000_001))
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    before = path.stat()
    code, out, err = clean(path, capsys)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: 5 events read, 2 changed, 3 values taken; replaced\n")
    after, data = path.stat(), unpack(path.read_bytes())
    assert is_clean(data)
    assert [json.loads(line)["auditID"] for line in data.splitlines()] == ["id-1", "id-2", "id-3", "id-4", "id-5"]
    assert data.splitlines()[::2] == OLD.splitlines()[::2]
    for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_nlink"):
        assert getattr(after, field) == getattr(before, field)
    assert os.listxattr(path) == attributes
    assert alone(path)
    assert clean(path, capsys)[1] == f"{path}: 5 events read, 0 changed, 0 values taken; not touched\n"
    assert path.stat().st_ino == after.st_ino


def test_a_log_with_nothing_to_take_is_not_touched(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is an empty one."""
    for data in (log(event(1)), b""):
        path.write_bytes(data)
        before = path.stat()
        assert clean(path, capsys)[0] == 0
        assert path.stat() == before


def test_lines_that_are_not_events_stay(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte, holes too; the exit code says that they are there."""
    hole = b"\0" * 3_000_000
    path.write_bytes(hole + OLD + b"password\n\xff\xfe\n")
    code, out, err = clean(path, capsys)
    data = path.read_bytes()
    assert (code, "replaced" in out, "2 lines" in err) == (1, True, True)
    assert data.startswith(hole + OLD[:100])
    assert data.endswith(b"password\n\xff\xfe\n")
    assert is_clean(data)


def refused(path: Path, capsys: pytest.CaptureFixture[str], message: str) -> None:
    """The command says so in one line, and all stays as it was."""
    before, names = path.read_bytes(), sorted(path.parent.iterdir())
    code, _, err = clean(path, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == names


def test_a_file_that_is_being_written_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if its writer, as kube-apiserver, asks for no lock and writes nothing at the moment."""
    with path.open("ab"):
        refused(path, capsys, "rotate it first")
    assert clean(path, capsys)[0] == 0


@pytest.mark.parametrize("problem", [errno.EINVAL, errno.EACCES, errno.EOPNOTSUPP])
def test_a_writer_is_found_where_there_are_no_leases(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    """As on some network file systems: among the processes of this machine."""
    hide_leases(monkeypatch, problem)
    with path.open("ab"):
        refused(path, capsys, "rotate it first")
    assert clean(path, capsys)[0] == 0
    assert is_clean(path.read_bytes())


async def test_a_file_that_an_output_writes_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has claimed it; what it has rotated away is free."""
    output = File(FileOutput(str(path), max_bytes=10))
    line = log(secret(6)).strip()
    await output.deliver([line])
    await asyncio.to_thread(lambda: None)
    refused(path, capsys, "output")
    for rotated in path.parent.glob("*.log.*"):
        assert clean(rotated, capsys)[0] == 0
        assert is_clean(rotated.read_bytes())
    await output.close()
    assert clean(path, capsys)[0] == 0


class Meanwhile:
    """Does something while a log is rewritten: at the second pass, with its first event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
        self._do = do
        self._seen = 0
        self._line = Redactor().line
        monkeypatch.setattr(Redactor, "line", self)

    def __call__(self, line: bytes) -> Redacted:
        self._seen += 1
        if self._seen == 3:  # the first pass ends with the second event, which loses something
            self._do()
        return self._line(line)


class Writer:
    """A process that adds an event; its open waits for as long as there is a lease."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def come(self, path: Path) -> None:
        """Starts it; it has written, or waits, then."""
        if self._process is None:
            self._process = subprocess.Popen(["sh", "-c", 'echo "{\\"theirs\\":1}" >> "$0"', str(path)])
            inode = f":{path.stat().st_ino} "
            while self._process.poll() is None and not _is_breaking(inode):
                pass

    def end(self) -> None:
        """Waits until it has written."""
        assert self._process
        assert self._process.wait(60) == 0


def _is_breaking(inode: str) -> bool:
    return any("BREAKING" in held and inode in held for held in Path("/proc/locks").read_text().splitlines())


def replace(path: Path) -> None:
    """Another file gets the name."""
    path.with_name("new").write_bytes(OLD)
    path.with_name("new").rename(path)


@pytest.mark.parametrize("done", [lambda path: os.utime(path, (1, 1)), lambda path: os.truncate(path, 5)])
def test_a_file_that_changes_meanwhile_stays(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, done: Callable[[Path], object]
) -> None:
    """Also where there are no leases."""
    hide_leases(monkeypatch)
    Meanwhile(monkeypatch, lambda: done(path))
    inode = path.stat().st_ino
    code, _, err = clean(path, capsys)
    assert (code, "rotate it first" in err) == (2, True)
    assert path.stat().st_ino == inode
    assert alone(path)


def test_a_writer_that_comes_meanwhile_loses_nothing(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event is in the old file, which stays."""
    writer = Writer()
    Meanwhile(monkeypatch, lambda: writer.come(path))
    code, _, err = clean(path, capsys)
    assert (code, "rotate it first" in err) == (2, True)
    writer.end()
    assert path.read_bytes() == OLD + b'{"theirs":1}\n'
    assert alone(path)


def hide_leases(monkeypatch: pytest.MonkeyPatch, problem: int = errno.EINVAL) -> None:
    """As on a file system without them, so that this process may change the file itself."""
    control = fcntl.fcntl

    def without(number: int, command: int, *more: Any) -> Any:
        if command == fcntl.F_SETLEASE:
            raise OSError(problem, os.strerror(problem))
        return control(number, command, *more)

    monkeypatch.setattr(fcntl, "fcntl", without)


def test_a_file_that_is_replaced_meanwhile_stays(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a rotation: the name is another file's."""
    Meanwhile(monkeypatch, lambda: replace(path))
    code, _, err = clean(path, capsys)
    assert (code, "another file has its name now" in err) == (2, True)
    assert path.read_bytes() == OLD
    assert alone(path)


@pytest.mark.parametrize("call_", ["link", "rename"])
def test_a_writer_that_comes_at_the_last_moment_loses_nothing(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, call_: str
) -> None:
    """A program that opens the old file just before or after the renaming waits, and the file gets its name back."""
    real = getattr(os, call_)
    writer = Writer()

    def late(*arguments: Any, **more: Any) -> None:
        writer.come(path)
        real(*arguments, **more)

    monkeypatch.setattr(os, call_, late)
    code, _, _ = clean(path, capsys)
    assert code == 2
    writer.end()
    assert path.read_bytes() == OLD + b'{"theirs":1}\n'
    assert alone(path)


def test_links_are_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A symbolic one would become a file, and another name would keep the secrets."""
    link = path.with_name("link.log")
    link.symlink_to(path)
    refused(link, capsys, f"name {path}")
    link.unlink()
    link.hardlink_to(path)
    refused(link, capsys, "hard links")
    link.unlink()
    behind = path.parent.with_name("folder")
    behind.symlink_to(path.parent)
    assert clean(behind / path.name, capsys)[0] == 0
    assert is_clean(path.read_bytes())


def test_what_is_no_log_file_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders and pipes, without waiting for a writer."""
    os.mkfifo(path.with_name("pipe"))
    for other, message in ((path.with_name("pipe"), "regular"), (path.parent, "regular"), (path.with_name("no"), "No")):
        code, _, err = clean(other, capsys)
        assert (code, message in err) == (2, True)


@pytest.mark.parametrize("form", ["gzip", "xz", "zstd"])
def test_a_damaged_file_stays(path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """What can be read of it would be all that is left."""
    path.write_bytes(FORMS[form][0](OLD)[:-6])
    refused(path, capsys, "unpack what can be read")


def test_a_copy_that_cannot_be_unpacked_takes_no_place(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a fault of memory: the old file is worth more."""
    path.write_bytes(gzip.compress(OLD))
    monkeypatch.setattr(redact_inplace, "packer", lambda raw, *_: nullcontext(raw))
    refused(path, capsys, "cannot be unpacked again")


def test_one_file_that_is_refused_costs_the_others_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are cleaned."""
    other = path.with_name("other.log")
    other.write_bytes(OLD)
    with other.open("ab"):
        code, out, err = call(capsys, "--in-place", other, path)
    assert (code, err.count("\n")) == (2, 1)
    assert is_clean(path.read_bytes())
    assert f"{path}: 5 events" in out


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """And no copy."""
    with small_disk(tmp_path / "small", "2m") as disk:
        path = disk.outside / "audit.log"
        data = OLD * 700
        path.write_bytes(data)
        program = [
            sys.executable,
            "-m",
            "tests.cli.redacting",
            "--in-place",
            str(disk.folder / path.name),
        ]
        found = subprocess.run([*disk.command, *program], capture_output=True, text=True, check=False, timeout=60)
        assert (found.returncode, found.stderr.count("\n")) == (2, 1), found.stderr
        assert "the disk is full" in found.stderr
        assert path.read_bytes() == data
        assert alone(path)


def test_sigterm_leaves_no_copy(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C does not."""
    Meanwhile(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert clean(path, capsys)[0] == 143
    assert path.read_bytes() == OLD
    assert alone(path)


def test_what_a_killed_run_left_is_removed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless somebody works on it; other files stay."""
    left, theirs = path.with_name(f".{path.name}.00ff00ff.redacting"), path.with_name(f".{path.name}.0.redacting")
    working = path.with_name(f".{path.name}.00ff00aa.redacting")
    for each in (left, theirs, working):
        each.write_bytes(b"x")
    path.with_name(f".{path.name}.00ff00ff.replaced").hardlink_to(path)
    with working.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert clean(path, capsys)[0] == 0
    assert sorted(path.parent.iterdir()) == sorted([path, theirs, working])


@pytest.mark.parametrize("form", ["plain", "zstd"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_file_whole(path: Path, form: str) -> None:
    """Before and behind each call to the system; the next run finishes the work, and leaves nothing else."""
    pack, unpack = FORMS[form]
    path.write_bytes(pack(OLD))
    found = subprocess.run(
        [sys.executable, "-m", "tests.cli.redacting", "--kill-everywhere", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 20
    assert is_clean(unpack(path.read_bytes()))
    assert alone(path)
