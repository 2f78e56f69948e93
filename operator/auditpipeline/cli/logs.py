"""How a process of ours logs: JSON lines on standard error, what libraries have to say included."""

from __future__ import annotations

import sys

import structlog

from auditpipeline.dataplane.log import adopt_stdlib


def configure() -> None:
    """Set up structlog and logging; called once, by a composition root."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    adopt_stdlib()
