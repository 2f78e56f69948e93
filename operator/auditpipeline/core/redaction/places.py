"""The list: every place where an event may hold a secret, one line a kind. Names of secrets are in `names`.

    Objects      objects that are secret as a whole, of these resources: what may stay is known, all else goes
    Key          what goes at any depth of an object that may hold a Pod template, by the key
    Annotation   an audit annotation, of requests for either of these
    Part         what the API server says of either of these, and the URI of every request

A resource is written as in an event's objectRef, `name` or `name/subresource`, and is of any API group. A new kind is
one line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from auditpipeline.core.redaction.layers import Raw, Shape
from auditpipeline.core.redaction.shapes import (
    AGAIN,
    KEEP,
    MASK,
    Arguments,
    Each,
    Environment,
    Fields,
    Mask,
    Message,
    Nested,
    Selective,
    Word,
)
from auditpipeline.core.redaction.taking import Taker

LAST_APPLIED, KAPP = "kubectl.kubernetes.io/last-applied-configuration", "kapp.k14s.io/original"
APPLIED = (LAST_APPLIED, KAPP)
"""Annotations with an object as it was applied."""


@dataclass(frozen=True)
class Secret(Selective):
    """A Secret, a list or a Table of Secrets, or a patch of one. All that is not known goes, as a patch may hold a
    value under any key. `annotations` are the shapes of those that are taken; AGAIN is this shape as JSON in a text."""

    annotations: tuple[tuple[str, Shape], ...] = ()
    _fields: Shape = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        annotations = {key: Nested(self) if shape is AGAIN else shape for key, shape in self.annotations}
        known: dict[str, Shape] = {
            **dict.fromkeys(("apiVersion", "kind", "type", "immutable", "$patch", "$retainKeys"), KEEP),
            **dict.fromkeys(_OPTIONS, KEEP),
            "metadata": Fields({"annotations": Fields(annotations)}),
            "data": Mask(in_base64=True),
            "items": Each(self),
            "columnDefinitions": KEEP,
            "rows": Each(Fields({"cells": KEEP, "conditions": KEEP, "object": self}, MASK)),
        }
        object.__setattr__(self, "_fields", Fields(known, MASK))

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """What may stay of it."""
        return self._fields.apply(value, taker)

    def member(self, key: str) -> Shape:
        """By the key."""
        return self._fields.member(key)


_OPTIONS = ("gracePeriodSeconds", "preconditions", "propagationPolicy", "orphanDependents", "dryRun")
"""Of DeleteOptions."""


def status(thorough: bool) -> Shape:
    """Says what is taken of a Status: what it says, and of details what each cause says."""
    says, word = Message(thorough), ("name", "group", "kind", "uid", "retryAfterSeconds")
    cause = Fields({"reason": KEEP, "field": KEEP, "message": says}, MASK)
    return Fields(
        {
            **dict.fromkeys(("kind", "apiVersion", "metadata", "reason", "code"), KEEP),
            "status": Word(("Success", "Failure")),
            "message": says,
            "details": Fields({**dict.fromkeys(word, KEEP), "causes": Each(cause)}, MASK),
        },
        MASK,
    )


@dataclass(frozen=True)
class Objects:
    """Objects of these resources."""

    name: str
    resources: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True)
class Key:
    """What has this key, at any depth. `secrets`: in the annotations of Secrets, too."""

    name: str
    key: str
    shape: Shape
    secrets: bool = False


@dataclass(frozen=True)
class Annotation:
    """Audit annotations whose names begin so. `within` says which part of the JSON in them is a patch of the object
    (and of its shape), `shape` what is taken of the rest."""

    name: str
    begins: str
    within: str = ""
    shape: Shape = KEEP


@dataclass(frozen=True)
class Part:
    """Another part of an event."""

    name: str
    part: Literal["status", "uri"]


Place = Objects | Key | Annotation | Part
PLACES: tuple[Place, ...] = (
    Objects("values of Secrets", ("secrets",), Secret()),
    Objects(
        "issued tokens", ("serviceaccounts/token",), Fields({"status": Fields({"expirationTimestamp": KEEP}, MASK)})
    ),
    Objects("tokens to review", ("tokenreviews",), Fields({"spec": Fields({"audiences": KEEP}, MASK)})),
    Key("environment", "env", Environment()),
    Key("arguments", "args", Arguments()),
    Key("commands", "command", Arguments()),
    Key("headers", "httpHeaders", Environment(headers=True)),
    Key("applied objects", LAST_APPLIED, AGAIN, secrets=True),
    Key("objects that kapp applied", KAPP, AGAIN, secrets=True),
    Key("objects that Rancher applied", "objectset.rio.cattle.io/applied", MASK, secrets=True),
    Key("objects that Banzai Cloud applied", "banzaicloud.com/last-applied", MASK, secrets=True),
    Key("tokens in annotations", "openshift.io/token-secret.value", MASK, secrets=True),
    Annotation("patches by webhooks", "patch.webhook.admission.k8s.io/", within="patch"),
    Annotation(
        "refusals by policies",
        "validation.policy.admission.k8s.io/validation_failure",
        shape=Each(Fields({"message": Message(thorough=True)})),
    ),
    Part("messages", "status"),
    Part("URIs", "uri"),
)
TEMPLATES = ("pods", "replicationcontrollers", "podtemplates")
"""Resources of the core group that may hold a Pod template, with all subresources."""
TEMPLATE_GROUPS = ("apps", "batch", "extensions", "settings.k8s.io")
"""Kubernetes' own groups whose objects may."""
OTHER_GROUPS = (
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "auditregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "custom.metrics.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "external.metrics.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "gateway.networking.k8s.io",
    "internal.apiserver.k8s.io",
    "metrics.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "snapshot.storage.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
)
"""Kubernetes' own groups whose objects do not. Objects of all other groups may, whatever they are called."""


def may_hold_template(group: str, resource: str) -> bool:
    """Whether objects of a resource may hold a Pod template."""
    return group not in OTHER_GROUPS if group else resource in TEMPLATES


_ODD = ("controllerrevisions", "podpresets")
"""Their objects have a template, or a part of one, where others have none."""


def is_own(group: str, resource: str) -> bool:
    """Whether kube-apiserver knows what is in an object: it encodes what it has decoded, and nothing else. What a
    ControllerRevision holds is as its controller wrote it."""
    return (not group or group in TEMPLATE_GROUPS) and resource not in _ODD
