"""What a union and a comparison cost is bounded, whatever the policies are, and a union never records less."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core import union as module
from auditpipeline.core.budget import Stopped
from auditpipeline.core.covers import covers
from auditpipeline.core.effect import Effect, effect_of, shortfall
from auditpipeline.core.policy import Attributes, GroupResources, Level, Policy, Rule, decide, validate
from auditpipeline.core.policyfile import load
from auditpipeline.core.union import MAX_RULES, MAX_STEPS, MAX_TEXT, Memory, fitting, unite
from auditpipeline.core.upstream import coverage
from tests.core import corners, many
from tests.core.test_policy import POD

PODS = (GroupResources("", ("pods",)),)
MOST = 200
"""How often the work of ten policies of four rules is the work of a thousand, or of two of a thousand rules."""


def effect(policy: Policy, request: Attributes) -> Effect:
    return effect_of(policy, decide(policy, request).rule)


def work(function: Callable[[], object]) -> int:
    """How many functions are called, Python's own included: the same number on every machine."""
    count = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def enough(one: Policy, policies: Sequence[Policy], requests: Sequence[Attributes]) -> None:
    for request in requests:
        for policy in policies:
            assert not shortfall(effect(one, request), effect(policy, request)), (request, policy)


@pytest.mark.parametrize("shape", many.SHAPES.values(), ids=many.SHAPES.keys())
def test_a_thousand_policies_are_at_most_two_hundred_times_the_work_of_ten(shape: Callable[[int], Policy]) -> None:
    """Of four rules each, all of them different."""
    few, all_of_them = [shape(number) for number in range(10)], [shape(number) for number in range(1000)]
    assert work(lambda: fitting(all_of_them)) <= MOST * work(lambda: fitting(few))


@pytest.mark.parametrize("parts", list(combinations(many.PARTS, 2)), ids="-".join)
def test_so_are_two_policies_of_a_thousand_rules(parts: tuple[str, str]) -> None:
    """The rules of the one meet all the rules of the other; comparing them is bounded likewise."""
    one, other = (many.long(1000, part) for part in parts)
    few = work(lambda: fitting([many.apart(number) for number in range(10)]))
    assert work(lambda: fitting([one, other])) <= MOST * few
    assert work(lambda: covers(one, other)) <= MOST * few
    assert work(lambda: coverage(other, one)) <= MOST * few
    assert unite([one, other]).steps <= 2 * MAX_STEPS


def test_one_policy_more_costs_the_branch_that_it_is_in() -> None:
    """And the result is the one of a union that remembers nothing."""
    policies = [many.apart(number) for number in range(64)]
    memory, more = Memory(), [*policies[:30], many.apart(64), *policies[30:]]
    unite(policies, memory)
    remembered = unite(more, memory)
    assert remembered == unite(more)
    unite(policies, memory)
    assert work(lambda: unite(more, memory)) * 3 < work(lambda: unite(more))


def test_policies_of_the_same_content_count_once() -> None:
    """However many pipelines have them."""
    policies = [many.catching(number) for number in range(3)]
    assert unite(policies * 500) == unite(policies)


@pytest.mark.parametrize(("count", "exact"), [(4, True), (100, False), (1000, False)])
def test_a_union_says_whether_it_is_exact(count: int, exact: bool) -> None:
    """Few policies are joined pair by pair."""
    policies = [many.crossing(number) for number in range(count)]
    found = unite(policies)
    assert found.exact is exact
    assert validate(found.policy, "") == []
    enough(found.policy, policies[:50], [POD._replace(user=f"user-{number}") for number in range(20)])


def test_what_all_policies_leave_out_is_left_out_of_a_large_union() -> None:
    """No bodies of Secrets and no probes, if every policy says so, though one records the bodies of a namespace."""
    policies = [many.like_a_preset(number) for number in range(600)]
    found = unite(policies)
    assert not found.exact
    secret = POD._replace(resource="secrets", verb="update", namespace="space-7")
    assert decide(found.policy, secret).level is Level.METADATA
    assert decide(found.policy, secret._replace(resource="deployments", group="apps")).level is Level.REQUEST_RESPONSE
    assert decide(found.policy, Attributes("a", (), "get", "/healthz")).level is Level.NONE
    enough(found.policy, policies, [secret, POD, POD._replace(namespace="space-599")])


def test_a_union_fits_into_a_config_map() -> None:
    """What would be larger gives up conditions, and never records less."""
    policies = [
        Policy((Rule("Request", users=tuple(f"\u00fc{'x' * 900}-{number}-{place}" for place in range(3))),))
        for number in range(1000)
    ]
    found, text = fitting(policies)
    assert len(text.encode()) <= MAX_TEXT
    assert load(text.encode(), "policy.yaml").rules == found.policy
    assert not found.exact
    enough(found.policy, policies[:3], [POD._replace(user=policies[0].rules[0].users[0])])


def test_a_union_of_which_nobody_waits_any_more_ends() -> None:
    """At the next step."""
    steps = iter(range(100))
    policies = [many.apart(number) for number in range(30)]
    with pytest.raises(Stopped):
        unite(policies, stopped=lambda: next(steps, None) is None)


distinct = st.lists(corners.policies(most=4), min_size=2, max_size=14, unique=True)
asked = st.lists(corners.real_requests, min_size=8, max_size=8)


@settings(max_examples=100, deadline=None)
@given(distinct, asked)
def test_distinct_policies_get_at_least_what_each_asks_for(policies: list[Policy], requests: list[Attributes]) -> None:
    """As a tree of more than a few, with and without memory."""
    memory = Memory()
    unite(policies[1:], memory)
    found = unite(policies, memory)
    assert found == unite(policies)
    enough(found.policy, policies, requests)


@settings(max_examples=150, deadline=None)
@given(distinct, asked, st.sampled_from([("MAX_POLICIES", 1), ("MAX_STEPS", 40), ("MAX_SIZE", 1), ("MAX_SIZE", 700)]))
def test_and_so_they_do_if_that_is_too_much(
    policies: list[Policy], requests: list[Attributes], bound: tuple[str, Any]
) -> None:
    """By level, and with fewer and fewer conditions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, *bound)
        found = unite(policies)
    enough(found.policy, policies, requests)


@settings(max_examples=200, deadline=None)
@given(corners.policies(most=4), corners.policies(most=4), asked, st.integers(0, 60))
def test_a_comparison_that_is_cut_short_claims_nothing(
    static: Policy, wanted: Policy, requests: list[Attributes], steps: int
) -> None:
    """Each rule that may be recorded with too little is reported, and each example is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auditpipeline.core.covers.MAX_TOTAL", steps)
        gaps = {gap.rule: gap for gap in covers(static, wanted)}
    for request in requests:
        if shortfall(effect(static, request), effect(wanted, request)):
            assert decide(wanted, request).rule in gaps
    for number, gap in gaps.items():
        if gap.request:
            assert decide(wanted, gap.request).rule == number
            assert gap.reason == shortfall(effect(static, gap.request), effect(wanted, gap.request))


def test_what_a_large_policy_lacks_is_still_shown() -> None:
    """By a request that names nothing, where the steps are not enough to look at everything."""
    static = unite([many.apart(number) for number in range(1000)]).policy
    wanted = Policy((Rule("Request", resources=PODS), Rule("Metadata", users=("somebody",))))
    assert len(static.rules) > MAX_RULES
    assert [gap.request is not None for gap in covers(static, wanted)] == [True, True]
