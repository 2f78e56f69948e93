"""The kinds that the controller reads and writes, and what a cluster can do: values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from auditpipeline.control import names
from auditpipeline.core.errors import Invalid


@dataclass(frozen=True)
class Resource:
    """One kind: where the API serves it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As manifests say it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, name: str = "", namespace: str | None = None, subresource: str = "") -> str:
        """The URL's path of the collection, of one object or of its subresource; Invalid where an object cannot be
        called so. A name may be a user's: it stays one segment of the path, whatever is in it."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", _segment(namespace)]
        return "/" + "/".join([*parts, self.plural, *(_segment(part) for part in (name, subresource) if part)])


def _segment(name: str) -> str:
    """Source: k8s.io/apimachinery/pkg/api/validation/path. Clients clean dots away, quoted or not."""
    if name in (".", ".."):
        raise Invalid("", f"{name!r} is no name of an object")
    return quote(name, safe="")


PIPELINES = Resource(names.GROUP, "v1alpha1", "auditpipelines", "AuditPipeline", namespaced=False)
SINKS = Resource(names.SINK_GROUP, "v1alpha1", "auditsinks", "AuditSink", namespaced=False)
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICES = Resource("", "v1", "services", "Service")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
PODS = Resource("", "v1", "pods", "Pod")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
STATEFULSETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
CORE_EVENTS = Resource("", "v1", "events", "Event")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
SELF_REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

CHILDREN = (SECRETS, ACCOUNTS, SERVICES, NETWORK_POLICIES, BUDGETS, STATEFULSETS)
"""The namespaced children of a pipeline, in the order in which they are applied."""


@dataclass(frozen=True)
class Features:
    """What this cluster offers; found by discovery, never guessed from a configuration.

    `sinks` says who serves AuditSink: kube-apiserver itself (1.13-1.18), our CRD, or nobody. `claim_retention` and
    `seccomp` are fields that older API servers refuse in a server-side apply.
    """

    sinks: Literal["builtin", "crd", "absent"] = "crd"
    sink_rules: bool = True
    claim_retention: bool = True
    seccomp: bool = True
    budgets: Resource = BUDGETS
    events: Resource = EVENTS

    @property
    def children(self) -> tuple[Resource, ...]:
        """CHILDREN, in the versions that this cluster serves."""
        return tuple(self.budgets if kind is BUDGETS else kind for kind in CHILDREN)

    def resource(self, manifest: dict[str, Any]) -> Resource:
        """The kind of a manifest that the controller rendered."""
        for kind in (*self.children, SINKS):
            if (kind.api_version, kind.kind) == (manifest["apiVersion"], manifest["kind"]):
                return kind
        raise ValueError(f"{manifest['kind']} is no child of a pipeline")
