"""What the data plane says of itself at /status, and the controller reads.

Counters are kept in the spool, so they survive a restart; they count since the spool was made.
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["Idle", "Delivering", "Failing"]
SourceState = Literal["Reading", "Waiting", "Failing"]


class _Value(msgspec.Struct, frozen=True, rename="camel"):
    """A value of the report: camelCase outside, unknown fields ignored."""


class Events(_Value, frozen=True):
    """Events taken into the spool (`received`), delivered to outputs (one for each output) and dropped (likewise)."""

    received: int = 0
    delivered: int = 0
    dropped: int = 0


class OutputReport(_Value, frozen=True):
    """One route.

    `lag_seconds` is the age of the oldest event that waits; 0 where none does. `last_error` holds no secret and at most
    512 characters; times are seconds since the epoch.
    """

    name: str
    state: State = "Idle"
    lag_seconds: float = 0.0
    pending: int = 0
    delivered: int = 0
    dropped: int = 0
    last_error: str = ""
    last_error_at: float = 0.0
    last_delivered_at: float = 0.0


class SourceReport(_Value, frozen=True):
    """A log that is read. `state` is Waiting if there is no room for its events, and Failing if it cannot be read.

    `lines` and `events` were taken, `buried` are dead letters; `foreign` counts lines that are not meant as events, by
    what they are. All of these count since the process started. `last_error` as in OutputReport.
    """

    path: str
    state: SourceState = "Reading"
    last_error: str = ""
    last_error_at: float = 0.0
    lines: int = 0
    events: int = 0
    buried: int = 0
    foreign: dict[str, int] = {}


class Taken(_Value, frozen=True):
    """Audit events in the requests that were answered with 200, wanted or not, since the process started (`epoch`)."""

    epoch: str
    events: int = 0


class Canary(_Value, frozen=True):
    """The newest canary of one API server (`source`) that came: which one, how many came since the process started, how
    long after its request (clocks of two nodes), and when."""

    source: str
    id: str
    seen: int = 0
    latency_seconds: float = 0.0
    seen_at: float = 0.0


class StaticPolicy(_Value, frozen=True):
    """kube-apiserver's static policy file beside a gateway: its text, or why there is none (`error`).

    `changed_at` is the later of the times at which its content and its place in the folder last changed, by the clock
    of the node.
    """

    text: str = ""
    changed_at: float = 0.0
    error: str = ""


class RouteReport(_Value, frozen=True):
    """A route that is in force at a gateway: the UID of the AuditSink that it was made from, the digest of the route
    (core.packing.route_digest), and the file that it was read from: 0 for the head, else the number of the shard."""

    name: str
    uid: str
    digest: str
    shard: int = 0


class ConditionReport(_Value, frozen=True):
    """A condition of the pipeline, or of the `output` that is named.

    `evaluations` were made since the process started, one for each event that the policy kept; `rejected` were false,
    and `failures` failed: `failure` says why the first one did, with nothing of the event. `seconds` is the CPU
    time that all took. One that took too long is `off`: it counts as true.
    """

    name: str
    output: str = ""
    evaluations: int = 0
    rejected: int = 0
    failures: int = 0
    seconds: float = 0.0
    off: bool = False
    failure: str = ""


class Report(_Value, frozen=True):
    """The whole answer. `config` is the digest (core.config.digest) of the configuration in force, at a gateway of its
    head; `config_error` why a newer one, or a part of it, was refused or is not in force yet; `source_error` why no
    audit log is read though one should be. `routes` has a gateway's routes; None at a receiver, and at a gateway of a
    release that does not report them. `redacts`: secrets are taken from events; False of a release before, which takes
    none. `unhashed` says why values are masked where hashes are asked for. `conditions` has those of all routes; None
    at a receiver of a release that does not evaluate them."""

    plane: str
    name: str
    config: str
    events: Events
    outputs: tuple[OutputReport, ...]
    config_error: str = ""
    spool_bytes: int = 0
    dead_letters: int = 0
    certificate_not_after: float = 0.0
    version: str = ""
    static_policy: StaticPolicy | None = None
    canaries: tuple[Canary, ...] = ()
    taken: Taken | None = None
    source_error: str = ""
    sources: tuple[SourceReport, ...] = ()
    routes: tuple[RouteReport, ...] | None = None
    redacts: bool = False
    unhashed: str = ""
    conditions: tuple[ConditionReport, ...] | None = None


def encode(report: Report) -> bytes:
    """The report as JSON."""
    return msgspec.json.encode(report)


def decode(body: bytes) -> Report:
    """The report in `body`; msgspec.DecodeError where it is none."""
    try:
        return msgspec.json.decode(body, type=Report)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
