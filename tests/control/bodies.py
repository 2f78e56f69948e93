"""AuditPipelines and AuditSinks as the API server stores them, for tests to vary."""

from __future__ import annotations

import copy
from typing import Any

from auditpipeline.core.spec import Pipeline, parse_pipeline

Body = dict[str, Any]


def pipeline(name: str = "security", **spec: Any) -> Body:
    """A small AuditPipeline; keywords replace fields of its spec."""
    return {
        "apiVersion": "auditpipeline.dev/v1alpha1",
        "kind": "AuditPipeline",
        "metadata": {
            "name": name,
            "uid": "11111111-2222-3333-4444-555555555555",
            "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "policy": {"rules": [{"level": "Metadata"}]},
            "outputs": [{"name": "archive", "file": {"path": "/var/log/audit/events.jsonl"}}],
            "webhook": {"storage": {"ephemeral": True}},
        }
        | spec,
    }


def rich(name: str = "security") -> Body:
    """An AuditPipeline that uses every field that changes what is rendered."""
    return pipeline(
        name,
        policy={
            "omitStages": ["RequestReceived"],
            "omitManagedFields": True,
            "rules": [
                {"level": "None", "users": ["system:kube-proxy"], "verbs": ["watch"]},
                {"level": "RequestResponse", "resources": [{"group": "", "resources": ["pods"]}]},
                {"level": "Metadata", "omitManagedFields": False},
            ],
        },
        outputs=[
            {
                "name": "archive",
                "file": {
                    "path": "/var/log/audit/events.jsonl",
                    "maxSize": "10Mi",
                    "maxAge": "24h",
                    "keep": 3,
                    "compression": "zstd",
                },
            },
            {
                "name": "siem",
                "delivery": "BestEffort",
                "policy": {"rules": [{"level": "Metadata", "userGroups": ["team"]}]},
                "http": {
                    "url": "https://siem.example/audit",
                    "bearerTokenSecretRef": {"name": "siem", "key": "token"},
                    "caSecretRef": {"name": "siem", "key": "ca.crt"},
                },
            },
            {"name": "console", "stdout": {}},
            {
                "name": "basic",
                "http": {
                    "url": "https://logs.example/push",
                    "format": "json-array",
                    "compression": "gzip",
                    "timeout": "5s",
                    "headers": [{"name": "X-Scope-OrgID", "value": "audit"}],
                    "proxy": "http://proxy.example:3128",
                    "serverName": "collector.example",
                    "basicAuthSecretRef": {"name": "logs"},
                },
            },
            {
                "name": "mutual",
                "http": {"url": "https://vault.example/in", "clientCertificateSecretRef": {"name": "siem"}},
            },
        ],
        targetNamespace="audit",
        throttle={"qps": 20, "burst": 40},
        webhook={
            "replicas": 3,
            "storage": {"size": "5Gi", "storageClassName": "fast"},
            "spool": {"backpressure": "dropOldest", "deadLetters": "whole", "maxAge": "72h"},
            "resources": {"limits": {"memory": "1Gi"}},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "audit", "operator": "Exists"}],
        },
    )


def redacted(name: str = "security") -> Body:
    """An AuditPipeline that hashes secrets, and takes more than the default list."""
    rule = {"resources": [{"group": "example.com", "resources": ["clusters"]}], "paths": ["spec.users.password"]}
    return pipeline(name, redaction={"method": "hash", "rules": [rule | {"action": "remove"}]})


def parsed(body: Body | None = None) -> Pipeline:
    """The typed value of an AuditPipeline."""
    return parse_pipeline(copy.deepcopy(body or pipeline()))


def sink(name: str, **client: Any) -> Body:
    """A foreign AuditSink as of 1.18."""
    return {
        "apiVersion": "auditregistration.k8s.io/v1alpha1",
        "kind": "AuditSink",
        "metadata": {"name": name},
        "spec": {
            "policy": {"level": "Metadata", "stages": ["ResponseComplete"]},
            "webhook": {"throttle": {"qps": 10, "burst": 15}, "clientConfig": client},
        },
    }


def storage_class(name: str, *, grows: bool) -> Body:
    """A StorageClass whose volumes somebody else makes."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": "example.com/none",
        "allowVolumeExpansion": grows,
    }


def volume(name: str, storage_class: str, claim: str, namespace: str, size: str = "2Gi") -> Body:
    """A volume for a claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "hostPath": {"path": "/nowhere"},
            "claimRef": {"name": claim, "namespace": namespace},
        },
    }
