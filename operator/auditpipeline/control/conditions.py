"""What a status says of a pipeline's matchConditions: whether the receivers ask them. Pure.

Ready is False while one is not asked, since more is recorded then than the spec says. One that fails on some events is
asked: those events are kept, which is what the spec says.
"""

from __future__ import annotations

from collections.abc import Sequence

from auditpipeline.control.facts import PodReport, Verdict
from auditpipeline.core.report import ConditionReport, Report


def conditions_evaluated(entries: Sequence[PodReport]) -> Verdict:
    """The verdict, from the reports of Pods that run the newest configuration."""
    known = [(entry.pod, entry.report) for entry in entries if entry.report]
    if not known:
        return Verdict("Unknown", "NoPodRunning", "no Pod runs that could say so")
    found = [condition for _, report in known for condition in report.conditions or ()]
    return _ignored(known) or _off(found) or _evaluated(found)


def _ignored(known: Sequence[tuple[str, Report]]) -> Verdict | None:
    pods = [pod for pod, report in known if report.conditions is None]
    if not pods:
        return None
    message = f"{', '.join(pods)}: the release of this Pod knows no conditions, so that more is recorded than asked for"
    return Verdict("False", "ConditionsIgnored", message)


def _off(found: Sequence[ConditionReport]) -> Verdict | None:
    names = sorted({_name(condition) for condition in found if condition.off})
    if not names:
        return None
    message = (
        f"{', '.join(names)}: took more than 1 ms an event and is switched off, so that more is recorded than asked "
        "for: write a cheaper expression"
    )
    return Verdict("False", "ConditionSwitchedOff", message)


def _evaluated(found: Sequence[ConditionReport]) -> Verdict:
    failing = sorted({f"{_name(each)}: {each.failure}" for each in found if each.failures})
    if failing:
        message = f"events on which a condition fails are kept and counted; {'; '.join(failing)}"
        return Verdict("True", "SomeEvaluationsFail", message)
    return Verdict("True", "Evaluated", "every condition is asked about each event that the policy keeps")


def _name(found: ConditionReport) -> str:
    return f"condition {found.name} of output {found.output}" if found.output else f"condition {found.name}"
