"""The linter finds each seeded mistake where it stands, and nothing in what is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from auditpipeline.core.finding import CHECKS
from auditpipeline.core.lint import lint
from auditpipeline.core.policy import Attributes, Policy, Rule, decide
from auditpipeline.core.reach import takers, witnesses
from tests.policy.strategies import policies, requests
from tests.policy.support import POLICIES, ROOT, findings

SEEDS = sorted((ROOT / "tests" / "data" / "lint").glob("*.yaml"))
PRESETS = sorted(path for path in POLICIES.glob("*.yaml") if ".cases" not in path.name)


def codes(*rules: dict[str, Any], outer: Policy | None = None) -> list[tuple[str, int | None]]:
    """Code and rule of what is found in a policy of these rules."""
    policy = msgspec.convert({"rules": [{"level": "Metadata", **rule} for rule in rules]}, Policy)
    return [(finding.code, finding.rule) for finding in lint(policy, outer)]


def on(*resources: str, group: str = "", **names: list[str]) -> list[dict[str, Any]]:
    return [{"group": group, "resources": list(resources), **names}]


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_each_seeded_mistake_is_found_where_it_stands(path: Path) -> None:
    """Its code, in its line, and nothing else."""
    text = path.read_text()
    expected = [
        (number, code)
        for number, line in enumerate(text.splitlines(), 1)
        for code in re.findall(r"# expect (AP\d+)", line)
    ]
    assert len(expected) == 1
    assert [(line, finding.code) for line, finding in findings(text)] == expected
    assert path.name.startswith(expected[0][1])


def test_each_code_has_a_seeded_mistake() -> None:
    """So that none is there that never speaks."""
    assert {path.name.partition("-")[0] for path in SEEDS} == CHECKS.keys()


def test_each_finding_says_what_to_write_instead() -> None:
    """Of all the seeded mistakes."""
    found = [finding for path in SEEDS for _, finding in findings(path.read_text())]
    assert all(finding.message and finding.fix for finding in found)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_nothing_is_found_in_the_presets(path: Path) -> None:
    """Not even a warning."""
    assert findings(path.read_text()) == []


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([{}, {"level": "None", "users": ["a"]}], [("AP101", 1)]),
        ([{"users": ["a"]}, {"users": ["a", "b"]}, {}], []),
        ([{"users": ["a", "b"]}, {"level": "None", "users": ["b"]}, {}], [("AP101", 1)]),
        ([{"userGroups": ["g"]}, {"level": "None", "userGroups": ["g"], "users": ["a"]}, {}], [("AP101", 1)]),
        ([{"userGroups": ["g"]}, {"level": "None", "userGroups": ["g", "h"]}, {}], []),
        ([{"namespaces": ["a"]}, {"level": "None", "resources": on("pods"), "namespaces": ["a"]}, {}], [("AP101", 1)]),
        ([{"resources": on("*/log")}, {"level": "None", "resources": on("pods/log")}, {}], [("AP101", 1)]),
        ([{"resources": on("pods")}, {"level": "None", "resources": on("pods/*")}, {}], []),
        ([{"resources": on("*", group="*")}, {"nonResourceURLs": ["*"]}], []),
        ([{"resources": on("*", group="*")}, {"nonResourceURLs": ["*"]}, {"level": "None"}], [("AP101", 2)]),
        ([{"resources": on("pods", resourceNames=["a"])}, {"level": "None", "resources": on("pods")}, {}], []),
        ([{"nonResourceURLs": ["/a"]}, {"level": "None", "nonResourceURLs": ["/a*"]}, {}], []),
    ],
)
def test_a_rule_that_never_matches_is_proved(rules: list[dict[str, Any]], expected: list[tuple[str, int]]) -> None:
    """One line a case; what is left even one request is not told."""
    assert codes(*rules) == expected


@given(policies, requests)
@settings(max_examples=500)
def test_no_request_ever_reaches_a_rule_that_is_said_to_be_unreachable(policy: Policy, request_: Attributes) -> None:
    """Soundness, against the evaluator."""
    rule = decide(policy, request_).rule
    assert rule is None or takers(policy, rule) == []


@given(policies)
@settings(max_examples=500)
def test_every_rule_is_reached_by_its_witness_or_taken_by_others(policy: Policy) -> None:
    """Completeness: one of the two always holds, and the witness is decided by the rule."""
    for index, rule in enumerate(policy.rules):
        witness = next(witnesses(policy, index), None)
        if witness is not None:
            assert decide(policy, witness).rule == index
        elif not any("*/*" in entry.resources for entry in rule.resources):
            assert takers(policy, index) or rule.non_resource_urls


def test_credentials_are_found_through_each_kind_of_wildcard() -> None:
    """Not only where Secrets are called by name."""
    last = {"level": "None"}
    for resources in (on("secrets"), on("*"), on("secrets/*"), [{"group": ""}], [{"group": "*"}], []):
        rule = {"level": "Request", "verbs": ["create"], "resources": resources}
        assert ("AP301", 0) in codes(rule, last)
    assert codes({"level": "Request", "verbs": ["create"], "resources": on("pods", "*/scale")}, last) == []


def test_credentials_below_a_rule_that_keeps_them_out_are_not_found() -> None:
    """The advice that the finding gives makes it go away."""
    keep_out = {
        "resources": [
            *on("secrets", "configmaps", "serviceaccounts/token"),
            *on("tokenreviews", group="authentication.k8s.io"),
        ]
    }
    assert codes(keep_out, {"verbs": ["get", "list", "watch"]}, {"level": "RequestResponse"}) == []
    for_alice = {**keep_out, "users": ["alice"]}
    assert codes(for_alice, {"verbs": ["get", "list", "watch"]}, {"level": "RequestResponse"}) == [
        ("AP301", 2),
        ("AP302", 2),
    ]


def test_what_is_in_no_namespace_is_not_found_in_one() -> None:
    """TokenReviews are none of a namespace's."""
    assert codes({"level": "Request", "verbs": ["create"], "namespaces": ["shop"], "resources": on(group="*")}, {}) == [
        ("AP301", 0),
        ("AP302", 0),
    ]
    shop = {"level": "Request", "verbs": ["create"], "namespaces": ["shop"]}
    assert codes({"resources": on("secrets", "configmaps", "serviceaccounts/token")}, shop, {}) == []


def test_reads_of_secrets_have_no_body_at_level_request() -> None:
    """Only what creates or changes has one in the request."""
    assert codes({"level": "Request", "verbs": ["get", "delete"], "resources": on("secrets")}, {}) == []


def test_an_output_may_ask_for_what_its_pipeline_keeps_out() -> None:
    """An output's policy only narrows, needs no catch-all, and is held against the pipeline's."""
    pipeline = Policy(rules=(Rule(level="Metadata"),))
    assert codes({"level": "RequestResponse", "resources": on("secrets")}, outer=pipeline) == []
    everything = Policy(rules=(Rule(level="RequestResponse"),))
    assert ("AP301", 0) in codes({"level": "RequestResponse", "resources": on("secrets")}, outer=everything)


def test_resources_that_may_exist_elsewhere_are_left_alone() -> None:
    """Of CRDs, of aggregated API servers, of a newer Kubernetes."""
    rules = [{"resources": [*on("widgets", "widgets/logs", group="example.com"), *on("brandnewthings", group="apps")]}]
    assert codes(*rules, {"level": "None"}) == []
