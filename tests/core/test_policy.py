"""The policy decides as kube-apiserver does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.policy import (
    STAGES,
    Attributes,
    GroupResources,
    Level,
    Policy,
    Rule,
    decide,
    matches,
    validate,
    wanted_stages,
    widest,
)

SHARED = Path(__file__).parents[3] / "shared" / "data" / "policy-cases.json"
CASES: dict[str, Any] = json.loads(SHARED.read_text()) if SHARED.exists() else {}

ALICE = ("alice", ("team", "system:authenticated"))
POD = Attributes(*ALICE, "get", "/api/v1/namespaces/default/pods/web", "pods", "", "", "default", "web")
LOG = POD._replace(path="/api/v1/namespaces/default/pods/web/log", subresource="log")
NODE = Attributes(*ALICE, "get", "/api/v1/nodes/n1", "nodes", name="n1")
ROLE = NODE._replace(resource="clusterroles", group="rbac.authorization.k8s.io")
PATH = Attributes(*ALICE, "get", "/healthz/etcd")
NOBODY = POD._replace(user=None, groups=())


def rule(**fields: Any) -> Rule:
    return msgspec.convert({"level": "Metadata", **fields}, Rule)


def on(*resources: str, group: str = "", names: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [{"group": group, "resources": list(resources), "resourceNames": list(names)}]


@pytest.mark.parametrize(
    ("fields", "request_", "expected"),
    [
        ({}, POD, True),
        ({}, PATH, True),
        ({}, NOBODY, True),
        ({"users": ["alice"]}, POD, True),
        ({"users": ["bob"]}, POD, False),
        ({"users": [""]}, NOBODY, False),
        ({"userGroups": ["team"]}, POD, True),
        ({"userGroups": ["others"]}, POD, False),
        ({"userGroups": ["team"]}, NOBODY, False),
        ({"verbs": ["get"]}, POD, True),
        ({"verbs": ["*"]}, POD, False),
        ({"namespaces": ["default"]}, POD, True),
        ({"namespaces": ["kube-system"]}, POD, False),
        ({"namespaces": [""]}, NODE, True),
        ({"namespaces": [""]}, POD, False),
        ({"namespaces": ["default"]}, PATH, False),
        ({"resources": on("pods")}, POD, True),
        ({"resources": on("pods")}, LOG, False),
        ({"resources": on("pods/log")}, LOG, True),
        ({"resources": on("pods/*")}, LOG, True),
        ({"resources": on("pods/*")}, POD, True),
        ({"resources": on("*/log")}, LOG, True),
        ({"resources": on("*/log")}, POD, False),
        ({"resources": on("*")}, LOG, True),
        ({"resources": on("*")}, ROLE, False),
        ({"resources": on("*", group="*")}, ROLE, True),
        ({"resources": on(group="rbac.authorization.k8s.io")}, ROLE, True),
        ({"resources": on("pods", names=("web",))}, POD, True),
        ({"resources": on("pods", names=("db",))}, POD, False),
        ({"resources": on("pods")}, PATH, False),
        ({"nonResourceURLs": ["/healthz*"]}, PATH, True),
        ({"nonResourceURLs": ["/healthz"]}, PATH, False),
        ({"nonResourceURLs": ["*"]}, PATH, True),
        ({"nonResourceURLs": ["*"]}, POD, False),
    ],
)
def test_a_rule_matches_as_in_kube_apiserver(fields: dict[str, Any], request_: Attributes, expected: bool) -> None:
    """One line a case, after the table of checker_test.go."""
    assert matches(rule(**fields), request_) is expected


def test_the_first_rule_that_matches_wins() -> None:
    """A later rule with a higher level changes nothing."""
    policy = Policy(rules=(rule(level="None", users=["alice"]), rule(level="RequestResponse")))
    assert decide(policy, POD) == (Level.NONE, frozenset(), False, 0)
    assert decide(policy, POD._replace(user="bob")).level is Level.REQUEST_RESPONSE


def test_no_rule_that_matches_means_none() -> None:
    """The default level is None, with the policy's own stages."""
    policy = Policy(rules=(rule(users=["bob"]),), omit_stages=("Panic",))
    assert decide(policy, POD) == (Level.NONE, frozenset({"Panic"}), False, None)


def test_stages_add_up_and_a_rule_overrides_managed_fields() -> None:
    """omitStages is a union; omitManagedFields of the rule replaces the policy's."""
    policy = Policy(
        rules=(rule(omitStages=["Panic"], omitManagedFields=False),),
        omit_stages=("RequestReceived",),
        omit_managed_fields=True,
    )
    assert decide(policy, POD) == (Level.METADATA, frozenset({"RequestReceived", "Panic"}), False, 0)


@pytest.mark.parametrize(
    ("policy", "paths"),
    [
        ({"rules": [{"level": "metadata"}]}, ["p.rules[0].level"]),
        ({"rules": [{"level": ""}]}, ["p.rules[0].level"]),
        ({"omitStages": ["Bad"], "rules": [{"level": "None"}]}, ["p.omitStages[0]"]),
        ({"rules": [{"level": "None", "omitStages": ["Panic", "x"]}]}, ["p.rules[0].omitStages[1]"]),
        (
            {"rules": [{"level": "None", "nonResourceURLs": ["logs", "/a*b"]}]},
            [f"p.rules[0].nonResourceURLs[{i}]" for i in (0, 1)],
        ),
        (
            {"rules": [{"level": "None", "resources": [{"group": "rbac.authorization.k8s.io/v1"}]}]},
            ["p.rules[0].resources.group"],
        ),
        (
            {"rules": [{"level": "None", "resources": [{"resourceNames": ["x"]}]}]},
            ["p.rules[0].resources.resourceNames"],
        ),
        (
            {"rules": [{"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["b"]}]},
            ["p.rules[0].nonResourceURLs"],
        ),
    ],
)
def test_validation_names_the_field(policy: dict[str, Any], paths: list[str]) -> None:
    """What kube-apiserver refuses is refused, at the same field."""
    assert [problem.path for problem in validate(msgspec.convert(policy, Policy), "p")] == paths


def test_widest_level_and_wanted_stages_cover_every_rule() -> None:
    """What an AuditSink without rules must ask for."""
    policy = Policy(
        rules=(
            rule(level="None"),
            rule(level="Request", omitStages=["Panic"]),
            rule(omitStages=["Panic", "ResponseStarted"]),
        ),
        omit_stages=("RequestReceived",),
    )
    assert widest(policy) is Level.REQUEST
    assert wanted_stages(policy) == ("ResponseStarted", "ResponseComplete")


names = st.sampled_from(["", "alice", "pods", "log", "*", "default", "get", "/healthz"])
requests = st.builds(
    Attributes,
    user=st.none() | names,
    groups=st.lists(names, max_size=2).map(tuple),
    verb=names,
    path=names,
    resource=st.none() | names,
    subresource=names,
    group=names,
    namespace=names,
    name=names,
)
tuples = st.lists(names, max_size=2).map(tuple)
rules = st.builds(
    Rule,
    level=st.sampled_from(["None", "Metadata", "Request", "RequestResponse"]),
    users=tuples,
    user_groups=tuples,
    verbs=tuples,
    resources=st.lists(st.builds(GroupResources, group=names, resources=tuples, resource_names=tuples), max_size=2).map(
        tuple
    ),
    namespaces=tuples,
    non_resource_urls=tuples,
    omit_stages=st.lists(st.sampled_from(STAGES), max_size=2).map(tuple),
)
policies = st.builds(Policy, rules=st.lists(rules, max_size=4).map(tuple), omit_stages=tuples)


@given(policies, requests)
def test_a_decision_is_its_rules_own(policy: Policy, request_: Attributes) -> None:
    """The deciding rule matches, none before it does, and never is more recorded than the widest level."""
    decision = decide(policy, request_)
    before = policy.rules if decision.rule is None else policy.rules[: decision.rule]
    assert not any(matches(earlier, request_) for earlier in before)
    assert decision.level <= widest(policy)
    if decision.rule is not None:
        assert matches(policy.rules[decision.rule], request_)


def attributes(case: dict[str, Any]) -> Attributes:
    given_ = case["attributes"]
    user = given_.get("user")
    return Attributes(
        user["username"] if user else None,
        tuple(user.get("groups") or ()) if user else (),
        given_["verb"],
        given_.get("path", ""),
        given_.get("resource", "") if given_.get("resourceRequest") else None,
        given_.get("subresource", ""),
        given_.get("apiGroup", ""),
        given_.get("namespace", ""),
        given_.get("name", ""),
    )


@pytest.mark.parametrize("case", CASES.get("policy_cases", []), ids=lambda case: case["id"])
def test_cases_of_kubernetes(case: dict[str, Any]) -> None:
    """Cases taken as data from the tables of k8s.io/apiserver, where they are at hand."""
    policy = msgspec.convert({k: v for k, v in case["policy"].items() if k not in ("apiVersion", "kind")}, Policy)
    decision = decide(policy, attributes(case))
    expected = case["expect"]
    assert decision.level.title == expected["level"]
    assert decision.omit_stages == set(expected["omitStages"])
    assert decision.omit_managed_fields is expected["omitManagedFields"]


@pytest.mark.parametrize("case", CASES.get("policy_validation", []), ids=lambda case: case["name"])
def test_validations_of_kubernetes(case: dict[str, Any]) -> None:
    """The same, for validation."""
    assert (not validate(msgspec.convert(case["policy"], Policy), "")) is case["valid"]
