"""The statuses of AuditPipelines and AuditSinks as typed values. Pure.

    stored JSON --decode--> PipelineStatus, SinkStatus --patch--> merge patch (RFC 7396) for the status subresource

A status is decoded once, made anew once in a round, and encoded once when it is written. Fields that a newer release
has written are not known here and stay as they are: a merge patch does not name them. A stored status that does not
decode counts as empty, and is written whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

MESSAGE = 1024
"""The longest message of a condition that is kept, in characters."""
ERROR = 512
Truth = Literal["True", "False", "Unknown"]


class Verdict(NamedTuple):
    """What a condition says, without its type and times. `message` says what to do if something is to be done."""

    status: Truth
    reason: str
    message: str


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """One condition, as in meta/v1. `last_transition_time` is when `status` last changed."""

    type: str
    status: Truth
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None
    observed_generation: int = 0

    @property
    def verdict(self) -> Verdict:
        """What it says."""
        return Verdict(self.status, self.reason, self.message)


class OutputStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One output; None is what no Pod has ever reported."""

    name: str
    state: str | None = None
    lag_seconds: int | None = None
    delivered: int | None = None
    last_error: str | None = None


class EventCounts(msgspec.Struct, frozen=True):
    """Events since the pipeline was made."""

    received: int = 0
    delivered: int = 0
    dropped: int = 0


class CanaryStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The newest canary."""

    last_seen: datetime
    latency_seconds: float = 0.0


class GapStatus(msgspec.Struct, frozen=True, rename={"begins": "from", "ends": "to"}, omit_defaults=True):
    """A time of which evidence may be missing; `events` is 0 if nobody counted them."""

    begins: datetime
    ends: datetime
    reason: str
    server: str
    events: int = 0


class Acknowledged(msgspec.Struct, frozen=True):
    """An annotation that acknowledges losses up to a time that had not come: `until` is when it was first seen."""

    annotation: str
    until: datetime


class PipelineStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The status of an AuditPipeline. `first_event_at` is when an event or a canary first proved that events come."""

    observed_generation: int = -1
    conditions: tuple[Condition, ...] = ()
    outputs: tuple[OutputStatus, ...] = ()
    outputs_ready: str | None = None
    events: EventCounts | None = None
    canary: CanaryStatus | None = None
    first_event_at: datetime | None = None
    expires_at: datetime | None = None
    gaps: tuple[GapStatus, ...] = ()
    loss_acknowledged: Acknowledged | None = None


class SinkStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The status of an AuditSink; None is what no gateway Pod has ever reported."""

    observed_generation: int = -1
    conditions: tuple[Condition, ...] = ()
    lag_seconds: int | None = None
    delivered: int | None = None
    dropped: int | None = None
    last_error: str | None = None


Published = TypeVar("Published", PipelineStatus, SinkStatus)


def decode(stored: Mapping[str, Any] | None, kind: type[Published]) -> Published:
    """The status that an object has; an empty one if it has none, or none that can be read."""
    try:
        return msgspec.convert(stored or {}, kind)
    except msgspec.ValidationError:
        return kind()


def patch(new: Published, old: Published) -> dict[str, Any]:
    """The merge patch that makes `new` of `old`; empty if nothing differs. A field that is gone becomes null."""
    wanted, before = msgspec.to_builtins(new), msgspec.to_builtins(old)
    changed = {key: value for key, value in wanted.items() if before.get(key) != value}
    return changed | {key: None for key in before if key not in wanted}


def conditions(status: PipelineStatus | SinkStatus) -> dict[str, Condition]:
    """The conditions by type."""
    return {condition.type: condition for condition in status.conditions}


def dated(
    verdicts: Mapping[str, Verdict],
    before: Mapping[str, Condition],
    generation: int,
    now: datetime,
    kept: frozenset[str] = frozenset(),
) -> tuple[Condition, ...]:
    """The conditions of these verdicts. `lastTransitionTime` moves only with a condition's status; those that are
    `kept` were not looked at, and speak of the generation that they spoke of before."""
    stamp = now.replace(microsecond=0)
    return tuple(
        before[kind] if kind in kept else _condition(kind, verdict, before.get(kind), generation, stamp)
        for kind, verdict in verdicts.items()
    )


def _condition(kind: str, verdict: Verdict, old: Condition | None, generation: int, stamp: datetime) -> Condition:
    since = old.last_transition_time if old and old.status == verdict.status else None
    return Condition(kind, verdict.status, verdict.reason, verdict.message[:MESSAGE], since or stamp, generation)


def of(body: Mapping[str, Any]) -> PipelineStatus:
    """The status of an AuditPipeline."""
    return decode(body.get("status"), PipelineStatus)


def is_ready(status: PipelineStatus | SinkStatus) -> bool:
    """Whether it says that the object is Ready."""
    return any((condition.type, condition.status) == ("Ready", "True") for condition in status.conditions)
