"""The receiver's workload: its StatefulSet, with the Pod that the data plane expects. Pure.

A Pod restarts only when its shape changes. Configuration and certificates are mounted, never hashed into the template:
a changed policy is read by the running process. Every output's Secret is mounted as a folder of its own, optional, so
that a Pod starts (and stores events) while a credential is still missing.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any

from auditpipeline.control import names
from auditpipeline.control.resources import Features
from auditpipeline.control.settings import Settings
from auditpipeline.core.destination import SecretKey
from auditpipeline.core.destination import secret_keys as destination_keys
from auditpipeline.core.spec import Pipeline

USER = 65532
GRACE = 30
DEFAULT_RESOURCES = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}}


def statefulset(pipeline: Pipeline, namespace: str, settings: Settings, features: Features) -> dict[str, Any]:
    """The StatefulSet of a pipeline's receivers."""
    name = pipeline.metadata.name
    spec: dict[str, Any] = {
        "serviceName": names.child(name),
        "replicas": pipeline.spec.webhook.replicas,
        "podManagementPolicy": "Parallel",
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": {names.PIPELINE: name, names.APP: names.RECEIVER}},
        "template": {"metadata": {"labels": names.labels(name)}, "spec": _pod(pipeline, settings, features)},
    }
    if not pipeline.spec.webhook.storage.ephemeral:
        spec["volumeClaimTemplates"] = [_claim(pipeline, features)]
        if features.claim_retention:
            spec["persistentVolumeClaimRetentionPolicy"] = {"whenDeleted": "Delete", "whenScaled": "Retain"}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(pipeline, names.child(name), namespace),
        "spec": spec,
    }


def metadata(pipeline: Pipeline, name: str, namespace: str | None) -> dict[str, Any]:
    """Name, labels and owner of a child."""
    place = {"namespace": namespace} if namespace else {}
    return {
        "name": name,
        **place,
        "labels": names.labels(pipeline.metadata.name),
        "ownerReferences": [names.owner(pipeline)],
    }


def secret_keys(pipeline: Pipeline) -> tuple[SecretKey, ...]:
    """Every Secret key that an output refers to, once, in a stable order."""
    found = {
        reference for output in pipeline.spec.outputs if output.http for reference in destination_keys(output.http)
    }
    return tuple(sorted(found, key=lambda reference: (reference.name, reference.key)))


def secret_path(reference: SecretKey) -> str:
    """Where the receiver finds the value of a Secret key."""
    return f"{names.SECRETS_FOLDER}/{reference.name}/{reference.key}"


def file_folders(pipeline: Pipeline) -> tuple[str, ...]:
    """The folders that `file` outputs write to, once each."""
    folders = {str(PurePosixPath(output.file.path).parent) for output in pipeline.spec.outputs if output.file}
    return tuple(sorted(folders))


def _pod(pipeline: Pipeline, settings: Settings, features: Features) -> dict[str, Any]:
    name, webhook = pipeline.metadata.name, pipeline.spec.webhook
    profile = {"seccompProfile": {"type": "RuntimeDefault"}} if features.seccomp else {}
    pod: dict[str, Any] = {
        "serviceAccountName": names.child(name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            **profile,
        },
        "topologySpreadConstraints": [_spread(name)],
        "containers": [_container(pipeline, settings)],
        "volumes": _volumes(pipeline),
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    if webhook.node_selector:
        pod["nodeSelector"] = dict(webhook.node_selector)
    if webhook.tolerations:
        pod["tolerations"] = [dict(entry) for entry in webhook.tolerations]
    return pod


def _container(pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    return {
        "name": "receiver",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": ["serve", "--config", f"{names.CONFIG_FOLDER}/config.json"],
        "ports": [
            {"name": "audit", "containerPort": names.AUDIT_PORT, "protocol": "TCP"},
            {"name": "ops", "containerPort": names.OPS_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": _probe("/readyz", period=2, failures=3),
        "livenessProbe": _probe("/healthz", period=10, failures=6),
        "resources": pipeline.spec.webhook.resources or DEFAULT_RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(pipeline),
    }


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "ops", "scheme": "HTTPS"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def _mounts(pipeline: Pipeline) -> list[dict[str, Any]]:
    secrets = dict.fromkeys(reference.name for reference in secret_keys(pipeline))
    return [
        {"name": "config", "mountPath": names.CONFIG_FOLDER, "readOnly": True},
        {"name": "tls", "mountPath": names.TLS_FOLDER, "readOnly": True},
        *[
            {"name": _volume(secret), "mountPath": f"{names.SECRETS_FOLDER}/{secret}", "readOnly": True}
            for secret in secrets
        ],
        {"name": "data", "mountPath": names.DATA_FOLDER, "subPath": "spool"},
        *[{"name": "data", "mountPath": folder, "subPath": _subpath(folder)} for folder in file_folders(pipeline)],
    ]


def _volumes(pipeline: Pipeline) -> list[dict[str, Any]]:
    name, storage = pipeline.metadata.name, pipeline.spec.webhook.storage
    keys: dict[str, list[str]] = {}
    for reference in secret_keys(pipeline):
        keys.setdefault(reference.name, []).append(reference.key)
    volumes: list[dict[str, Any]] = [
        {"name": "config", "secret": {"secretName": names.config_secret(name)}},
        {"name": "tls", "secret": {"secretName": names.tls_secret(name)}},
        *[_optional_secret(secret, wanted) for secret, wanted in keys.items()],
    ]
    if storage.ephemeral:
        volumes.append({"name": "data", "emptyDir": {"sizeLimit": storage.size}})
    return volumes


def _optional_secret(secret: str, keys: list[str]) -> dict[str, Any]:
    items = [{"key": key, "path": key} for key in keys]
    return {"name": _volume(secret), "secret": {"secretName": secret, "optional": True, "items": items}}


def _claim(pipeline: Pipeline, features: Features) -> dict[str, Any]:
    """The template of the claims. Where a StatefulSet cannot say that they go with it, the pipeline owns them."""
    storage = pipeline.spec.webhook.storage
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage.size}}}
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    owner = {**names.owner(pipeline), "controller": False}
    owners = {} if features.claim_retention else {"ownerReferences": [owner]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "labels": names.labels(pipeline.metadata.name), **owners},
        "spec": spec,
    }


def _spread(name: str) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {names.PIPELINE: name, names.APP: names.RECEIVER}},
    }


def _volume(secret: str) -> str:
    """A volume's name is a DNS label of 63 characters, a Secret's is a subdomain of 253."""
    return f"secret-{_short(secret)}"


def _subpath(folder: str) -> str:
    return f"files/{_short(folder)}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
