"""Whose an object is, and whether it may be applied. Pure.

A child of a pipeline belongs to it if the child has an owner reference with the pipeline's UID. An object of the
operator's own (certificates, the gateway's configuration, what is published) has no owner: it belongs to the operator
if it has our label `app.kubernetes.io/managed-by` and no controller. That sign survives backup and restore, which
managedFields do not.

    manifest                         the object in the cluster             whose
    owned by UID 1, pipeline shop    owned by UID 1                        OURS
                                     owned by UID 0, pipeline shop         FORMER: Kubernetes is about to delete it
                                     anything else                         FOREIGN: nothing of it is touched
    without owner                    our label, no controller              OURS, else FOREIGN
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from auditpipeline.control import names
from auditpipeline.core.errors import Permanent

ABSENT = "1"
"""A resourceVersion that no object has: etcd counts from 1 before anything is stored. An apply that names it creates an
object and never changes one: for an object that exists, the API server answers 409."""

Meta = Mapping[str, Any]


class NameTaken(Permanent):
    """Somebody else's object has the name of one of ours."""


class Whose(enum.Enum):
    """The owner of an object that has the name of one of ours."""

    OURS = enum.auto()
    FORMER = enum.auto()
    FOREIGN = enum.auto()


def whose(manifest: Mapping[str, Any], body: Mapping[str, Any]) -> Whose:
    """Whose `body` is, which has the name of `manifest`."""
    wanted, found = owner(manifest["metadata"]), owner(body["metadata"])
    if not wanted:
        return Whose.OURS if managed(body["metadata"]) else Whose.FOREIGN
    if found and found["uid"] == wanted["uid"]:
        return Whose.OURS
    return Whose.FORMER if found and found.get("name") == wanted["name"] else Whose.FOREIGN


def owner(meta: Meta) -> Meta | None:
    """The reference to the AuditPipeline that owns an object; None if it has none, or another controller."""
    references = meta.get("ownerReferences") or ()
    controllers = [reference for reference in references if reference.get("controller")]
    return next((reference for reference in controllers or references if _is_pipeline(reference)), None)


def managed(meta: Meta) -> bool:
    """Whether an object without an owner is the operator's."""
    return (meta.get("labels") or {}).get(names.MANAGED_BY) == names.MANAGER and not controller(meta)


def controller(meta: Meta) -> str:
    """The UID of what controls an object; "" if nothing does."""
    references = meta.get("ownerReferences") or ()
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), "")


def taken(manifest: Mapping[str, Any]) -> NameTaken:
    """The error for a name that is somebody else's; it says what to do."""
    meta, reference = manifest["metadata"], owner(manifest["metadata"])
    place = f"{meta['namespace']}/" if meta.get("namespace") else ""
    what = f"{manifest['kind']} {place}{meta['name']}"
    if reference:
        advice = "delete or rename that object, or give the pipeline another name"
        return NameTaken(f"{what} exists and does not belong to this AuditPipeline: nothing of it is changed; {advice}")
    advice = f"delete or rename it, or label it {names.OURS} if it is the operator's"
    return NameTaken(f"{what} exists and is not the operator's: nothing of it is changed; {advice}")


def _is_pipeline(reference: Meta) -> bool:
    group = str(reference.get("apiVersion", "")).partition("/")[0]
    return group == names.GROUP and reference.get("kind") == "AuditPipeline"
