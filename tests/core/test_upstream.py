"""What a static policy emits of what is asked for, and what counts as asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditpipeline.control.bootstrap import STATIC_POLICY
from auditpipeline.core.canary import CANARY_POLICY, emitted
from auditpipeline.core.covers import covers
from auditpipeline.core.policy import GroupResources, Policy, Rule
from auditpipeline.core.policyfile import dump, load, read
from auditpipeline.core.presets import NAMES, PresetName, preset
from auditpipeline.core.union import union
from auditpipeline.core.upstream import coverage

ROOT = Path(__file__).parents[2]
BOOTSTRAP = load(STATIC_POLICY.encode(), "policy.yaml").rules
DONE = ("RequestReceived",)
LEASES = (GroupResources("coordination.k8s.io", ("leases",)),)
SECRETS = (GroupResources("", ("secrets",)),)
EVENTS = (GroupResources("", ("events",)),)
PODS = (GroupResources("", ("pods",)),)
BLIND = Policy((Rule("None", verbs=("get", "list", "watch")), Rule("RequestResponse")), DONE)


@pytest.mark.parametrize(
    ("rule", "gaps", "exceptions"),
    [
        (Rule("Metadata"), [], ["probes", "heartbeats"]),
        (Rule("Metadata", non_resource_urls=("*",)), [], ["probes"]),
        (Rule("Metadata", non_resource_urls=("/healthz",)), [0], []),
        (Rule("Metadata", resources=LEASES), [0], []),
        (Rule("Metadata", resources=SECRETS), [], []),
        (Rule("Request", resources=SECRETS), [0], []),
        (Rule("RequestResponse"), [0], []),
        (Rule("RequestResponse", resources=PODS), [], ["reads"]),
        (Rule("RequestResponse", resources=PODS, verbs=("list",)), [0], []),
        (Rule("RequestResponse", resources=PODS, verbs=("create",)), [], []),
        (Rule("Request", namespaces=("",), verbs=("create",), resources=EVENTS), [0], []),
    ],
)
def test_the_default_policy_covers_what_a_rule_means(rule: Rule, gaps: list[int], exceptions: list[str]) -> None:
    """Of what nobody names, it leaves out what is many and means little; what is named is held to the letter."""
    found = coverage(BOOTSTRAP, Policy((rule,), DONE))
    assert ([gap.rule for gap in found.gaps], list(found.exceptions)) == (gaps, exceptions)


@pytest.mark.parametrize("level", ["None", "Metadata", "Request"])
def test_a_rule_that_takes_away_asks_for_nothing(level: str) -> None:
    """Leases are named here to have less of them, or as much: no more than by the rule that follows alone."""
    found = coverage(BOOTSTRAP, Policy((Rule(level, resources=LEASES), Rule("Request", verbs=("update",))), DONE))
    assert {gap.rule for gap in found.gaps} <= {1}
    alone = coverage(BOOTSTRAP, Policy((Rule(level, resources=LEASES), Rule("Metadata")), DONE))
    assert [gap.rule for gap in alone.gaps] == ([0] if level == "Request" else [])


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_covered_by_the_default_policy(name: PresetName) -> None:
    """Who asks for one by name is Ready on an installation out of the box."""
    assert coverage(BOOTSTRAP, preset(name)).gaps == ()


def test_the_first_stage_is_an_exception_beside_the_last_alone() -> None:
    """Who wants RequestReceived and nothing else is told that there is none."""
    both, alone = (
        Policy((Rule("Metadata", resources=PODS, omit_stages=omitted),)) for omitted in ((), ("ResponseComplete",))
    )
    assert coverage(BOOTSTRAP, both).exceptions == ("requestReceived",)
    assert coverage(BOOTSTRAP, alone).gaps[0].reason == "without RequestReceived"


@pytest.mark.parametrize("rule", [Rule("Metadata"), Rule("RequestResponse", resources=PODS)])
def test_reads_that_are_not_recorded_at_all_are_no_exception(rule: Rule) -> None:
    """Their bodies may be missing, and not that they were."""
    assert coverage(BLIND, Policy((rule,), DONE)).gaps[0].rule == 0


def test_the_examples_are_covered_by_the_default_policy() -> None:
    """Out of the box, an installation is Ready."""
    sources = [s for path in sorted((ROOT / "manifests/examples").glob("*.yaml")) for s in read(path.read_bytes(), "")]
    wanted = [source.rules for source in sources if source.outer is None]
    assert len(wanted) > 3
    assert [coverage(BOOTSTRAP, policy).gaps for policy in wanted] == [() for _ in wanted]


def test_a_union_covers_to_the_letter_and_lets_the_canary_through() -> None:
    """What the operator publishes meets each policy without any exception, and so does the file that it becomes."""
    paths = sorted((ROOT / "manifests/policies").glob("*[!s].yaml"))
    wanted = [load(path.read_bytes(), str(path)).rules for path in paths if ".cases" not in path.name]
    assert len(wanted) > 3
    static = load(dump(union([*wanted, CANARY_POLICY])).encode(), "policy.yaml").rules
    assert [covers(static, policy) for policy in wanted] == [[] for _ in wanted]
    assert emitted(static)
    assert emitted(BOOTSTRAP)
    assert not emitted(Policy((Rule("None", verbs=("get",)), Rule("Metadata"))))
    assert not emitted(Policy((Rule("Metadata", omit_stages=("ResponseComplete",)),)))
