"""The log source against a real spool: back-pressure, broken lines, a position that is stored after the events."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.errors import Retryable
from auditpipeline.core.eventlist import decode_body
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.sources.log import LogSource
from auditpipeline.dataplane.sources.sorting import Sorter
from auditpipeline.dataplane.store import Dead
from tests.dataplane.setting import QUICK, Setting, event, ids, lines_in, real_events, until
from tests.dataplane.test_log_sorting import line as whole_line


class Gate:
    """A sink that takes, refuses, or holds what it is given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.dead: list[Dead] = []
        self.refusals = 0
        self.full = False

    async def take_events(self, body: bytes) -> None:
        """As an intake."""
        if self.full:
            self.refusals += 1
            raise Retryable("the spool holds 9 of 9 bytes", after=0.01)
        self.bodies.append(body)

    async def bury(self, dead: Sequence[Dead]) -> None:
        """As an intake."""
        self.dead += dead

    @property
    def taken(self) -> list[str]:
        """The auditIDs that were taken."""
        found = [json.loads(bytes(item["auditID"])) for body in self.bodies for item in decode_body(body)]
        return [str(audit_id) for audit_id in found]


@asynccontextmanager
async def reading(folder: Path, gate: Gate, said: io.StringIO | None = None) -> AsyncIterator[Path]:
    """A source that reads `folder`/audit.log."""
    path, stop = folder / "audit.log", asyncio.Event()
    source = LogSource(path, folder / "position", gate, logs.make(said or io.StringIO()), max_line=10_000)
    await source.start()
    task = asyncio.create_task(source.run(stop))
    try:
        yield path
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


def lines_of(*audit_ids: str) -> bytes:
    """Events as kube-apiserver writes them."""
    line = {"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "stage": "ResponseComplete"}
    return b"".join(json.dumps({**line, "auditID": audit_id}).encode() + b"\n" for audit_id in audit_ids)


async def test_while_the_spool_is_full_the_source_waits_and_its_position_stays(tmp_path: Path) -> None:
    """One line in the log, whatever the number of tries; then everything is taken."""
    gate, said = Gate(), io.StringIO()
    gate.full = True
    async with reading(tmp_path, gate, said) as path:
        before = (tmp_path / "position").read_bytes()
        path.write_bytes(lines_of("a", "b"))
        await until(lambda: gate.refusals > 5)
        assert (tmp_path / "position").read_bytes() == before
        gate.full = False
        await until(lambda: gate.taken == ["a", "b"])
        await until(lambda: (tmp_path / "position").read_bytes() != before)
    assert said.getvalue().count("there is no room") == 1


async def test_told_to_stop_while_it_waits_it_takes_the_lines_at_the_next_start(tmp_path: Path) -> None:
    """The position had not moved."""
    gate = Gate()
    gate.full = True
    async with reading(tmp_path, gate) as path:
        path.write_bytes(lines_of("a"))
        await until(lambda: gate.refusals)
    gate.full = False
    async with reading(tmp_path, gate):
        await until(lambda: gate.taken == ["a"])


async def test_broken_lines_are_buried_and_spoil_no_other(tmp_path: Path) -> None:
    """Nor can two of them make one that is whole."""
    gate = Gate()
    async with reading(tmp_path, gate) as path:
        path.write_bytes(
            lines_of("a")
            + b"2020-01-01 AUDIT: id=1\n"
            + b'{}],"items":[{}\n'
            + b"\n\r\n"
            + lines_of("b")[:-1]
            + b"\r\n"
        )
        await until(lambda: gate.taken == ["a", "b"] and len(gate.dead) == 2)
    assert [letter.data for letter in gate.dead] == [b"2020-01-01 AUDIT: id=1", b'{}],"items":[{}']


async def test_a_line_that_is_too_long_is_buried_in_part(tmp_path: Path) -> None:
    """And the next one is taken."""
    gate = Gate()
    async with reading(tmp_path, gate) as path:
        path.write_bytes(b"x" * 50_000 + b"\n" + lines_of("a"))
        await until(lambda: gate.taken == ["a"])
    (letter,) = gate.dead
    assert "more than 10000 bytes" in letter.reason
    assert letter.data == b"x" * 10_001


async def test_a_log_that_cannot_be_read_is_told_once_and_tried_again(tmp_path: Path) -> None:
    """A folder in its place, say."""
    gate, said = Gate(), io.StringIO()
    (tmp_path / "audit.log").mkdir()
    (tmp_path / "audit.log" / "file").touch()
    async with reading(tmp_path, gate, said) as path:
        await until(lambda: "cannot be read" in said.getvalue())
        (path / "file").unlink()
        path.rmdir()
        path.write_bytes(lines_of("a"))
        await until(lambda: gate.taken == ["a"])


LIST = b'{"kind":"EventList","items":[]}'


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b'{"auditID":1}', b'{"a":1}', b"{", LIST]))))
def test_every_line_becomes_an_event_or_a_dead_letter(lines: list[bytes]) -> None:
    """Whatever it holds, once there was an event; only empty ones become nothing."""
    data = lines_of("a") + b"\n".join(lines)
    found = Sorter(1000).sort(data)
    whole = [line for line in (line.strip(b"\0\r\t ") for line in data.split(b"\n")) if line]
    lists = [body for body in found.bodies if body == LIST]
    events = [item for body in found.bodies if body not in lists for item in decode_body(body)]
    letters = sum(letter.events for letter in found.dead)
    assert found.lines == len(whole)
    assert found.events == len(events)
    assert len(events) + len(lists) + letters + found.foreign.total() >= len(whole)
    assert found.foreign["other"] == 0


@pytest.mark.parametrize("zeros", [b"", b"\0" * 5000])
async def test_events_of_a_log_arrive_in_an_output(setting: Setting, zeros: bytes) -> None:
    """Through filter, spool and route; what a writer left of zeros is passed over."""
    events = [*real_events()[:700], event()]
    log = setting.folder / "audit.log"
    log.write_bytes(zeros + b"".join(json.dumps(found).encode() + b"\n" for found in events))
    async with setting.running(setting.config(), QUICK) as running:
        stop = asyncio.Event()
        source = LogSource(log, setting.folder / "position", running.plane.intake, logs.make(setting.log))
        await source.start()
        task = asyncio.create_task(source.run(stop))
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == len(events))
        stop.set()
        await task
        assert ids(lines_in(setting.file)) == ids(events)
        assert (await running.report()).dead_letters == 0


async def test_an_object_between_a_hole_and_zeros_is_no_event(tmp_path: Path) -> None:
    """The zeros before it are passed over as a hole, and count all the same."""
    gate = Gate()
    async with reading(tmp_path, gate) as path:
        path.write_bytes(bytes(5000) + whole_line("forged")[:-1] + b"\0\0}}\n" + whole_line("a"))
        await until(lambda: gate.taken)
    assert gate.taken == ["a"]
