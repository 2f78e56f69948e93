"""The status of an AuditSink that our CRD serves: how its route fares at the gateway's Pods. Pure.

    registration (gateway_state) --+--> Ready      Stalled where the sink is refused,
    a Pod's route is Failing     --+               Reconciling while otherwise not Ready

Counters are sums, and the lag the largest, over the gateway's Pods; of a Pod that does not answer the last known ones.
Conventions as in `status`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from auditpipeline.control.facts import Verdict
from auditpipeline.control.status import Status, dated
from auditpipeline.core.report import OutputReport

COUNTED = ("lagSeconds", "delivered", "dropped")


def sink_status(
    registration: Verdict,
    outputs: Sequence[OutputReport],
    previous: Mapping[str, Any],
    generation: int,
    now: datetime,
) -> Status:
    """The whole status; equal to `previous` where nothing changed."""
    figures = (
        _figures(outputs) if outputs else {key: previous[key] for key in (*COUNTED, "lastError") if key in previous}
    )
    conditions = dated(sink_conditions(registration, outputs), previous.get("conditions", []), generation, now)
    return {"observedGeneration": generation, "conditions": conditions, **figures}


def sink_conditions(registration: Verdict, outputs: Sequence[OutputReport]) -> dict[str, Verdict]:
    """Every condition's verdict, by type; Reconciling and Stalled only while they hold."""
    ready = sink_ready(registration, outputs)
    found = {"Ready": ready}
    if ready.reason == "SinkRefused":
        found["Stalled"] = ready._replace(status="True")
    elif ready.status != "True":
        found["Reconciling"] = ready._replace(status="True")
    return found


def sink_ready(registration: Verdict, outputs: Sequence[OutputReport]) -> Verdict:
    """Whether every gateway Pod posts events to the sink, and the sink takes them."""
    if registration.status != "True":
        return registration
    failing = [output for output in outputs if output.state == "Failing"]
    if failing:
        newest = max(failing, key=lambda output: output.last_error_at)
        return Verdict("False", "Failing", f"the sink does not take events: {newest.last_error or 'see its log'}")
    return Verdict("True", "Registered", "every gateway Pod posts events to this sink")


def _figures(outputs: Sequence[OutputReport]) -> Status:
    newest = max(outputs, key=lambda output: output.last_error_at)
    return {
        "lagSeconds": int(max(output.lag_seconds for output in outputs)),
        "delivered": sum(output.delivered for output in outputs),
        "dropped": sum(output.dropped for output in outputs),
        "lastError": newest.last_error[:512],
    }
