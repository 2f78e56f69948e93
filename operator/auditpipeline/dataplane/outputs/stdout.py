"""JSON lines on standard output. Arrived means: the kernel has taken them; what reads the pipe answers for the rest."""

from __future__ import annotations

from collections.abc import Sequence

from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.disk import write_all
from auditpipeline.dataplane.worker import Worker


class Stdout:
    """Writes to file descriptor `number`, from a thread of its own: nobody may be reading."""

    def __init__(self, number: int = 1) -> None:
        self._number = number
        self._worker = Worker("output-stdout")

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Writes the lines."""
        data = b"".join(line + b"\n" for line in lines)
        try:
            await self._worker.run(lambda: write_all(self._number, data))
        except OSError as error:
            raise Retryable(f"standard output cannot be written: {error.strerror}") from error

    async def close(self) -> None:
        """Leaves the descriptor open: it is the process's."""
        self._worker.stop()
