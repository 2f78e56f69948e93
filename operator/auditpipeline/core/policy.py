"""What an audit policy decides, exactly as kube-apiserver decides it.

The first rule that matches wins; where none does, the level is None. Source of every comparison:
k8s.io/apiserver/pkg/audit/policy/checker.go. A rule with users or groups never matches a request without a user, and a
rule without resources and without nonResourceURLs matches both kinds of request.

The values here are the `audit.k8s.io/v1` Policy, field for field, so that a policy file, an AuditPipeline and an
AuditSink's `rules` are the same type.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, NamedTuple

import msgspec

from auditpipeline.core.errors import Invalid

STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")


class Level(IntEnum):
    """How much of an event is recorded; each level holds all that the lower ones hold."""

    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3

    @property
    def title(self) -> str:
        """The level's name in a policy."""
        return _TITLES[self]

    @classmethod
    def parse(cls, name: str) -> Level:
        """The level of that name; ValueError where there is none (an empty name included)."""
        if name not in _LEVELS:
            raise ValueError(f"unknown level {name!r}: use None, Metadata, Request or RequestResponse")
        return _LEVELS[name]


_TITLES = {
    Level.NONE: "None",
    Level.METADATA: "Metadata",
    Level.REQUEST: "Request",
    Level.REQUEST_RESPONSE: "RequestResponse",
}
_LEVELS = {title: level for level, title in _TITLES.items()}
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

Text = Annotated[str, msgspec.Meta(max_length=1024)]


class GroupResources(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Resources of one API group; no `resources` means every one of the group. Group `*` is every group (1.36)."""

    group: str = ""
    resources: tuple[Text, ...] = ()
    resource_names: tuple[Text, ...] = ()


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """One rule; an empty list matches everything, `level` alone is a catch-all."""

    level: str = ""
    users: tuple[Text, ...] = ()
    user_groups: tuple[Text, ...] = ()
    verbs: tuple[Text, ...] = ()
    resources: tuple[GroupResources, ...] = ()
    namespaces: tuple[Text, ...] = ()
    non_resource_urls: tuple[Text, ...] = msgspec.field(default=(), name="nonResourceURLs")
    omit_stages: tuple[Text, ...] = ()
    omit_managed_fields: bool | None = None


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """A whole policy; `validate` says whether it may be used."""

    rules: tuple[Rule, ...] = ()
    omit_stages: tuple[Text, ...] = ()
    omit_managed_fields: bool = False


class Attributes(NamedTuple):
    """What a policy looks at. `user` is None for an unauthenticated request; `resource` is None for a path."""

    user: str | None
    groups: tuple[str, ...]
    verb: str
    path: str
    resource: str | None = None
    subresource: str = ""
    group: str = ""
    namespace: str = ""
    name: str = ""


class Decision(NamedTuple):
    """The level, what to leave out, and the index of the rule that decided (None where no rule matched)."""

    level: Level
    omit_stages: frozenset[str]
    omit_managed_fields: bool
    rule: int | None


def decide(policy: Policy, request: Attributes) -> Decision:
    """The policy's decision on one request. Source: policyRuleEvaluator.EvaluatePolicyRule."""
    for index, rule in enumerate(policy.rules):
        if matches(rule, request):
            managed = rule.omit_managed_fields
            return Decision(
                Level.parse(rule.level),
                frozenset(policy.omit_stages) | frozenset(rule.omit_stages),
                policy.omit_managed_fields if managed is None else managed,
                index,
            )
    return Decision(Level.NONE, frozenset(policy.omit_stages), policy.omit_managed_fields, None)


def matches(rule: Rule, request: Attributes) -> bool:
    """Whether the rule applies to the request. Source: ruleMatches."""
    if not _matches_user(rule, request):
        return False
    if rule.verbs and request.verb not in rule.verbs:
        return False
    if rule.namespaces or rule.resources:
        return _matches_resource(rule, request)
    if rule.non_resource_urls:
        return request.resource is None and any(_path_matches(request.path, spec) for spec in rule.non_resource_urls)
    return True


def _matches_user(rule: Rule, request: Attributes) -> bool:
    if rule.users and (request.user is None or request.user not in rule.users):
        return False
    if not rule.user_groups:
        return True
    return request.user is not None and any(group in rule.user_groups for group in request.groups)


def _path_matches(path: str, spec: str) -> bool:
    """Source: pathMatches. A trailing `*` matches any rest; `*` alone every path."""
    if spec.endswith("*"):
        return path.startswith(spec.rstrip("*"))
    return path == spec


def _matches_resource(rule: Rule, request: Attributes) -> bool:
    """Source: ruleMatchesResource. Namespace "" selects requests outside of namespaces."""
    if request.resource is None:
        return False
    if rule.namespaces and request.namespace not in rule.namespaces:
        return False
    if not rule.resources:
        return True
    return any(_matches_group(entry, request) for entry in rule.resources)


def _matches_group(entry: GroupResources, request: Attributes) -> bool:
    if entry.group not in ("*", request.group):
        return False
    if not entry.resources:
        return True
    if entry.resource_names and request.name not in entry.resource_names:
        return False
    return any(_resource_matches(request, wanted) for wanted in entry.resources)


def _resource_matches(request: Attributes, wanted: str) -> bool:
    resource, subresource = request.resource, request.subresource
    combined = f"{resource}/{subresource}" if subresource else resource
    if wanted in ("*", combined):
        return True
    if subresource and wanted == f"*/{subresource}":
        return True
    return wanted == f"{resource}/*"


def widest(policy: Policy) -> Level:
    """The highest level that any rule asks for."""
    return max((Level.parse(rule.level) for rule in policy.rules), default=Level.NONE)


def wanted_stages(policy: Policy) -> tuple[str, ...]:
    """The stages that at least one recording rule wants, in the API's order."""
    recording = [rule for rule in policy.rules if rule.level != "None"]
    return tuple(
        stage
        for stage in STAGES
        if stage not in policy.omit_stages and any(stage not in rule.omit_stages for rule in recording)
    )


def validate(policy: Policy, path: str) -> list[Invalid]:
    """Every reason why kube-apiserver would refuse the policy. Source: pkg/apis/audit/validation/validation.go."""
    problems = _validate_stages(policy.omit_stages, f"{path}.omitStages")
    for index, rule in enumerate(policy.rules):
        problems += _validate_rule(rule, f"{path}.rules[{index}]")
    return problems


def _validate_rule(rule: Rule, path: str) -> list[Invalid]:
    problems: list[Invalid] = []
    if rule.level not in _LEVELS:
        problems.append(Invalid(f"{path}.level", f"{rule.level!r} is not one of {', '.join(_LEVELS)}"))
    for index, url in enumerate(rule.non_resource_urls):
        problems += _validate_url(url, f"{path}.nonResourceURLs[{index}]")
    for entry in rule.resources:
        problems += _validate_resources(entry, f"{path}.resources")
    if rule.non_resource_urls and (rule.resources or rule.namespaces):
        problems.append(
            Invalid(f"{path}.nonResourceURLs", "rules cannot apply to both regular resources and non-resource URLs")
        )
    return problems + _validate_stages(rule.omit_stages, f"{path}.omitStages")


def _validate_url(url: str, path: str) -> list[Invalid]:
    problems: list[Invalid] = []
    if url == "*":
        return problems
    if not url.startswith("/"):
        problems.append(Invalid(path, f"{url!r} must begin with '/'"))
    if "*" in url[:-1]:
        problems.append(Invalid(path, f"{url!r}: the wildcard '*' must be the final character"))
    return problems


def _validate_resources(entry: GroupResources, path: str) -> list[Invalid]:
    problems: list[Invalid] = []
    if entry.group not in ("", "*") and not (_SUBDOMAIN.fullmatch(entry.group) and len(entry.group) <= 253):
        problems.append(Invalid(f"{path}.group", f"{entry.group!r} is no API group name: leave out the version"))
    if entry.resource_names and not entry.resources:
        problems.append(Invalid(f"{path}.resourceNames", "using resourceNames requires at least one resource"))
    return problems


def _validate_stages(stages: tuple[str, ...], path: str) -> list[Invalid]:
    return [
        Invalid(f"{path}[{index}]", f"{stage!r}: allowed stages are {', '.join(STAGES)}")
        for index, stage in enumerate(stages)
        if stage not in STAGES
    ]
