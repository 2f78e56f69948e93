"""The canaries that were sent, and what came of them: values and decisions. `control.static` sends them.

    sent    API server -> the last canaries that it answered, by the operator's clock
    seen    pipeline -> API server -> the newest of them that one of its Pods reports

A canary counts for a pipeline when it was sent after the pipeline's sink was registered. It is *missing* when three in
a row did not come, and the first of these was sent three periods (at least LEAST seconds) ago. Nothing is missing of an
API server whose static policy is not known to emit canaries: from its file, or because one has come since it started,
when it read its policy.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from auditpipeline.control.apiservers import Server
from auditpipeline.core.report import Report

IN_A_ROW = 3
LEAST = 10.0
CLOCKS = 10.0
"""Seconds by which the clocks of operator and API servers may differ."""
NEW = 60.0
"""Seconds for which canaries are sent more often, so that a new pipeline need not wait for its first."""
_KEPT = 64


class Sent(NamedTuple):
    """One canary: its number, and when it was sent."""

    number: str
    at: float


class Seen(NamedTuple):
    """The newest canary of one API server that came: when it was sent, and how long it took."""

    at: float
    latency: float


class CanaryFacts(NamedTuple):
    """What is known of a pipeline's canaries. `missing` names API servers; `seen` is the oldest of the newest ones,
    with the longest latency of all. `undecided`: this process has seen none, and sent too few to miss any."""

    missing: tuple[str, ...] = ()
    seen: Seen | None = None
    undecided: bool = False


@dataclass
class CanaryState:
    """`user` is who this operator is to the API servers. `names` maps sources to API servers."""

    user: str = ""
    names: dict[str, str] = field(default_factory=dict)
    sent: dict[str, deque[Sent]] = field(default_factory=dict)
    seen: dict[str, dict[str, Seen]] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)

    def answered(self, server: Server, number: str, at: float) -> None:
        """A canary was sent, and the API server answered."""
        source = source_of(server)
        self.names[source] = server.name
        self.sent.setdefault(source, deque(maxlen=_KEPT)).append(Sent(number, at))

    def keep_only(self, servers: Iterable[Server]) -> None:
        """Forget API servers that are gone."""
        kept = {source_of(server) for server in servers}
        self.sent = {source: sent for source, sent in self.sent.items() if source in kept}

    def take(self, pipeline: str, reports: Iterable[Report]) -> None:
        """Take in what a pipeline's Pods (or, as pipeline `""`, the gateway's) report."""
        known = self.seen.setdefault(pipeline, {})
        for source, found in self._found(reports):
            if source not in known or known[source].at < found.at:
                known[source] = found

    def look(
        self, pipeline: str, *, registered: bool, emitting: Collection[str], now: float, period: float
    ) -> CanaryFacts:
        """What is so now. `registered`: the pipeline's sink is; `emitting`: the API servers that emit canaries."""
        if not registered:
            self.since.pop(pipeline, None)
        elif pipeline not in self.since:
            self.since[pipeline] = now
        known = {source: seen for source, seen in self.seen.get(pipeline, {}).items() if source in self.sent}
        seen = Seen(min(s.at for s in known.values()), max(s.latency for s in known.values())) if known else None
        if not registered:
            return CanaryFacts(seen=seen)
        limit = now - max(IN_A_ROW * period, LEAST)
        missing = [
            self.names[source]
            for source, sent in self.sent.items()
            if self.names[source] in emitting
            and _missing(sent, max(self.since[pipeline], known[source].at if source in known else 0.0), limit)
        ]
        return CanaryFacts(tuple(sorted(missing)), seen, undecided=not known and not missing)

    def is_new(self, pipeline: str, now: float) -> bool:
        """Whether its sink was registered less than NEW seconds ago."""
        return now - self.since.get(pipeline, now) < NEW

    def arrived(self) -> dict[str, float]:
        """When the newest canary that reached a gateway was sent, by API server."""
        return {self.names[source]: seen.at for source, seen in self.seen.get("", {}).items() if source in self.sent}

    def proven(self, starts: Mapping[str, float]) -> frozenset[str]:
        """Those of these API servers of which a canary has surely come to a gateway since their start."""
        arrived = self.arrived()
        return frozenset(name for name, start in starts.items() if arrived.get(name, 0.0) > start + CLOCKS)

    def latencies(self) -> list[tuple[str, float]]:
        """The longest latency of the newest canaries, by pipeline."""
        return [
            (pipeline, max(seen.latency for seen in known.values()))
            for pipeline, known in self.seen.items()
            if pipeline and known
        ]

    def forget(self, pipeline: str) -> None:
        """Drop what is known of a pipeline that is gone."""
        self.seen.pop(pipeline, None)
        self.since.pop(pipeline, None)

    def _found(self, reports: Iterable[Report]) -> Iterator[tuple[str, Seen]]:
        for report in reports:
            for canary in report.canaries:
                for sent in self.sent.get(canary.source, ()):
                    # Anybody may ask for a path: only what this operator has sent is a canary of its own.
                    if sent.number == canary.id:
                        yield canary.source, Seen(sent.at, canary.latency_seconds)


def source_of(server: Server) -> str:
    """The part of a canary's path that says which API server was asked."""
    return hashlib.blake2b(server.name.encode(), digest_size=4).hexdigest()


def _missing(sent: Iterable[Sent], after: float, limit: float) -> bool:
    unseen = [canary.at for canary in sent if canary.at > after]
    return len(unseen) >= IN_A_ROW and unseen[0] <= limit
