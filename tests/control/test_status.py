"""The status, as a table: what was found, and what is said about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from auditpipeline.control import status as status_module
from auditpipeline.control.canary import CanaryFacts, Seen
from auditpipeline.control.facts import Facts, Left, Losses, PodFacts, PodReport, Problem, Truth, Verdict, Workload
from auditpipeline.control.published import PipelineStatus, decode, patch
from auditpipeline.control.recorder import transitions
from auditpipeline.control.status import conditions
from auditpipeline.core.report import ConditionReport, Events, OutputReport, Report

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 13, tzinfo=UTC)
REGISTERED = Verdict("True", "Registered", "")
COVERED = Verdict("True", "Covered", "")


def status(facts: Facts, previous: dict[str, Any]) -> dict[str, Any]:
    """The status, as it is stored."""
    made = status_module.status(facts, decode(previous, PipelineStatus))
    return dict(msgspec.json.decode(msgspec.json.encode(made)))


def report(received: int = 5, config: str = "c1", **output: Any) -> Report:
    """What a healthy Pod says."""
    values: dict[str, Any] = {"name": "archive", "state": "Delivering", "delivered": received}
    made = OutputReport(**(values | output))
    return Report("receiver", "security", config, Events(received=received, delivered=received), (made,))


def good(**changed: Any) -> Facts:
    """Everything is as it should be."""
    values: dict[str, Any] = {
        "generation": 3,
        "now": NOW,
        "outputs": ("archive",),
        "certificate": LATER,
        "workload": Workload(wanted=1, ready=1, updated=1, observed=True),
        "sink": REGISTERED,
        "config": "c1",
        "absent": frozenset({"UpstreamCovers", "AuditLoss"}),
        "reports": [PodReport("audit-security-0", report())],
    }
    if "upstream" in changed:
        values["absent"] = frozenset({"AuditLoss"})
    return Facts(**(values | changed))


def silent() -> list[PodReport]:
    """A Pod that cannot be asked."""
    return [PodReport("audit-security-0", None, "no answer within 3 s")]


def missed(**output: Any) -> dict[str, Any]:
    """A Pod that is forgiven to have missed a look; what it said before."""
    pod = "audit-security-0"
    return {"reports": silent(), "forgiven": frozenset({pod}), "last_reports": {pod: report(**output)}}


def unstarted(problem: Problem) -> dict[str, Any]:
    """No Pod is ready, and one says why."""
    pod = PodFacts("audit-security-0", "audit", "u", problem=problem)
    return {"workload": Workload(1, 0, 0, True), "pods": [pod], "reports": []}


SEEN = CanaryFacts((), Seen(1767225600.0, 0.4))


def asked(*found: ConditionReport, config: str = "c1", known: bool = True) -> dict[str, Any]:
    """A spec with conditions, and what a Pod says of them."""
    made = msgspec.structs.replace(report(config=config), conditions=found if known else None)
    return {"conditional": True, "reports": [PodReport("audit-security-0", made)]}


FAILING = ConditionReport("team", "archive", evaluations=9, failures=2, failure="a key is not there")
REFUSED = Report("receiver", "security", "c0", Events(), (), config_error="routes[0]: no")
CASES: list[tuple[str, dict[str, Any], str, Truth, str]] = [
    ("all is well", {}, "Ready", "True", "Ready"),
    ("all is well", {}, "Delivering", "True", "Delivering"),
    ("no event yet", {"reports": [PodReport("p", report(0))]}, "Ready", "False", "WaitingForEvents"),
    ("no event yet", {"reports": [PodReport("p", report(0))]}, "Reconciling", "True", "WaitingForEvents"),
    ("no proof needed", {"reports": [PodReport("p", report(0))], "needs_proof": False}, "Ready", "True", "Ready"),
    ("no event yet is not known", {"reports": [PodReport("p", report(0))]}, "Delivering", "Unknown", "NoEventsYet"),
    ("an invalid spec", {"stalled": Problem("InvalidSpec", "x")}, "Ready", "False", "InvalidSpec"),
    ("an invalid spec", {"stalled": Problem("InvalidSpec", "x")}, "Stalled", "True", "InvalidSpec"),
    ("nothing looked at", {"stalled": Problem("X", "x"), "certificate": None}, "CertificateReady", "Unknown", "X"),
    ("a missing Secret", {"missing_secrets": ["a"]}, "WebhookAvailable", "False", "SecretMissing"),
    ("a missing Secret", {"missing_secrets": ["a"]}, "Ready", "False", "SecretMissing"),
    ("Pods not started", {"workload": Workload(2, 0, 0, True)}, "WebhookAvailable", "False", "PodsPending"),
    ("one of two Pods", {"workload": Workload(2, 1, 1, True)}, "WebhookAvailable", "True", "SomePodsReady"),
    ("a claim is left", {"left": [Left("data-audit-a-2")]}, "WebhookAvailable", "True", "ClaimsLeft"),
    ("a claim is left", {"left": [Left("data-audit-a-2")]}, "Ready", "True", "Ready"),
    ("events are left", {"left": [Left("data-audit-a-2", 7)]}, "Delivering", "False", "EventsLeft"),
    ("events are left", {"left": [Left("data-audit-a-2", 7)]}, "Ready", "False", "EventsLeft"),
    ("an old view", {"workload": Workload(1, 1, 1, False)}, "WebhookAvailable", "Unknown", "Reconciling"),
    ("an old view of no Pod", {"workload": Workload(1, 0, 0, False)}, "WebhookAvailable", "False", "PodsPending"),
    ("no image", unstarted(Problem("ImagePullBackOff", "x")), "WebhookAvailable", "False", "ImagePullBackOff"),
    ("no volume", unstarted(Problem("X", "x")) | {"claims": ["c"]}, "WebhookAvailable", "False", "ClaimPending"),
    ("no gateway", {"sink": Verdict("False", "GatewayNotRunning", "")}, "Ready", "False", "GatewayNotRunning"),
    ("gateway not known", {"sink": Verdict("Unknown", "GatewayDisabled", "")}, "Ready", "False", "GatewayDisabled"),
    ("output fails", {"reports": [PodReport("p", report(state="Failing"))]}, "Ready", "False", "OutputFailing"),
    ("output fails", {"reports": [PodReport("p", report(state="Failing"))]}, "Delivering", "False", "OutputFailing"),
    ("a Pod is silent", {"reports": silent()}, "Delivering", "Unknown", "PodUnreachable"),
    ("no canary", {"canary": CanaryFacts(("kube-apiserver",))}, "Delivering", "False", "CanaryMissing"),
    ("no canary", {"canary": CanaryFacts(("kube-apiserver",))}, "Ready", "False", "CanaryMissing"),
    ("canaries alone", {"canary": SEEN, "reports": [PodReport("p", report(0))]}, "Delivering", "True", "CanarySeen"),
    ("canaries alone", {"canary": SEEN, "reports": [PodReport("p", report(0))]}, "Ready", "True", "Ready"),
    ("too little emitted", {"upstream": Verdict("False", "RulesNotMet", "")}, "Ready", "False", "RulesNotMet"),
    ("emitted is not known", {"upstream": Verdict("Unknown", "GatewayPending", "")}, "Ready", "True", "Ready"),
    ("an old configuration", {"config": "c2"}, "Ready", "False", "ConfigurationPending"),
    ("nobody says which", {"reports": silent()}, "Ready", "False", "ConfigurationPending"),
    ("nobody is there to say", {"reports": []}, "Ready", "False", "ConfigurationPending"),
    ("one look missed", missed(), "Ready", "True", "Ready"),
    ("one look missed", missed(), "Delivering", "True", "Delivering"),
    ("one look missed, failing", missed(state="Failing"), "Delivering", "False", "OutputFailing"),
    ("a refused one", {"reports": [PodReport("p", REFUSED)]}, "Ready", "False", "ConfigurationRefused"),
    ("suspended", {"suspended": True}, "Ready", "False", "Suspended"),
    ("suspended", {"suspended": True}, "SinkRegistered", "False", "Suspended"),
    ("waiting", {"waiting": Problem("Replacing", "x")}, "Reconciling", "True", "Replacing"),
    ("conditions", asked(ConditionReport("a", evaluations=9)), "ConditionsEvaluated", "True", "Evaluated"),
    ("a condition fails", asked(FAILING), "ConditionsEvaluated", "True", "SomeEvaluationsFail"),
    ("a condition fails", asked(FAILING), "Ready", "True", "Ready"),
    ("one is off", asked(ConditionReport("a", off=True)), "ConditionsEvaluated", "False", "ConditionSwitchedOff"),
    ("one is off", asked(ConditionReport("a", off=True)), "Ready", "False", "ConditionSwitchedOff"),
    ("nobody asks them", asked(known=False), "ConditionsEvaluated", "False", "ConditionsIgnored"),
    ("nobody asks them", asked(known=False), "Ready", "False", "ConditionsIgnored"),
    ("an old configuration", asked(config="c0"), "ConditionsEvaluated", "Unknown", "Reconciling"),
    ("nobody could ask", {"conditional": True, "reports": []}, "ConditionsEvaluated", "Unknown", "NoPodRunning"),
    ("one look missed", missed() | {"conditional": True}, "ConditionsEvaluated", "False", "ConditionsIgnored"),
]


@pytest.mark.parametrize(("what", "found", "kind", "truth", "reason"), CASES, ids=lambda value: str(value)[:24])
def test_a_condition_says_what_was_found(
    what: str, found: dict[str, Any], kind: str, truth: Truth, reason: str
) -> None:
    """One line a case."""
    verdict = conditions(good(**found))[kind]
    assert (verdict.status, verdict.reason) == (truth, reason)


@pytest.mark.parametrize(
    ("found", "extra"),
    [
        ({}, set()),
        ({"suspended": True}, set()),
        ({"missing_secrets": ["a"]}, {"Reconciling"}),
        ({"stalled": Problem("X", "x")}, {"Stalled"}),
    ],
)
def test_reconciling_and_stalled_are_there_only_while_true(found: dict[str, Any], extra: set[str]) -> None:
    """kstatus reads their presence."""
    always = {"Ready", "CertificateReady", "WebhookAvailable", "SinkRegistered", "Delivering", "Redacted"}
    assert set(conditions(good(**found))) == always | extra


def test_who_does_not_say_which_configuration_it_runs_is_named() -> None:
    """With the reason; the other Pods are not."""
    reports = [PodReport("audit-security-1", report()), *silent()]
    message = conditions(good(reports=reports))["Ready"].message
    assert "audit-security-0 does not answer: no answer within 3 s" in message
    assert "audit-security-1" not in message


def test_what_is_left_says_how_to_get_it() -> None:
    """As many Pods as the highest claim needs."""
    left = [Left("data-audit-a-1", 7), Left("data-audit-a-2", 5)]
    message = conditions(good(left=left))["Delivering"].message
    assert "claim data-audit-a-1, data-audit-a-2" in message
    assert "12 events waited there: set it to 3" in message


def test_the_same_findings_leave_the_status_alone() -> None:
    """A no-op resync writes nothing, an hour later either."""
    first = status(good(), {})
    assert status(good(now=LATER), first) == first


def test_the_transition_time_moves_only_with_the_status() -> None:
    """Another reason or message is no transition."""
    waiting = status(good(workload=Workload(1, 0, 0, True)), {})
    still = status(good(now=LATER, missing_secrets=["a"]), waiting)
    ready = status(good(now=LATER), waiting)
    assert times(still)["WebhookAvailable"] == times(waiting)["WebhookAvailable"]
    assert times(ready)["WebhookAvailable"] == "2026-01-01T13:00:00Z"


def test_what_pods_report_is_summed_up() -> None:
    """The worst state, the largest lag, the newest error, and the sums."""
    reports = [
        PodReport("audit-security-0", report(5, lag_seconds=1.5)),
        PodReport("audit-security-1", report(7, state="Failing", lag_seconds=9.9, last_error="503", last_error_at=9.0)),
    ]
    made = status(good(reports=reports, given_up=3), {})
    assert made["events"] == {"received": 12, "delivered": 12, "dropped": 3}
    assert made["outputs"] == [
        {"name": "archive", "state": "Failing", "lagSeconds": 9, "delivered": 12, "lastError": "503"}
    ]
    assert made["outputsReady"] == "0/1"


def test_a_pod_that_is_away_keeps_its_counts() -> None:
    """Counters do not fall because one Pod restarts."""
    away = [PodReport("audit-security-0", report(5)), *[PodReport("audit-security-1", None, "no connection")]]
    made = status(good(reports=away, last_reports={"audit-security-1": report(7)}), {})
    assert made["events"]["received"] == 12


def test_counts_are_kept_while_nobody_can_be_asked() -> None:
    """An operator that has just started does not write zeros over them; it claims no output to be good."""
    former = status(good(), {})
    made = status(good(reports=[]), former)
    assert (made["events"], made["outputs"]) == (former["events"], former["outputs"])
    assert made["outputsReady"] == "0/1"


def test_one_look_missed_changes_nothing() -> None:
    """No condition, and no output that would not be known to be good."""
    before = status(good(), {})
    assert status(good(**missed()), before) == before


def test_what_was_not_looked_at_yet_keeps_what_it_said() -> None:
    """An operator that has just started knows of no gateway, static policy, counter or Pod; nothing moves."""
    before = status(good(upstream=COVERED, losses=Losses(), absent=frozenset()), {})
    unseen = good(
        now=LATER,
        sink=None,
        upstream=None,
        losses=None,
        absent=frozenset(),
        pending={"SinkRegistered", "UpstreamCovers", "AuditLoss"},
        reports=silent(),
        unheard=frozenset({"audit-security-0"}),
    )
    assert status(unseen, before) == before


def test_a_round_whose_error_is_forgiven_keeps_everything() -> None:
    """Nothing was found, and nothing is said to be in the way."""
    before = status(good(), {})
    assert (
        status(good(now=LATER, certificate=None, workload=None, sink=None, reports=None, config=""), before) == before
    )


def test_what_was_not_looked_at_is_never_ready_for_another_generation() -> None:
    """What was said speaks of the spec before."""
    before = status(good(), {})
    made = status(good(generation=4, certificate=None, workload=None, sink=None, reports=None, config=""), before)
    ready = next(entry for entry in made["conditions"] if entry["type"] == "Ready")
    assert (ready["status"], ready["observedGeneration"]) == ("False", 4)
    kept = next(entry for entry in made["conditions"] if entry["type"] == "SinkRegistered")
    assert (kept["status"], kept["observedGeneration"]) == ("True", 3)


def test_what_is_kept_of_a_former_generation_makes_no_newer_one_ready() -> None:
    """An operator that starts after a change: the receivers run the new configuration, and the gateway may not."""
    before = status(good(), {})
    made = status(good(generation=4, sink=None, pending={"SinkRegistered"}), before)
    found = {entry["type"]: (entry["status"], entry["observedGeneration"]) for entry in made["conditions"]}
    assert (found["Ready"], found["SinkRegistered"]) == (("False", 4), ("True", 3))


def test_canaries_that_were_missing_stay_so_until_one_comes_or_three_could_not() -> None:
    """An operator that has just started has missed none yet, and has seen none either."""
    before = status(good(canary=CanaryFacts(("kube-apiserver",))), {})
    assert status(good(now=LATER, canary=CanaryFacts(undecided=True)), before) == before
    assert status(good(now=LATER, canary=SEEN), before)["conditions"][0]["status"] == "True"


def test_ready_waits_for_one_proof_and_for_no_second() -> None:
    """An event or a canary; an operator that starts again, or a Pod whose counters begin anew, needs no other."""
    waiting = status(good(reports=[PodReport("p", report(0))]), {})
    assert "firstEventAt" not in waiting
    proven = status(good(reports=[PodReport("p", report(1))]), waiting)
    assert proven["firstEventAt"] == "2026-01-01T12:00:00Z"
    later = status(good(now=LATER, reports=[PodReport("p", report(0))]), proven)
    assert later["firstEventAt"] == proven["firstEventAt"]
    assert [entry["status"] for entry in later["conditions"] if entry["type"] == "Ready"] == ["True"]


@pytest.mark.parametrize(
    "former",
    [
        {"events": {"received": 7, "delivered": 7, "dropped": 0}},
        {"canary": {"lastSeen": "2026-01-01T11:00:00Z", "latencySeconds": 0.4}},
    ],
)
def test_a_pipeline_of_a_former_release_has_its_proof_in_its_counters(former: dict[str, Any]) -> None:
    """It does not turn not Ready by an upgrade."""
    made = status(good(reports=[PodReport("p", report(0))]), former)
    assert [entry["status"] for entry in made["conditions"] if entry["type"] == "Ready"] == ["True"]


def test_a_note_stands_beside_whatever_ready_says() -> None:
    """It concerns the spec, and not what runs."""
    message = conditions(good(notes=["spec.expireAfter (0s) is taken as 1m"]))["Ready"].message
    assert message.endswith("as the spec says; spec.expireAfter (0s) is taken as 1m")


def test_the_end_of_a_debug_pipeline_is_told_and_taken_back() -> None:
    """A merge patch takes a field away by null."""
    first = status(good(expires=LATER), {})
    assert first["expiresAt"] == "2026-01-01T13:00:00Z"
    assert "expiresAt" not in status(good(), first)
    assert patch(status_module.status(good(), PipelineStatus()), decode(first, PipelineStatus)) == {"expiresAt": None}
    assert "expiresAt" not in status(good(), {})
    assert status(good(expires=None, stalled=Problem("InvalidSpec", "x")), first)["expiresAt"] == first["expiresAt"]


def test_the_newest_canary_is_told_and_stays() -> None:
    """Even while nobody can be asked."""
    first = status(good(canary=SEEN), {})
    assert first["canary"] == {"lastSeen": "2026-01-01T00:00:00Z", "latencySeconds": 0.4}
    assert status(good(), first) == first
    newer = status(good(canary=CanaryFacts((), Seen(1767225630.0, 1.04))), first)
    assert newer["canary"] == {"lastSeen": "2026-01-01T00:00:30Z", "latencySeconds": 1.0}


def test_events_are_told_for_transitions_and_only_for_them() -> None:
    """Becoming Ready is news, staying so is not, and failing is a warning."""
    nothing = PipelineStatus()
    waiting = status_module.status(good(workload=Workload(1, 0, 0, True)), nothing).conditions
    ready = status_module.status(good(), nothing).conditions
    failing = status_module.status(good(reports=[PodReport("p", report(state="Failing"))]), nothing).conditions
    assert [reason for reason, _, _ in transitions(ready, waiting)] == ["Ready"]
    assert transitions(ready, ready) == []
    assert [(reason, warning) for reason, _, warning in transitions(failing, ready)] == [
        ("OutputFailing", True),
        ("OutputFailing", True),
    ]


def times(made: dict[str, Any]) -> dict[str, str]:
    """Transition times by condition."""
    return {entry["type"]: entry["lastTransitionTime"] for entry in made["conditions"]}


def test_what_is_said_of_conditions_names_them_and_not_their_counts() -> None:
    """A count would be news at each look; and a pipeline without conditions says nothing of them."""
    said = conditions(good(**asked(FAILING, ConditionReport("a", off=True))))["ConditionsEvaluated"]
    assert said.message.startswith("condition a: took more than 1 ms an event and is switched off")
    said = conditions(good(**asked(FAILING, ConditionReport("a"))))["ConditionsEvaluated"]
    assert said.message.endswith("condition team of output archive: a key is not there")
    assert said == conditions(good(**asked(msgspec.structs.replace(FAILING, failures=7))))["ConditionsEvaluated"]
    assert "ConditionsEvaluated" not in conditions(good())


def test_what_was_said_of_conditions_stays_while_a_pod_is_silent() -> None:
    """As everything that was not looked at."""
    first = status(good(**asked(FAILING)), {})
    again = status(good(conditional=True, reports=silent(), unheard=frozenset({"audit-security-0"})), first)
    kept = [
        next(each for each in made["conditions"] if each["type"] == "ConditionsEvaluated") for made in (first, again)
    ]
    assert kept[0] == kept[1]
