"""Redaction, applied to an event."""

from __future__ import annotations

from typing import NamedTuple

from auditpipeline.core.redaction.model import Redaction


class Redacted(NamedTuple):
    """A line, and how many values were taken from it by this call (0: it is the same bytes)."""

    line: bytes
    values: int


class Redactor:
    """Applies one redaction. `key` is what hashes are made with: without one, what should be hashed is masked."""

    def __init__(self, redaction: Redaction, key: bytes | None = None) -> None:
        self.redaction = redaction
        self._key = key

    def line(self, line: bytes) -> Redacted:
        """An event as a line, without its line end, likewise out. Doing it twice changes nothing more. Permanent if
        the line is not an event that can be read."""
        raise NotImplementedError
