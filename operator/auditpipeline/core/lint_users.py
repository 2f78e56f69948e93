"""What the linter says of users and groups: ServiceAccounts misspelt, users among groups, groups among users.

Source of the names: k8s.io/apiserver/pkg/authentication/serviceaccount/util.go and user/user.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from auditpipeline.core.finding import Finding
from auditpipeline.core.policy import Rule

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_USER = re.compile(rf"system:serviceaccount:{_LABEL}:{_LABEL}(\.{_LABEL})*")
_GROUP = re.compile(rf"system:serviceaccounts(:{_LABEL})?")
_ALIKE = re.compile(r"(system[:/.]?)?service-?_?accounts?[:/.].*", re.IGNORECASE)
_GROUPS = ("system:masters", "system:authenticated", "system:unauthenticated", "system:nodes", "system:bootstrappers")
_USERS = (
    "system:anonymous",
    "system:apiserver",
    "system:kube-proxy",
    "system:kube-controller-manager",
    "system:kube-scheduler",
)


def users(rule: Rule, path: str) -> Iterator[Finding]:
    """What is misspelt in `users` and `userGroups` of one rule."""
    for number, user in enumerate(rule.users):
        yield from _user(user, f"{path}.users[{number}]")
    for number, group in enumerate(rule.user_groups):
        yield from _group(group, f"{path}.userGroups[{number}]")


def _user(user: str, path: str) -> Iterator[Finding]:
    if "*" in user:
        yield _no_wildcard("users", user, path)
    elif user in _GROUPS or _GROUP.fullmatch(user):
        yield Finding("AP207", path, f"{user!r} is a group, and no user has this name", f"userGroups: [{user!r}]")
    elif _is_alike(user) and not _USER.fullmatch(user):
        message = f"{user!r} is not how a ServiceAccount is called as a user"
        yield Finding("AP206", path, message, _corrected(user))


def _group(group: str, path: str) -> Iterator[Finding]:
    if "*" in group:
        yield _no_wildcard("userGroups", group, path)
    elif group in _USERS or group.startswith("system:node:") or _USER.fullmatch(group):
        yield Finding("AP207", path, f"{group!r} is a user, and no group has this name", f"users: [{group!r}]")
    elif _is_alike(group) and not _GROUP.fullmatch(group):
        message = f"{group!r} is not how the ServiceAccounts of a namespace are called as a group"
        parts = [part for part in re.split(r"[:/]", group) if part and not _is_word(part)]
        fix = f"system:serviceaccounts:{parts[0]}" if parts else "system:serviceaccounts, or with :NAMESPACE"
        yield Finding("AP206", path, message, fix)


def _is_alike(name: str) -> bool:
    return bool(_ALIKE.fullmatch(name)) or bool(re.fullmatch(r"system:service-?_?accounts?", name, re.IGNORECASE))


def _is_word(part: str) -> bool:
    return bool(re.fullmatch(r"system|service-?_?accounts?", part, re.IGNORECASE))


def _corrected(user: str) -> str:
    parts = [part.lower() for part in re.split(r"[:/]", user) if part and not _is_word(part)]
    if len(parts) == 2:
        return "system:serviceaccount:" + ":".join(parts)
    return "system:serviceaccount:NAMESPACE:NAME"


def _no_wildcard(field: str, value: str, path: str) -> Finding:
    fix = f"no {field} at all to match every one"
    if value.startswith("system:serviceaccount:"):
        fix = "userGroups: [system:serviceaccounts:NAMESPACE] for all of a namespace"
    elif value.startswith("system:node:"):
        fix = "userGroups: [system:nodes]"
    elif value != "*":
        fix = "each of them in full, or a group that they have in common"
    return Finding("AP208", path, f"{field} knows no wildcard, so {value!r} is taken as it stands", fix)
