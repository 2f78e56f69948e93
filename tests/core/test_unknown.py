"""Stored objects of a newer release: unknown fields are ignored, others are judged as ever, and nothing is hidden."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from auditpipeline.core.errors import Invalid
from auditpipeline.core.policy import Policy, decide, validate
from auditpipeline.core.spec import PipelinePolicy, parse_pipeline, parse_sink, stored_pipeline, stored_sink
from auditpipeline.core.unknown import known
from tests.control.bodies import rich, sink
from tests.policy.strategies import policies, requests

NARROWING = ("users", "userGroups", "verbs", "namespaces", "nonResourceURLs", "resources")
PLACES = [
    ("spec",),
    ("spec", "throttle"),
    ("spec", "webhook"),
    ("spec", "webhook", "storage"),
    ("spec", "webhook", "spool"),
    ("spec", "policy"),
    ("spec", "outputs", 0),
    ("spec", "outputs", 0, "file"),
    ("spec", "outputs", 1, "http"),
    ("spec", "outputs", 1, "http", "bearerTokenSecretRef"),
    ("spec", "outputs", 1, "policy"),
    ("spec", "outputs", 3, "http", "headers", 0),
]


def with_field(body: dict[str, Any], place: tuple[str | int, ...]) -> dict[str, Any]:
    """A copy with a field of a later release at `place`."""
    changed = copy.deepcopy(body)
    node: Any = changed
    for step in place:
        node = node[step]
    node["tapestry"] = {"kind": "woven"}
    return changed


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_field_of_a_later_release_is_ignored_and_named(place: tuple[str | int, ...]) -> None:
    """Wherever it stands. In a file that a person writes it is an error."""
    body = with_field(rich(), place)
    found, plain = stored_pipeline(body), parse_pipeline(rich())
    assert (found.metadata, found.spec) == (plain.metadata, plain.spec)
    (path,) = found.ignored
    assert path.endswith(".tapestry")
    with pytest.raises(Invalid, match="tapestry"):
        parse_pipeline(body)


def test_what_a_pod_takes_is_not_ours_to_know() -> None:
    """Resources and tolerations are Kubernetes' own fields: nothing is left out of them."""
    body = rich()
    body["spec"]["webhook"]["tolerations"][0]["tapestry"] = 1
    found = stored_pipeline(body)
    assert (found.ignored, found.spec.webhook.tolerations[0]["tapestry"]) == ((), 1)


def test_the_object_is_left_as_it_was() -> None:
    """Whoever looks at it next finds what is stored."""
    body = with_field(rich(), ("spec", "policy", "rules", 1))
    before = copy.deepcopy(body)
    stored_pipeline(body)
    assert body == before


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("throttle", {"qps": 0, "tapestry": 1}, "spec.throttle.qps"),
        ("policy", {"rules": [{"level": "All", "tapestry": 1}]}, "spec.policy.rules[0].level"),
        ("policy", {"rules": "all", "tapestry": 1}, "spec.policy.rules"),
        ("policy", {"rules": ["all"], "tapestry": 1}, "spec.policy.rules[0]"),
        ("outputs", {"tapestry": 1}, "spec.outputs"),
    ],
)
def test_what_is_known_is_judged_as_strictly_as_ever(field: str, value: Any, path: str) -> None:
    """Beside a field that is not."""
    body = rich()
    body["spec"][field] = value
    with pytest.raises(Invalid) as error:
        stored_pipeline(body)
    assert error.value.path == path


def test_an_output_of_a_later_kind_is_refused_with_the_reason() -> None:
    """Without its kind it delivers nowhere: the message says what to do."""
    body = rich()
    body["spec"]["outputs"] = [{"name": "bus", "kafka": {"topic": "audit"}}]
    with pytest.raises(Invalid, match=r"does not know spec\.outputs\[0\]\.kafka: upgrade the operator"):
        stored_pipeline(body)


REDACTION = {"rules": [{"paths": ["spec.password"], "resources": [{"group": "example.com"}]}]}


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ((), "spec.redaction.tapestry"),
        (("rules", 0), "spec.redaction.rules[0].tapestry"),
        (("rules", 0, "resources", 0), "spec.redaction.rules[0].resources[0].tapestry"),
    ],
)
def test_redaction_with_a_field_of_a_later_release_is_refused(place: tuple[str | int, ...], path: str) -> None:
    """Without it, less could be taken from events than the author asked for; the message says what to do."""
    body = rich()
    body["spec"]["redaction"] = copy.deepcopy(REDACTION)
    stored_pipeline(body)
    with pytest.raises(Invalid, match="upgrade the operator") as error:
        stored_pipeline(with_field(body, ("spec", "redaction", *place)))
    assert error.value.path == path


def test_another_field_beside_redaction_is_ignored_as_ever() -> None:
    """Its name may even begin in the same way."""
    body = rich()
    body["spec"] |= {"redaction": REDACTION, "redactionReport": {"tapestry": 1}}
    found = stored_pipeline(body)
    assert found.ignored == ("spec.redactionReport",)
    assert found.spec.redaction is not None


def test_a_sink_too() -> None:
    """Ours and foreign ones."""
    body = sink("falco", url="https://siem.example/audit")
    for place in (("spec",), ("spec", "policy"), ("spec", "webhook"), ("spec", "webhook", "clientConfig")):
        found = stored_sink(with_field(body, place))
        assert (found.spec, len(found.ignored)) == (parse_sink(body).spec, 1)


RULES: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = [
    (
        "a rule that hides is dropped",
        [{"level": "None", "verbs": ["get"], "new": 1}, {"level": "Metadata"}],
        [{"level": "Metadata"}],
    ),
    (
        "one that hides what would be recorded nowhere stays",
        [{"level": "Metadata", "verbs": ["get"]}, {"level": "None", "new": 1}],
        [{"level": "Metadata", "verbs": ["get"]}, {"level": "None"}],
    ),
    (
        "one that records takes the highest level of those after it",
        [{"level": "Metadata", "verbs": ["get"], "new": 1}, {"level": "None", "verbs": ["list"]}, {"level": "Request"}],
        [
            {"level": "Request", "verbs": ["get"], "omitManagedFields": False},
            {"level": "None", "verbs": ["list"]},
            {"level": "Request"},
        ],
    ),
    (
        "and leaves nothing out",
        [{"level": "Request", "omitStages": ["Panic"], "omitManagedFields": True, "new": 1}, {"level": "Metadata"}],
        [{"level": "Request", "omitManagedFields": False}, {"level": "Metadata"}],
    ),
    (
        "the last one is as it is written",
        [{"level": "None", "verbs": ["get"]}, {"level": "Metadata", "omitStages": ["Panic"], "new": 1}],
        [{"level": "None", "verbs": ["get"]}, {"level": "Metadata", "omitStages": ["Panic"]}],
    ),
    (
        "a field below a rule is one of the rule",
        [{"level": "None", "resources": [{"group": "", "new": 1}]}, {"level": "Metadata"}],
        [{"level": "Metadata"}],
    ),
]


@pytest.mark.parametrize(("rules", "meant"), [case[1:] for case in RULES], ids=[case[0] for case in RULES])
def test_rules_that_lose_a_field(rules: list[dict[str, Any]], meant: list[dict[str, Any]]) -> None:
    """In the policy of the pipeline, of an output and of a sink."""
    expected = msgspec.convert({"rules": meant}, Policy).rules
    body = rich()
    body["spec"]["policy"] = body["spec"]["outputs"][1]["policy"] = {"rules": rules}
    found = stored_pipeline(body).spec
    assert found.policy.rules == expected
    assert found.outputs[1].policy is not None
    assert found.outputs[1].policy.rules == expected
    body = sink("falco", url="https://siem.example/audit")
    body["spec"]["policy"]["rules"] = rules
    assert stored_sink(body).spec.policy.rules == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(policies, st.sampled_from(NARROWING), st.lists(requests, min_size=1, max_size=20))
def test_nothing_is_hidden_that_the_later_release_records(policy: Policy, field: str, asked: list[Any]) -> None:
    """A field that narrows is taken for one that is not known: each request has at least the level of the whole rules,
    and nothing more is left out."""
    assume(not validate(policy, ""))  # a rule with resources and nonResourceURLs matches by either, and is refused
    whole = msgspec.to_builtins(policy)
    rules = whole.get("rules", [])
    later = [{("later" if name == field else name): value for name, value in rule.items()} for rule in rules]
    ours_only, unknown = known(whole | {"rules": later}, PipelinePolicy, "spec.policy")
    assert len(unknown) == sum(field in rule for rule in rules)
    written = msgspec.convert(ours_only, PipelinePolicy).written
    for request in asked:
        ours, theirs = decide(written, request), decide(policy, request)
        assert ours.level >= theirs.level
        if theirs.level:
            assert ours.omit_stages <= theirs.omit_stages
            assert ours.omit_managed_fields <= theirs.omit_managed_fields


def test_a_condition_that_loses_a_field_is_dropped() -> None:
    """Conditions only take events away: without this one more is recorded."""
    body = rich()
    kept = {"name": "kept", "expression": "event.verb != 'get'"}
    body["spec"]["matchConditions"] = [kept, {"name": "new", "expression": "true", "unless": "event.verb == 'x'"}]
    body["spec"]["outputs"][0]["matchConditions"] = [{"name": "new", "expression": "true", "unless": "x"}]
    found = stored_pipeline(body)
    assert [condition.name for condition in found.spec.match_conditions] == ["kept"]
    assert found.spec.outputs[0].match_conditions == ()
    assert set(found.ignored) == {"spec.matchConditions[1].unless", "spec.outputs[0].matchConditions[0].unless"}
