"""JSON lines on standard output. Arrived means: the kernel has taken them; what reads the pipe answers for the rest."""

from __future__ import annotations

from collections.abc import Sequence

from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.disk import write_all
from auditpipeline.dataplane.lines import as_lines
from auditpipeline.dataplane.outputs.writer import Writer


class Stdout:
    """Writes to file descriptor `number`, from a thread of its own: nobody may be reading."""

    def __init__(self, number: int = 1) -> None:
        self._number = number
        self._writer = Writer("output-stdout")
        self._torn = False

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Writes the lines."""
        await self._writer.write(as_lines(lines).texts, self._write)

    async def close(self) -> None:
        """Leaves the descriptor open: it is the process's."""
        self._writer.stop()

    def _write(self, texts: Sequence[bytes]) -> None:
        """Ends a line that failed half-way before, since what a pipe has taken cannot be taken back."""
        before, self._torn = self._torn, True
        try:
            write_all(self._number, *([b"\n"] if before else []), *texts)
        except OSError as error:
            raise Retryable(f"standard output cannot be written: {error.strerror}") from error
        self._torn = False
