"""Where events go. The contract is `Output`; one module each implements it, and `make` chooses.

How to write another one, and the tests that it has to pass: docs/outputs.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from auditpipeline.core.config import FileOutput, HttpOutput, StdoutOutput
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.egress import Guard


class Output(Protocol):
    """One destination of one route. The route owns it, and alone calls it: one `deliver` at a time, `close` at the end.

    `deliver` gets one to ten thousand events, each one line of JSON without a line end, and owns none of them. When
    it returns, all of them have arrived for good: the cursor moves then, and the events may be deleted. Otherwise it
    raises

        Retryable   nothing is known to have arrived; the route calls again with the same events, and maybe later ones
        Permanent   the destination refuses at least one of them; the route tries them in halves, so that only those
                    which are refused alone become dead letters

    It may await for as long as it likes: the route cancels it after its timeout (30 s) and calls again, so an event may
    arrive twice. It must not block the event loop; blocking calls go to a `Worker`. Messages of errors end up in logs
    and in the status: one line, no secrets. `close` frees what is open, also after a cancelled `deliver`, and raises
    nothing; it may be called twice.
    """

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Hands the events over; returns when they are safe there."""

    async def close(self) -> None:
        """Frees what is open."""


class Unmade:
    """Stands for an output that cannot be made: every delivery fails, its own route says so, and the events wait for a
    configuration that mends it."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Raises Retryable."""
        raise Retryable(f"the output cannot be made ({self._reason}): check its configuration")

    async def close(self) -> None:
        """There is nothing to free."""


def make(config: StdoutOutput | FileOutput | HttpOutput, guard: Guard | None = None) -> Output:
    """The output that the configuration names; `guard` says what it may connect to (None: everything).

    Nothing is opened before the first delivery, and nothing is raised: one output must not be able to end the process
    of them all."""
    try:
        return _made(config, guard)
    except Exception as error:
        return Unmade(type(error).__name__)


def _made(config: StdoutOutput | FileOutput | HttpOutput, guard: Guard | None) -> Output:
    from auditpipeline.dataplane.outputs.file import File
    from auditpipeline.dataplane.outputs.http import Http
    from auditpipeline.dataplane.outputs.stdout import Stdout

    match config:
        case FileOutput():
            return File(config)
        case HttpOutput():
            return Http(config, guard)
        case StdoutOutput():
            return Stdout()
