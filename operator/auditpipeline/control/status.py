"""The status of a pipeline: a pure function of what was found and of the status before.

                 CertificateReady --+
    Stalled? --> WebhookAvailable --+--> Ready     Reconciling while neither Ready, Stalled nor suspended
                 SinkRegistered   --+
                 UpstreamCovers, Delivering (may be Unknown: nobody can say, no event has come yet)

Conventions: kstatus (sigs.k8s.io/cli-utils/pkg/kstatus) and meta/v1 Condition. Nothing is claimed that was not seen:
what is not known is Unknown, with the reason why. `lastTransitionTime` moves only when a condition's status does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from auditpipeline.control.facts import Facts, Left, Losses, PodReport, Problem, Verdict, counting
from auditpipeline.core.report import OutputReport, Report

Status = dict[str, Any]
PARTS = ("CertificateReady", "WebhookAvailable", "SinkRegistered", "UpstreamCovers", "Delivering")
MAY_BE_UNKNOWN = ("UpstreamCovers", "Delivering")
_STATES = ("Idle", "Delivering", "Failing")


def status(facts: Facts, previous: Mapping[str, Any]) -> Status:
    """The whole status; equal to `previous` where nothing changed."""
    reports = _known(facts)
    outputs = [_output(name, reports) for name in facts.outputs] if reports else _former(facts, previous)
    events = _events(reports, facts.given_up) if reports else previous.get("events")
    verdicts = conditions(facts)
    return {
        "observedGeneration": facts.generation,
        "conditions": dated(verdicts, previous.get("conditions", []), facts.generation, facts.now),
        "outputs": list(outputs),
        "outputsReady": _outputs_ready(facts, outputs),
        **({"events": events} if events else {}),
        **_canary(facts, previous.get("canary")),
        **_expires(facts, previous),
        **_gaps(facts),
    }


def conditions(facts: Facts) -> dict[str, Verdict]:
    """Every condition's verdict, by type; Reconciling and Stalled only while they hold."""
    parts = {
        "CertificateReady": certificate_ready(facts),
        "WebhookAvailable": webhook_available(facts),
        "SinkRegistered": sink_registered(facts),
        **({"UpstreamCovers": facts.upstream} if facts.upstream else {}),
        "Delivering": delivering(facts),
        **({"AuditLoss": audit_loss(facts.losses)} if facts.losses else {}),
    }
    summary = ready(facts, parts)
    found = {"Ready": summary}
    if facts.stalled:
        found["Stalled"] = Verdict("True", *facts.stalled)
    elif summary.status != "True" and not facts.suspended:
        found["Reconciling"] = Verdict("True", summary.reason, summary.message)
    return found | parts


def ready(facts: Facts, parts: Mapping[str, Verdict]) -> Verdict:
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
    return _configured(facts) or Verdict("True", "Ready", "events are recorded and delivered as the spec says")


def certificate_ready(facts: Facts) -> Verdict:
    """Whether the receivers have a certificate to serve with."""
    if facts.certificate is None:
        return _not_reached(facts)
    until = facts.certificate.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Verdict("True", "Issued", f"the serving certificate is good until {until}, and is renewed before that")


def webhook_available(facts: Facts) -> Verdict:
    """Whether at least one receiver takes events, with all that its outputs need."""
    if facts.missing_secrets:
        return Verdict("False", "SecretMissing", "; ".join(facts.missing_secrets))
    if facts.workload is None:
        return _not_reached(facts)
    wanted, count = facts.workload.wanted, facts.workload.ready
    if facts.workload.observed and count > 0:
        said = f"{count} of {wanted} Pods are ready"
        if count < wanted:
            return Verdict("True", "SomePodsReady", said)
        if facts.left:
            return Verdict("True", "ClaimsLeft", f"{said}; {_left(facts.left)}")
        return Verdict("True", "AllPodsReady", said)
    return Verdict("False", *_obstacle(facts, wanted, count))


def _obstacle(facts: Facts, wanted: int, count: int) -> Problem:
    """Why no Pod is ready."""
    if facts.claims:
        return Problem("ClaimPending", "; ".join(facts.claims))
    problems = sorted({pod.problem for pod in facts.pods if pod.problem and not pod.deleting})
    return problems[0] if problems else Problem("PodsPending", f"{count} of {wanted} Pods are ready: waiting for them")


def sink_registered(facts: Facts) -> Verdict:
    """Whether whoever posts the events knows of this pipeline."""
    if facts.suspended:
        return Verdict("False", "Suspended", "spec.suspend is true: the AuditSink is removed")
    return facts.sink or _not_reached(facts)


def delivering(facts: Facts) -> Verdict:
    """Whether events reach every output; Unknown until the first one came."""
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
        return Verdict("Unknown", "PodUnreachable", _silent(silent))
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


def _configured(facts: Facts) -> Verdict | None:
    """Why a receiver does not run the newest configuration, if one does not, or cannot be known to."""
    if not facts.reports:
        return Verdict("False", "ConfigurationPending", "no Pod runs that could say which configuration is in force")
    for entry in facts.reports:
        if entry.report and entry.report.config_error:
            message = f"Pod {entry.pod} keeps its former configuration: {entry.report.config_error}"
            return Verdict("False", "ConfigurationRefused", message)
    behind = [entry.pod for entry in facts.reports if entry.report and facts.config != entry.report.config]
    if behind:
        return Verdict("False", "ConfigurationPending", f"{', '.join(behind)}: not yet on the newest configuration")
    silent = [entry for entry in _counting(facts) if entry.report is None]
    if silent:
        return Verdict(
            "False", "ConfigurationPending", f"{_silent(silent)}; whether it runs what is wanted is not known"
        )
    return None


def _not_reached(facts: Facts) -> Verdict:
    problem = facts.stalled or facts.waiting
    if problem:
        return Verdict("Unknown", problem.reason, f"not looked at: {problem.message}")
    return Verdict("Unknown", "Reconciling", "not looked at yet")


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
    return counting(facts.reports, facts.last_reports, facts.forgiven)


def _known(facts: Facts) -> list[Report]:
    """The newest report of each Pod; of a Pod that cannot be asked now, the last one it gave."""
    fresh = {entry.pod: entry.report for entry in facts.reports if entry.report}
    return list((facts.last_reports | fresh).values())


def _of(name: str, reports: Iterable[Report]) -> list[OutputReport]:
    return [output for report in reports for output in report.outputs if output.name == name]


def _output(name: str, reports: list[Report]) -> Status:
    found = _of(name, reports)
    if not found:
        return {"name": name}
    newest = max(found, key=lambda output: output.last_error_at)
    return {
        "name": name,
        "state": max((output.state for output in found), key=_STATES.index),
        "lagSeconds": int(max(output.lag_seconds for output in found)),
        "delivered": sum(output.delivered for output in found),
        "lastError": newest.last_error[:512],
    }


def _former(facts: Facts, previous: Mapping[str, Any]) -> list[Status]:
    """What was last known of the outputs, where no Pod has ever reported since this process began."""
    known = {entry["name"]: entry for entry in previous.get("outputs", [])}
    return [known.get(name, {"name": name}) for name in facts.outputs] if facts.outputs else list(known.values())


def _events(reports: list[Report], given_up: int) -> Status:
    found = {
        field: sum(getattr(report.events, field) for report in reports)
        for field in ("received", "delivered", "dropped")
    }
    return {**found, "dropped": found["dropped"] + given_up}


def _gaps(facts: Facts) -> Status:
    """From when to when evidence may be missing."""
    if facts.losses is None or not facts.losses.gaps:
        return {}
    return {
        "gaps": [
            {
                "from": _time(gap.begins),
                "to": _time(math.ceil(gap.ends)),
                "reason": gap.cause,
                "server": gap.server,
                **({"events": gap.events} if gap.events else {}),
            }
            for gap in facts.losses.gaps
        ]
    }


def _expires(facts: Facts, previous: Mapping[str, Any]) -> Status:
    """When the pipeline deletes itself; null takes a former time away (the status is merged)."""
    if facts.expires:
        return {"expiresAt": facts.expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
    if facts.stalled and "expiresAt" in previous:
        return {"expiresAt": previous["expiresAt"]}
    return {"expiresAt": None} if previous.get("expiresAt") else {}


def _canary(facts: Facts, before: Mapping[str, Any] | None) -> Status:
    """The newest canary."""
    seen = facts.canary.seen
    if seen is None:
        return {"canary": before} if before else {}
    return {"canary": {"lastSeen": _time(seen.at), "latencySeconds": round(seen.latency, 1)}}


def _outputs_ready(facts: Facts, outputs: Iterable[Mapping[str, Any]]) -> str:
    """Of what cannot be asked, nothing is claimed to be good."""
    asked = any(entry.report for entry in _counting(facts))
    good = sum(entry.get("state") in ("Idle", "Delivering") for entry in outputs) if asked else 0
    return f"{good}/{len(facts.outputs)}"


def dated(verdicts: Mapping[str, Verdict], before: list[Status], generation: int, now: datetime) -> list[Status]:
    """The conditions of these verdicts, where those `before` say since when."""
    known = {entry.get("type"): entry for entry in before}
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    for kind, verdict in verdicts.items():
        old = known.get(kind, {})
        since = old.get("lastTransitionTime", stamp) if old.get("status") == verdict.status else stamp
        found.append(
            {
                "type": kind,
                "status": verdict.status,
                "observedGeneration": generation,
                "lastTransitionTime": since,
                "reason": verdict.reason,
                "message": verdict.message[:1024],
            }
        )
    return found
