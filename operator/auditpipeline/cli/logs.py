"""How a process of ours logs: JSON lines on standard error, what libraries have to say included."""

from __future__ import annotations

import logging
import sys
from typing import cast

import structlog

from auditpipeline.dataplane.log import Log, adopt_stdlib, make, standard_error


def configure() -> None:
    """Set up structlog and logging; called once, by a composition root."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(standard_error()),
    )
    adopt_stdlib()


def for_this_stream() -> Log:
    """A logger for standard error: lines for people where that is a terminal, JSON where something reads it."""
    if not sys.stderr.isatty():
        return make()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(standard_error()),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(pad_event_to=0),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    return cast("Log", logger)
