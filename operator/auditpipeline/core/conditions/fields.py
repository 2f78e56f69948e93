"""The fields of `event` that an expression may name, and their types: those of the audit.k8s.io/v1 Event. Pure.

Source: k8s.io/apiserver/pkg/apis/audit/v1/types.go; UserInfo of k8s.io/api/authentication/v1; Status of
k8s.io/apimachinery/pkg/apis/meta/v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Kind(Enum):
    """The type of a field, as an error names it. Absent, a field reads as the zero value of its type, as in Go; a BODY
    and a TIME have none, and using one that is absent is an error."""

    TEXT = "string"
    NUMBER = "int"
    TEXTS = "list(string)"
    PAIRS = "map(string, string)"
    LISTS = "map(string, list(string))"
    TIME = "timestamp"
    BODY = "dyn"


Fields = Mapping[str, "Kind | Fields"]

_USER: Fields = {"username": Kind.TEXT, "uid": Kind.TEXT, "groups": Kind.TEXTS, "extra": Kind.LISTS}
EVENT: Fields = {
    "level": Kind.TEXT,
    "auditID": Kind.TEXT,
    "stage": Kind.TEXT,
    "requestURI": Kind.TEXT,
    "verb": Kind.TEXT,
    "user": _USER,
    "impersonatedUser": _USER,
    "sourceIPs": Kind.TEXTS,
    "userAgent": Kind.TEXT,
    "objectRef": dict.fromkeys(
        ("resource", "namespace", "name", "uid", "apiGroup", "apiVersion", "resourceVersion", "subresource"), Kind.TEXT
    ),
    "responseStatus": {
        "status": Kind.TEXT,
        "message": Kind.TEXT,
        "reason": Kind.TEXT,
        "code": Kind.NUMBER,
        "details": Kind.BODY,
    },
    "requestObject": Kind.BODY,
    "responseObject": Kind.BODY,
    "requestReceivedTimestamp": Kind.TIME,
    "stageTimestamp": Kind.TIME,
    "annotations": Kind.PAIRS,
}
