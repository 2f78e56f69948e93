"""Our evaluator and kube-apiserver's own, side by side, on policies and requests of the corners."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from auditpipeline.core.compile import compile_policy
from auditpipeline.core.effect import NOTHING, Effect, shortfall
from auditpipeline.core.event import addressed
from auditpipeline.core.policy import STAGES, Attributes, Decision, Level, Policy, decide, validate
from auditpipeline.core.union import union
from tests.cluster.binaries import Missing
from tests.core import corners
from tests.core.test_policy import CASES
from tests.oracle.oracle import Oracle

DECISIONS = 60_000
AT_ONCE = 50
"""Requests for each policy; every one is a decision."""

SEED = int(os.environ.get("AUDITPIPELINE_SEED") or random.SystemRandom().randrange(2**32))
BROKEN_WORDS = ["", "metadata", "Bad", "<&>", 'qu"ote', "é\u2028\u00ad\x7f", *corners.INJECTIONS]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with ExitStack() as stack:
        try:
            found = stack.enter_context(Oracle.running())
        except Missing as error:
            reason = str(error)
        else:
            reason = ""
        if reason:
            pytest.fail(reason, pytrace=False)
        yield found


def alike(ours: Decision, theirs: dict[str, Any]) -> bool:
    """Whether both say the same; stages are a set."""
    level, stages, managed = theirs["level"], theirs["omitStages"] or [], theirs["omitManagedFields"]
    return (ours.level.title, set(ours.omit_stages), ours.omit_managed_fields) == (level, set(stages), managed)


def test_every_decision_is_kube_apiservers(oracle: Oracle, capsys: pytest.CaptureFixture[str]) -> None:
    """The interpreter's, and what is compiled of it."""
    count = 0

    @seed(SEED)
    @settings(
        max_examples=DECISIONS // AT_ONCE + 20,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(corners.policies(), st.lists(corners.requests, min_size=8, max_size=8), st.integers(0, 2**32))
    def compare(policy: Policy, drawn: list[Attributes], number: int) -> None:
        nonlocal count
        requests = [*drawn, *_mixed(drawn, random.Random(number), AT_ONCE - len(drawn))]
        compiled = compile_policy(policy)
        for request, theirs in zip(requests, oracle.decide(policy, requests), strict=True):
            assert alike(decide(policy, request), theirs), (policy, request, theirs)
            assert alike(compiled(request), theirs), (policy, request, theirs)
            count += 1

    with capsys.disabled():
        print(f"\npolicy-oracle: AUDITPIPELINE_SEED={SEED}", end=" ")
        compare()
        print(f"{count} decisions", end=" ")
    assert count >= DECISIONS


def _mixed(drawn: list[Attributes], chance: random.Random, count: int) -> Iterator[Attributes]:
    """More requests from the values of a few: drawing each by itself would take most of the time."""
    for _ in range(count):
        values = zip(*drawn, strict=True)
        found = Attributes(*(chance.choice(column) for column in values))
        yield found._replace(groups=()) if found.user is None else found


def _broken(level: str, stage: str, url: str, group: str) -> Policy:
    rule: dict[str, object] = {"level": level, "omitStages": [stage], "nonResourceURLs": [url]}
    return _policy(rule, {"level": level, "resources": [{"group": group, "resourceNames": [url]}]})


def _policy(*rules: dict[str, object]) -> Policy:
    return msgspec.convert({"rules": rules, "omitStages": ["Panic", "x"]}, Policy)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_error_of_validation_is_kube_apiservers(oracle: Oracle, data: st.DataObject) -> None:
    """The same errors, word for word and in the same order; with and without mistakes."""
    words = st.sampled_from([*BROKEN_WORDS, "None", "Panic", "/ok*", "a*b", "apps", "A.b", "a..b", "a" * 254, "*"])
    policy = data.draw(st.one_of(corners.policies(), st.builds(_broken, words, words, words, words)))
    assert [str(problem) for problem in validate(policy, "")] == oracle.validate(policy)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(corners.policies(most=4), min_size=1, max_size=12, unique=True),
    st.lists(corners.real_requests, min_size=8, max_size=8),
    st.sampled_from([("MAX_STEPS", 100_000), ("MAX_POLICIES", 0), ("MAX_SIZE", 1), ("MAX_SIZE", 700)]),
)
def test_a_union_is_at_least_each_of_its_policies_for_kube_apiserver(
    oracle: Oracle, policies: list[Policy], requests: list[Attributes], bound: tuple[str, int]
) -> None:
    """By its own evaluator: levels, stages and managedFields, in the exact union and in the coarse ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"auditpipeline.core.union.{bound[0]}", bound[1])
        both = oracle.decide(union(policies), requests)
    for policy in policies:
        for request, have, want in zip(requests, both, oracle.decide(policy, requests), strict=True):
            assert not shortfall(_effect(have), _effect(want)), (request, policy)


def _effect(theirs: dict[str, Any]) -> Effect:
    stages = frozenset(theirs["omitStages"] or ())
    level = Level.parse(theirs["level"])
    if level is Level.NONE or len(stages) == len(STAGES):
        return NOTHING
    return Effect(level, stages, theirs["omitManagedFields"], frozenset())


PARTS = ["", "api", "apis", "v1", "apps", "namespaces", "status", "finalize", "pods", "configmaps", "binding", "é", "*"]


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(PARTS), max_size=7), min_size=20, max_size=20))
def test_what_is_created_is_addressed_as_kube_apiserver_reads_it(oracle: Oracle, paths: list[list[str]]) -> None:
    """By the path alone: its decision knows no more, whatever the event says afterwards."""
    prefixed = [
        "/" + "/".join([*start, *parts]) for parts in paths for start in ([], ["api", "v1"], ["apis", "a", "v1"])
    ]
    for path, theirs in zip(prefixed, oracle.address(prefixed), strict=True):
        if theirs["resource"] and theirs["verb"] == "create":
            assert addressed(path, "body", "body") == (theirs["namespace"], theirs["name"]), path


@pytest.mark.parametrize("case", CASES.get("policy_load", []), ids=lambda case: case["name"])
def test_loads_of_kubernetes(oracle: Oracle, case: dict[str, object]) -> None:
    """The oracle itself says what the cases say."""
    assert (oracle.load(str(case["yaml"])) == "") is case["loads"]
