"""The linter: policies that kube-apiserver takes and that surely do not do what was meant.

A finding is made only where it can be proved: that a rule never matches, by core/reach.py for the evaluator's every
request; that a body is recorded, by a request that the rule decides. Words are compared with what Kubernetes serves
(core/kinds.py), and what is unknown there but may exist is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auditpipeline.core.finding import Finding
from auditpipeline.core.lint_bodies import bodies
from auditpipeline.core.lint_words import words
from auditpipeline.core.policy import STAGES, Policy, Rule
from auditpipeline.core.reach import takers


def lint(policy: Policy, outer: Policy | None = None) -> list[Finding]:
    """What is surely wrong in a valid policy, by rule. `outer` is the pipeline's policy, for the policy of an output:
    it has taken away already, and no catch-all is asked for."""
    found: list[Finding] = []
    for index, rule in enumerate(policy.rules):
        found += _reached(policy, index)
        found += _stages(policy, rule, index)
        found += words(rule, index)
        found += bodies(policy, index, outer)
    if outer is None:
        found += _end(policy)
    return found


def _reached(policy: Policy, index: int) -> Iterator[Finding]:
    rule, path = policy.rules[index], f"rules[{index}]"
    twin = policy.rules.index(rule)
    if twin < index:
        yield Finding("AP102", path, f"the same rule as rule {twin}", "one of the two")
    elif before := takers(policy, index):
        names = _and([str(number) for number in before])
        many = "rules" if len(before) > 1 else "rule"
        takes = "together take" if len(before) > 1 else "takes"
        fix = f"this rule before rule {before[0]}, or no such rule"
        yield Finding("AP101", path, f"this rule never matches: {many} {names} {takes} every request first", fix)
    for name, values in _lists(rule):
        for number, value in enumerate(values):
            if value in values[:number]:
                yield Finding("AP102", f"{path}.{name}[{number}]", f"{_shown(value)} stands here twice", "it once")


def _lists(rule: Rule) -> Iterator[tuple[str, Sequence[object]]]:
    yield "users", rule.users
    yield "userGroups", rule.user_groups
    yield "verbs", rule.verbs
    yield "namespaces", rule.namespaces
    yield "nonResourceURLs", rule.non_resource_urls
    yield "resources", rule.resources
    for number, entry in enumerate(rule.resources):
        yield f"resources[{number}].resources", entry.resources
        yield f"resources[{number}].resourceNames", entry.resource_names


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else "the same entry"


def _stages(policy: Policy, rule: Rule, index: int) -> Iterator[Finding]:
    if rule.level != "None" and {*policy.omit_stages, *rule.omit_stages}.issuperset(STAGES):
        message = f"every stage is omitted, so nothing is recorded at level {rule.level}"
        yield Finding("AP104", f"rules[{index}].omitStages", message, "level: None, or fewer stages in omitStages")


def _end(policy: Policy) -> Iterator[Finding]:
    """Rules may be catch-alls together; then no request without a rule is left."""
    everything = Policy(rules=(*policy.rules, Rule(level="None")))
    if policy.rules and not takers(everything, len(policy.rules)):
        last = len(policy.rules) - 1
        message = "no rule at the end takes the rest, so what no rule matches is not recorded"
        fix = "a last rule that says so: - level: None (or Metadata)"
        yield Finding("AP103", f"rules[{last}]", message, fix)


def _and(names: Sequence[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))
