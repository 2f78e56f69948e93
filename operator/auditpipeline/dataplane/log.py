"""Log lines: JSON on standard error, one a change of state, never one a batch, never a secret."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

Log = FilteringBoundLogger

_SHARED: list[Processor] = [
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


class Lossy:
    """Standard error, or another stream, to which writing never fails: a log on a full disk, or one that nobody reads
    any more, must not end what it tells of. What cannot be written is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._number = stream.fileno()
        except (io.UnsupportedOperation, AttributeError, ValueError):
            self._number = -1

    def write(self, text: str) -> int:
        """Writes a line, past the buffers: Python would fail once more when it flushes them at its end."""
        try:
            if self._number < 0:
                return self._stream.write(text)
            rest = memoryview(text.encode(errors="backslashreplace"))
            while rest:
                rest = rest[os.write(self._number, rest) :]
        except (OSError, ValueError):
            return 0
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush."""


def standard_error() -> TextIO:
    """Standard error, for logs."""
    return cast("TextIO", Lossy(sys.stderr))


def make(stream: TextIO | None = None) -> Log:
    """A logger that writes JSON lines to `stream` (default: standard error)."""
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream or standard_error()),
        processors=[*_SHARED, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    return cast("Log", logger)


def adopt_stdlib() -> None:
    """Makes what libraries log through `logging` JSON lines too: warnings and worse. For the composition root only."""
    handler = logging.StreamHandler(standard_error())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_SHARED],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class Seldom:
    """Warnings about events, of which a sender may cause as many as it likes: at most one of a kind in `seconds`, with
    the number of events since the last one."""

    def __init__(self, log: Log, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._seconds = seconds
        self._clock = clock
        self._told: dict[str, float] = {}
        self._since: dict[str, int] = {}

    def warning(self, event: str, events: int, **fields: str) -> None:
        """Logs `event` now, or counts it for the next time. There must be few kinds of it."""
        total = self._since.pop(event, 0) + events
        now = self._clock()
        if event in self._told and now - self._told[event] < self._seconds:
            self._since[event] = total
            return
        self._told[event] = now
        self._log.warning(event, events=total, **fields)
