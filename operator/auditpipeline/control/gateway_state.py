"""What the controller knows of the gateway: which configuration it rendered, and which its Pods run. Pure.

A sink is registered when the last configuration was rendered from the sink as it is now, and every running gateway Pod
has a configuration in force that holds its route of then. Pods that still run an older configuration count too, where
that one holds the same route: another pipeline's change must not make this one look unregistered. For this the routes
of the last configurations are remembered.

A Pod that misses one look counts by what it said last (`facts.hear`). The next look comes half a second later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from auditpipeline.control.facts import Heard, PodReport, Verdict, counting, hear
from auditpipeline.control.published import SinkStatus
from auditpipeline.control.seen import older
from auditpipeline.control.settings import GatewayKind
from auditpipeline.core.config import Config, HttpOutput, Route, decode
from auditpipeline.core.report import OutputReport, Report

Identity = tuple[str, str]
"""A sink as it was at one moment: its UID and its fingerprint."""

REMEMBERED = 8


@dataclass
class Standing:
    """An AuditSink as the last rendering found it, with the status that it has; `written` is when we last wrote that,
    in seconds since the epoch, `canaries` how many had come by then (None: not known), `version` the resourceVersion
    that it has. `own`: a pipeline's, which gets the canaries."""

    identity: Identity
    generation: int
    status: SinkStatus
    written: float = 0.0
    version: str = ""
    own: bool = False
    canaries: int | None = None


@dataclass
class GatewayState:
    """`routes` maps sinks to digests of their routes as rendered last, `sources` to what they were rendered from;
    `problems` says why a sink has no route. `dirty` means that something changed since. `addresses` are the last known
    ones of the sinks' Services: a route outlives a Service that is gone for a moment, because with the route its place
    in the gateway's spool would go. `reports` has one entry for each running gateway Pod, `heard` the last report of
    each Pod that is there, `forgiven` those that missed this look alone. `canaries` counts those that were seen to come
    to any of them. `standing` has every AuditSink. `patience` is how long changes are gathered before the next
    rendering. `kind` is what makes the Pods. `blocked` says
    which of the gateway's Secrets is somebody else's, so that nothing is written."""

    digest: str = ""
    body: bytes = b""
    routes: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, Identity] = field(default_factory=dict)
    history: dict[str, Mapping[str, str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    reports: list[PodReport] = field(default_factory=list)
    heard: dict[str, Heard] = field(default_factory=dict)
    forgiven: frozenset[str] = frozenset()
    canaries: int = 0
    standing: dict[str, Standing] = field(default_factory=dict)
    patience: float = 0.05
    kind: GatewayKind = "DaemonSet"
    blocked: str = ""
    looked: bool = False
    dirty: bool = True

    def rendered(self, digest: str, body: bytes, routes: Mapping[str, str], sources: Mapping[str, Identity]) -> None:
        """Remember the configuration that was rendered last."""
        self.digest, self.body, self.routes, self.sources = digest, body, routes, sources
        self.remember(digest, routes)

    def remember(self, digest: str, routes: Mapping[str, str]) -> None:
        """Remember what the configuration called `digest` holds."""
        self.history.pop(digest, None)
        self.history[digest] = routes
        while len(self.history) > REMEMBERED:
            del self.history[next(iter(self.history))]

    def listen(self, reports: list[PodReport], there: Mapping[str, str]) -> None:
        """Take in what the running Pods said just now; `there` has the UIDs of all gateway Pods, running or not."""
        for pod, report, _ in reports:
            former = self.heard.get(pod)
            self.canaries += _came(report, former.report if former else None) if report else 0
        self.forgiven = hear(self.heard, reports, there)
        self.heard = {pod: self.heard[pod] for pod in there if pod in self.heard}
        self.reports, self.looked = reports, True

    def counting(self) -> list[PodReport]:
        """The reports that count: of Pods that are forgiven, the last ones."""
        return counting(self.reports, {pod: heard.report for pod, heard in self.heard.items()}, self.forgiven)

    def outputs(self, sink: str) -> list[OutputReport]:
        """What each gateway Pod last said of the route to `sink`."""
        return [output for heard in self.heard.values() for output in heard.report.outputs if output.name == sink]

    def former(self, sink: str, uid: str) -> Route | None:
        """The route of a sink in the last configuration; None where it had none, or was another object then."""
        routes = decode(self.body).routes if self.body else ()
        return next((route for route in routes if (route.name, route.uid) == (sink, uid)), None)

    def stand(self, found: Mapping[str, Standing]) -> None:
        """Take in every AuditSink that there is; what was written to whom meanwhile is remembered."""
        for name, standing in found.items():
            former = self.standing.get(name)
            if former and former.identity[0] == standing.identity[0]:
                standing.written, standing.canaries = former.written, former.canaries
                if older(standing.version, former.version):
                    standing.status, standing.version = former.status, former.version
        self.standing = dict(found)

    def rewind(self) -> None:
        """etcd was restored: nothing is known of the AuditSinks' statuses and versions until the next rendering."""
        self.standing.clear()
        self.dirty = True

    def behind(self) -> bool:
        """Whether a Pod does not run the newest configuration, or cannot say."""
        return any(entry.report is None or entry.report.config != self.digest for entry in self.reports)

    def failing(self) -> bool:
        """Whether a sink took nothing when its Pod was last heard of: what is said of it may be over soon."""
        return any(output.state == "Failing" for heard in self.heard.values() for output in heard.report.outputs)

    def registration(self, sink: str, now: Identity) -> Verdict:
        """Whether every gateway Pod posts to `sink` as it is `now`."""
        current = self.sources.get(sink) == now
        if current and sink in self.problems:
            return Verdict("False", "SinkRefused", f"AuditSink {sink} cannot be used: {self.problems[sink]}")
        if not current or sink not in self.routes or not self.looked:
            return Verdict("False", "GatewayPending", "the gateway's configuration is being made")
        if not self.reports:
            message = self.blocked or f"no gateway Pod runs: see {self.kind} auditpipeline-gateway"
            return Verdict("False", "GatewayNotRunning", message)
        return self._by_pods(sink)

    def _by_pods(self, sink: str) -> Verdict:
        reports = self.counting()
        silent = [f"{entry.pod} does not answer: {entry.error}" for entry in reports if entry.report is None]
        if silent:
            return Verdict("Unknown", "GatewayUnreachable", f"gateway Pod {'; '.join(silent)}")
        behind = [entry for entry in reports if entry.report and not self._holds(entry.report.config, sink)]
        if behind and self.blocked:
            return Verdict("False", "NameTaken", self.blocked)
        refused = [entry for entry in behind if entry.report and entry.report.config_error]
        if refused and refused[0].report:
            message = f"gateway Pod {refused[0].pod} refuses its configuration: {refused[0].report.config_error}"
            return Verdict("False", "GatewayRefused", message)
        if behind:
            pods = ", ".join(entry.pod for entry in behind)
            return Verdict("False", "GatewayPending", f"gateway Pod {pods} has not loaded this sink yet")
        return Verdict("True", "Registered", "every gateway Pod posts events to this pipeline")

    def _holds(self, digest: str, sink: str) -> bool:
        return self.history.get(digest, {}).get(sink) == self.routes[sink]


def _came(report: Report, before: Report | None) -> int:
    """How many canaries came to a Pod since it reported `before`; a process that starts again counts anew."""
    known = {canary.source: canary.seen for canary in before.canaries} if before else {}
    counts = [(canary.seen, known.get(canary.source, 0)) for canary in report.canaries]
    return sum(seen - then if seen >= then else seen for seen, then in counts)


def disabled() -> Verdict:
    """What is said of every sink where the operator runs without a gateway."""
    message = "this operator runs without a gateway: enable it (gateway.enabled of the chart)"
    return Verdict("Unknown", "GatewayDisabled", message)


def route_digests(config: Config) -> dict[str, str]:
    """The digests of a configuration's routes, by name."""
    return {
        route.name: hashlib.blake2b(msgspec.json.encode(route, order="deterministic"), digest_size=8).hexdigest()
        for route in config.routes
    }


def route_addresses(config: Config) -> dict[str, str]:
    """The ClusterIPs that a configuration's routes dial, by name."""
    found = {}
    for route in config.routes:
        if isinstance(route.output, HttpOutput) and route.output.address:
            found[route.name] = route.output.address.rpartition(":")[0].strip("[]")
    return found


def changed(before: Mapping[str, Verdict], after: Mapping[str, Verdict]) -> Iterable[str]:
    """The sinks of which another thing is said now."""
    return [sink for sink in before.keys() | after.keys() if before.get(sink) != after.get(sink)]
