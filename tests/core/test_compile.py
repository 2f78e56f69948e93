"""The compiled policy is the policy."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings

from auditpipeline.core import compile as compiler
from auditpipeline.core.compile import Compiled, compile_policy
from auditpipeline.core.policy import Attributes, GroupResources, Level, Policy, Rule, decide
from tests.core import corners
from tests.core.test_policy import NOBODY, PATH, POD


@settings(max_examples=1500, deadline=None)
@given(corners.policies(), corners.requests, corners.requests)
def test_compiled_and_interpreted_decide_alike(policy: Policy, first: Attributes, second: Attributes) -> None:
    """Twice each, as the second time goes by what the first has left behind."""
    compiled = compile_policy(policy)
    for request in (first, second, first, second):
        assert compiled(request) == decide(policy, request)


@pytest.mark.parametrize("text", corners.INJECTIONS, ids=range(len(corners.INJECTIONS)))
def test_no_name_breaks_out_of_the_generated_code(text: str) -> None:
    """Every field of a rule takes any text, and means just that text."""
    everything = Rule(
        level="Request",
        users=(text, f"{text}2"),
        user_groups=(text, f"{text}2", f"{text}3", f"{text}4"),
        verbs=(text,),
        resources=(GroupResources(text, (text,), (text,)),),
        namespaces=(text,),
    )
    compiled = compile_policy(Policy(rules=(everything, Rule(level="None", non_resource_urls=(text, f"{text}*")))))
    same = Attributes(text, (text,), text, "", text, "", text, text, text)
    assert compiled(same).level is Level.REQUEST
    other = f"{text}x"
    assert compiled(same._replace(user=other)).rule is None
    assert compiled(same._replace(groups=(other,))).rule is None
    assert compiled(same._replace(verb=other)).rule is None
    assert compiled(same._replace(resource=other)).rule is None
    assert compiled(same._replace(group=other)).rule is None
    assert compiled(same._replace(namespace=other)).rule is None
    assert compiled(same._replace(name=other)).rule is None
    assert compiled(Attributes(None, (), "get", f"{text}/below")).rule == 1


def test_a_thousand_rules_compile_in_a_moment() -> None:
    """Nothing nests, whether the rules differ by user or by resource."""
    users = tuple(Rule(level="Metadata", users=(f"user-{i}",), user_groups=("a", "b", "c", "d")) for i in range(1000))
    resources = tuple(
        Rule(level="Metadata", resources=(GroupResources("", (f"r{i}",), ("n",)),), namespaces=("default",))
        for i in range(1000)
    )
    for rules in (users, resources):
        begun = time.monotonic()
        compiled = compile_policy(Policy(rules=rules))
        for request in (POD, PATH, NOBODY, POD._replace(user="user-999", groups=("d",), resource="r999", name="n")):
            assert compiled(request) == decide(Policy(rules=rules), request)
        assert time.monotonic() - begun < 2


def test_what_clients_make_up_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is bounded, and names that no rule knows share one function."""
    monkeypatch.setattr(compiler, "MAX_KEYS", 50)
    policy = Policy(rules=(Rule(level="Metadata", users=("alice",), resources=(GroupResources("", ("pods",)),)),))
    compiled = Compiled(policy)
    for number in range(500):
        request = POD._replace(resource=f"made-up-{number}")
        assert compiled.decide(request) == decide(policy, request)
    assert len(compiled.branches) <= 50
    assert len(set(compiled.branches.values())) == 1


def test_names_of_a_megabyte_are_decided_on_and_not_remembered() -> None:
    """kube-apiserver takes URIs of that size from anybody, and the index holds thousands."""
    policy = Policy(rules=(Rule(level="Metadata", verbs=("get",)),))
    compiled = Compiled(policy)
    long = "a" * 2**20
    for request in (POD._replace(verb=long), POD._replace(group=long), POD._replace(resource=long)):
        assert compiled.decide(request) == decide(policy, request)
    assert compiled.decide(POD) == decide(policy, POD)
    assert len(compiled.branches) == 1
