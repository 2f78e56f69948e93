"""What an audit policy decides, exactly as kube-apiserver decides it.

The first rule that matches wins; where none does, the level is None. Source of every comparison:
k8s.io/apiserver/pkg/audit/policy/checker.go. A rule with users or groups never matches a request without a user, and a
rule without resources and without nonResourceURLs matches both kinds of request.

The values here are the `audit.k8s.io/v1` Policy, field for field, so that a policy file, an AuditPipeline and an
AuditSink's `rules` are the same type.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec

from auditpipeline.core.apierror import invalid, not_supported, required, subdomain_problems
from auditpipeline.core.errors import Invalid

Stage = Literal["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]
STAGES: tuple[str, ...] = get_args(Stage)
Title = Literal["None", "Metadata", "Request", "RequestResponse"]


class Level(IntEnum):
    """How much of an event is recorded; each level holds all that the lower ones hold."""

    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3

    @property
    def title(self) -> Title:
        """The level's name in a policy."""
        return _TITLES[self]

    @classmethod
    def parse(cls, name: str) -> Level:
        """The level of that name; ValueError where there is none (an empty name included)."""
        if name not in _LEVELS:
            raise ValueError(f"unknown level {name!r}: use None, Metadata, Request or RequestResponse")
        return _LEVELS[name]


_TITLES: dict[Level, Title] = dict(zip(Level, get_args(Title), strict=True))
_LEVELS = {title: level for level, title in _TITLES.items()}

Text = Annotated[str, msgspec.Meta(max_length=1024)]
Code = Annotated[int, msgspec.Meta(ge=100, le=599)]


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
    # Our own, unknown to kube-apiserver: events whose response has one of these codes are left out.
    omit_response_codes: tuple[Code, ...] = ()


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
    return decision_of(policy, next((i for i, rule in enumerate(policy.rules) if matches(rule, request)), None))


def decision_of(policy: Policy, index: int | None) -> Decision:
    """What the policy decides where the rule of that index is the first that matches; None: where no rule does."""
    if index is None:
        return Decision(Level.NONE, frozenset(policy.omit_stages), policy.omit_managed_fields, None)
    rule = policy.rules[index]
    stages = frozenset(policy.omit_stages) | frozenset(rule.omit_stages)
    managed = policy.omit_managed_fields if rule.omit_managed_fields is None else rule.omit_managed_fields
    return Decision(Level.parse(rule.level), stages, managed, index)


def matches(rule: Rule, request: Attributes) -> bool:
    """Whether the rule applies to the request. Source: ruleMatches."""
    if not _matches_user(rule, request) or (rule.verbs and request.verb not in rule.verbs):
        return False
    if rule.namespaces or rule.resources:
        return _matches_resource(rule, request)
    if rule.non_resource_urls:
        return request.resource is None and any(path_matches(request.path, spec) for spec in rule.non_resource_urls)
    return True


def _matches_user(rule: Rule, request: Attributes) -> bool:
    if rule.users and (request.user is None or request.user not in rule.users):
        return False
    if not rule.user_groups:
        return True
    return request.user is not None and any(group in rule.user_groups for group in request.groups)


def path_matches(path: str, spec: str) -> bool:
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
    if request.resource is None or not group_matches(entry.group, request.group):
        return False
    if not entry.resources:
        return True
    if entry.resource_names and request.name not in entry.resource_names:
        return False
    return any(resource_matches(wanted, request.resource, request.subresource) for wanted in entry.resources)


def group_matches(wanted: str, group: str) -> bool:
    """Whether an entry's group takes that API group; `*` takes every one (1.36)."""
    return wanted in ("*", group)


def resource_matches(wanted: str, resource: str, subresource: str) -> bool:
    """Whether one of an entry's resources takes that one: `pods`, `pods/log`, `pods/*` (pods too), `*/log` or `*`."""
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
    """Every reason why kube-apiserver would refuse the policy, in its own words and order.

    `path` is the policy's own field, as in `spec.policy`; empty for a policy file. Source:
    pkg/apis/audit/validation/validation.go.
    """
    prefix = f"{path}." if path else ""
    problems = _validate_stages(policy.omit_stages, f"{prefix}omitStages")
    for index, rule in enumerate(policy.rules):
        problems += _validate_rule(rule, f"{prefix}rules[{index}]")
    return problems


def _validate_rule(rule: Rule, path: str) -> list[Invalid]:
    problems: list[Invalid] = []
    if rule.level not in _LEVELS:
        field = f"{path}.level"
        problems.append(not_supported(field, rule.level, tuple(_LEVELS)) if rule.level else required(field))
    for index, url in enumerate(rule.non_resource_urls):
        problems += _validate_url(url, f"{path}.nonResourceURLs[{index}]")
    for entry in rule.resources:
        problems += _validate_resources(entry, f"{path}.resources")
    problems += _validate_stages(rule.omit_stages, f"{path}.omitStages")
    if rule.non_resource_urls and (rule.resources or rule.namespaces):
        detail = "rules cannot apply to both regular resources and non-resource URLs"
        problems.append(invalid(f"{path}.nonResourceURLs", rule.non_resource_urls, detail))
    return problems


def _validate_url(url: str, path: str) -> list[Invalid]:
    problems: list[Invalid] = []
    if url != "*" and not url.startswith("/"):
        problems.append(invalid(path, url, "non-resource URL rules must begin with a '/' character"))
    if "*" in url[:-1]:
        detail = "non-resource URL wildcards '*' must be the final character of the rule"
        problems.append(invalid(path, url, detail))
    return problems


def _validate_resources(entry: GroupResources, path: str) -> list[Invalid]:
    problems: list[Invalid] = []
    if entry.group not in ("", "*") and (reasons := subdomain_problems(entry.group)):
        problems.append(invalid(f"{path}.group", entry.group, ",".join(reasons)))
    if entry.resource_names and not entry.resources:
        detail = "using resourceNames requires at least one resource"
        problems.append(invalid(f"{path}.resourceNames", entry.resource_names, detail))
    return problems


def _validate_stages(stages: tuple[str, ...], path: str) -> list[Invalid]:
    detail = f"allowed stages are {','.join(STAGES)}"
    return [invalid(f"{path}[{i}]", stage, detail) for i, stage in enumerate(stages) if stage not in STAGES]
