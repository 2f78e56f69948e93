"""What a log source says of itself: in the report, the metrics and the log; and what does not end it."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from auditpipeline.core.report import SourceReport
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.sources.log import LogSource
from tests.dataplane.setting import QUICK, Setting, lines_in, until
from tests.dataplane.test_log_sorting import KLOG, LEGACY, LOGS, SYSLOG, line
from tests.dataplane.test_log_source import Gate


class Reading:
    """A source that reads."""

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self.gate, self.said = Gate(), io.StringIO()
        self.path = path or folder / "kube" / "audit.log"
        self.position = folder / "position"
        self.source = LogSource(self.path, self.position, self.gate, logs.make(self.said), max_line=100_000)

    @property
    def report(self) -> SourceReport:
        """What it says."""
        return self.source.report()

    def times(self, words: str) -> int:
        """In how many lines of the log these words stand."""
        return self.said.getvalue().count(words)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reads until the end of the block."""
        stop = asyncio.Event()
        await self.source.start()
        task = asyncio.create_task(self.source.run(stop))
        try:
            yield
            assert not task.done()
        finally:
            stop.set()
            await asyncio.wait_for(task, 20)


async def test_a_folder_that_is_missing_is_said_at_once_and_may_come_later(tmp_path: Path) -> None:
    """With its name, in the report and in the log."""
    reading = Reading(tmp_path)
    async with reading.running():
        await until(lambda: reading.report.state == "Failing")
        assert str(reading.path.parent) in reading.report.last_error
        assert "No such file or directory" in reading.report.last_error
        assert reading.report.last_error_at > 0
        reading.path.parent.mkdir()
        await until(lambda: "no such file yet" in reading.report.last_error)
        reading.path.write_bytes(line("a"))
        await until(lambda: reading.gate.taken == ["a"])
        await until(lambda: reading.report.state == "Reading")
    assert reading.times("the audit log cannot be read; trying again") == 1
    assert reading.times("the audit log is not there yet") == 1
    assert (reading.report.lines, reading.report.events) == (1, 1)


async def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before it could be read is taken then, in all parts."""
    reading = Reading(tmp_path)
    reading.path.parent.mkdir()
    reading.path.write_bytes(line("b"))
    reading.path.with_name("audit.log.1").write_bytes(line("a"))
    real, closed = os.scandir, True

    def scandir(path: Path) -> object:
        if closed and Path(path) == reading.path.parent:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    async with reading.running():
        await until(lambda: "Permission denied" in reading.report.last_error)
        closed = False
        await until(lambda: reading.gate.taken == ["a", "b"])


async def test_something_else_than_a_file_is_said(tmp_path: Path) -> None:
    """A pipe would hang whoever opens it."""
    reading = Reading(tmp_path)
    reading.path.parent.mkdir()
    os.mkfifo(reading.path)
    async with reading.running():
        await until(lambda: "this is not a file" in reading.report.last_error)


async def test_a_position_that_cannot_be_stored_is_waited_for(tmp_path: Path) -> None:
    """At the start as well: it ends nothing, and lines are taken meanwhile once the start is known."""
    reading = Reading(tmp_path)
    reading.path.parent.mkdir()
    blocked = tmp_path / "position.new"
    blocked.mkdir()
    reading.path.write_bytes(line("a"))
    async with reading.running():
        await until(lambda: reading.report.state == "Failing")
        assert "position.new" in reading.report.last_error
        blocked.rmdir()
        await until(lambda: reading.gate.taken == ["a"])
        await until(reading.position.exists)


async def test_a_part_that_is_torn_ends_nothing(tmp_path: Path) -> None:
    """Before the position and behind it: it is a dead letter, and the next part is read."""
    reading = Reading(tmp_path)
    reading.path.parent.mkdir()
    reading.path.write_bytes(line("a") * 50)
    async with reading.running():
        await until(lambda: len(reading.gate.taken) == 50)
    whole = gzip.compress(line("a") * 50 + b"".join(line(f"b-{number}") for number in range(500)))
    reading.path.with_name("audit.log.1.gz").write_bytes(whole[:-100])
    reading.path.write_bytes(line("c"))
    again = Reading(tmp_path)
    async with again.running():
        await until(lambda: again.gate.taken[-1:] == ["c"])
    assert [letter.reason.split(":")[0] for letter in again.gate.dead if "damaged" in letter.reason] == [
        "the rest of audit.log.1.gz cannot be read"
    ]
    assert len([audit_id for audit_id in again.gate.taken if audit_id.startswith("b-")]) > 100
    assert again.report.buried == len(again.gate.dead)


@pytest.mark.parametrize(
    ("data", "words", "kind"),
    [
        (SYSLOG * 3000, "there is no audit event in it so far", "other"),
        (LEGACY * 3000, "set --audit-log-format=json", "legacy"),
    ],
)
async def test_a_log_that_cannot_be_used_is_said_once(tmp_path: Path, data: bytes, words: str, kind: str) -> None:
    """And not buried line by line; what comes later is read."""
    reading = Reading(tmp_path)
    reading.path.parent.mkdir()
    reading.path.write_bytes(data)
    async with reading.running():
        await until(lambda: reading.report.lines == 3000)
        assert words in reading.report.last_error
        assert reading.report.foreign == {"component": 0, "legacy": 0, "other": 0, kind: 3000}
        with reading.path.open("ab") as file:
            file.write(data + line("a"))
        await until(lambda: reading.gate.taken == ["a"])
    assert reading.times(words) == 1
    assert len(reading.gate.dead) == 0 or kind == "other"


async def test_what_is_buried_is_counted_by_events_and_said_at_a_bounded_rate(tmp_path: Path) -> None:
    """However many pieces there are."""
    reading = Reading(tmp_path)
    reading.path.parent.mkdir()
    reading.path.write_bytes(line("a"))
    async with reading.running():
        for number in range(1, 6):
            with reading.path.open("ab") as file:
                file.write(b"{\n" * 200)
            await until(lambda most=number: reading.report.buried == 200 * most)  # type: ignore[misc]
    assert reading.times("lines of the audit log are not events") == 1
    assert sum(letter.events for letter in reading.gate.dead) == 1000


async def test_a_log_of_a_container_runtime_is_read_over_restarts(tmp_path: Path) -> None:
    """Also a line that was cut in pieces, and that is complete only after the restart."""
    reading = Reading(tmp_path)
    reading.path.parent.mkdir()
    time, event = b"2026-02-12T08:12:45.1Z stdout ", line("long")[:-1]
    reading.path.write_bytes((LOGS / "audit-cri.log").read_bytes() + time + b"P " + event[:100] + b"\n")
    async with reading.running():
        await until(lambda: reading.gate.taken == ["e-1", "e-2"])
    assert reading.report.foreign["component"] == 1
    again = Reading(tmp_path)
    with again.path.open("ab") as file:
        file.write(time + b"F " + event[100:] + b"\n")
    async with again.running():
        await until(lambda: again.gate.taken == ["long"])
    assert again.gate.dead == reading.gate.dead == []


async def test_a_large_event_is_joined_from_many_pieces(tmp_path: Path) -> None:
    """Of 16 KiB, as containerd cuts it, with what kube-apiserver says meanwhile in between."""
    gate, path, stop = Gate(), tmp_path / "0.log", asyncio.Event()
    large = line("large")[:-2] + b',"requestObject":{"x":"' + b"y" * 3 * 2**20 + b'"}}'
    pieces = [large[at : at + 2**14] for at in range(0, len(large), 2**14)]
    time, klog = b"2026-02-12T08:12:45.1Z ", b"stderr F " + KLOG
    lines = [time + b"stdout P " + piece + b"\n" + time + klog for piece in pieces[:-1]]
    path.write_bytes(b"".join(lines) + time + b"stdout F " + pieces[-1] + b"\n" + time + b"stdout F " + line("next"))
    source = LogSource(path, tmp_path / "position", gate, logs.make(io.StringIO()))
    await source.start()
    task = asyncio.create_task(source.run(stop))
    await until(lambda: gate.taken == ["large", "next"])
    stop.set()
    await task
    assert gate.dead == []
    assert source.report().foreign["component"] == len(pieces) - 1
    assert source.report().last_error == ""


async def test_the_state_of_a_source_is_in_the_report_and_in_the_metrics(setting: Setting) -> None:
    """With what was taken, and what was not."""
    path = setting.folder / "audit.log"
    torn = (LOGS / "torn.log").read_bytes()
    path.write_bytes(KLOG + torn)
    async with setting.running(setting.config(), QUICK) as running:
        stop = asyncio.Event()
        source = LogSource(path, setting.folder / "position", running.plane.intake, logs.make(setting.log))
        running.plane.sources.append(source.report)
        await source.start()
        task = asyncio.create_task(source.run(stop))
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == 6)
        await until(lambda: source.report().events == 6)
        report = await running.report()
        (found,) = report.sources
        assert (found.path, found.state, found.events, found.buried) == (str(path), "Reading", 6, 2)
        assert (found.lines, found.foreign["component"], report.dead_letters) == (6, 1, 2)
        for name, value in (("lines", 6), ("events", 6), ("buried", 2)):
            assert await running.metric(f'auditpipeline_log_{name}_total{{path="{path}"}}') == value
        foreign = f'auditpipeline_log_foreign_lines_total{{kind="component",path="{path}"}}'
        assert await running.metric(foreign) == 1
        assert await running.metric(f'auditpipeline_log_failing{{path="{path}"}}') == 0
        stop.set()
        await task


def test_a_report_without_sources_is_read() -> None:
    """As the release before writes it."""
    from auditpipeline.core import report as reports

    body = {"plane": "receiver", "name": "a", "config": "", "events": {}, "outputs": []}
    assert reports.decode(json.dumps(body).encode()).sources == ()
