"""What the cluster can do, asked of its discovery documents: four requests at most."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

from auditpipeline.control import names
from auditpipeline.control.kube import Forbidden, Kube
from auditpipeline.control.resources import BUDGETS, CRDS, EVENTS, Features, Resource


async def discover(kube: Kube) -> Features:
    """The cluster's features; Retryable while the API server does not answer."""
    version = await kube.raw("/version") or {}
    groups = await kube.raw("/apis") or {}
    minor = _minor(version)
    served = {entry["groupVersion"] for group in groups.get("groups", ()) for entry in group["versions"]}
    sinks, rules = await _sinks(kube, served)
    return Features(
        sinks=sinks,
        sink_rules=rules,
        claim_retention=minor >= 27,
        seccomp=minor >= 19,
        budgets=_served(BUDGETS, served),
        events=_served(EVENTS, served),
    )


async def _sinks(kube: Kube, served: set[str]) -> tuple[Literal["builtin", "crd", "absent"], bool]:
    """A CRD object of that name means ours (or one like it); the API without one means kube-apiserver's own."""
    if names.SINK_API_VERSION not in served:
        return "absent", False
    try:
        crd = await kube.get(CRDS, names.SINK_CRD)
    except Forbidden:
        # Without permission to look, 1.19 and newer can only have a CRD.
        return "crd", False
    return ("crd", "rules" in _policy_fields(crd)) if crd else ("builtin", False)


def _policy_fields(crd: dict[str, Any]) -> dict[str, Any]:
    versions = [entry for entry in crd["spec"]["versions"] if entry["name"] == "v1alpha1"]
    node: Any = versions[0]["schema"]["openAPIV3Schema"] if versions else {}
    for step in ("spec", "policy"):
        node = node.get("properties", {}).get(step, {})
    fields: dict[str, Any] = node.get("properties", {})
    return fields


def _served(kind: Resource, served: set[str]) -> Resource:
    return kind if kind.api_version in served else replace(kind, version="v1beta1")


def _minor(version: dict[str, Any]) -> int:
    found = re.match(r"\d+", str(version.get("minor", "")))
    return int(found[0]) if found else 99
