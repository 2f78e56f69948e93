"""What the controller knows of the gateway: what its configuration is to hold, and what its Pods run. Pure.

A sink is registered if the last rendering was made from the sink as it is now, and the gateway's Pods have that route
in force. A Pod says of each of its routes which it is, so that nothing but this route counts: neither another sink's
change, nor how many changes there were. A Pod of the release before says only which head it runs (`heads`).

A Pod that misses one look counts by what it said last (`facts.hear`); of one that was never heard nothing is said yet
then. The next look comes half a second later. One that does not answer then is named, and does not count as long as
another one does: kube-apiserver beside it may lose events, which the canaries and counters of that API server show, but
the others post. Pods on nodes that are not ready are left aside: nothing there can be asked or told. What was not
looked at yet since this process began is no verdict: None.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from auditpipeline.control.facts import Heard, PodFacts, PodReport, Verdict, counting, hear
from auditpipeline.control.hash_key import NO_KEY, HashKey
from auditpipeline.control.heads import Heads
from auditpipeline.control.published import SinkStatus
from auditpipeline.control.seen import older
from auditpipeline.control.settings import GatewayKind
from auditpipeline.control.shards import Plan, Written
from auditpipeline.core.config import HttpOutput, Route
from auditpipeline.core.packing import route_digest
from auditpipeline.core.report import OutputReport, Report, RouteReport

Identity = tuple[str, str]
"""A sink as it was at one moment: its UID and its fingerprint."""


PLANNED, LEAVING = 60.0, 7.0
"""Seconds: how long a gateway Pod may take to be Ready after it was made, and how long the one before it may take to
end and have a successor, until that counts as more than a planned restart. kube-apiserver keeps events meanwhile."""


def is_replaced(pod: PodFacts, now: float) -> bool:
    """Whether a Pod ends or starts as it does in an upgrade."""
    if pod.deleting:
        return now - pod.leaving < LEAVING
    return not (pod.ready or pod.problem) and now - pod.created < PLANNED


@dataclass
class Standing:
    """An AuditSink as the last rendering found it, with the status that it has; `written` is when we last wrote that,
    in seconds since the epoch, `canaries` how many had come by then (None: not known), `version` the resourceVersion
    that it has. `own`: a pipeline's, which gets the canaries. `refused`: its status was not taken, and is written again
    then. `redaction` is the value of its annotation, None without one."""

    identity: Identity
    generation: int
    status: SinkStatus
    written: float = 0.0
    version: str = ""
    own: bool = False
    canaries: int | None = None
    refused: float = 0.0
    redaction: str | None = None

    @property
    def meta(self) -> Mapping[str, Any]:
        """What tells it from another object or generation."""
        return {"uid": self.identity[0], "generation": self.generation or None, "resourceVersion": self.version}


@dataclass
class GatewayState:
    """`stored` is what the Secrets hold, the head first; None until they were read. `wanted` are the routes as the last
    rendering made them, `sources` what it made them from, `unusable` says why a sink gave none. `plan` is what the
    Secrets are to hold, `problems` says why a sink cannot be used as it is. `routes` maps sinks to the digests of the
    routes that the Pods should run, `homes` to the shards that these are in. `closed` are shards whose Secrets could
    not be written, and until when nothing new is put into them; `unwritten` says why one could not be written. `dirty`
    means that something changed since the last rendering.

    `addresses` are the last known ones of the sinks' Services: a route outlives a Service that is gone for a moment,
    because with the route its place in the gateway's spool would go. `reports` has one entry for each running gateway
    Pod, `heard` the last report of each Pod that is there, `running` the routes of that by name, `forgiven` those that
    missed this look alone. `unheard` counts by UID the looks of Pods that were never heard, `asked_once` are those of
    them that missed one; `aside` are those whose nodes are not ready. `nodes` says of nodes when they were asked for,
    and whether they were ready. `canaries` counts those that were seen to come to any of them. `standing` has every
    AuditSink. `patience` is how long changes are gathered before the next rendering. `kind` is what makes the Pods.
    `blocked` says which of the gateway's Secrets is somebody else's. `replacing`: Pods are being replaced as by an
    upgrade, those that are `replaced`, or one that is gone for a moment; `there_at` is when there last was one, in
    seconds since the epoch. `key` is the key of hashes, if a route has some."""

    stored: list[Written] | None = None
    wanted: Mapping[str, Route] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)
    homes: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, Identity] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    plan: Plan = field(default_factory=lambda: Plan((), (), {}, {}))
    problems: Mapping[str, str] = field(default_factory=dict)
    closed: dict[int, float] = field(default_factory=dict)
    unwritten: dict[int, str] = field(default_factory=dict)
    heads: Heads = field(default_factory=Heads)
    addresses: dict[str, str] = field(default_factory=dict)
    reports: list[PodReport] = field(default_factory=list)
    heard: dict[str, Heard] = field(default_factory=dict)
    running: dict[str, Mapping[str, RouteReport]] = field(default_factory=dict)
    forgiven: frozenset[str] = frozenset()
    aside: frozenset[str] = frozenset()
    nodes: dict[str, tuple[float, bool]] = field(default_factory=dict)
    unheard: dict[str, int] = field(default_factory=dict)
    asked_once: frozenset[str] = frozenset()
    canaries: int = 0
    standing: dict[str, Standing] = field(default_factory=dict)
    patience: float = 0.05
    kind: GatewayKind = "DaemonSet"
    blocked: str = ""
    replacing: bool = False
    replaced: frozenset[str] = frozenset()
    there_at: float = -inf
    rendered: bool = False
    looked: bool = False
    dirty: bool = True
    key: HashKey = NO_KEY

    @property
    def digest(self) -> str:
        """That of the head."""
        return self.stored[0].digest if self.stored else ""

    def render(
        self, wanted: Mapping[str, Route], sources: Mapping[str, Identity], unusable: Mapping[str, str], plan: Plan
    ) -> None:
        """Take in what every AuditSink asks for now, and what the Secrets are to hold for it."""
        self.wanted, self.sources, self.unusable, self.rendered = wanted, sources, unusable, True
        self.addresses = route_addresses(wanted.values())
        self.planned(plan)

    def planned(self, plan: Plan) -> None:
        """Take in what the Secrets are to hold."""
        self.plan, self.homes = plan, plan.homes
        routes = {name: plan.shards[number].held.routes[name] for name, number in plan.homes.items()}
        self.routes = {name: route_digest(route) for name, route in routes.items()}
        self.problems = {
            name: f"{why}; what it said before stays in force" if name in routes else why
            for name, why in {**plan.refused, **self.unusable}.items()
        }

    def recall(self, stored: list[Written]) -> None:
        """Take in what the Secrets held when this process began."""
        self.stored = stored
        self.addresses = route_addresses(route for written in stored for route in written.held.routes.values())
        if stored:
            self.heads.put(stored[0])

    def put(self, number: int, written: Written) -> None:
        """Take in that the Secret of a shard holds this now."""
        if self.stored is None or number > len(self.stored):
            raise ValueError(f"shard {number} is written before the ones before it")
        self.stored[number : number + 1] = [written]
        self.unwritten.pop(number, None)
        if number == 0:
            self.heads.put(written)

    def watch(self, pods: Sequence[PodFacts], now: float) -> None:
        """Take in which Pods there are, and whether some are being replaced."""
        if pods:
            self.there_at = now
        self.replaced = frozenset(pod.name for pod in pods if is_replaced(pod, now))
        self.replacing = bool(self.replaced) or (not pods and now - self.there_at < LEAVING)

    def listen(self, reports: list[PodReport], there: Mapping[str, str]) -> None:
        """Take in what the running Pods said just now; `there` has the UIDs of all gateway Pods, running or not."""
        for pod, report, _ in reports:
            former = self.heard.get(pod)
            self.canaries += _came(report, former.report if former else None) if report else 0
            if report:
                self.running[pod] = {route.name: route for route in report.routes or ()}
        self.forgiven = hear(self.heard, reports, there)
        self.heard = {pod: self.heard[pod] for pod in there if pod in self.heard}
        self.running = {pod: self.running[pod] for pod in self.heard}
        heard = {pod: entry.uid for pod, entry in self.heard.items()}
        missed = {pod: there[pod] for pod, report, _ in reports if report is None and heard.get(pod) != there[pod]}
        self.unheard = {uid: self.unheard.get(uid, 0) + 1 for uid in missed.values()}
        self.asked_once = frozenset(pod for pod, uid in missed.items() if self.unheard[uid] == 1)
        self.reports, self.looked = reports, True
        if not any(report.routes is None for report in self._last().values()):
            self.heads.forget()

    def counting(self) -> list[PodReport]:
        """The reports that count: of Pods that are left aside, none."""
        return [entry for entry in self.known() if entry.pod not in self.aside]

    def known(self) -> list[PodReport]:
        """The report of each running Pod; of one that is forgiven, its last one."""
        return counting(self.reports, self._last(), self.forgiven)

    def unredacting(self) -> tuple[str, ...]:
        """The Pods of a release that takes nothing from events."""
        return tuple(entry.pod for entry in self.counting() if entry.report and not entry.report.redacts)

    def _last(self) -> dict[str, Report]:
        return {pod: heard.report for pod, heard in self.heard.items()}

    def outputs(self, sink: str) -> list[OutputReport]:
        """What each gateway Pod last said of the route to `sink`."""
        return [output for heard in self.heard.values() for output in heard.report.outputs if output.name == sink]

    def former(self, sink: str, uid: str) -> Route | None:
        """The route of a sink as it is stored; None if it has none, or was another object then."""
        found = [written.held.routes.get(sink) for written in self.stored or () if sink not in written.held.moving]
        return next((route for route in found if route and route.uid == uid), None)

    def stand(self, found: Mapping[str, Standing]) -> None:
        """Take in every AuditSink that there is; what was written to whom meanwhile is remembered."""
        for name, standing in found.items():
            former = self.standing.get(name)
            if former and former.identity[0] == standing.identity[0]:
                standing.written, standing.canaries, standing.refused = former.written, former.canaries, former.refused
                if older(standing.version, former.version):
                    standing.status, standing.version = former.status, former.version
        self.standing = dict(found)

    def rewind(self) -> None:
        """etcd was restored: nothing is known of the AuditSinks' statuses and versions until the next rendering."""
        self.standing.clear()
        self.dirty = True

    def behind(self) -> bool:
        """Whether a Pod does not run all of the newest configuration, or cannot say."""
        return any(not self._is_newest(entry) for entry in self.reports if entry.pod not in self.aside)

    def _is_newest(self, entry: PodReport) -> bool:
        report = entry.report
        if report is None or report.config != self.digest:
            return False
        digests = {name: route.digest for name, route in self.running.get(entry.pod, {}).items()}
        return report.routes is None or digests == self.routes

    def failing(self) -> bool:
        """Whether a sink took nothing when its Pod was last heard of: what is said of it may be over soon."""
        return any(output.state == "Failing" for heard in self.heard.values() for output in heard.report.outputs)

    def settled(self) -> frozenset[str]:
        """The moving routes that every Pod has from the shard that they moved to."""
        moving = {name for written in self.stored or () for name in written.held.moving}
        entries = self.counting()
        if not moving or not entries or any(entry.report is None for entry in entries):
            return frozenset()
        return frozenset(name for name in moving if all(self._took(entry.pod, name) for entry in entries))

    def _took(self, pod: str, name: str) -> bool:
        route = self.running.get(pod, {}).get(name)
        return route is not None and route.shard == self.homes.get(name)

    def registration(self, sink: str, now: Identity) -> Verdict | None:
        """Whether every gateway Pod posts to `sink` as it is `now`; None if that was not looked at yet."""
        if not self.rendered:
            return None
        current = self.sources.get(sink) == now
        if current and sink in self.problems:
            return Verdict("False", "SinkRefused", f"AuditSink {sink} cannot be used: {self.problems[sink]}")
        if current and not self.looked:
            return None
        if not current or sink not in self.routes:
            return Verdict("False", "GatewayPending", "the gateway's configuration is being made")
        if not self.reports:
            message = self.blocked or f"no gateway Pod runs: see {self.kind} auditpipeline-gateway"
            return Verdict("False", "GatewayNotRunning", message)
        return self._by_pods(sink, self.counting())

    def excuses(self, verdict: Verdict | None, sink: str, now: Identity) -> bool:
        """Whether what is said of a sink that was registered is no news: the Pods that are not being replaced post to
        it, and kube-apiserver waits for those that are."""
        if not self.replacing or self.blocked or verdict is None or verdict.status == "True":
            return False
        if self.sources.get(sink) != now or sink in self.problems or sink not in self.routes:
            return False
        others = [entry for entry in self.counting() if entry.pod not in self.replaced]
        found = self._by_pods(sink, others) if others else None
        return found is None or found.status == "True"

    def _by_pods(self, sink: str, entries: Sequence[PodReport]) -> Verdict | None:
        if any(entry.pod in self.asked_once for entry in entries):
            return None
        silent = [entry for entry in entries if entry.report is None]
        if len(silent) == len(entries):
            return Verdict("Unknown", "GatewayUnreachable", self._unheard(silent))
        behind = [entry for entry in entries if entry.report and not self._holds(entry.pod, entry.report, sink)]
        if behind and self.blocked:
            return Verdict("False", "NameTaken", self.blocked)
        refused = [entry for entry in behind if entry.report and entry.report.config_error]
        if refused and refused[0].report:
            message = f"gateway Pod {refused[0].pod} refuses its configuration: {refused[0].report.config_error}"
            return Verdict("False", "GatewayRefused", message)
        if behind:
            return Verdict("False", "GatewayPending", self._late(sink, behind))
        return self._registered(len(entries) - len(silent), silent)

    def _late(self, sink: str, behind: Sequence[PodReport]) -> str:
        why = self.unwritten.get(self.homes[sink])
        if why:
            return f"the gateway's configuration cannot be written: {why}"
        return f"gateway Pod {', '.join(entry.pod for entry in behind)} has not loaded this sink yet"

    def _registered(self, count: int, silent: Sequence[PodReport]) -> Verdict:
        if not silent and not self._left_aside():
            return Verdict("True", "Registered", "every gateway Pod posts events to this pipeline")
        message = f"{count} of {len(self.reports)} gateway Pods post events"
        return Verdict("True", "PartlyRegistered", f"{message}; {self._unheard(silent)}")

    def _unheard(self, silent: Sequence[PodReport]) -> str:
        """Which Pods say nothing, and why."""
        said = [f"{entry.pod} does not answer: {entry.error}" for entry in silent]
        said += [f"{pod} is left aside: its node is not ready" for pod in self._left_aside()]
        return f"gateway Pod {'; '.join(said)}"

    def _left_aside(self) -> list[str]:
        return sorted(entry.pod for entry in self.reports if entry.pod in self.aside)

    def _holds(self, pod: str, report: Report, sink: str) -> bool:
        if report.routes is None:
            return self.heads.holds(report.config, sink, self.routes[sink])
        route = self.running.get(pod, {}).get(sink)
        return route is not None and (route.uid, route.digest) == (self.sources[sink][0], self.routes[sink])


def _came(report: Report, before: Report | None) -> int:
    """How many canaries came to a Pod since it reported `before`; a process that starts again counts anew."""
    known = {canary.source: canary.seen for canary in before.canaries} if before else {}
    counts = [(canary.seen, known.get(canary.source, 0)) for canary in report.canaries]
    return sum(seen - then if seen >= then else seen for seen, then in counts)


def disabled() -> Verdict:
    """What is said of every sink where the operator runs without a gateway."""
    message = "this operator runs without a gateway: enable it (gateway.enabled of the chart)"
    return Verdict("Unknown", "GatewayDisabled", message)


def route_addresses(routes: Iterable[Route]) -> dict[str, str]:
    """The ClusterIPs that routes dial, by name."""
    found = {}
    for route in routes:
        if isinstance(route.output, HttpOutput) and route.output.address:
            found[route.name] = route.output.address.rpartition(":")[0].strip("[]")
    return found


def changed(before: Mapping[str, Verdict | None], after: Mapping[str, Verdict | None]) -> Collection[str]:
    """The sinks of which another thing is said now."""
    return [sink for sink in before.keys() | after.keys() if before.get(sink) != after.get(sink)]
