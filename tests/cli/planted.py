"""Audit logs with secrets in them, for the tests of `redact`."""

from __future__ import annotations

import base64
import json
from typing import Any

LAST = "kubectl.kubernetes.io/last-applied-configuration"
WORD = "hunter2-"
"""What each secret begins with."""
BASE64 = base64.b64encode(WORD.encode())[:10]


def event(number: int, **fields: Any) -> dict[str, Any]:
    """An event without a body, as a line has it."""
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "auditID": f"id-{number}",
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/prod/pods?limit=500",
        "verb": "list",
        "user": {"username": "alice", "groups": ["system:authenticated"]},
        "objectRef": {"resource": "pods", "namespace": "prod", "apiVersion": "v1"},
        **fields,
    }


def secret(number: int) -> dict[str, Any]:
    """A Secret that is created: one value in `data`, and one in what was last applied."""
    value = f"{WORD}{number}"
    applied = {"apiVersion": "v1", "kind": "Secret", "stringData": {"password": value}}
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "db", "namespace": "prod", "annotations": {LAST: json.dumps(applied)}},
        "data": {"password": base64.b64encode(value.encode()).decode()},
    }
    return event(
        number,
        verb="create",
        requestURI="/api/v1/namespaces/prod/secrets",
        objectRef={"resource": "secrets", "namespace": "prod", "name": "db", "apiVersion": "v1"},
        requestObject=body,
    )


def token(number: int) -> dict[str, Any]:
    """A request with a token in its URL."""
    uri = f"/api/v1/namespaces/prod/pods/web/exec?command=id&command=-u&token={WORD}{number}"
    return event(number, verb="create", requestURI=uri, objectRef={"resource": "pods", "subresource": "exec"})


def line(value: dict[str, Any]) -> bytes:
    """As kube-apiserver writes it, without its line feed."""
    return json.dumps(value, separators=(",", ":")).encode()


def log(*events: dict[str, Any]) -> bytes:
    """Lines."""
    return b"".join(line(each) + b"\n" for each in events)


def is_clean(data: bytes) -> bool:
    """Whether no secret is in it."""
    return WORD.encode() not in data and BASE64 not in data
