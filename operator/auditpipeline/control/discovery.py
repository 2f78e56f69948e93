"""What the cluster can do, asked of its discovery documents: three requests as a rule, seven where it can do less.

An API server that is starting serves some of what it will serve. A cluster that can do all that the controller knows of
is believed at once; that something is missing only of an API server that says of itself that it is ready, and only
where it says so twice. What contradicts itself (a CRD whose kind is not served, a release that is too new for what it
serves) is Retryable: too little would be taken away from objects that are in force.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import Any, Literal

from auditpipeline.control import names
from auditpipeline.control.kube import Forbidden, Kube, NotFound
from auditpipeline.control.resources import BUDGETS, CRDS, EVENTS, Features, Resource
from auditpipeline.core.errors import Retryable

NO_BUILTIN, NO_BETA = 19, 21
"""The first minor releases of Kubernetes without an AuditSink of its own, and with the v1 of every kind in use."""


async def discover(kube: Kube) -> Features:
    """The cluster's features; Retryable while the API server does not answer, or is not to be believed yet."""
    found = await _look(kube)
    if _complete(found):
        return found
    with contextlib.suppress(NotFound):  # before 1.16
        await kube.plain("/readyz")
    if await _look(kube) != found:
        raise Retryable("discovery: what the API server serves is changing")
    return found


def _complete(found: Features) -> bool:
    return found.sinks == "crd" and found.sink_rules and (found.budgets, found.events) == (BUDGETS, EVENTS)


async def _look(kube: Kube) -> Features:
    version = await kube.raw("/version") or {}
    groups = await kube.raw("/apis") or {}
    minor = _minor(version)
    served = {entry["groupVersion"] for group in groups.get("groups", ()) for entry in group["versions"]}
    sinks, rules = await _sinks(kube, served, minor)
    return Features(
        sinks=sinks,
        sink_rules=rules,
        claim_retention=minor >= 27,
        seccomp=minor >= 19,
        budgets=_served(BUDGETS, served, old=minor < NO_BETA),
        events=_served(EVENTS, served, old=minor < NO_BETA),
    )


async def _sinks(kube: Kube, served: set[str], minor: int) -> tuple[Literal["builtin", "crd", "absent"], bool]:
    """A CRD object of that name means ours (or one like it); the API without one means kube-apiserver's own."""
    there = names.SINK_API_VERSION in served
    try:
        crd = await kube.get(CRDS, names.SINK_CRD)
    except Forbidden:
        # Without permission to look, 1.19 and newer can only have a CRD.
        return ("crd", False) if there else ("absent", False)
    if crd and not there and _established(crd):
        raise Retryable(f"discovery: CRD {names.SINK_CRD} is there, and its kind is not served yet")
    if there and crd is None and minor >= NO_BUILTIN:
        raise Retryable(f"discovery: AuditSink is served, and there is no CRD {names.SINK_CRD}")
    if not there:
        return "absent", False
    return ("crd", "rules" in _policy_fields(crd)) if crd else ("builtin", False)


def _established(crd: dict[str, Any]) -> bool:
    """Whether nothing speaks against the kind being served: its names are its own, and it is not being deleted."""
    conditions = {entry["type"]: entry["status"] for entry in crd.get("status", {}).get("conditions", ())}
    return conditions.get("NamesAccepted") != "False" and "deletionTimestamp" not in crd.get("metadata", {})


def _policy_fields(crd: dict[str, Any]) -> dict[str, Any]:
    versions = [entry for entry in crd["spec"]["versions"] if entry["name"] == "v1alpha1"]
    node: Any = versions[0]["schema"]["openAPIV3Schema"] if versions else {}
    for step in ("spec", "policy"):
        node = node.get("properties", {}).get(step, {})
    fields: dict[str, Any] = node.get("properties", {})
    return fields


def _served(kind: Resource, served: set[str], *, old: bool) -> Resource:
    """The version of a kind that is served; `old` says whether this release may have nothing but the former one."""
    former = replace(kind, version="v1beta1")
    if kind.api_version in served:
        return kind
    if not old or former.api_version not in served:
        raise Retryable(f"discovery: {kind.api_version} is not served yet")
    return former


def _minor(version: dict[str, Any]) -> int:
    found = re.match(r"\d+", str(version.get("minor", "")))
    return int(found[0]) if found else 99
