"""What the installation grants to the operator, and which of it kube-apiserver's audit log shows as used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.manifests.render import INSTALL, NAMESPACE

OPERATOR = f"system:serviceaccount:{NAMESPACE}:auditpipeline-operator"
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "Metadata", "users": [OPERATOR]}, {"level": "None"}],
}


class Right(NamedTuple):
    """One verb on one resource (or path), in a namespace or, if that is "", anywhere; `name` is "" for any object."""

    namespace: str
    group: str
    resource: str
    verb: str
    name: str = ""

    def covers(self, used: Right) -> bool:
        """Whether a request is one that this right is for."""
        if self.resource.startswith("/"):
            return self.verb == used.verb and fnmatchcase(used.resource, self.resource)
        place, name = self.namespace or used.namespace, self.name or used.name
        return used == self._replace(namespace=place, name=name)


def granted(objects: list[dict[str, Any]]) -> set[Right]:
    """Every right that the objects bind to somebody, one by one."""
    bound = {(obj["roleRef"]["kind"], obj["roleRef"]["name"]) for obj in objects if obj["kind"].endswith("RoleBinding")}
    return {
        right
        for role in objects
        if (role["kind"], role.get("metadata", {}).get("name")) in bound
        for rule in role["rules"]
        for right in _rights(role["metadata"].get("namespace", ""), rule)
    }


def _rights(namespace: str, rule: dict[str, Any]) -> Iterator[Right]:
    for verb in rule["verbs"]:
        for path in rule.get("nonResourceURLs", ()):
            yield Right("", "", path, verb)
        for group in rule.get("apiGroups", ()):
            for resource in rule.get("resources", ()):
                for name in rule.get("resourceNames", ("",)):
                    yield Right(namespace, group, resource, verb, name)


def installed() -> list[dict[str, Any]]:
    """The objects of manifests/install, as `kubectl apply -k` makes them."""
    return [found for found in yaml.safe_load_all((INSTALL / "auditpipeline.yaml").read_text()) if found]


def used(log: Path) -> set[Right]:
    """The rights that the operator's requests needed, by the audit log of kube-apiserver."""
    return {right for event in _events(log) if not refused(event) for right in _needed(event)}


def unused(rights: set[Right], requests: set[Right]) -> set[Right]:
    """The rights that none of the requests needed."""
    return {right for right in rights if not any(right.covers(request) for request in requests)}


def refusals(log: Path) -> set[Right]:
    """The rights that the operator lacked."""
    return {right for event in _events(log) if refused(event) for right in _needed(event)}


def refused(event: dict[str, Any]) -> bool:
    """Whether RBAC (or admission) said no."""
    return bool(event.get("responseStatus", {}).get("code") == 403)


def _events(log: Path) -> list[dict[str, Any]]:
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _needed(event: dict[str, Any]) -> Iterator[Right]:
    reference, verb = event.get("objectRef"), event["verb"]
    if reference is None:
        yield Right("", "", event["requestURI"].partition("?")[0], verb)
        return
    resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
    namespace = reference.get("namespace", "")
    right = Right(namespace, reference.get("apiGroup", ""), resource, verb, reference.get("name", ""))
    yield right
    if (
        verb == "patch" and event.get("responseStatus", {}).get("code") == 201
    ):  # server-side apply of what was not there
        yield right._replace(verb="create")
