"""A union never records less, and what covers says is so."""

from __future__ import annotations

import random
import time
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core.effect import Effect, effect_of, shortfall
from auditpipeline.core.floor import FLOOR, with_floor
from auditpipeline.core.policy import STAGES, Attributes, GroupResources, Level, Policy, Rule, decide, matches, validate
from auditpipeline.core.union import MAX_RULES, covers, union
from tests.core import corners
from tests.core.test_policy import POD, on, rule

plain_policies = corners.policies(corners.PLAIN_RESOURCES, 4)
CHANGE = POD._replace(verb="patch", resource="auditsinks", group="auditregistration.k8s.io", namespace="")


def effect(policy: Policy, request: Attributes) -> Effect:
    return effect_of(policy, decide(policy, request).rule)


@settings(max_examples=500, deadline=None)
@given(st.lists(corners.policies(most=5), max_size=3), st.lists(corners.real_requests, min_size=8, max_size=8))
def test_a_union_records_at_least_what_each_does(policies: list[Policy], requests: list[Attributes]) -> None:
    """Level, stages and managedFields, for every request."""
    one = union(policies)
    for request in requests:
        for policy in policies:
            assert not shortfall(effect(one, request), effect(policy, request))


@settings(max_examples=200, deadline=None)
@given(st.lists(plain_policies, min_size=2, max_size=3), st.lists(corners.real_requests, min_size=4, max_size=4))
def test_a_union_that_would_be_too_large_still_records_enough(
    policies: list[Policy], requests: list[Attributes]
) -> None:
    """By level instead of pair by pair."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auditpipeline.core.union.MAX_RULES", 2)
        one = union(policies)
    for request in requests:
        for policy in policies:
            assert not shortfall(effect(one, request), effect(policy, request))


@settings(max_examples=150, deadline=None)
@given(plain_policies, plain_policies)
def test_covers_agrees_that_a_union_covers_its_parts(one: Policy, other: Policy) -> None:
    """Two pieces of code that know nothing of each other come to the same."""
    assert [gap for part in (one, other) for gap in covers(union([one, other]), part) if gap.request] == []


@settings(max_examples=500, deadline=None)
@given(corners.policies(most=3), corners.policies(most=3), st.lists(corners.real_requests, min_size=8, max_size=8))
def test_covers_never_says_covered_where_it_is_not(static: Policy, wanted: Policy, requests: list[Attributes]) -> None:
    """Every request that is recorded with too little belongs to a rule that is reported, and each example is one."""
    gaps = {gap.rule: gap for gap in covers(static, wanted)}
    for request in requests:
        number = decide(wanted, request).rule
        if shortfall(effect(static, request), effect(wanted, request)):
            assert number in gaps
    for number, gap in gaps.items():
        assert gap.request
        assert decide(wanted, gap.request).rule == number
        assert decide(static, gap.request).rule == gap.decided_by
        assert gap.reason == shortfall(effect(static, gap.request), effect(wanted, gap.request))


@pytest.mark.parametrize("paths", [("/healthz", "/healthz*"), ("/healthz*", "/healthz"), ("/a/*", "/a/b*")])
def test_a_path_is_less_than_the_same_with_a_star(paths: tuple[str, str]) -> None:
    """A rule for the one leaves the rest of the other to the next rule."""
    first, second = paths
    policy = Policy((Rule("None", non_resource_urls=(first,)), Rule("Metadata", non_resource_urls=(second,))))
    one = union([policy, Policy()])
    for path in ("/healthz", "/healthz/ping", "/a/b", "/a/c"):
        request = Attributes("somebody", (), "get", path)
        assert effect(one, request) == effect(policy, request)


def test_a_union_of_one_policy_is_that_policy() -> None:
    """With the floor first, and no rule more."""
    policy = Policy(
        rules=(
            rule(level="None", users=["system:kube-proxy"], verbs=["watch"], resources=on("endpoints")),
            rule(level="RequestResponse", resources=on("pods")),
            rule(),
        ),
        omit_stages=("RequestReceived",),
    )
    assert union([policy]) == msgspec.structs.replace(policy, rules=(FLOOR, *policy.rules))
    assert union([policy, policy]) == union([policy])


def test_a_union_is_a_policy_that_kube_apiserver_takes() -> None:
    """And is smaller than the pairs that it is made of."""
    one = Policy(
        rules=(rule(level="None", users=["kube-proxy"]), rule(level="Request", resources=on("pods", "secrets")))
    )
    other = Policy(rules=(rule(level="None", resources=on("secrets")), rule(omitStages=["RequestReceived"])))
    both = union([one, other])
    assert validate(both, "") == []
    assert [(each.level, each.users) for each in both.rules[1:]] == [
        ("None", ("kube-proxy",)),
        ("Metadata", ("kube-proxy",)),
        ("Request", ()),
        ("Metadata", ()),
    ]


def test_groups_of_two_policies_are_the_one_thing_that_costs_more() -> None:
    """ "One of team and one of ops" cannot be said: whoever is in team gets what both want together."""
    one = Policy(rules=(rule(level="Request", userGroups=["team"]),))
    other = Policy(rules=(rule(level="None", userGroups=["ops"]), rule()))
    both = union([one, other])
    assert decide(both, POD._replace(groups=("team",))).level is Level.REQUEST
    assert decide(both, POD._replace(groups=("ops",))).level is Level.NONE


@pytest.mark.parametrize("final", ["ResponseComplete", "Panic", "RequestReceived"])
def test_no_policy_removes_the_floor(final: str) -> None:
    """Neither a rule for None nor omitStages; the rest decides as before."""
    policy = Policy(rules=(rule(level="None", verbs=["patch"]), rule()), omit_stages=(final,))
    floored = with_floor(policy)
    assert decide(floored, CHANGE).level is Level.REQUEST_RESPONSE
    assert not decide(floored, CHANGE).omit_stages & {"ResponseComplete", "Panic"}
    for request in (POD, POD._replace(verb="patch"), CHANGE._replace(verb="get")):
        assert effect(floored, request) == effect(policy, request)
    assert with_floor(floored) == floored
    # The floor as it stands in a preset is none where omitStages silence it.
    assert with_floor(msgspec.structs.replace(policy, rules=(FLOOR, *policy.rules))) == floored
    assert union([]).rules == (FLOOR,)


def test_a_gap_names_a_request_and_why() -> None:
    """One line that a person can act on."""
    static = Policy(rules=(rule(level="Metadata", resources=on("pods")), rule(level="None")))
    wanted = Policy(
        rules=(
            rule(level="Request", resources=on("pods"), namespaces=["default"]),
            rule(level="None", users=["alice"]),
            rule(resources=on("pods")),
            rule(userGroups=["ops"]),
        )
    )
    first, second = covers(static, wanted)
    assert (first.rule, first.reason, first.decided_by) == (0, "recorded at Metadata, wanted at Request", 0)
    assert first.request
    assert (first.request.resource, first.request.namespace) == ("pods", "default")
    assert (second.rule, second.reason, second.decided_by) == (3, "recorded at None, wanted at Metadata", 1)


@pytest.mark.parametrize(
    ("static", "wanted", "reason"),
    [
        (rule(omitStages=["Panic"]), rule(), "without Panic"),
        (rule(level="Request", omitManagedFields=True), rule(level="Request"), "recorded without managedFields"),
        (rule(omitManagedFields=True), rule(), ""),
        (rule(omitResponseCodes=[404]), rule(omitResponseCodes=[409]), "without responses 404"),
        (rule(omitResponseCodes=[404]), rule(omitResponseCodes=[404, 409]), ""),
        (rule(omitStages=list(STAGES)), rule(level="None"), ""),
        (rule(), rule(level="RequestResponse", omitStages=list(STAGES)), ""),
    ],
)
def test_what_counts_as_recorded(static: Rule, wanted: Rule, reason: str) -> None:
    """One line a case."""
    assert [gap.reason for gap in covers(Policy(rules=(static,)), Policy(rules=(wanted,)))] == (
        [reason] if reason else []
    )


def test_what_is_too_much_to_look_at_is_not_called_covered() -> None:
    """Bounded in time, and careful."""
    chance = random.Random(1)
    many = Policy(
        rules=tuple(
            rule(
                users=[f"u{chance.randrange(40)}"],
                userGroups=[f"g{chance.randrange(40)}"],
                verbs=[f"v{chance.randrange(5)}", "get"],
                namespaces=[f"n{chance.randrange(40)}", "", f"n{chance.randrange(40)}"],
                resources=[{"group": f"a{i % 30}", "resources": [f"r{i}", f"r{i}/s{i % 50}"]}],
            )
            for i in range(300)
        )
    )
    begun = time.monotonic()
    gaps = covers(many, Policy(rules=(rule(),)))
    assert [gap.rule for gap in gaps] == [0]
    assert len(union([many, many]).rules) <= MAX_RULES + 1
    assert time.monotonic() - begun < 20


group_rules = st.builds(
    Rule,
    level=st.sampled_from(corners.LEVELS),
    user_groups=st.lists(st.sampled_from(corners.GROUPS), max_size=3, unique=True).map(tuple),
    verbs=st.sampled_from([(), ("get",)]),
)
group_policies = st.builds(Policy, rules=st.lists(group_rules, max_size=4).map(tuple))


@pytest.mark.parametrize(
    ("drawn", "bound"), [(plain_policies, 0.01), (group_policies, 0.25)], ids=["all kinds of rules", "groups only"]
)
def test_how_much_more_a_union_records(
    drawn: st.SearchStrategy[Policy], bound: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured: of random policies and requests, how many are recorded at a higher level than anybody wants."""
    found: Counter[bool] = Counter()

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(drawn, drawn, st.lists(corners.real_requests, min_size=20, max_size=20))
    def measure(one: Policy, other: Policy, requests: list[Attributes]) -> None:
        both = union([one, other])
        for request in requests:
            wanted = max(decide(one, request).level, decide(other, request).level)
            if not matches(FLOOR, request):
                found[decide(both, request).level > wanted] += 1

    measure()
    with capsys.disabled():
        print(f"\nunion: {found[True]} of {found.total()} requests at a higher level than anybody wants", end=" ")
    assert found[True] <= found.total() * bound


def test_an_entry_without_resources_takes_its_group() -> None:
    """Whatever resourceNames it has: the evaluator does not look at them."""
    one = Policy(rules=(Rule(level="Metadata", resources=(GroupResources("apps", (), ("x",)),)),))
    other = Policy(rules=(Rule(level="Request", resources=(GroupResources("*", ("deployments",)),)),))
    deployment = POD._replace(group="apps", resource="deployments")
    assert decide(union([one, other]), deployment).level is Level.REQUEST
    assert decide(union([one, other]), deployment._replace(resource="daemonsets")).level is Level.METADATA
