"""Metrics by the Prometheus conventions, in a registry of their own.

What the spool keeps (received, delivered, dropped) counts since the spool was made and survives restarts; what is
counted here (filtered, requests, bytes) counts since the process started. Both are counters to Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from auditpipeline.core.report import ConditionReport, Report
from auditpipeline.dataplane.gate import Counts
from auditpipeline.dataplane.route import Counts as RouteCounts
from auditpipeline.dataplane.store import Figures

PREFIX = "auditpipeline"


class Process(NamedTuple):
    """What this process knows besides: counts by output, ends of certificates (seconds since the epoch) by listener,
    the limit of the spool, bytes of bodies that are under way, commits with the seconds that all of them took,
    starts of what reads audit logs after it failed, connections by listener, and bytes of the spool's
    journal."""

    routes: Mapping[str, RouteCounts]
    expiry: Mapping[str, float]
    limit: int
    body_bytes: int
    commits: int
    commit_seconds: float
    source_restarts: int
    connections: Mapping[str, Counts]
    journal_bytes: int


class Metrics(Collector):
    """The registry, the counters of this process, and the last report as metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Audit requests answered, by HTTP status code", ["code"])
        self.bytes_received = self._counter("received_bytes", "Bytes of the bodies of audit requests, inflated", [])
        self.filtered = self._counter("events_filtered", "Events that no output wants", [])
        self.excess = self._counter("events_excess", "Events with bodies that their level does not have, and lost", [])
        self.redacted = self._counter("events_redacted", "Events that lost secret values before they were stored", [])
        self.redacted_values = self._counter("redacted_values", "Secret values that were taken from events", [])
        self._metrics: list[Metric] = []
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """What `expose` was given last."""
        yield from self._metrics

    def expose(self, report: Report, figures: Figures, process: Process) -> bytes:
        """Everything in the text format."""
        self._metrics = [
            *_plane(report, figures, process),
            *_outputs(report, process.routes),
            *_sources(report),
            *_conditions(report),
            _losses(figures),
            *_connections(process.connections),
            _removed(report, figures),
            _labelled(
                GaugeMetricFamily,
                "certificate_expiry_timestamp_seconds",
                "When the certificate ends",
                "listener",
                dict(process.expiry),
            ),
        ]
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)


def _plane(report: Report, figures: Figures, process: Process) -> Iterator[Metric]:
    info = GaugeMetricFamily(f"{PREFIX}_build_info", "The release, and which plane it is", labels=["version", "plane"])
    info.add_metric([report.version, report.plane], 1)
    yield info
    oldest = max((output.lag_seconds for output in report.outputs), default=0.0)
    for name, text, value in (
        ("spool_bytes", "Bytes of the events in the spool", report.spool_bytes),
        ("spool_limit_bytes", "Bytes at which the spool is full", process.limit),
        ("spool_journal_bytes", "Bytes of the spool's journal", process.journal_bytes),
        ("spool_age_seconds", "Age of the oldest event that an output waits for", oldest),
        ("body_bytes", "Bytes of bodies that are being taken", process.body_bytes),
        ("dead_letters", "Dead letters that are kept", report.dead_letters),
        (
            "config_valid",
            "1 where the newest configuration is in force, 0 where it was refused",
            not report.config_error,
        ),
    ):
        yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=float(value))
    for name, text, value in (
        ("events_received", "Events taken into the spool", figures.received),
        ("spool_commits", "Transactions of the spool", process.commits),
        ("source_restarts", "Starts of the audit log's reader after it ended by itself", process.source_restarts),
        ("spool_commit_seconds", "Seconds that these took, syncing included", process.commit_seconds),
    ):
        yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _outputs(report: Report, routes: Mapping[str, RouteCounts]) -> Iterator[Metric]:
    outputs = report.outputs
    gauges = {
        "output_lag_seconds": ("Age of the oldest event that waits", {o.name: o.lag_seconds for o in outputs}),
        "output_pending_events": ("Events that wait", {o.name: float(o.pending) for o in outputs}),
        "output_failing": ("1 where the last delivery failed", {o.name: float(o.state == "Failing") for o in outputs}),
    }
    for name, (text, values) in gauges.items():
        yield _labelled(GaugeMetricFamily, name, text, "output", values)
    delivered = {o.name: float(o.delivered) for o in outputs}
    yield _labelled(CounterMetricFamily, "events_delivered", "Events that arrived", "output", delivered)
    counters: dict[str, tuple[str, Callable[[RouteCounts], int]]] = {
        "delivered_bytes": ("Bytes of the events that arrived", lambda counts: counts.bytes),
        "events_truncated": ("Events that arrived without their bodies", lambda counts: counts.truncated),
        "output_batches": ("Batches that the output took", lambda counts: counts.batches),
        "output_errors": ("Batches that the output did not take", lambda counts: counts.errors),
        "output_retries": ("Deliveries that failed and were tried again", lambda counts: counts.retries),
    }
    for name, (text, value) in counters.items():
        counted = {output: float(value(counts)) for output, counts in routes.items()}
        yield _labelled(CounterMetricFamily, name, text, "output", counted)


def _sources(report: Report) -> Iterator[Metric]:
    sources = report.sources
    failing = {source.path: float(source.state == "Failing") for source in sources}
    yield _labelled(GaugeMetricFamily, "log_failing", "1 if the audit log cannot be read", "path", failing)
    for name, text, values in (
        ("log_lines", "Lines of the audit log that were taken", {s.path: float(s.lines) for s in sources}),
        ("log_events", "Events in them", {s.path: float(s.events) for s in sources}),
        ("log_buried", "Events in them that became dead letters", {s.path: float(s.buried) for s in sources}),
    ):
        yield _labelled(CounterMetricFamily, name, text, "path", values)
    foreign = CounterMetricFamily(
        f"{PREFIX}_log_foreign_lines", "Lines of the audit log that are not meant as events", labels=["path", "kind"]
    )
    for source in sources:
        for kind, lines in source.foreign.items():
            foreign.add_metric([source.path, kind], lines)
    yield foreign


def _conditions(report: Report) -> Iterator[Metric]:
    conditions = report.conditions or ()
    counters: dict[str, tuple[str, Callable[[ConditionReport], float]]] = {
        "condition_evaluations": ("Events that a condition was asked about", lambda found: found.evaluations),
        "condition_rejected": ("Events that a condition is false of", lambda found: found.rejected),
        "condition_failures": ("Events that a condition failed on, and that were kept", lambda found: found.failures),
        "condition_seconds": ("CPU seconds that a condition took", lambda found: found.seconds),
    }
    off = GaugeMetricFamily(
        f"{PREFIX}_condition_off", "1 if a condition took too long and is not asked", labels=["output", "condition"]
    )
    for found in conditions:
        off.add_metric([found.output, found.name], float(found.off))
    yield off
    for name, (text, value) in counters.items():
        family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["output", "condition"])
        for found in conditions:
            family.add_metric([found.output, found.name], value(found))
        yield family


def _losses(figures: Figures) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}_events_dropped",
        "Events that an output will not get, dead letters included",
        labels=["output", "reason"],
    )
    for output, reason, events in figures.lost:
        family.add_metric([output, reason], events)
    return family


def _connections(counted: Mapping[str, Counts]) -> Iterator[Metric]:
    is_open = GaugeMetricFamily(f"{PREFIX}_connections", "Connections that are open", labels=["listener", "kind"])
    closed = CounterMetricFamily(
        f"{PREFIX}_connections_closed", "Connections that were closed or refused", labels=["listener", "reason"]
    )
    for listener, counts in counted.items():
        for kind, connections in counts.open.items():
            is_open.add_metric([listener, kind], connections)
        for reason, connections in counts.closed.items():
            closed.add_metric([listener, reason], connections)
    yield is_open
    yield closed


def _removed(report: Report, figures: Figures) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}_dead_letters_removed",
        "Dead letters that made room for newer ones of the same output",
        labels=["output"],
    )
    for output in dict.fromkeys(["", *(output.name for output in report.outputs), *figures.dead_removed_of]):
        family.add_metric([output], figures.dead_removed_of.get(output, 0))
    return family


def _labelled(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    family = kind(f"{PREFIX}_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
