"""How soon a status that differs from the stored one is written. Pure.

    what differs                                                          written
    a condition, an error, a gap, an output that fails, a first value     at once
    events that were dropped; whether something waits for LATE seconds    after one `status_interval`
    other counters; a lag by LATE seconds, or that is over; an old canary after SLOWLY of them
    nothing but canaries                                                  with what is written next

The times are since the last write, so that what happens after a quiet time is written at the next look.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from auditpipeline.control.published import OutputStatus, PipelineStatus, SinkStatus

LATE = 10
"""Seconds: a lag that matters, and by how much one, or the latency of canaries, has to differ to be worth a write."""
SLOWLY = 6
CANARY_KEPT = 300.0
"""Seconds after which a canary that was written is too old to be called the last one."""


class Figures(NamedTuple):
    """A status, by what its parts are worth: `said` is written at once, `sent` (in seconds since the epoch) and
    `latency` are those of the canary."""

    said: tuple[Any, ...]
    dropped: int
    counted: tuple[int, ...]
    lags: tuple[float, ...]
    states: tuple[str, ...] = ()
    sent: float = 0.0
    latency: float = 0.0


def patience(new: Figures, old: Figures, interval: float, canaries: int = 0) -> float | None:
    """How many seconds have to lie between the last write and this one, where readings are `interval` apart; None where
    the difference is worth none. Of what was counted since the last write, so many were `canaries` at most."""
    if new.said != old.said:
        return 0.0
    if new.dropped != old.dropped or _late(new.lags) != _late(old.lags):
        return interval
    counted = any(not 0 <= now - then <= canaries for now, then in zip(new.counted, old.counted, strict=True))
    return SLOWLY * interval if counted or new.states != old.states or _moved(new, old) else None


def pipeline_figures(status: PipelineStatus) -> Figures:
    """Those of an AuditPipeline's status."""
    events, canary, outputs = status.events, status.canary, status.outputs
    plain = (
        status.observed_generation,
        status.conditions,
        status.outputs_ready,
        status.expires_at,
        status.gaps,
        status.first_event_at,
        status.loss_acknowledged,
    )
    return Figures(
        said=(*plain, tuple((output.name, *_fares(output)) for output in outputs), bool(events), bool(canary)),
        dropped=events.dropped if events else 0,
        counted=(events.received if events else 0, *(output.delivered or 0 for output in outputs)),
        lags=tuple(output.lag_seconds or 0 for output in outputs),
        states=tuple(output.state or "" for output in outputs),
        sent=canary.last_seen.timestamp() if canary else 0.0,
        latency=canary.latency_seconds if canary else 0.0,
    )


def sink_figures(status: SinkStatus) -> Figures:
    """Those of an AuditSink's status."""
    return Figures(
        said=(status.observed_generation, status.conditions, status.last_error, status.delivered is not None),
        dropped=status.dropped or 0,
        counted=(status.delivered or 0,),
        lags=(status.lag_seconds or 0,),
    )


def _fares(output: OutputStatus) -> tuple[Any, ...]:
    """Of an output: whether it fails, its error, and whether anything is known of it."""
    return output.state == "Failing", output.last_error, output.delivered is not None


def _late(lags: tuple[float, ...]) -> tuple[bool, ...]:
    return tuple(lag >= LATE for lag in lags)


def _moved(new: Figures, old: Figures) -> bool:
    """Whether a lag or the canary differs by more than they always do."""
    lags = any(abs(now - then) >= LATE or (then and not now) for now, then in zip(new.lags, old.lags, strict=True))
    return lags or abs(new.sent - old.sent) >= CANARY_KEPT or abs(new.latency - old.latency) >= LATE
