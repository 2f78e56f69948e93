"""What the linter says of levels with bodies: credentials that are recorded, and answers to reads.

Each finding has a request that reaches the rule, past every rule before it, and through whatever wildcard or catch-all.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from auditpipeline.core.finding import Finding
from auditpipeline.core.kinds import CLUSTER_SCOPED
from auditpipeline.core.policy import Attributes, Level, Policy, Rule, decide
from auditpipeline.core.reach import Target, unmentioned, witnesses

_NAME = "an-example"
# Verbs whose request holds the object, and verbs whose answer does. A watch's answer is never recorded.
_REQUEST = ("create", "update", "patch")
_RESPONSE = (*_REQUEST, "get", "list", "delete", "deletecollection")
_READS = ("get", "list", "watch")

_CREDENTIALS = (
    ("Secrets", Target("", "secrets"), _REQUEST, _RESPONSE),
    ("ServiceAccount tokens", Target("", "serviceaccounts", "token"), ("create",), ("create",)),
    ("TokenReviews", Target("authentication.k8s.io", "tokenreviews"), ("create",), ("create",)),
)
_CONFIGMAPS = Target("", "configmaps")
_KEEP_OUT = (
    "before it: - {level: Metadata, resources: ["
    '{group: "", resources: [secrets, configmaps, serviceaccounts/token]},'
    " {group: authentication.k8s.io, resources: [tokenreviews]}]}"
)
_SHOWN = 200  # witnesses of an output's rule that are held against the pipeline's policy


def bodies(policy: Policy, index: int, outer: Policy | None) -> Iterator[Finding]:
    """Findings about the bodies that rule `index` records and that the policy around it, if any, lets through."""
    rule, path = policy.rules[index], f"rules[{index}]"
    level = Level.parse(rule.level)
    if level < Level.REQUEST:
        return
    recorded = {
        name: witness
        for name, target, request, response in _CREDENTIALS
        if (witness := _witness(policy, index, target, response if level > Level.REQUEST else request, outer))
    }
    if recorded:
        example = _said(next(iter(recorded.values())))
        message = f"{rule.level} records the bodies of {', '.join(recorded)}, as of {example}"
        yield Finding("AP301", path, message, _KEEP_OUT)
    verbs = _RESPONSE if level > Level.REQUEST else _REQUEST
    if found := _witness(policy, index, _CONFIGMAPS, verbs, outer):
        message = f"{rule.level} records the bodies of ConfigMaps, which often hold credentials, as of {_said(found)}"
        yield Finding("AP302", path, message, _KEEP_OUT)
    if level > Level.REQUEST:
        yield from _reads(policy, index, outer)


def _reads(policy: Policy, index: int, outer: Policy | None) -> Iterator[Finding]:
    """Reads are most requests, and their answers whole lists. A rule on named objects or subresources is meant."""
    rule = policy.rules[index]
    targets = list(_read_targets(policy, rule))
    found = [verb for verb in _READS if targets and _witness(policy, index, targets, (verb,), outer)]
    if found:
        message = f"RequestResponse for {', '.join(found)} records whole objects and lists at each read, which is much"
        if found == ["watch"]:
            message = "RequestResponse for watch adds nothing: the answers to a watch are never recorded"
        fix = "before it: - {level: Metadata, verbs: [get, list, watch]}; or the verbs that change something"
        yield Finding("AP303", f"rules[{index}]", message, fix)


def _read_targets(policy: Policy, rule: Rule) -> Iterator[Target]:
    if rule.non_resource_urls:
        return
    fresh = unmentioned(policy)
    if not rule.resources:
        yield Target(fresh, fresh)
    for entry in rule.resources:
        group = fresh if entry.group == "*" else entry.group
        for wanted in entry.resources or ("*",):
            resource, _, subresource = wanted.partition("/")
            if subresource in ("", "*") and not entry.resource_names:
                yield Target(group, fresh if resource == "*" else resource)


def _witness(
    policy: Policy, index: int, targets: Target | list[Target], verbs: tuple[str, ...], outer: Policy | None
) -> Attributes | None:
    every = _named(policy.rules[index], targets) if isinstance(targets, Target) else targets
    for found in islice(witnesses(policy, index, every, verbs) if every else (), _SHOWN):
        if outer is None or min(decide(outer, found).level, Level.parse(policy.rules[index].level)) >= Level.REQUEST:
            return found
    return None


def _named(rule: Rule, target: Target) -> list[Target]:
    """The target under a name that no rule mentions, and under each that this rule does; none that cannot be."""
    if target.resource in CLUSTER_SCOPED and rule.namespaces and "" not in rule.namespaces:
        return []
    names = [name for entry in rule.resources for name in entry.resource_names]
    return [target._replace(name=name) for name in (_NAME, *names)]


def _said(request: Attributes) -> str:
    resource = request.resource if not request.subresource else f"{request.resource}/{request.subresource}"
    user = "" if request.user is None or not request.user.isprintable() else f" by {request.user}"
    groups = f" by group {request.groups[0]}" if request.groups else ""
    return f'"{request.verb} {resource}"{user}{groups}'
