"""Names, labels and paths that the controller and what it makes agree on."""

from __future__ import annotations

from typing import Any

from auditpipeline.core.spec import Pipeline

GROUP = "auditpipeline.dev"
API_VERSION = f"{GROUP}/v1alpha1"
SINK_GROUP = "auditregistration.k8s.io"
SINK_API_VERSION = f"{SINK_GROUP}/v1alpha1"
SINK_CRD = f"auditsinks.{SINK_GROUP}"
MANAGER = "auditpipeline"

MANAGED_BY = "app.kubernetes.io/managed-by"
APP = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
PIPELINE = f"{GROUP}/pipeline"
LABELS = frozenset({MANAGED_BY, APP, INSTANCE, PIPELINE})
"""The keys of every label that the controller sets."""

CONFIG = f"{GROUP}/config"
"""Annotation of Pods: renewed when their mounted Secrets change, which makes kubelet refresh them at once."""

ACKNOWLEDGED = f"{GROUP}/loss-acknowledged"
"""Annotation of AuditPipelines: losses until that time (RFC 3339) are known to whoever wrote it."""

REDACTION = f"{GROUP}/redaction"
"""Annotation of AuditSinks: `none` keeps secrets in the events that go there, `hash` has them hashed; any other value,
or no annotation, has them masked."""

RELEASE, SHAPE = f"{GROUP}/release", f"{GROUP}/shape"
"""Annotations of StatefulSets: which operator made it, and of what in the pipeline (control/rollout.py)."""

RECEIVER = "auditpipeline-receiver"
GATEWAY = "auditpipeline-gateway"
OPERATOR = "auditpipeline-operator"
CA_SECRET = "auditpipeline-ca"  # noqa: S105 - names of Secrets
CLIENT_SECRET = "auditpipeline-client"  # noqa: S105
GATEWAY_CONFIG_SECRET = "auditpipeline-gateway-config"  # noqa: S105
GATEWAY_TLS_SECRET = "auditpipeline-gateway-tls"  # noqa: S105
GATEWAY_BOOTSTRAP_SECRET = "auditpipeline-gateway-bootstrap"  # noqa: S105
REDACTION_SECRET = "auditpipeline-redaction"  # noqa: S105
REDACTION_SECRET_KEY = "key"  # noqa: S105 - the name of a key
READINGS = "auditpipeline-readings"
LEASE = "auditpipeline-operator"
STATIC_POLICY = "auditpipeline-static-policy"

OURS = f"{MANAGED_BY}={MANAGER}"
OUR_PODS = f"{APP} in ({RECEIVER},{GATEWAY})"
"""Label selectors: of what the controller makes, and of the Pods that it looks at."""

CONFIG_FOLDER = "/etc/auditpipeline/config"
TLS_FOLDER = "/etc/auditpipeline/tls"
TOKEN_KEY = "token"  # noqa: S105 - the name of a key
SECRETS_FOLDER = "/etc/auditpipeline/secrets"
BOOTSTRAP_FOLDER = "/etc/auditpipeline/bootstrap"
STATIC_FILE = "/etc/auditpipeline/static/policy.yaml"
DATA_FOLDER = "/var/lib/auditpipeline"
AUDIT_PORT, OPS_PORT = 8443, 8444
GATEWAY_AUDIT_PORT, GATEWAY_OPS_PORT = 9443, 9444


def child(name: str) -> str:
    """The name of every child of the pipeline `name`."""
    return f"audit-{name}"


def config_secret(name: str) -> str:
    """The Secret that holds a pipeline's rendered configuration."""
    return f"audit-{name}-config"


def gateway_config_secret(number: int) -> str:
    """The Secret that holds a shard of the gateway's configuration; that of the head is 0."""
    return f"{GATEWAY_CONFIG_SECRET}-{number}" if number else GATEWAY_CONFIG_SECRET


def tls_secret(name: str) -> str:
    """The Secret that holds a pipeline's serving certificate."""
    return f"audit-{name}-tls"


def generation_secret(name: str) -> str:
    """The Secret that keeps the last accepted generation of a pipeline."""
    return f"audit-{name}-generation"


def service_host(name: str, namespace: str) -> str:
    """The TLS name of a Service, whatever address is dialled."""
    return f"{name}.{namespace}.svc"


def receiver_hosts(name: str, namespace: str) -> tuple[str, ...]:
    """The names that a receiver's certificate is good for."""
    host = service_host(child(name), namespace)
    return (host, f"{host}.cluster.local", f"{child(name)}.{namespace}")


def operator_hosts(namespace: str) -> tuple[str, ...]:
    """The names that the certificate of the operator's own listener is good for."""
    host = service_host(OPERATOR, namespace)
    return (host, f"{host}.cluster.local", f"{OPERATOR}.{namespace}")


def labels(name: str) -> dict[str, str]:
    """The labels of every child and Pod of a pipeline."""
    return {MANAGED_BY: MANAGER, APP: RECEIVER, INSTANCE: name, PIPELINE: name}


def gateway_labels() -> dict[str, str]:
    """The labels of what the controller makes for the gateway."""
    return {MANAGED_BY: MANAGER, APP: GATEWAY}


def owner(pipeline: Pipeline) -> dict[str, Any]:
    """The owner reference of every child; it blocks nothing, so that no permission on finalizers is needed."""
    return {
        "apiVersion": API_VERSION,
        "kind": "AuditPipeline",
        "name": pipeline.metadata.name,
        "uid": pipeline.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def number_of(name: str, prefix: str) -> int:
    """The number of a Pod, or of the Pod that a claim is of, whose name begins with `prefix`; -1 if it is none."""
    rest = name.removeprefix(prefix)
    return int(rest) if rest != name and rest.isdecimal() else -1
