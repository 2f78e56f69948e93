"""The status of an AuditSink that our CRD serves: how its route fares at the gateway's Pods. Pure.

    registration (gateway_state) --+--> Ready      Stalled where the sink is refused,
    a Pod's route is Failing     --+               Reconciling while otherwise not Ready

    annotation about redaction   ----> Redacted   there only with the annotation

Counters are sums, and the lag the largest, over the gateway's Pods; of a Pod that does not answer the last known ones.
Conventions as in `status`; a registration of None was not looked at since this process began, and keeps what was said.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace

from auditpipeline.control.facts import Verdict
from auditpipeline.control.published import ERROR, SinkStatus, dated
from auditpipeline.control.published import conditions as by_type
from auditpipeline.control.redacted import NOTHING, Asked, sink_redacted
from auditpipeline.core.report import OutputReport


def sink_status(
    registration: Verdict | None,
    outputs: Sequence[OutputReport],
    previous: SinkStatus,
    generation: int,
    now: datetime,
    asked: Asked = NOTHING,
) -> SinkStatus:
    """The whole status; equal to `previous` if nothing changed."""
    if registration is None and previous.observed_generation == generation:
        return previous
    verdicts = sink_conditions(registration or Verdict("False", "GatewayPending", "not looked at yet"), outputs, asked)
    found = SinkStatus(generation, dated(verdicts, by_type(previous), generation, now))
    return _with_figures(found, outputs, previous)


def sink_conditions(
    registration: Verdict, outputs: Sequence[OutputReport], asked: Asked = NOTHING
) -> dict[str, Verdict]:
    """Every condition's verdict, by type; Reconciling and Stalled only while they hold, Redacted only if it was asked
    for something."""
    ready = sink_ready(registration, outputs)
    found = {"Ready": ready}
    if ready.reason in ("SinkRefused", "NameTaken"):
        found["Stalled"] = ready._replace(status="True")
    elif ready.status != "True":
        found["Reconciling"] = ready._replace(status="True")
    redaction = sink_redacted(asked, registration)
    return found | ({"Redacted": redaction} if redaction else {})


def sink_ready(registration: Verdict, outputs: Sequence[OutputReport]) -> Verdict:
    """Whether every gateway Pod posts events to the sink, and the sink takes them."""
    if registration.status != "True":
        return registration
    failing = [output for output in outputs if output.state == "Failing"]
    if failing:
        newest = max(failing, key=lambda output: output.last_error_at)
        return Verdict("False", "Failing", f"the sink does not take events: {newest.last_error or 'see its log'}")
    if registration.reason != "Registered":
        return registration
    return Verdict("True", "Registered", "every gateway Pod posts events to this sink")


def _with_figures(found: SinkStatus, outputs: Sequence[OutputReport], previous: SinkStatus) -> SinkStatus:
    """With what the gateway's Pods count; with what they counted last, if none has answered yet."""
    if not outputs:
        return replace(
            found,
            lag_seconds=previous.lag_seconds,
            delivered=previous.delivered,
            dropped=previous.dropped,
            last_error=previous.last_error,
        )
    newest = max(outputs, key=lambda output: output.last_error_at)
    return replace(
        found,
        lag_seconds=int(max(output.lag_seconds for output in outputs)),
        delivered=sum(output.delivered for output in outputs),
        dropped=sum(output.dropped for output in outputs),
        last_error=newest.last_error[:ERROR],
    )
