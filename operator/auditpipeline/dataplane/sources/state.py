"""What a source says of itself: in the report and the metrics at any time, in the log once a change, and at a bounded
rate for what may happen with every line."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from auditpipeline.core.framing import Foreign
from auditpipeline.core.report import SourceReport, SourceState
from auditpipeline.dataplane.log import Log, Seldom
from auditpipeline.dataplane.sources.sorting import Sorted

_LONGEST = 512
_MANY = 1000
"""Lines that kube-apiserver may well log before its first event."""
_NONE_SEEN = "there is no audit event in it so far: is this the file that kube-apiserver's --audit-log-path names?"
_LEGACY = "it is in the legacy format, which cannot be read: set --audit-log-format=json for kube-apiserver"
_BURIED = "lines of the audit log are not events: see the dead letters"


class State:
    """The state of the source that reads the log at `path`."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = str(path)
        self._log = log
        self._seldom = Seldom(log)
        self._state: SourceState = "Reading"
        self._complaint = ""
        self._error, self._error_at = "", 0.0
        self._lines = self._events = self._buried = 0
        self._foreign = Counter[Foreign]()
        self._said = set[str]()

    def report(self) -> SourceReport:
        """The state as of now."""
        return SourceReport(
            path=self._path,
            state=self._state,
            last_error=self._error,
            last_error_at=self._error_at,
            lines=self._lines,
            events=self._events,
            buried=self._buried,
            foreign={kind: self._foreign[kind] for kind in ("component", "legacy", "other")},
        )

    def fails(self, event: str, error: Exception, state: SourceState = "Failing") -> None:
        """It cannot go on: one line for a state, not one for each try."""
        self._state = state
        self._note(str(error))
        if event != self._complaint:
            self._complaint = event
            self._log.warning(event, error=str(error))

    def goes_on(self) -> None:
        """It does."""
        self._state, self._complaint = "Reading", ""

    def took(self, found: Sorted, seen: bool) -> None:
        """These lines were taken; `seen` says whether there was an event, now or before."""
        self._lines += found.lines
        self._events += found.events
        self._foreign += found.foreign
        if found.foreign["legacy"]:
            self._once(_LEGACY)
        elif not seen and (found.foreign["other"] or self._lines >= _MANY):
            self._once(_NONE_SEEN)
        if found.dead:
            events = sum(letter.events for letter in found.dead)
            self._buried += events
            self._seldom.warning(_BURIED, events, reason=found.dead[0].reason)

    def _once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._log.error("the audit log cannot be used", error=message)
            self._note(message)

    def _note(self, message: str) -> None:
        self._error, self._error_at = message[:_LONGEST], time.time()
