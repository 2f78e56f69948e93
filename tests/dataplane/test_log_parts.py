"""The parts of a log, and the tail that follows them: real files, rotated in every way, read at every moment."""

from __future__ import annotations

import errno
import gzip
import io
import json
import lzma
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.sources import tail as tails
from auditpipeline.dataplane.sources.parts import Listing, Part, Reader, listing, parts
from auditpipeline.dataplane.sources.tail import PATIENCE, Tail

LINE = 4096


class Log:
    """A log, whoever writes and rotates it, and whoever reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.log"
        self.position = folder / "position"
        self.written: list[bytes] = []
        self.taken: list[bytes] = []
        self.said = io.StringIO()
        self._rotations = 0
        self._numbers = 0
        self.tail = self.reader()

    def reader(self) -> Tail:
        """A reader, as after a start of the process."""
        tail = Tail(self.path, self.position, logs.make(self.said), LINE)
        tail.start()
        return tail

    def write(self, number: int = 1, size: int = 0) -> None:
        """Appends whole lines."""
        lines = [self._line(size) for _ in range(number)]
        self.written += lines
        self.append(b"".join(line + b"\n" for line in lines))

    def append(self, data: bytes) -> None:
        """Appends bytes."""
        with self.path.open("ab") as file:
            file.write(data)

    def _line(self, size: int) -> bytes:
        self._numbers += 1
        return json.dumps({"auditID": f"id-{self._numbers}", "pad": "x" * size}).encode()

    def read(self, most: int = 1000) -> list[bytes]:
        """Takes up to so many pieces; what came."""
        found = []
        while most and (piece := self.tail.next()):
            assert not piece.reason
            found += piece.data.splitlines()
            self.tail.take()
            self.tail.store()
            most -= 1
        self.taken += found
        return found

    def rename(self) -> Path:
        """As lumberjack does."""
        self._rotations += 1
        target = self.path.with_name(f"audit-2026-11-24T01-56-{self._rotations:02d}.123.log")
        if self.path.exists():
            self.path.rename(target)
        return target

    def copy_and_cut(self) -> None:
        """As logrotate does with copytruncate."""
        self.shift()
        if self.path.exists():
            shutil.copy2(self.path, f"{self.path}.1")
            with self.path.open("r+b") as file:
                file.truncate()

    def shift(self) -> None:
        """audit.log.1 becomes audit.log.2, and so on."""
        numbered = {int(found.name.split(".")[2]): found for found in self.path.parent.glob("audit.log.*")}
        for number, found in sorted(numbered.items(), reverse=True):
            found.rename(found.with_name(found.name.replace(f".{number}", f".{number + 1}", 1)))

    def pack(self, part: Path) -> None:
        """Makes a .gz of a part."""
        with gzip.open(f"{part}.gz", "wb") as file:
            file.write(part.read_bytes())
        part.unlink()

    def restart(self) -> None:
        """Ends without a word, and starts again."""
        self.tail.leave()
        self.tail = self.reader()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log that is not there yet, with a reader that waits."""
    log = Log(tmp_path)
    yield log
    log.tail.leave()


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (
            ["audit.log", "audit-2026-11-24T02-00-00.000.log", "audit-2026-11-23T01-56-04.123.log.gz"],
            ["audit-2026-11-23T01-56-04.123.log.gz", "audit-2026-11-24T02-00-00.000.log", "audit.log"],
        ),
        (["audit.log", "audit.log.1", "audit.log.10.gz"], ["audit.log.10.gz", "audit.log.1", "audit.log"]),
        (["audit.log-20261124", "audit.log", "audit.log-20261123.gz"], None),
        (["audit-20261124.log", "audit.log", "audit-20261123-1700000000.log"], None),
        (["audit.log", "audit.log.1", "audit.log.1.gz"], ["audit.log.1", "audit.log"]),
        (["audit.log", "audit.log.swp", "audit-policy.log", "audit.log.1.bz2", "other.log.1"], ["audit.log"]),
    ],
)
def test_the_parts_are_found_in_order(tmp_path: Path, names: list[str], order: list[str] | None) -> None:
    """Whoever rotated them; a .gz that is being made is not one yet, and other files are none."""
    for name in names:
        (tmp_path / name).touch()
    found = [part.path.name for part in parts(tmp_path / "audit.log")]
    assert found == (order or [*sorted(set(names) - {"audit.log"}), "audit.log"])


SCHEMES = [
    "audit-2022-03-0{}T14-28-05.286.log{}",
    "audit.log-2022-03-0{}{}",
    "audit.log-2022-03-0{}-1646317685{}",
    "audit.log-2022030{}{}",
    "audit.log.2022030{}{}",
    "audit.log-202203030{}{}",
    "audit.log.2022030{}-143445{}",
    "audit.log.164631768{}{}",
    "audit-2022030{}.log{}",
    "audit-2022-03-03T14-28-05.286.log.{}{}",
    "audit.log.{}{}",
    "audit.{}.log{}",
]
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_parts_are_read_however_they_are_called_and_packed(log: Log, scheme: str, packing: str) -> None:
    """In the order of their names, whatever the time of their last change; the position stands in one of them."""
    numbered = scheme.endswith((".{}{}", ".{}.log{}")) and "164631768" not in scheme and "2022030{}" not in scheme
    log.write(2)
    log.read()
    log.write(2)
    for number in (1, 2, 3):
        name = scheme.format(4 - number if numbered else number, packing)
        log.path.with_name(name).write_bytes(PACKINGS[packing](log.path.read_bytes()))
        os.utime(log.path.with_name(name), (1000 - number, 1000 - number))
        log.path.unlink()
        log.write(3)
    log.restart()
    log.read()
    assert log.taken == log.written
    assert "not read" not in log.said.getvalue()


def test_parts_of_two_schemes_have_the_order_of_their_last_change(tmp_path: Path) -> None:
    """Within a scheme the names decide."""
    times = {"audit.log.2": 1, "audit-20220301.log": 2, "audit.log.old": 3, "audit.log.1": 4, "audit-20220302.log": 5}
    for name, seconds in {**times, "audit.log": 0}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert [part.path.name for part in parts(tmp_path / "audit.log")] == [*times, "audit.log"]


@pytest.mark.parametrize("content", [b'{"auditID":"a"}\n', gzip.compress(b'{"auditID":"a"}\n')])
def test_content_tells_how_a_part_is_packed_and_not_its_name(log: Log, content: bytes) -> None:
    """A .gz that is not one, and one that is called otherwise."""
    log.write()
    log.read()
    log.rename()
    log.path.with_name("audit-2026-11-24T01-56-99.log").write_bytes(content)
    log.path.with_name("audit.log.1.gz" if content[0] == ord("{") else "audit.log.1").write_bytes(content)
    log.path.with_name("audit-2026-11-24T01-56-99.log").unlink()
    log.write()
    log.read()
    assert log.taken == [log.written[0], b'{"auditID":"a"}', log.written[1]]


def test_a_file_that_looks_like_a_part_and_is_not_read_is_said_once(log: Log) -> None:
    """With its name; others are nobody's business."""
    for name in ("audit.log.1.bz2", "audit-policy.log", "audit.log.swp", "audit-policy.yaml", "other.log.1"):
        log.path.with_name(name).touch()
    log.write()
    log.read()
    log.restart()
    log.read()
    said = [json.loads(line)["file"] for line in log.said.getvalue().splitlines() if "not read" in line]
    assert sorted(Path(name).name for name in said[:3]) == ["audit-policy.log", "audit.log.1.bz2", "audit.log.swp"]
    assert len(said) == 6, "once for each reader"


def test_the_files_of_a_container_that_restarts_are_one_log(tmp_path: Path) -> None:
    """Whichever of them was named: kubelet counts up with each restart."""
    log = Log(tmp_path)
    log.tail.leave()
    log.position.unlink()
    log.path = tmp_path / "0.log"
    log.write(2)
    log.path.rename(tmp_path / "0.log.20261124-143445")
    log.pack(tmp_path / "0.log.20261124-143445")
    named = log.path
    log.write()
    log.restart()
    log.read()
    for name in ("1.log", "2.log", "10.log"):
        log.path = tmp_path / name
        log.write(2)
        if name == "2.log":
            log.path.rename(tmp_path / "2.log.20261124-143446")
            log.write()
        log.path = named
        log.restart()
    (tmp_path / "2.log.20261124-143447.tmp").touch()
    log.read()
    assert log.taken == log.written[2:], "but what was rotated before the first start"
    log.path = tmp_path / "10.log"
    log.write()
    log.path = named
    log.read()
    assert log.taken == log.written[2:]
    assert "not read" not in log.said.getvalue()
    log.tail.leave()


@pytest.mark.parametrize("beside", ["target", "link"])
def test_a_link_is_followed_and_its_parts_are_found(tmp_path: Path, beside: str) -> None:
    """Beside what it leads to; or beside itself, if it leads to the newest of several."""
    (tmp_path / "real").mkdir()
    log = Log(tmp_path)
    log.tail.leave()
    names = [tmp_path / "real" / "0.log"] if beside == "target" else [tmp_path / f"audit-2022030{n}.log" for n in "123"]
    log.path.symlink_to(names[0])
    log.position.unlink()
    log.restart()
    for number in range(3):
        log.write(2)
        if number == 0:
            log.read(1)
        if beside == "target" and number < 2:
            names[0].rename(f"{names[0]}.2022030{number + 1}-143445")
        elif number < 2:
            log.path.unlink()
            log.path.symlink_to(names[number + 1])
    log.restart()
    log.read()
    assert log.taken == log.written
    assert "not read" not in log.said.getvalue()
    log.tail.leave()


@pytest.mark.parametrize("sparse", [True, False])
def test_a_hole_of_zeros_before_a_line_costs_no_event(log: Log, sparse: bool) -> None:
    """However long it is: kube-apiserver goes on at its old offset when its file was cut off. A position behind it is
    found again, in a copy as well."""
    log.write(3)
    log.read()
    size = 100 * 2**20 if sparse else 3 * 2**20
    log.path.write_bytes(b"" if sparse else bytes(size))
    with log.path.open("r+b") as file:
        file.truncate(size)
    assert log.read() == []
    log.write(3)
    log.read(1)
    log.write(3)
    log.restart()
    log.read()
    log.write(2)
    log.copy_and_cut()
    log.restart()
    log.read()
    assert log.taken == log.written


def test_a_hole_behind_a_torn_line_ends_it(log: Log) -> None:
    """The torn text comes by itself, and what is behind the hole is read."""
    log.append(b'{"torn":' + bytes(10 * LINE) + b'{"auditID":"b"}\n')
    assert log.read() == [b'{"torn":', b'{"auditID":"b"}']


def test_a_line_that_a_runtime_cut_goes_on_in_the_next_part(log: Log) -> None:
    """The position stays before it until all of it was taken."""
    prefix = b"2026-02-12T08:12:45.1Z stdout "
    log.append(prefix + b"F a\n" + prefix + b"P b\n" + prefix + b"P c\n")
    assert log.read() == [prefix + b"F a"]
    log.rename()
    log.append(prefix + b"P d\n")
    assert log.read() == []
    log.restart()
    log.append(prefix + b"F e\n")
    assert log.tail.next() is not None
    log.restart()
    assert log.read() == [prefix + line for line in (b"P b", b"P c", b"P d", b"F e")]
    log.append(prefix + b"F f\n")
    log.restart()
    assert log.read() == [prefix + b"F f"]


def test_a_line_that_a_runtime_cut_and_that_never_ends_is_taken_when_it_is_too_long(log: Log) -> None:
    """So that it holds up nothing."""
    prefix = b"2026-02-12T08:12:45.1Z stdout "
    lines = [prefix + b"P " + b"x" * 500] * 20
    log.append(b"".join(line + b"\n" for line in lines))
    log.append(prefix + b"F a\n")
    assert log.read() == [*lines, prefix + b"F a"]


def test_a_part_that_cannot_be_read_is_given_up_for_the_next_one(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries, and with a word; the one that is written to is never given up."""
    log.write(2)
    log.read()
    log.write(2)
    gone = log.rename()
    log.write(2)
    bad = gone.stat().st_ino
    real = os.pread

    def failing(number: int, size: int, offset: int) -> bytes:
        if os.fstat(number).st_ino == bad and offset > 10:
            raise OSError(5, "Input/output error")
        return real(number, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    log.tail.leave()
    log.tail = Tail(log.path, log.position, logs.make(log.said), LINE)
    log.tail.start()
    reasons, errors = list[str](), 0
    while errors < 50 and (not reasons or log.taken[-1] != log.written[-1]):
        try:
            piece = log.tail.next()
        except OSError:
            errors += 1
            continue
        assert piece is not None
        reasons += [piece.reason] if piece.reason else []
        log.taken += [] if piece.reason else piece.data.splitlines()
        log.tail.take()
    assert errors == PATIENCE - 1
    assert [reason.split(":")[0] for reason in reasons] == [f"the rest of {gone.name} cannot be read"]
    assert log.taken[-2:] == log.written[-2:]


def test_a_line_is_taken_when_it_has_its_end(log: Log) -> None:
    """Half of one waits."""
    log.append(b'{"auditID":')
    assert log.read() == []
    log.append(b'"a"}\n{"b"')
    assert log.read() == [b'{"auditID":"a"}']
    assert log.read() == []


def test_the_last_line_of_a_part_without_an_end_is_taken_when_the_next_part_has_one(log: Log) -> None:
    """Its writer died; it is a line as good as it is."""
    log.append(b'{"a":1}\n{"torn":')
    log.read()
    log.rename()
    assert log.read() == []
    log.append(b'{"b":1}\n')
    assert log.read() == [b'{"torn":', b'{"b":1}']


def test_at_the_very_first_start_older_parts_are_not_read(tmp_path: Path) -> None:
    """Only the one that is written to."""
    old = Log(tmp_path)
    old.write(3)
    old.rename()
    old.write(2)
    old.position.unlink()
    old.restart()
    assert old.read() == old.written[3:]
    old.tail.leave()


def test_what_was_rotated_before_anything_was_written_is_read(log: Log) -> None:
    """There was a start, and then a part: it is not an older one."""
    log.restart()
    log.write(2)
    log.rename()
    log.write()
    log.restart()
    assert log.read() == log.written


@pytest.mark.parametrize("packed", [False, True])
def test_parts_rotated_while_away_are_read_in_order_to_their_end(log: Log, packed: bool) -> None:
    """From where it stopped, through a part that it never saw, to the newest."""
    log.write(3)
    assert log.tail.next()
    log.read()
    log.write(2)
    names = [log.rename()]
    log.write(4)
    names.append(log.rename())
    log.write(1)
    if packed:
        for name in names:
            log.pack(name)
    log.restart()
    log.read()
    assert log.taken == log.written


def test_a_part_that_is_deleted_while_it_is_read_is_read_to_its_end(log: Log) -> None:
    """It is held open."""
    log.write(1000, 3000)
    log.read(1)
    name = log.rename()
    log.write()
    name.unlink()
    log.read()
    assert log.taken == log.written
    assert "gone" not in log.said.getvalue()


def test_a_part_that_was_deleted_before_it_was_read_is_told(log: Log) -> None:
    """The older ones are not read again, the newer ones are."""
    log.write(5)
    log.read()
    log.rename()
    log.write(5)
    log.read()
    gone = log.rename()
    log.write(2)
    log.restart()
    gone.unlink()
    assert log.read() == log.written[10:]
    assert "gone" in log.said.getvalue()


def test_a_log_that_is_cut_off_without_a_copy_is_read_from_its_new_beginning(log: Log) -> None:
    """Also when it has grown beyond the old position by then."""
    log.write(3)
    log.read()
    log.path.write_bytes(b"")
    log.write(30)
    log.read()
    assert log.taken == log.written


def test_an_inode_that_is_used_again_is_no_old_friend(log: Log) -> None:
    """Another file of the same number begins otherwise."""
    log.write(3)
    log.read()
    before = log.path.stat().st_ino
    stored = json.loads(log.position.read_bytes())
    log.path.unlink()
    log.write(5)
    stored["inode"] = [log.path.stat().st_dev, log.path.stat().st_ino]
    log.tail.leave()
    log.position.write_text(json.dumps(stored))
    log.restart()
    log.read()
    assert log.taken == log.written
    assert before


def test_a_line_that_is_too_long_is_kept_in_part_and_passed(log: Log) -> None:
    """What follows it is read; one that has no end yet waits for it."""
    log.append(b"y" * (3 * LINE))
    assert log.tail.next() is None
    log.append(b"y\n")
    log.write(2)
    piece = log.tail.next()
    assert piece is not None
    assert "more than 4096 bytes" in piece.reason
    assert set(piece.data) == {ord("y")}
    log.tail.take()
    log.tail.store()
    log.restart()
    assert log.read() == log.written


def test_a_torn_gzip_is_told_once_and_passed(log: Log) -> None:
    """With what could be read of it."""
    log.write(1)
    log.read()
    log.write(2000, 100)
    name = log.rename()
    log.pack(name)
    whole = Path(f"{name}.gz").read_bytes()
    Path(f"{name}.gz").write_bytes(whole[: len(whole) // 2])
    log.write()
    log.restart()
    reasons = []
    found = []
    while piece := log.tail.next():
        reasons += [piece.reason] if piece.reason else []
        found += [] if piece.reason else piece.data.splitlines()
        log.tail.take()
    assert len(reasons) == 1
    assert "cannot be read" in reasons[0]
    assert found[:100] == log.written[1:101]
    assert found[-1] == log.written[-1]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_gzip_that_is_torn_before_the_position_costs_no_other_part(log: Log, share: float) -> None:
    """What was read of it does not come again, what cannot be read is said, and the rest of the log is read."""
    log.write(2000, 100)
    log.read()
    log.write(10)
    name = log.rename()
    log.pack(name)
    whole = Path(f"{name}.gz").read_bytes()
    Path(f"{name}.gz").write_bytes(whole[: int(len(whole) * share)])
    log.write(3)
    log.restart()
    reasons, found = list[str](), list[bytes]()
    while piece := log.tail.next():
        reasons += [piece.reason] if piece.reason else []
        found += [] if piece.reason else piece.data.splitlines()
        log.tail.take()
    assert len(reasons) == 1
    assert "damaged or incomplete" in reasons[0]
    assert found == log.written[-3:]


def test_two_torn_parts_are_each_told_once(log: Log) -> None:
    """However often the log is looked at."""
    log.write()
    log.read()
    for number in (3, 2):
        log.path.with_name(f"audit.log.{number}.gz").write_bytes(gzip.compress(b"x" * 1000)[:9])
    log.rename().rename(log.path.with_name("audit.log.4"))
    log.write()
    reasons, found = list[str](), list[bytes]()
    for _ in range(10):
        if piece := log.tail.next():
            reasons += [piece.reason] if piece.reason else []
            found += piece.data.splitlines()
            log.tail.take()
    assert len(reasons) == 2
    assert found == log.written[1:]


def test_a_position_that_cannot_be_read_costs_duplicates_and_no_line(log: Log) -> None:
    """All parts are read again."""
    log.write(2)
    log.rename()
    log.write(2)
    log.read()
    log.position.write_bytes(b"\xff{")
    log.restart()
    assert log.read() == log.written


class Interleavings(RuleBasedStateMachine):
    """Writing, rotating, packing, reading and restarting in any order: each line is taken once, in order.

    A restart comes after the position was stored, or before: then the last piece is read again.
    """

    folders: Iterator[Path]

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(next(self.folders))
        self.packable: list[Path] = []
        self.unsure = 0

    @initialize(copying=st.booleans())
    def kind(self, copying: bool) -> None:
        """Who rotates."""
        self.copying = copying

    @rule(number=st.integers(1, 5), size=st.sampled_from([0, 50, 2000]))
    def write(self, number: int, size: int) -> None:
        """Whole lines."""
        self.log.write(number, size)

    @rule(cut=st.integers(1, 10))
    def write_in_halves(self, cut: int) -> None:
        """One line, with a look in between."""
        line = self.log._line(20)
        self.log.append(line[:cut])
        self.log.read()
        self.log.append(line[cut:] + b"\n")
        self.log.written.append(line)

    @precondition(lambda self: not self.copying)
    @rule()
    def rename(self) -> None:
        """The part goes, and there is none for a while."""
        self.packable.append(self.log.rename())

    @precondition(lambda self: self.copying)
    @rule()
    def copy_and_cut(self) -> None:
        """The part stays and its content goes."""
        self.log.copy_and_cut()

    @precondition(lambda self: self.packable)
    @rule()
    def pack(self) -> None:
        """The oldest part becomes a .gz."""
        part = self.packable.pop(0)
        if part.exists():
            self.log.pack(part)

    @rule(pieces=st.integers(1, 3))
    def read(self, pieces: int) -> None:
        """A little."""
        self.log.read(pieces)

    @rule()
    def restart(self) -> None:
        """With the position stored."""
        self.log.restart()

    @rule()
    def crash_between_taking_and_storing(self) -> None:
        """What was taken is taken again: the same lines."""
        piece = self.log.tail.next()
        if piece:
            self.log.tail.take()
            self.log.restart()
            again = self.log.tail.next()
            assert again is not None
            assert again.data[:20] == piece.data[:20]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        """What was taken is what was written first."""
        assert self.log.taken == self.log.written[: len(self.log.taken)]

    def teardown(self) -> None:
        """At last everything is taken."""
        self.log.write()
        self.log.read()
        self.log.tail.leave()
        assert self.log.taken == self.log.written


def test_any_interleaving_of_writing_rotating_and_reading_loses_nothing(tmp_path: Path) -> None:
    """A state machine against the list of what was written."""

    def folders() -> Iterator[Path]:
        number = 0
        while True:
            number += 1
            folder = tmp_path / str(number)
            folder.mkdir()
            yield folder

    Interleavings.folders = folders()
    run_state_machine_as_test(
        Interleavings,
        settings=settings(
            max_examples=150,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_part_that_cannot_be_opened_for_a_moment_is_not_gone(
    log: Log, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The error is raised, and the next try goes on at the position: nothing is missed, and nothing comes twice."""
    log.write(2)
    log.read()
    log.write(2)
    log.rename()
    log.write(2)
    log.restart()
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "resume", _raises(OSError(code, os.strerror(code))))
        with pytest.raises(OSError, match=re.escape(os.strerror(code))):
            log.tail.next()
    log.read()
    assert log.taken == log.written
    assert "gone" not in log.said.getvalue()


def _raises(error: Exception) -> Callable[..., bool]:
    def raises(*_: object) -> bool:
        raise error

    return raises


def test_an_unreadable_part_that_may_hold_the_position_is_given_up_in_the_end(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not be that part at all."""
    log.write(2)
    log.read()
    log.rename().unlink()
    log.path.with_name("audit.log.1").write_bytes(b"what")
    log.write(1)
    log.restart()
    init = Reader.__init__

    def refused(reader: Reader, part: Part) -> None:
        if part.path.name == "audit.log.1":
            raise PermissionError(errno.EACCES, "Permission denied", str(part.path))
        init(reader, part)

    monkeypatch.setattr(Reader, "__init__", refused)
    for _ in range(2 * PATIENCE):
        with suppress(OSError):
            while piece := log.tail.next():
                log.taken += piece.data.splitlines()
                log.tail.take()
    assert log.taken == log.written


@pytest.mark.parametrize("packed", [False, True])
def test_a_copy_that_ends_before_the_position_does_not_come_again(log: Log, packed: bool) -> None:
    """copytruncate had copied before the last lines were written; the times of both files may be the same."""
    log.write(30, 100)
    log.read()
    copy = log.path.with_name("audit.log.1")
    shutil.copy2(log.path, copy)
    if packed:
        log.pack(copy)
        copy = copy.with_name("audit.log.1.gz")
    log.write(1)
    log.read()
    found = log.path.stat()
    os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.truncate(log.path, 0)
    log.write(2)
    log.read()
    log.restart()
    log.read()
    assert log.taken == log.written


def test_a_log_with_many_parts_costs_one_look_while_nothing_comes(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is listed again once another file is there."""
    log.write(2)
    log.read()
    listings = list[Path]()

    def counted(path: Path) -> Listing:
        listings.append(path)
        return listing(path)

    monkeypatch.setattr(tails, "listing", counted)
    for _ in range(20):
        log.read()
    assert listings == []
    log.rename()
    log.write(2)
    log.read()
    assert listings
    assert log.taken == log.written


def test_a_line_that_has_not_ended_is_read_again_once_the_file_has_changed(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at every look: it may be long."""
    log.write(2)
    log.read()
    reads, read = list[int](), Reader.read

    def counted(reader: Reader, skip: int, least: int, most: int) -> bytes:
        reads.append(skip)
        return read(reader, skip, least, most)

    monkeypatch.setattr(Reader, "read", counted)
    log.append(b"{")
    for _ in range(20):
        log.read()
    assert len(reads) <= 2
    log.append(b"}\n")
    log.written.append(b"{}")
    log.read()
    assert log.taken == log.written
