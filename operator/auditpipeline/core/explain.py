"""Why a policy decides as it does: the deciding rule, and the first thing in each earlier rule that did not match.

`reason` follows `policy.matches` part by part; a test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from auditpipeline.core.errors import Invalid
from auditpipeline.core.event import Head, narrow
from auditpipeline.core.kinds import GROUPS, SUBRESOURCES, group_of
from auditpipeline.core.policy import STAGES, Attributes, Decision, Policy, Rule, decide, matches

_SHOWN = 4
_ANONYMOUS = "system:anonymous"
_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):[^:]+")


class Explanation(NamedTuple):
    """A decision, and for each rule before the deciding one why it did not match."""

    request: Attributes
    decision: Decision
    reasons: tuple[str, ...]


class Answer(NamedTuple):
    """What a policy makes of one event that has been captured."""

    audit_id: str
    stage: str
    level: str
    rule: int | None
    omit_stages: tuple[str, ...]
    omit_managed_fields: bool
    recorded: bool

    def fields(self) -> dict[str, object]:
        """As `policy explain --events --output json` prints it."""
        return {
            "auditID": self.audit_id,
            "stage": self.stage,
            "level": self.level,
            "rule": self.rule,
            "omitStages": list(self.omit_stages),
            "omitManagedFields": self.omit_managed_fields,
            "recorded": self.recorded,
        }


def explain(policy: Policy, request: Attributes) -> Explanation:
    """The policy's decision on the request, and why not an earlier one."""
    decision = decide(policy, request)
    before = policy.rules if decision.rule is None else policy.rules[: decision.rule]
    return Explanation(request, decision, tuple(reason(rule, request) for rule in before))


def answer(policy: Policy, head: Head) -> Answer:
    """What is left of a captured event: a receiver can only take away."""
    decision = decide(policy, head.request)
    return Answer(
        head.audit_id,
        head.stage,
        min(head.level, decision.level).title,
        decision.rule,
        ordered(decision.omit_stages),
        decision.omit_managed_fields,
        narrow(head, (policy,)) is not None,
    )


def ordered(stages: frozenset[str]) -> tuple[str, ...]:
    """The stages in the API's order."""
    return tuple(stage for stage in STAGES if stage in stages)


def reason(rule: Rule, request: Attributes) -> str:
    """The first part of the rule that does not match the request; "" where it matches."""
    if matches(rule, request):
        return ""
    if rule.users and (request.user is None or request.user not in rule.users):
        return f"users: {_nobody(request)} is not {_one_of(rule.users)}"
    if rule.user_groups and (request.user is None or not set(request.groups) & set(rule.user_groups)):
        groups = f"none of {', '.join(request.groups)}" if request.groups and request.user is not None else "no group"
        return f"userGroups: {groups} is {_one_of(rule.user_groups)}"
    if rule.verbs and request.verb not in rule.verbs:
        return f"verbs: {request.verb or 'no verb'} is not {_one_of(rule.verbs)}"
    return _no_resource(rule, request) if rule.namespaces or rule.resources else _no_path(rule, request)


def _no_path(rule: Rule, request: Attributes) -> str:
    if request.resource is not None:
        return "nonResourceURLs: this is a request for a resource, not for a path"
    return f"nonResourceURLs: {request.path} is not {_one_of(rule.non_resource_urls)}"


def _nobody(request: Attributes) -> str:
    return "a request without a user" if request.user is None else repr(request.user)


def _no_resource(rule: Rule, request: Attributes) -> str:
    if request.resource is None:
        field = "resources" if rule.resources else "namespaces"
        return f"{field}: this is a request for a path, not for a resource"
    if rule.namespaces and request.namespace not in rule.namespaces:
        return f"namespaces: {request.namespace or 'no namespace'} is not {_one_of(rule.namespaces)}"
    groups = [entry for entry in rule.resources if entry.group in ("*", request.group)]
    if not groups:
        return f"resources: group {_shown(request.group)} is not {_one_of([entry.group for entry in rule.resources])}"
    named = [
        entry
        for entry in groups
        if not (entry.resources and entry.resource_names) or request.name in entry.resource_names
    ]
    if not named:
        names = [name for entry in groups for name in entry.resource_names]
        return f"resourceNames: {request.name or 'no name'} is not {_one_of(names)}"
    listed = [resource for entry in named for resource in entry.resources]
    return f"resources: {full_resource(request)} is not {_one_of(listed)}"


def _one_of(values: Sequence[str]) -> str:
    shown = ", ".join(_shown(value) for value in values[:_SHOWN])
    more = f" or {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return shown if len(values) == 1 else f"one of {shown}{more}"


def _shown(value: str) -> str:
    return value or '""'


def full_resource(request: Attributes) -> str:
    """`pods/log`, as a rule names it."""
    return f"{request.resource}/{request.subresource}" if request.subresource else str(request.resource)


def sentence(request: Attributes) -> str:
    """The request in one line, with everything that a policy looks at."""
    if request.resource is None:
        what = request.path
    else:
        group = f".{request.group}" if request.group else ""
        resource, slash, subresource = full_resource(request).partition("/")
        what = f"{resource}{group}{slash}{subresource}"
        what += f" {request.name}" if request.name else ""
        what += f" in namespace {request.namespace}" if request.namespace else ""
    groups = f" (groups: {', '.join(request.groups)})" if request.groups else ""
    return f"{request.verb or 'no verb'} {what} by {request.user or 'nobody'}{groups}"


def summary(rule: Rule) -> str:
    """The rule in one line."""
    parts = [f"{name} {', '.join(map(_shown, values))}" for name, values in _conditions(rule) if values]
    return f"{rule.level}: {'; '.join(parts)}" if parts else f"{rule.level}: everything"


def _conditions(rule: Rule) -> list[tuple[str, Sequence[str]]]:
    resources = []
    for entry in rule.resources:
        names = f" named {', '.join(entry.resource_names)}" if entry.resource_names else ""
        listed = ", ".join(entry.resources) or "everything"
        resources.append(f"{listed}{names} of {_shown(entry.group)}")
    return [
        ("users", rule.users),
        ("groups", rule.user_groups),
        ("verbs", rule.verbs),
        ("resources", resources),
        ("namespaces", rule.namespaces),
        ("paths", rule.non_resource_urls),
    ]


def identity(user: str | None, groups: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """User and groups as kube-apiserver has them after authentication: it adds the groups that follow from the user.

    Source: k8s.io/apiserver/pkg/endpoints/filters/impersonation.go.
    """
    if user is None:
        return None, ()
    found = list(groups)
    account = _ACCOUNT.fullmatch(user)
    if account and not found:
        found += ["system:serviceaccounts", f"system:serviceaccounts:{account[1]}"]
    implied = "system:unauthenticated" if user == _ANONYMOUS else "system:authenticated"
    return user, tuple(found if implied in found else [*found, implied])


def request_for(  # noqa: PLR0913
    verb: str,
    target: str,
    *,
    user: str | None = None,
    groups: Sequence[str] = (),
    namespace: str = "",
    subresource: str = "",
    group: str | None = None,
    name: str = "",
) -> Attributes:
    """The request that `kubectl auth can-i` would mean by VERB and TARGET: RESOURCE, RESOURCE/NAME or a path.

    A resource may have its group behind a dot (`deployments.apps`); where there is none, Kubernetes' own groups are
    looked up. Invalid where a path is given what only a resource has.
    """
    who, membership = identity(user, groups)
    if target.startswith("/"):
        if namespace or subresource or group or name:
            raise Invalid("", f"{target} is a path, which has no namespace, subresource, API group or name")
        return Attributes(who, membership, verb, target)
    resource, _, given = target.partition("/")
    resource, dot, suffix = resource.partition(".")
    api_group = group if group is not None else suffix if dot else group_of(resource)
    return Attributes(
        who,
        membership,
        verb,
        path="",
        resource=resource,
        subresource=subresource,
        group=api_group,
        namespace=namespace,
        name=name or given,
    )


def likely_subresource(request: Attributes) -> bool:
    """Whether RESOURCE/NAME looks as if RESOURCE/SUBRESOURCE was meant."""
    known = GROUPS.get(request.group, {}).get(request.resource or "", SUBRESOURCES)
    return not request.subresource and request.name in known
