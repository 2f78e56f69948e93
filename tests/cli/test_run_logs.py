"""`auditpipeline run --audit-log`: real processes that read logs as people have them."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import msgspec
import pytest

from auditpipeline.cli.run import run as command
from auditpipeline.cli.run_folder import DataFolder
from auditpipeline.cli.run_logs import checked, positions
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.sources.parts import Mark
from auditpipeline.dataplane.sources.tail import Stored, Tail
from tests.cli.running import Bench, archive, call, end, pipeline
from tests.cli.test_run import run
from tests.dataplane.setting import until
from tests.dataplane.test_log_sorting import LOGS, line


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A folder with a pipeline; nothing runs yet."""
    bench = Bench(tmp_path)
    bench.write(pipeline(archive()))
    return bench


def arrived(bench: Bench) -> list[str]:
    """The auditIDs that were delivered."""
    return [identity.split("/")[0].strip('"') for identity in bench.delivered()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("-", "name the file in which the container runtime keeps it"),
        ("{folder}", "is a folder"),
        ("{pipe}", "regular"),
    ],
)
def test_what_can_never_be_read_is_one_line_and_exit_code_2(
    bench: Bench, capsys: pytest.CaptureFixture[str], given: str, message: str
) -> None:
    """Before anything listens."""
    os.mkfifo(bench.folder / "pipe")
    path = given.format(folder=bench.folder, pipe=bench.folder / "pipe")
    code, err = run(bench.arguments("--audit-log", path), capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("auditpipeline: --audit-log:")
    assert message in err


def test_a_log_that_cannot_be_read_yet_is_no_reason_not_to_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, as one that is missing: the listener does not depend on it."""
    log, access = bench.folder / "audit.log", os.access
    log.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != log and access(path, mode))
    given = command.make_context("run", [*bench.arguments("--audit-log", str(log))[1:]]).params["audit_logs"]
    assert checked(given) == (log,)


async def test_a_torn_part_does_not_end_the_process_at_any_start(bench: Bench) -> None:
    """Before the position or behind it: what can be read arrives, and the rest is a dead letter."""
    log = bench.folder / "audit.log"
    log.write_bytes(b"".join(line(f"a-{number}") for number in range(300)))
    async with bench.running("--audit-log", str(log)) as process:
        await until(lambda: len(arrived(bench)) == 300)
        assert await end(process) == 0
    whole = gzip.compress(log.read_bytes() + b"".join(line(f"b-{number}") for number in range(300)))
    for torn in (whole[: len(whole) // 3], whole[: len(whole) - 200], whole[:50] + bytes(100) + whole[150:]):
        log.with_name("audit.log.1.gz").write_bytes(torn)
        newest = f"c-{len(torn)}"
        log.write_bytes(line(newest))
        async with bench.running("--audit-log", str(log)) as process:
            await until(lambda name=newest: name in arrived(bench))  # type: ignore[misc]
            assert await end(process) == 0
    _, out, _ = await call("spool", "ls", str(bench.spool), "--output", "json")
    assert sum(each["letters"] for each in json.loads(out)["deadLetters"]) >= 3
    assert len({audit_id for audit_id in arrived(bench) if audit_id.startswith("b-")}) > 200


async def test_a_folder_that_is_missing_is_waited_for(bench: Bench) -> None:
    """The listener works meanwhile, and the log says why nothing comes."""
    log = bench.folder / "later" / "audit.log"
    async with bench.running("--audit-log", str(log)) as process:
        await until(lambda: bench.lines("the audit log cannot be read; trying again"))
        assert str(log.parent) in bench.lines("the audit log cannot be read; trying again")[0]["error"]
        assert (await bench.replay())[0] == 0
        log.parent.mkdir()
        log.write_bytes(line("a"))
        await until(lambda: "a" in arrived(bench))
        assert await end(process) == 0


async def test_several_logs_are_all_read_and_keep_their_positions(bench: Bench) -> None:
    """Over restarts, in any order, and when one is left out for a while."""
    first, second = bench.folder / "one" / "audit.log", bench.folder / "two" / "audit.log"
    for log in (first, second):
        log.parent.mkdir()
    first.write_bytes(line("a-1"))
    async with bench.running("--audit-log", str(first)) as process:
        await until(lambda: arrived(bench) == ["a-1"])
        await end(process)
    second.write_bytes((LOGS / "audit-cri.log").read_bytes())
    for number, given in enumerate(((first, second), (second, first), (second,), (first, second)), 2):
        for log, name in ((first, f"a-{number}"), (second, f"b-{number}")):
            with log.open("ab") as file:
                prefix = b"2026-02-12T08:12:45.1Z stdout F " if log == second else b""
                file.write(prefix + line(name))
        expected = {f"{'a' if log == first else 'b'}-{number}" for log in given}
        async with bench.running(*[word for log in given for word in ("--audit-log", str(log))]) as process:
            await until(lambda names=expected: names <= set(arrived(bench)))  # type: ignore[misc]
            await end(process)
    found = arrived(bench)
    assert sorted(found) == sorted(
        ["e-1", "e-2", *(f"{log}-{n}" for log in "ab" for n in range(1, 6) if log + str(n) != "b1")]
    )
    assert len(list(bench.data.glob("log*.position"))) == 2


def test_a_position_of_the_release_before_stays_valid(tmp_path: Path) -> None:
    """And the release before reads ours: it knows no path."""
    folder, log = DataFolder(tmp_path / "data"), tmp_path / "audit.log"
    folder.make()
    log.write_bytes(line("a") + line("b"))
    tail = Tail(log, folder.position, logs.make(), 10_000)
    tail.start()
    assert tail.next()
    tail.take()
    tail.store()
    tail.leave()
    stored = msgspec.json.decode(folder.position.read_bytes())
    assert msgspec.json.decode(folder.position.read_bytes(), type=Stored).path == str(log)
    del stored["path"]
    folder.position.write_bytes(msgspec.json.encode(stored))
    assert msgspec.json.decode(folder.position.read_bytes(), type=Mark).offset == log.stat().st_size
    other = tmp_path / "other.log"
    assert positions(folder, [log]) == {log: folder.position}
    assert positions(folder, [other]) == {other: folder.position}
    assert positions(folder, [log, other])[log] == folder.position
    assert positions(folder, [log, other])[other] != folder.position


def test_the_position_stays_with_its_log(tmp_path: Path) -> None:
    """Whatever is added, and in whatever order."""
    folder, one, two = DataFolder(tmp_path / "data"), tmp_path / "one.log", tmp_path / "two.log"
    folder.make()
    folder.position.write_bytes(msgspec.json.encode(Stored.of(Mark(), one)))
    assert positions(folder, [two, one])[one] == folder.position
    assert folder.position not in positions(folder, [two, tmp_path / "three.log"]).values()
    own = positions(folder, [one, two])[two]
    own.touch()
    assert positions(folder, [two]) == {two: own}
    assert positions(folder, [two, one]) == {two: own, one: folder.position}
