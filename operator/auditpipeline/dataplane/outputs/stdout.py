"""JSON lines on standard output. Arrived means: the kernel has taken them; what reads the pipe answers for the rest.

All outputs of a process that write to one descriptor write in turn, a delivery each, so that no line stands inside of
another; where one failed half-way, the next of any of them ends the torn line first. A reader that sleeps stops those
outputs, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.disk import write_all
from auditpipeline.dataplane.lines import as_lines
from auditpipeline.dataplane.outputs.writer import Writer


class _Descriptor:
    """What the outputs of one descriptor share. `torn`: the last write may have ended inside of a line."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.torn = False


_descriptors: dict[int, _Descriptor] = {}
"""For as long as the process lives: a torn line, or a write that hangs, outlives the output that made it."""


class Stdout:
    """Writes to file descriptor `number`, from a thread of its own: nobody may be reading."""

    def __init__(self, number: int = 1) -> None:
        self._number = number
        self._shared = _descriptors.setdefault(number, _Descriptor())
        self._writer = Writer("output-stdout")

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Writes the lines."""
        await self._writer.write(as_lines(lines).texts, self._write)

    async def close(self) -> None:
        """Leaves the descriptor open: it is the process's."""
        self._writer.stop()

    def _write(self, texts: Sequence[bytes]) -> None:
        """Ends a line that failed half-way before, since what a pipe has taken cannot be taken back."""
        with self._shared.lock:
            before, self._shared.torn = self._shared.torn, True
            try:
                write_all(self._number, *([b"\n"] if before else []), *texts)
            except OSError as error:
                raise Retryable(f"standard output cannot be written: {error.strerror}") from error
            self._shared.torn = False
