"""What a status says of redaction. Pure.

    AuditPipeline   Redacted    True     secrets of the default list are taken: Default, Rules, KeyMissing
                                False    they stay in: OptedOut; ReleaseBefore while a Pod of that release runs
                                Unknown  nobody who could say so was heard

    AuditSink       the same, and only if it has the annotation

True needs proof: every receiver runs the configuration that asks for it, every gateway Pod has the route, and each of
them says that its release takes secrets. A receiver that is silent counts by what it said last: it cannot have gone
back. What was said before is kept while a newer configuration is on its way, and while no receiver runs that could
store anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from auditpipeline.control import names
from auditpipeline.control.facts import Facts, PodReport, Verdict
from auditpipeline.control.published import Condition
from auditpipeline.control.settings import OptOut
from auditpipeline.core.redaction.model import Redaction

_SHOWN = 64
"""Characters of an annotation that nobody understands."""
_BRIEF = ("ConfigurationPending", "GatewayPending", "NoPodRunning")
"""Reasons for which what was said before is kept."""


class Asked(NamedTuple):
    """What the annotation of a sink asks for (None: nothing), whether an opt-out is allowed, why there is no key for
    hashes, and the gateway's Pods of a release that takes nothing."""

    annotation: str | None = None
    opt_out: OptOut = "refuse"
    unhashed: str = ""
    unredacting: Sequence[str] = ()


NOTHING = Asked()


def redacted(facts: Facts, former: Condition | None) -> Verdict | None:
    """Whether secrets are taken from the events of a pipeline; None if nothing new can be said."""
    if facts.redaction is None or not facts.config or facts.reports is None:
        return None
    if not facts.redaction.default:
        return Verdict("False", "OptedOut", _whole(facts.redaction, gateway=facts.has_gateway))
    last = facts.last_reports
    entries = [each if each.report else each._replace(report=last.get(each.pod)) for each in facts.reports]
    old = [entry.pod for entry in entries if entry.report and not entry.report.redacts]
    if facts.has_gateway:
        old += facts.unredacting
    if old:
        return _before(old)
    doubt = _receivers(facts, entries) or _gateway(facts)
    if doubt is None:
        keyless = (
            f"Pod {entry.pod}: {entry.report.unhashed}" for entry in entries if entry.report and entry.report.unhashed
        )
        return _taken(facts.redaction, facts.unhashed or next(keyless, ""))
    return None if former and doubt.reason in _BRIEF else doubt


def _receivers(facts: Facts, entries: Sequence[PodReport]) -> Verdict | None:
    """Whether a receiver may not run what is wanted."""
    if not entries:
        return Verdict("Unknown", "NoPodRunning", "no Pod runs that could say so")
    silent = [entry for entry in entries if entry.report is None]
    if silent:
        said = "; ".join(f"Pod {entry.pod} does not answer: {entry.error}" for entry in silent)
        if all(entry.pod in facts.unheard for entry in silent):
            return Verdict("Unknown", "ConfigurationPending", said)
        return Verdict("Unknown", "PodUnreachable", said)
    behind = [entry.pod for entry in entries if entry.report and entry.report.config != facts.config]
    if not behind:
        return None
    return Verdict("Unknown", "ConfigurationPending", f"{', '.join(behind)}: not yet on the newest configuration")


def _gateway(facts: Facts) -> Verdict | None:
    """Whether the gateway may not run what is wanted."""
    if not facts.has_gateway or facts.suspended or (facts.sink and facts.sink.status == "True"):
        return None
    if facts.sink is None:
        return Verdict("Unknown", "GatewayPending", "the gateway was not looked at yet")
    return facts.sink._replace(status="Unknown")


def _whole(redaction: Redaction, *, gateway: bool) -> str:
    where = "at the gateway and the receivers" if gateway else "at the receivers"
    said = f"spec.redaction.default is false: secrets in events are stored {where} and delivered as they are"
    return f"{said}; receivers take what spec.redaction.rules name" if redaction.rules else said


def _taken(redaction: Redaction, unhashed: str) -> Verdict:
    if redaction.hashes and unhashed:
        return Verdict("True", "KeyMissing", f"secrets are masked, since there is no key for hashes: {unhashed}")
    how = "hashed" if redaction.method == "hash" else "masked"
    said = f"secrets of the default list are {how} before events are stored; a gateway keeps those whole that a"
    said += " pipeline or a sink wants which opts out"
    if not redaction.rules:
        return Verdict("True", "Default", said)
    return Verdict("True", "Rules", f"{said}, and receivers take what spec.redaction.rules name")


def _before(pods: Sequence[str]) -> Verdict:
    message = "of a release that takes nothing from events: secrets are stored until it is replaced"
    return Verdict("False", "ReleaseBefore", f"Pod {', '.join(pods)} is {message}")


def sink_redacted(asked: Asked, registration: Verdict) -> Verdict | None:
    """What becomes of the secrets in the events of a sink; None without the annotation."""
    if asked.annotation is None:
        return None
    if asked.annotation == "none" and asked.opt_out == "allow":
        said = "secrets in events are stored at the gateway and delivered as they are"
        return Verdict("False", "OptedOut", f"annotation {names.REDACTION} is none: {said}")
    if asked.unredacting:
        return _before(asked.unredacting)
    found = _asked(asked)
    if registration.status == "True":
        return found
    return Verdict("Unknown", registration.reason, registration.message)


def _asked(asked: Asked) -> Verdict:
    note = f"annotation {names.REDACTION}"
    if asked.annotation == "none":
        why = "this operator lets no sink keep secrets in its events; see redaction.allowOptOut of the chart"
        return Verdict("True", "OptOutRefused", f"{note} has no effect, and secrets are masked: {why}")
    if asked.annotation != "hash":
        said = f"{note} is {(asked.annotation or '')[:_SHOWN]!r}, which means nothing, and secrets are masked"
        return Verdict("True", "AnnotationUnknown", f"{said}: write hash or none, or remove it")
    return _taken(Redaction(method="hash"), asked.unhashed)
