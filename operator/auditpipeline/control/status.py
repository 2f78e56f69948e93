"""The status of a pipeline: a pure function of what was found and of the status before.

                 CertificateReady --+
    Stalled? --> WebhookAvailable --+--> Ready     Reconciling while neither Ready, Stalled nor suspended
                 SinkRegistered   --+
                 UpstreamCovers, Delivering, ConditionsEvaluated (may be Unknown: nobody can say)
                 a first event or canary, ever

Conventions: kstatus (sigs.k8s.io/cli-utils/pkg/kstatus) and meta/v1 Condition. Nothing is claimed that was not seen:
what cannot be known is Unknown, with the reason why. What was not looked at yet, by this round or since this process
began, keeps what it said last, with its times. `lastTransitionTime` moves only when a condition's status does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from auditpipeline.control.conditions import conditions_evaluated
from auditpipeline.control.facts import Facts, Left, Losses, PodReport, Problem, Verdict, counting
from auditpipeline.control.published import (
    ERROR,
    CanaryStatus,
    Condition,
    EventCounts,
    GapStatus,
    OutputStatus,
    PipelineStatus,
    dated,
)
from auditpipeline.control.published import conditions as by_type
from auditpipeline.control.redacted import redacted
from auditpipeline.core.report import OutputReport, Report

PARTS = (
    "CertificateReady",
    "WebhookAvailable",
    "SinkRegistered",
    "UpstreamCovers",
    "Delivering",
    "ConditionsEvaluated",
)
MAY_BE_UNKNOWN = ("UpstreamCovers", "Delivering", "ConditionsEvaluated")
_STATES = ("Idle", "Delivering", "Failing")


def status(facts: Facts, previous: PipelineStatus) -> PipelineStatus:
    """The whole status; equal to `previous` if nothing changed."""
    reports, before = _known(facts), by_type(previous)
    first = previous.first_event_at or _proof(facts, reports, previous)
    outputs = _outputs(facts, reports, previous)
    parts = _parts(facts, before)
    verdicts = _resolved(facts, parts, before, proven=first is not None)
    kept = frozenset(kind for kind, verdict in parts.items() if verdict is None and kind in before)
    return PipelineStatus(
        observed_generation=facts.generation,
        conditions=dated(verdicts, before, facts.generation, facts.now, kept),
        outputs=outputs,
        outputs_ready=_outputs_ready(facts, outputs, previous.outputs_ready),
        events=_events(facts, reports, previous.events),
        canary=_canary(facts) or previous.canary,
        first_event_at=first,
        expires_at=facts.expires or (previous.expires_at if facts.stalled else None),
        gaps=_gaps(facts.losses) if facts.losses else previous.gaps,
        loss_acknowledged=facts.acknowledged if facts.losses else previous.loss_acknowledged,
    )


def conditions(facts: Facts, previous: PipelineStatus | None = None) -> dict[str, Verdict]:
    """Every condition's verdict, by type; Reconciling and Stalled only while they hold."""
    former = previous or PipelineStatus()
    before, proof = by_type(former), former.first_event_at or _proof(facts, _known(facts), former)
    return _resolved(facts, _parts(facts, before), before, proven=proof is not None)


def _parts(facts: Facts, before: Mapping[str, Condition]) -> dict[str, Verdict | None]:
    """What each condition but the summaries says; None if it keeps what it said before."""
    found = {
        "CertificateReady": certificate_ready(facts),
        "WebhookAvailable": webhook_available(facts),
        "SinkRegistered": sink_registered(facts),
        "UpstreamCovers": facts.upstream or _not_reached(facts),
        "Delivering": delivering(facts),
        "Redacted": redacted(facts, before.get("Redacted")) or _not_reached(facts),
        "AuditLoss": audit_loss(facts.losses) if facts.losses else _not_reached(facts),
    }
    if facts.conditional:
        found["ConditionsEvaluated"] = _conditions_evaluated(facts)
    if _undecided(facts, found["Delivering"], before.get("Delivering")):
        found["Delivering"] = None
    return {
        kind: None if kind in facts.pending else verdict for kind, verdict in found.items() if kind not in facts.absent
    }


def _undecided(facts: Facts, now: Verdict | None, before: Condition | None) -> bool:
    """Whether canaries were missing before this process began, and it cannot know yet whether they still are."""
    missing = before is not None and before.reason == "CanaryMissing"
    return missing and facts.canary.undecided and now is not None and now.status != "False"


def _resolved(
    facts: Facts, parts: Mapping[str, Verdict | None], before: Mapping[str, Condition], *, proven: bool
) -> dict[str, Verdict]:
    said = {kind: verdict or (before[kind].verdict if kind in before else _unseen()) for kind, verdict in parts.items()}
    # What was said of a former generation is kept, and makes no newer one Ready.
    kept = [kind for kind, verdict in parts.items() if verdict is None]
    former = {kind: _unseen() for kind in kept if _is_former(facts, before.get(kind))}
    summary = ready(facts, said | former, before.get("Ready"), proven=proven)
    if facts.notes:
        summary = summary._replace(message="; ".join((summary.message, *facts.notes)))
    found = {"Ready": summary}
    if facts.stalled:
        found["Stalled"] = Verdict("True", *facts.stalled)
    elif summary.status != "True" and not facts.suspended:
        found["Reconciling"] = Verdict("True", summary.reason, summary.message)
    return found | said


def _is_former(facts: Facts, before: Condition | None) -> bool:
    return before is not None and before.observed_generation != facts.generation


def ready(
    facts: Facts, parts: Mapping[str, Verdict], former: Condition | None = None, *, proven: bool = True
) -> Verdict:
    """Whether events are recorded and delivered as the spec says; its reason is that of the first thing in the way."""
    if facts.stalled:
        return Verdict("False", *facts.stalled)
    if facts.suspended:
        return Verdict("False", "Suspended", "spec.suspend is true: no new events are taken; set it to false to go on")
    if facts.waiting:
        return Verdict("False", *facts.waiting)
    for kind in PARTS:
        verdict = parts.get(kind)
        if verdict and (verdict.status == "False" or (verdict.status == "Unknown" and kind not in MAY_BE_UNKNOWN)):
            return Verdict("False", verdict.reason, verdict.message)
    return _configured(facts, former) or _proven(facts, proven=proven)


def _proven(facts: Facts, *, proven: bool) -> Verdict:
    """Everything is in place; whether anybody posts events, only an event or a canary proves."""
    if proven or not facts.needs_proof:
        return Verdict("True", "Ready", "events are recorded and delivered as the spec says")
    message = (
        "everything is in place, and neither an event nor a canary has come yet: does kube-apiserver post to the "
        "gateway? `auditpipeline bootstrap` prints what each control-plane node needs"
    )
    return Verdict("False", "WaitingForEvents", message)


def _proof(facts: Facts, reports: Iterable[Report], previous: PipelineStatus) -> datetime | None:
    """When it was first seen that events come, if this round or a former one has seen it."""
    if previous.canary:
        return previous.canary.last_seen
    came = any(report.events.received for report in reports) or bool(previous.events and previous.events.received)
    return facts.now.replace(microsecond=0) if came or facts.canary.seen else None


def certificate_ready(facts: Facts) -> Verdict | None:
    """Whether the receivers have a certificate to serve with."""
    if facts.certificate is None:
        return _not_reached(facts)
    until = facts.certificate.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Verdict("True", "Issued", f"the serving certificate is good until {until}, and is renewed before that")


def webhook_available(facts: Facts) -> Verdict | None:
    """Whether at least one receiver takes events, with all that its outputs need."""
    if facts.missing_secrets:
        return Verdict("False", "SecretMissing", "; ".join(facts.missing_secrets))
    if facts.workload is None:
        return _not_reached(facts)
    wanted, count = facts.workload.wanted, facts.workload.ready
    if count > 0:  # of a StatefulSet that Kubernetes has not looked at yet, nothing new is known
        return _some_ready(facts, wanted, count) if facts.workload.observed else None
    return Verdict("False", *_obstacle(facts, wanted, count))


def _some_ready(facts: Facts, wanted: int, count: int) -> Verdict:
    said = f"{count} of {wanted} Pods are ready"
    if count < wanted:
        return Verdict("True", "SomePodsReady", f"{said}; {facts.refused}" if facts.refused else said)
    if facts.left:
        return Verdict("True", "ClaimsLeft", f"{said}; {_left(facts.left)}")
    return Verdict("True", "AllPodsReady", said)


def _obstacle(facts: Facts, wanted: int, count: int) -> Problem:
    """Why no Pod is ready."""
    if facts.claims:
        return Problem("ClaimPending", "; ".join(facts.claims))
    if facts.refused:
        return Problem("PodsRefused", f"{count} of {wanted} Pods are ready: {facts.refused}")
    problems = sorted({pod.problem for pod in facts.pods if pod.problem and not pod.deleting})
    return problems[0] if problems else Problem("PodsPending", f"{count} of {wanted} Pods are ready: waiting for them")


def sink_registered(facts: Facts) -> Verdict | None:
    """Whether whoever posts the events knows of this pipeline."""
    if facts.suspended:
        return Verdict("False", "Suspended", "spec.suspend is true: the AuditSink is removed")
    return facts.sink or _not_reached(facts)


def delivering(facts: Facts) -> Verdict | None:
    """Whether events reach every output; Unknown until the first one came."""
    if facts.reports is None:
        return _not_reached(facts)
    counting = _counting(facts)
    reports = [entry.report for entry in counting if entry.report]
    for name in facts.outputs:
        failing = [output for output in _of(name, reports) if output.state == "Failing"]
        if failing:
            newest = max(failing, key=lambda output: output.last_error_at)
            return Verdict("False", "OutputFailing", f"output {name}: {newest.last_error or 'the last attempt failed'}")
    stranded = [entry for entry in facts.left if entry.events]
    if stranded:
        return Verdict("False", "EventsLeft", _left(stranded))
    silent = [entry for entry in counting if entry.report is None]
    if silent:
        asked_once = all(entry.pod in facts.unheard for entry in silent)
        return None if asked_once else Verdict("Unknown", "PodUnreachable", _silent(silent))
    if not reports:
        return Verdict("Unknown", "NoPodRunning", "no Pod runs that could say so")
    return _arriving(facts, reports)


def _arriving(facts: Facts, reports: list[Report]) -> Verdict:
    """Whether anything comes at all; no output fails."""
    if facts.canary.missing:
        servers = ", ".join(facts.canary.missing)
        message = f"canaries of {servers} do not arrive: see the gateway's Pods and spool, and kube-apiserver's log"
        return Verdict("False", "CanaryMissing", message)
    if not any(report.events.received for report in reports):
        if facts.canary.seen:
            return Verdict("True", "CanarySeen", "no event has come yet, and canaries do")
        return Verdict("Unknown", "NoEventsYet", "no event has come yet")
    return Verdict("True", "Delivering", f"{len(facts.outputs)} of {len(facts.outputs)} outputs take events")


def _conditions_evaluated(facts: Facts) -> Verdict | None:
    """Nothing new is said while a Pod was not heard, or is not on the newest configuration."""
    if facts.reports is None:
        return _not_reached(facts)
    counting = _counting(facts)
    behind = any(entry.report is None or entry.report.config != facts.config for entry in counting)
    return None if behind else conditions_evaluated(counting)


def audit_loss(losses: Losses) -> Verdict:
    """Whether audit events are known to be lost. True is bad; it is no part of Ready, which speaks of now."""
    if losses.open:
        events = sum(gap.events for gap in losses.open)
        times = [
            f"from {_time(gap.begins)} to {_time(math.ceil(gap.ends))} ({gap.server}: {gap.events})"
            for gap in losses.open[-3:]
        ]
        message = f"{events} audit events did not arrive; evidence may be missing {', '.join(times)}"
        return Verdict("True", "EventsLost", message)
    if not losses.read:
        return Verdict(
            "Unknown", "CountersUnknown", "not every API server could be asked for its counters the last time"
        )
    return Verdict("False", "NoLoss", "no audit event is known to be lost")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _configured(facts: Facts, former: Condition | None) -> Verdict | None:
    """Why a receiver does not run the newest configuration, if one does not, or cannot be known to."""
    if facts.reports is None:
        return _as_before(facts, former)
    if not facts.reports:
        return Verdict("False", "ConfigurationPending", "no Pod runs that could say which configuration is in force")
    for entry in facts.reports:
        if entry.report and entry.report.config_error:
            message = f"Pod {entry.pod} keeps its former configuration: {entry.report.config_error}"
            return Verdict("False", "ConfigurationRefused", message)
    behind = [entry.pod for entry in facts.reports if entry.report and facts.config != entry.report.config]
    if behind and facts.config:
        return Verdict("False", "ConfigurationPending", f"{', '.join(behind)}: not yet on the newest configuration")
    silent = [entry for entry in _counting(facts) if entry.report is None]
    if any(entry.pod not in facts.unheard for entry in silent):
        return Verdict(
            "False", "ConfigurationPending", f"{_silent(silent)}; whether it runs what is wanted is not known"
        )
    return _as_before(facts, former) if silent or not facts.config else None


def _as_before(facts: Facts, former: Condition | None) -> Verdict:
    """What Ready said of this generation, if it was not looked at now."""
    if former and former.observed_generation == facts.generation:
        return former.verdict
    return Verdict("False", "Reconciling", "not looked at yet")


def _unseen() -> Verdict:
    """The verdict of a condition that was never looked at."""
    return Verdict("Unknown", "Reconciling", "not looked at yet")


def _not_reached(facts: Facts) -> Verdict | None:
    """Unknown, if something is in the way; else it was not looked at, and nothing new can be said."""
    problem = facts.stalled or facts.waiting
    return Verdict("Unknown", problem.reason, f"not looked at: {problem.message}") if problem else None


def _left(entries: list[Left]) -> str:
    """What claims are there, what is known to be in them, and what to do."""
    claims = ", ".join(entry.claim for entry in entries)
    events = sum(entry.events for entry in entries)
    known = f"{events} events waited there" if events else "events may wait there"
    wanted = 1 + max(int(entry.claim.rpartition("-")[2]) for entry in entries)
    what = f"claim {claims} is left of a Pod that spec.webhook.replicas no longer asks for, and {known}"
    return f"{what}: set it to {wanted} until they are delivered, or delete the claim"


def _silent(entries: list[PodReport]) -> str:
    return "; ".join(f"Pod {entry.pod} does not answer: {entry.error}" for entry in entries)


def _counting(facts: Facts) -> list[PodReport]:
    """The reports; of Pods that are forgiven a look, the last ones."""
    return counting(facts.reports or (), facts.last_reports, facts.forgiven)


def _known(facts: Facts) -> list[Report]:
    """The newest report of each Pod; of a Pod that cannot be asked now, the last one it gave."""
    fresh = {entry.pod: entry.report for entry in facts.reports or () if entry.report}
    return list((facts.last_reports | fresh).values())


def _of(name: str, reports: Iterable[Report]) -> list[OutputReport]:
    return [output for report in reports for output in report.outputs if output.name == name]


def _outputs(facts: Facts, reports: list[Report], previous: PipelineStatus) -> tuple[OutputStatus, ...]:
    """The state of the outputs; the last one known, if some Pod has not been heard since this process began."""
    known = {output.name: output for output in previous.outputs}
    if not facts.outputs:
        return previous.outputs
    if facts.unheard or not reports:
        return tuple(known.get(name, OutputStatus(name)) for name in facts.outputs)
    return tuple(_output(name, reports) for name in facts.outputs)


def _output(name: str, reports: list[Report]) -> OutputStatus:
    found = _of(name, reports)
    if not found:
        return OutputStatus(name)
    newest = max(found, key=lambda output: output.last_error_at)
    return OutputStatus(
        name,
        state=max((output.state for output in found), key=_STATES.index),
        lag_seconds=int(max(output.lag_seconds for output in found)),
        delivered=sum(output.delivered for output in found),
        last_error=newest.last_error[:ERROR],
    )


def _events(facts: Facts, reports: list[Report], before: EventCounts | None) -> EventCounts | None:
    if facts.unheard or not reports:
        return before
    return EventCounts(
        received=sum(report.events.received for report in reports),
        delivered=sum(report.events.delivered for report in reports),
        dropped=sum(report.events.dropped for report in reports) + facts.given_up,
    )


def _gaps(losses: Losses) -> tuple[GapStatus, ...]:
    """From when to when evidence may be missing."""
    return tuple(
        GapStatus(_at(gap.begins), _at(math.ceil(gap.ends)), gap.cause, gap.server, gap.events) for gap in losses.gaps
    )


def _canary(facts: Facts) -> CanaryStatus | None:
    """The newest canary."""
    seen = facts.canary.seen
    return CanaryStatus(_at(seen.at), round(seen.latency, 1)) if seen else None


def _outputs_ready(facts: Facts, outputs: Iterable[OutputStatus], before: str | None) -> str | None:
    """Of what cannot be asked, nothing is claimed to be good."""
    if before and facts.outputs and (facts.reports is None or facts.unheard) and not (facts.stalled or facts.waiting):
        return before
    asked = any(entry.report for entry in _counting(facts))
    good = sum(output.state in ("Idle", "Delivering") for output in outputs) if asked else 0
    return f"{good}/{len(facts.outputs)}"


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
