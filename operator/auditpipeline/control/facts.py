"""What one reconcile found: plain values between the steps that find them and the status that is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from auditpipeline.control.canary import CanaryFacts
from auditpipeline.control.loss import Gap
from auditpipeline.control.published import Acknowledged
from auditpipeline.control.published import Truth as Truth  # noqa: PLC0414 - read from here
from auditpipeline.control.published import Verdict as Verdict  # noqa: PLC0414
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.report import Report


class Problem(NamedTuple):
    """Why reconciling ended early."""

    reason: str
    message: str


class Workload(NamedTuple):
    """A StatefulSet: Pods wanted, ready and of the newest template; whether its controller has seen the newest spec;
    what it says of who made it, and of what (control/rollout.py)."""

    wanted: int = 0
    ready: int = 0
    updated: int = 0
    observed: bool = False
    release: str = ""
    shape: str = ""


class PodFacts(NamedTuple):
    """One Pod; `problem` says why it does not start (an image, a crash, no node), `mounted` is its annotation, `node`
    where it is, or "", `controller` the UID of what made it, `room` the sizeLimit of its own volume for data, if that
    is an emptyDir. `created` and `leaving` are when it was made and asked to end, in seconds since the epoch."""

    name: str
    namespace: str
    uid: str
    ip: str = ""
    running: bool = False
    ready: bool = False
    deleting: bool = False
    mounted: str = ""
    problem: Problem | None = None
    node: str = ""
    controller: str = ""
    created: float = 0.0
    leaving: float = 0.0
    room: str = ""


class PodReport(NamedTuple):
    """What a running Pod said of itself, or why it could not be asked."""

    pod: str
    report: Report | None
    error: str = ""


class Heard(NamedTuple):
    """What the Pod with this UID last said, and how many looks in a row it has missed since."""

    uid: str
    report: Report
    missed: int = 0


def hear(known: dict[str, Heard], reports: Iterable[PodReport], uids: Mapping[str, str]) -> frozenset[str]:
    """Take in what each Pod said just now, and who said nothing; which Pods missed this look alone: an answer that
    takes too long once is no news. `uids` has those of the Pods that are there."""
    for pod, report, _ in reports:
        if report:
            known[pod] = Heard(uids[pod], report)
        elif pod in known:
            known[pod] = known[pod]._replace(missed=known[pod].missed + 1)
    return frozenset(pod for pod, heard in known.items() if (heard.uid, heard.missed) == (uids.get(pod), 1))


def counting(reports: Iterable[PodReport], last: Mapping[str, Report], forgiven: frozenset[str]) -> list[PodReport]:
    """The reports that count: of Pods that are forgiven a look, the last ones."""
    return [entry._replace(report=last.get(entry.pod)) if entry.pod in forgiven else entry for entry in reports]


class Left(NamedTuple):
    """A claim of a Pod that is no longer wanted, and how many events of Guaranteed outputs waited there when it last
    said so."""

    claim: str
    events: int = 0


class Losses(NamedTuple):
    """A pipeline's gaps, which of them nobody has acknowledged, and whether every API server could be read."""

    gaps: tuple[Gap, ...] = ()
    open: tuple[Gap, ...] = ()
    read: bool = True


@dataclass
class Facts:
    """Filled step by step.

    What a step did not come to is None, and so is what nobody has looked at since this process began; `pending` names
    conditions of the second kind. `absent` names conditions that this cluster does not have. `config` is the digest
    that every receiver should run. `reports` has an entry for each running Pod; None if no Pod was asked in this round.
    `last_reports` are the last known ones, for Pods that cannot be asked at the moment. `forgiven` are silent Pods that
    count by theirs: they ran `config`, and missed this look alone. `unheard` are silent Pods that this process has
    asked once and never heard. `given_up` is how many events the gateways could not keep for the pipeline.
    `needs_proof` says that Ready has to wait for a first event or canary. `redaction` is what is taken from events;
    `unhashed` says why there is no key for hashes that it asks for. `has_gateway`: events come by way of our gateway;
    `unredacting` are its Pods whose release takes nothing. `conditional` says that the spec has conditions. `notes` are
    said beside whatever Ready says; `refused` is why Kubernetes makes no Pods.
    """

    generation: int
    now: datetime
    outputs: tuple[str, ...] = ()
    stalled: Problem | None = None
    waiting: Problem | None = None
    suspended: bool = False
    expires: datetime | None = None
    certificate: datetime | None = None
    missing_secrets: list[str] = field(default_factory=list)
    workload: Workload | None = None
    pods: list[PodFacts] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    refused: str = ""
    sink: Verdict | None = None
    given_up: int = 0
    upstream: Verdict | None = None
    canary: CanaryFacts = field(default_factory=CanaryFacts)
    config: str = ""
    losses: Losses | None = None
    acknowledged: Acknowledged | None = None
    reports: list[PodReport] | None = None
    last_reports: dict[str, Report] = field(default_factory=dict)
    forgiven: frozenset[str] = frozenset()
    unheard: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    conditional: bool = False
    pending: set[str] = field(default_factory=set)
    needs_proof: bool = True
    redaction: Redaction | None = None
    unhashed: str = ""
    has_gateway: bool = False
    unredacting: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
