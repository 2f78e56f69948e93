"""What every output has to do, as tests to inherit: docs/outputs.md says why, and shows how."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.outputs import Output
from tests.dataplane.setting import real_events, until

FEW = [b'{"n":%d}' % number for number in range(3)]
ODD = [
    json.dumps({"text": text}, ensure_ascii=ascii_only).encode()
    for text in ("", "ä€😀", "\u2028\x7f", 'a\r\n\t"\\', "x" * 300_000, "[,]", "]}")
    for ascii_only in (True, False)
]


class Subject(ABC):
    """An output's destination in the hands of a test: a real one, that can fail and be mended."""

    secrets: tuple[str, ...] = ()
    """What must never stand in a message."""

    @abstractmethod
    def make(self) -> Output:
        """An output to this destination, as a route would have it."""

    @abstractmethod
    def arrived(self) -> list[bytes]:
        """The events that are at the destination now, in order."""

    @abstractmethod
    def fail(self) -> None:
        """From now on the destination takes nothing, and says so."""

    @abstractmethod
    def hang(self) -> None:
        """From now on the destination takes nothing, and says nothing."""

    @abstractmethod
    def mend(self) -> None:
        """It takes events again."""


@asynccontextmanager
async def opened(subject: Subject) -> AsyncIterator[Output]:
    """An output that is closed at the end."""
    output = subject.make()
    try:
        yield output
    finally:
        await output.close()


def values(lines: Sequence[bytes]) -> list[Any]:
    """The events that the lines stand for; a torn one fails."""
    return [json.loads(line) for line in lines]


class OutputContract:
    """Inherit from it, and give `subject`."""

    @pytest.fixture
    def subject(self) -> Subject:
        """The destination under test."""
        raise NotImplementedError

    async def test_what_was_delivered_has_arrived(self, subject: Subject) -> None:
        """When `deliver` returns, not some time later: the cursor moves then. In order."""
        events = [json.dumps(event).encode() for event in real_events()[:400]]
        async with opened(subject) as output:
            for lines in (FEW[:1], FEW[1:], events):
                await output.deliver(lines)
                assert values(subject.arrived())[-len(lines) :] == values(lines)
        assert values(subject.arrived()) == values([*FEW, *events])

    async def test_events_arrive_unchanged(self, subject: Subject) -> None:
        """Whatever stands in them, and one line each."""
        async with opened(subject) as output:
            await output.deliver(ODD)
        assert values(subject.arrived()) == values(ODD)

    async def test_the_lines_stay_the_routes(self, subject: Subject) -> None:
        """It sends the same list again, or halves of it."""
        lines = list(FEW)
        async with opened(subject) as output:
            await output.deliver(lines)
            await output.deliver(tuple(lines[1:]))
        assert lines == FEW

    async def test_nothing_is_opened_before_the_first_delivery(self, subject: Subject) -> None:
        """A destination that is down must not keep the process from starting, or from ending."""
        subject.fail()
        output = subject.make()
        await output.close()
        await output.close()
        assert subject.arrived() == []

    async def test_a_failure_is_retryable_and_the_same_output_goes_on(self, subject: Subject) -> None:
        """Nothing is lost, and nothing that arrived is torn."""
        async with opened(subject) as output:
            await output.deliver(FEW[:1])
            subject.fail()
            for _ in range(2):
                with pytest.raises(Retryable):
                    await output.deliver(FEW[1:])
            subject.mend()
            await output.deliver(FEW[1:])
        assert values(subject.arrived()) == values(FEW)

    async def test_a_message_is_one_short_line_without_secrets(self, subject: Subject) -> None:
        """It ends up in logs, and in a status that many may read."""
        subject.fail()
        async with opened(subject) as output:
            with pytest.raises(Retryable) as caught:
                await output.deliver([b'{"password":"of a recorded body"}', *FEW])
        message = str(caught.value)
        assert message.isprintable()
        assert 0 < len(message) <= 512
        assert not [secret for secret in (*subject.secrets, "of a recorded body") if secret in message]

    async def test_a_hang_blocks_nobody_and_ends_with_the_delivery(self, subject: Subject) -> None:
        """The route gives up after a while and calls again with the same events: they arrive, whole."""
        async with opened(subject) as output:
            await output.deliver(FEW[:1])
            subject.hang()
            for _ in range(3):
                task = asyncio.create_task(output.deliver(FEW[1:]))
                for _ in range(100):
                    await asyncio.sleep(0)
                assert not task.done()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            subject.mend()
            await output.deliver(FEW[1:])
            found = values(subject.arrived())
            assert found[0] == {"n": 0}
            assert found[-2:] == values(FEW[1:])
            assert len(found) <= 1 + 2 * 4

    async def test_a_close_leaves_nothing_behind(self, subject: Subject) -> None:
        """After deliveries of every kind no task of it runs, and closing again is nothing."""
        before = asyncio.all_tasks()
        output = subject.make()
        await output.deliver(FEW)
        subject.hang()
        task = asyncio.create_task(output.deliver(FEW))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        subject.mend()
        await output.close()
        await output.close()
        await until(lambda: asyncio.all_tasks() <= before)

    async def test_a_new_output_goes_on_where_the_last_one_ended(self, subject: Subject) -> None:
        """A restart, or a changed configuration."""
        for line in FEW:
            async with opened(subject) as output:
                await output.deliver([line])
        assert values(subject.arrived()) == values(FEW)
