"""What the installation grants is what a whole life cycle was run with, and nothing more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.control.test_reconcile_permissions import (
    API_SERVERS,
    CLUSTER,
    LEASES,
    PATHS,
    PUBLISHED,
    TARGET,
    TOLD,
    Rule,
)

FOR_PEOPLE = "auditpipeline-sink-urls"
"""A role that the installation brings and binds to nobody."""
INSTALL = Path(__file__).parents[2] / "manifests" / "install" / "auditpipeline.yaml"


def flat(rules: list[Rule]) -> set[tuple[str, str, str]]:
    return {(group, resource, verb) for group, resource, verbs in rules for verb in verbs.split()}


def granted(kind: str, *, lease: bool = False, namespace: str | None = None) -> set[tuple[str, str, str]]:
    roles: list[dict[str, Any]] = [
        found
        for found in yaml.safe_load_all(INSTALL.read_text())
        if found and found["kind"] == kind and found["metadata"]["name"] != FOR_PEOPLE
    ]
    return {
        (group, resource, verb)
        for role in roles
        if role["metadata"].get("namespace") == namespace
        for rule in role["rules"]
        if "resources" in rule and ("leases" in rule["resources"]) is lease
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_cluster_role_is_the_proven_one() -> None:
    """tests/control runs an operator with exactly these rights."""
    assert granted("ClusterRole") == flat(CLUSTER)
    roles = [found for found in yaml.safe_load_all(INSTALL.read_text()) if found and found["kind"] == "ClusterRole"]
    paths = [rule for role in roles for rule in role["rules"] if "nonResourceURLs" in rule]
    assert paths == [{"nonResourceURLs": PATHS, "verbs": ["get"]}]


def test_the_roles_are_the_proven_ones() -> None:
    """In the operator's namespace, for the Lease, and for Events of cluster-scoped objects."""
    namespace = "auditpipeline-system"
    assert granted("Role", namespace=namespace) == flat(TARGET + PUBLISHED)
    assert granted("Role", lease=True, namespace=namespace) == flat(LEASES)
    assert granted("Role", namespace="default") == flat(TOLD + API_SERVERS)


def test_nobody_is_given_the_role_for_urls() -> None:
    """It is the administrator's to give; no binding and no aggregation hands it on."""
    found = [each for each in yaml.safe_load_all(INSTALL.read_text()) if each]
    (role,) = [each for each in found if each["kind"] == "ClusterRole" and each["metadata"]["name"] == FOR_PEOPLE]
    assert role["rules"] == [
        {"apiGroups": ["auditregistration.k8s.io"], "resources": ["auditsinks/url"], "verbs": ["use"]}
    ]
    assert not [name for name in role["metadata"]["labels"] if name.startswith("rbac.authorization.k8s.io/")]
    assert not [each for each in found if each.get("roleRef", {}).get("name") == FOR_PEOPLE]
