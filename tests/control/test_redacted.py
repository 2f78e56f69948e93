"""What a status says of redaction: True only if everybody who stores an event takes secrets out of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from auditpipeline.control.facts import Facts, PodReport, Problem, Verdict
from auditpipeline.control.published import Condition
from auditpipeline.control.redacted import Asked, redacted, sink_redacted
from auditpipeline.control.status import conditions
from auditpipeline.core.redaction.model import DEFAULT, Redaction, Rule
from auditpipeline.core.report import Events, Report

REGISTERED = Verdict("True", "Registered", "")
PENDING = Verdict("False", "GatewayPending", "soon")
RULES = (Rule(("spec.password",)),)
FORMER = Condition("Redacted", "True", "Default")


def pod(config: str = "c1", *, redacts: bool = True, unhashed: str = "") -> PodReport:
    """A receiver that answers."""
    return PodReport("audit-a-0", Report("receiver", "a", config, Events(), (), redacts=redacts, unhashed=unhashed))


SILENT = PodReport("audit-a-0", None, "no answer within 3 s")


def facts(**changed: Any) -> Facts:
    """Everything is as it should be, and a gateway brings the events."""
    values: dict[str, Any] = {
        "generation": 3,
        "now": datetime(2026, 1, 1, tzinfo=UTC),
        "redaction": DEFAULT,
        "config": "c1",
        "reports": [pod()],
        "sink": REGISTERED,
        "has_gateway": True,
    }
    return Facts(**(values | changed))


@pytest.mark.parametrize(
    ("found", "status", "reason"),
    [
        ({}, "True", "Default"),
        ({"redaction": Redaction(method="hash")}, "True", "Default"),
        ({"redaction": Redaction(rules=RULES)}, "True", "Rules"),
        ({"redaction": Redaction(method="hash"), "unhashed": "the Secret is empty"}, "True", "KeyMissing"),
        ({"redaction": Redaction(method="hash"), "reports": [pod(unhashed="no file")]}, "True", "KeyMissing"),
        ({"redaction": Redaction(default=False)}, "False", "OptedOut"),
        ({"redaction": Redaction(default=False, rules=RULES), "reports": []}, "False", "OptedOut"),
        ({"reports": [pod(redacts=False)]}, "False", "ReleaseBefore"),
        ({"unredacting": ("gateway-x",)}, "False", "ReleaseBefore"),
        ({"unredacting": ("gateway-x",), "has_gateway": False}, "True", "Default"),
        ({"reports": []}, "Unknown", "NoPodRunning"),
        ({"reports": [SILENT]}, "Unknown", "PodUnreachable"),
        ({"reports": [SILENT], "unheard": frozenset({"audit-a-0"})}, "Unknown", "ConfigurationPending"),
        ({"reports": [SILENT], "last_reports": {"audit-a-0": pod().report}}, "True", "Default"),
        ({"reports": [SILENT], "last_reports": {"audit-a-0": pod("c0").report}}, "Unknown", "ConfigurationPending"),
        ({"reports": [pod("c0")]}, "Unknown", "ConfigurationPending"),
        ({"sink": PENDING}, "Unknown", "GatewayPending"),
        ({"sink": None}, "Unknown", "GatewayPending"),
        ({"sink": Verdict("Unknown", "GatewayUnreachable", "")}, "Unknown", "GatewayUnreachable"),
        ({"sink": Verdict("False", "GatewayNotRunning", "")}, "Unknown", "GatewayNotRunning"),
        ({"sink": None, "has_gateway": False}, "True", "Default"),
        ({"sink": None, "suspended": True}, "True", "Default"),
    ],
)
def test_what_is_said_of_a_pipeline(found: dict[str, Any], status: str, reason: str) -> None:
    """No status was written before."""
    verdict = redacted(facts(**found), None)
    assert verdict is not None
    assert (verdict.status, verdict.reason) == (status, reason)


@pytest.mark.parametrize(
    "found",
    [
        {"reports": [pod("c0")]},
        {"reports": []},
        {"reports": [SILENT], "unheard": frozenset({"audit-a-0"})},
        {"sink": PENDING},
        {"sink": None},
        {"config": ""},
        {"reports": None},
    ],
    ids=str,
)
def test_what_was_said_is_kept_while_something_newer_is_on_its_way_or_nobody_stores_anything(
    found: dict[str, Any],
) -> None:
    """With the generation that it spoke of."""
    assert redacted(facts(**found), FORMER) is None


@pytest.mark.parametrize("pods", [[SILENT], [pod(), SILENT], [pod(redacts=False)]], ids=["silent", "one", "old"])
def test_what_was_true_is_not_claimed_of_pods_that_were_never_heard_or_take_nothing(pods: list[PodReport]) -> None:
    """Unlike a configuration, that is not over soon."""
    verdict = redacted(facts(reports=pods), FORMER)
    assert verdict is not None
    assert verdict.status != "True"


def test_an_opt_out_says_who_keeps_the_secrets() -> None:
    """The gateway is named where there is one, and what the rules take all the same."""
    said = redacted(facts(redaction=Redaction(default=False, rules=RULES)), None)
    alone = redacted(facts(redaction=Redaction(default=False), has_gateway=False), None)
    assert said is not None
    assert alone is not None
    assert "stored at the gateway and the receivers" in said.message
    assert "spec.redaction.rules" in said.message
    assert "gateway" not in alone.message


def test_what_is_refused_is_not_said_to_be_in_force() -> None:
    """A pipeline that opts out and is stalled from the beginning has no event that is whole."""
    stalled = facts(redaction=Redaction(default=False), config="", stalled=Problem("OptOutRefused", "no"))
    found = conditions(stalled)["Redacted"]
    assert (found.status, found.reason) == ("Unknown", "OptOutRefused")


def test_it_is_no_part_of_ready() -> None:
    """An opt-out is meant."""
    plain, whole = (conditions(facts(redaction=each))["Ready"] for each in (DEFAULT, Redaction(default=False)))
    assert plain == whole


@pytest.mark.parametrize(
    ("asked", "registration", "status", "reason"),
    [
        (Asked("none", "allow"), REGISTERED, "False", "OptedOut"),
        (Asked("none", "allow"), PENDING, "False", "OptedOut"),
        (Asked("none", "refuse"), REGISTERED, "True", "OptOutRefused"),
        (Asked("none", "refuse"), PENDING, "Unknown", "GatewayPending"),
        (Asked("hash"), REGISTERED, "True", "Default"),
        (Asked("hash", unhashed="too short"), REGISTERED, "True", "KeyMissing"),
        (Asked("None", "allow"), REGISTERED, "True", "AnnotationUnknown"),
        (Asked("", "allow"), REGISTERED, "True", "AnnotationUnknown"),
        (Asked("hash", unredacting=("gateway-x",)), REGISTERED, "False", "ReleaseBefore"),
    ],
    ids=str,
)
def test_what_is_said_of_a_sink_with_the_annotation(
    asked: Asked, registration: Verdict, status: str, reason: str
) -> None:
    """What it has come to, and not what it asks for."""
    verdict = sink_redacted(asked, registration)
    assert verdict is not None
    assert (verdict.status, verdict.reason) == (status, reason)


def test_nothing_is_said_of_a_sink_without_the_annotation() -> None:
    """Nobody asked."""
    assert sink_redacted(Asked(), REGISTERED) is None


def test_a_long_annotation_does_not_fill_the_status() -> None:
    """It may have a quarter of a megabyte."""
    verdict = sink_redacted(Asked("x" * 2**18), REGISTERED)
    assert verdict is not None
    assert len(verdict.message) < 300
