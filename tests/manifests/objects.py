"""AuditPipelines and AuditSinks for the tests of this folder: a good one of each, and what is wrong with bad ones.

A `Bad` case is one line: how it differs from the good object, and a part of what the API server says. The same table is
put to the CRDs (on a real API server) and to core/spec.py, so that neither accepts what the other refuses.
"""

from __future__ import annotations

import base64
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from auditpipeline.control.certificates import authority

ROOT = Path(__file__).resolve().parents[2]

Object = dict[str, Any]
REMOVED = object()
"""The value of a change that takes a field away."""

BUNDLE = base64.b64encode(authority(datetime(2026, 1, 1, tzinfo=UTC)).certificate.encode()).decode()
HTTPS: Object = {
    "url": "https://siem.example",
    "format": "json-lines",
    "compression": "none",
    "timeout": "30s",
    "batchMaxWait": "0s",
}
FILE: Object = {"maxSize": "100Mi", "keep": 10, "compression": "none"}
PIPELINE: Object = {
    "apiVersion": "auditpipeline.dev/v1alpha1",
    "kind": "AuditPipeline",
    "metadata": {"name": "security"},
    "spec": {
        "targetNamespace": "audit",
        "policy": {
            "omitStages": ["RequestReceived"],
            "omitManagedFields": True,
            "rules": [
                {"level": "None", "nonResourceURLs": ["/healthz*", "/version", "*"]},
                {
                    "level": "RequestResponse",
                    "users": ["alice"],
                    "userGroups": ["team"],
                    "verbs": ["create"],
                    "resources": [
                        {"group": "", "resources": ["pods", "pods/*", "*/scale"], "resourceNames": ["one"]},
                        {"group": "rbac.authorization.k8s.io"},
                        {"group": "*"},
                    ],
                    "namespaces": ["default", ""],
                    "omitStages": ["Panic"],
                    "omitManagedFields": False,
                },
                {"level": "Metadata"},
            ],
        },
        "matchConditions": [{"name": "example.com/people", "expression": "event.userAgent.startsWith('kubectl/')"}],
        "outputs": [
            {
                "name": "archive",
                "file": {
                    "path": "/var/log/audit/events.jsonl",
                    "maxSize": "1.5Gi",
                    "maxAge": "24h",
                    "keep": 3,
                    "compression": "zstd",
                    "fsync": "batch",
                },
            },
            {
                "name": "siem",
                "http": {
                    "url": "https://siem.example:8443/audit",
                    "format": "event-list",
                    "compression": "gzip",
                    "timeout": "10s",
                    "batchMaxWait": "500ms",
                    "headers": [{"name": "X-Scope-OrgID", "value": "team a"}],
                    "proxy": "http://proxy.example:3128",
                    "serverName": "collector.siem.example",
                    "bearerTokenSecretRef": {"name": "siem", "key": "token"},
                    "caSecretRef": {"name": "siem", "key": "ca.crt"},
                },
                "delivery": "BestEffort",
                "policy": {"rules": [{"level": "Metadata"}]},
                "matchConditions": [{"name": "refused", "expression": "event.responseStatus.code == 403"}],
            },
            {"name": "console", "stdout": {}},
            {"name": "basic", "http": HTTPS | {"basicAuthSecretRef": {"name": "siem"}, "caBundle": BUNDLE}},
            {"name": "mutual", "http": HTTPS | {"clientCertificateSecretRef": {"name": "siem"}}},
            {
                "name": "fast",
                "file": FILE | {"path": "/var/log/audit/fast.jsonl", "fsync": "rotation"},
                "delivery": "BestEffort",
            },
        ],
        "webhook": {
            "replicas": 3,
            "storage": {"size": "20Gi", "storageClassName": "fast", "ephemeral": False},
            "spool": {"backpressure": "dropOldest", "deadLetters": "digest", "maxAge": "72h"},
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": 2, "memory": "1Gi"}},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "audit", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
        },
        "throttle": {"qps": 20, "burst": 30},
        "redaction": {
            "default": True,
            "method": "hash",
            "rules": [
                {
                    "resources": [{"group": "example.com", "resources": ["clusters", "clusters/status", "*"]}, {}],
                    "paths": ["spec.users.password", "data.*", "**.token", 'metadata.annotations["example.com/token"]'],
                    "action": "remove",
                },
                {"paths": ["spec.key"]},
            ],
        },
        "expireAfter": "1h30m",
        "suspend": False,
    },
}
SINK: Object = {
    "apiVersion": "auditregistration.k8s.io/v1alpha1",
    "kind": "AuditSink",
    "metadata": {"name": "sink.example"},
    "spec": {
        "policy": {"level": "Metadata", "stages": ["ResponseComplete"]},
        "webhook": {
            "throttle": {"qps": 10, "burst": 15},
            "clientConfig": {"url": "https://audit.example/events", "caBundle": "Y2VydGlmaWNhdGU="},
        },
    },
}
SERVICE = {"namespace": "audit", "name": "hook"}


class Bad(NamedTuple):
    """One difference from the good object: the field's path, its value, and a part of the API server's answer.

    `parser` is whether core/spec.py refuses it too; it does not where only the API server knows or cares.
    """

    path: str
    value: Any
    says: str
    parser: bool = True


HTTP = "spec.outputs.1.http"
RULE, OUTPUT, CONFIG = "spec.policy.rules.0", "spec.outputs.0", "spec.webhook.clientConfig"
CONDITION = {"name": "a", "expression": "true"}
BAD_PIPELINES = [
    Bad("spec.matchConditions", [{"name": f"c{n}", "expression": "true"} for n in range(9)], "at most 8"),
    Bad("spec.matchConditions", [CONDITION, CONDITION], 'Duplicate value: {"name":"a"}'),
    Bad(
        "spec.matchConditions", [{"name": "a b", "expression": "true"}], "matchConditions[0].name in body should match"
    ),
    Bad("spec.matchConditions", [{"name": "/a", "expression": "true"}], "matchConditions[0].name in body should match"),
    Bad("spec.matchConditions", [{"name": "a"}], "matchConditions[0].expression: Required value"),
    Bad("spec.matchConditions", [{"name": "a", "expression": ""}], "should be at least 1 chars long"),
    Bad("spec.matchConditions", [{"name": "a", "expression": "true" + " " * 2045}], "2048"),
    Bad("spec.outputs.0.matchConditions", [{"name": f"c{n}", "expression": "true"} for n in range(9)], "at most 8"),
    Bad("spec.outputs.0.matchConditions", [{"expression": "true"}], "matchConditions[0].name: Required value"),
    Bad("metadata.name", "a" * 41, "must be a DNS label of at most 40 characters"),
    Bad("metadata.name", "a.b", "must be a DNS label of at most 40 characters"),
    Bad("spec.policy", REMOVED, "spec.policy: Required value"),
    Bad("spec.outputs", REMOVED, "spec.outputs: Required value"),
    Bad("spec.targetNamespace", "Not_A_Label", "spec.targetNamespace in body should match"),
    Bad("spec.policy.rules", [], "should have at least 1 items"),
    Bad(
        "spec.policy.rules",
        [{"level": "Metadata"}] * 2000,
        "Too many: 2000: must have at most 1000 items",
        parser=False,
    ),
    Bad("spec.policy", {}, "name a preset (baseline, compliance, security or debug), or write rules"),
    Bad("spec.policy.preset", "baseline", "preset and rules exclude each other"),
    Bad("spec.policy", {"preset": "paranoid"}, 'supported values: "baseline", "compliance", "security", "debug"'),
    Bad("spec.policy", {"preset": "debug", "omitStages": ["Panic"]}, "leave omitStages and omitManagedFields out"),
    Bad("spec.policy", {"preset": "debug", "omitManagedFields": False}, "leave omitStages and omitManagedFields out"),
    Bad("spec.policy.omitStages", ["Never"], 'Unsupported value: "Never"'),
    Bad(f"{RULE}.level", "Everything", 'supported values: "None", "Metadata", "Request", "RequestResponse"'),
    Bad(f"{RULE}.level", REMOVED, "spec.policy.rules[0].level: Required value"),
    Bad(f"{RULE}.omitStages", ["RequestComplete"], 'Unsupported value: "RequestComplete"'),
    Bad(f"{RULE}.users", ["a" * 1025], "Too long: may not be more than 1024 bytes"),
    Bad(f"{RULE}.nonResourceURLs", ["version"], "rules[0].nonResourceURLs[0] in body should match"),
    Bad(f"{RULE}.nonResourceURLs", ["/a*b"], "rules[0].nonResourceURLs[0] in body should match"),
    Bad(f"{RULE}.resources", [{"group": "apps"}], "cannot apply to both regular resources and non-resource URLs"),
    Bad(f"{RULE}.namespaces", ["default"], "make two rules, one with resources and namespaces"),
    Bad("spec.policy.rules.1.resources", [{"group": "apps/v1"}], "resources[0].group in body should match"),
    Bad(
        "spec.policy.rules.1.resources",
        [{"resourceNames": ["a"]}],
        "using resourceNames requires at least one resource",
    ),
    Bad("spec.outputs", [], "should have at least 1 items"),
    Bad("spec.outputs", [{"name": f"o{n}", "stdout": {}} for n in range(17)], "must have at most 16 items"),
    Bad("spec.outputs.1.name", "archive", 'Duplicate value: {"name":"archive"}'),
    Bad(f"{OUTPUT}.name", "Archive", "spec.outputs[0].name in body should match"),
    Bad(f"{OUTPUT}.file", REMOVED, "exactly one of stdout, file and http is needed"),
    Bad(f"{OUTPUT}.stdout", {}, "make an output of its own for each destination"),
    Bad(f"{OUTPUT}.delivery", "AtMostOnce", 'supported values: "Guaranteed", "BestEffort"'),
    Bad(f"{OUTPUT}.policy", {"rules": []}, "should have at least 1 items"),
    Bad(f"{OUTPUT}.policy", {}, "name a preset (baseline, compliance, security or debug), or write rules"),
    Bad(
        f"{OUTPUT}.policy",
        {"preset": "debug", "rules": [{"level": "Metadata"}]},
        "copy the preset's rules here and change them",
    ),
    Bad(f"{OUTPUT}.file.path", "/etc/passwd", "must be a file in a folder below /var/log"),
    Bad(f"{OUTPUT}.file.path", "/var/log/audit/../../../etc/cron", "must be a file in a folder below /var/log"),
    Bad(f"{OUTPUT}.file.path", "/var/log/events.jsonl", "must be a file in a folder below /var/log"),
    Bad(
        "spec.outputs.2",
        {"name": "b", "file": {"path": "/var/log/audit/events.jsonl"}},
        "two outputs write the same file",
    ),
    Bad(f"{OUTPUT}.file.maxSize", "100 MB", "maxSize in body should match"),
    Bad(f"{OUTPUT}.file.keep", 0, "should be greater than or equal to 1"),
    Bad(f"{OUTPUT}.file.maxAge", "1d", "maxAge in body should match"),
    Bad(f"{OUTPUT}.file.maxAge", "59s", "is too short: at least 1m is needed"),
    Bad(f"{OUTPUT}.file.compression", "xz", 'supported values: "none", "gzip", "zstd"'),
    Bad(f"{OUTPUT}.file.fsync", "sometimes", 'supported values: "batch", "rotation", "never"'),
    Bad(f"{OUTPUT}.file.fsync", "never", "leave fsync out, or say delivery: BestEffort"),
    Bad("spec.outputs.5.delivery", REMOVED, "a power cut could take what a Guaranteed output has written"),
    Bad("spec.outputs.1.http.url", "siem.example", "should match"),
    Bad("spec.outputs.1.http.url", "https://:443/", "must be a URL with a host"),
    Bad("spec.outputs.1.http.url", "https://[::1", "must be a URL with a host"),
    Bad("spec.outputs.1.http.url", "https://siem.example:99999/", "must be a URL with a host"),
    Bad("spec.outputs.1.http.url", "https://siem.example/a b", "must be a URL with a host"),
    Bad("spec.outputs.1.http.url", "https://me:secret@siem.example", "put the credential into a Secret"),
    Bad("spec.outputs.1.http.url", "https://siem.example/?token=1", "query parameters are not permitted"),
    Bad("spec.outputs.1.http.url", "https://siem.example/#a", "fragments"),
    Bad("spec.outputs.1.http.format", "xml", 'supported values: "json-lines", "json-array", "event-list"'),
    Bad(f"{HTTP}.compression", "zstd", 'supported values: "none", "gzip"'),
    Bad(f"{HTTP}.timeout", "31s", "is out of bounds: write 1s to 30s"),
    Bad(f"{HTTP}.timeout", "0.5s", "is out of bounds: write 1s to 30s"),
    Bad(f"{HTTP}.batchMaxWait", "61s", "is out of bounds: write 0s to 60s"),
    Bad(f"{HTTP}.batchMaxWait", "soon", "batchMaxWait in body should match"),
    Bad(f"{HTTP}.headers", [{"name": "X-A"}], "headers[0].value: Required value"),
    Bad(f"{HTTP}.headers", [{"name": "X A", "value": "b"}], "headers[0].name in body should match"),
    Bad(f"{HTTP}.headers", [{"name": "X-A", "value": "b\r\nX-B: c"}], "headers[0].value in body should match"),
    Bad(f"{HTTP}.headers", [{"name": "AUTHORIZATION", "value": "b"}], "is a credential, which belongs into a Secret"),
    Bad(f"{HTTP}.headers", [{"name": "Content-Type", "value": "b"}], "is set by the output itself"),
    Bad(f"{HTTP}.headers", [{"name": "Idempotency-Key", "value": "b"}], "is set by the output itself"),
    Bad(f"{HTTP}.headers", [{"name": "host", "value": "b"}], "leave it out"),
    Bad(f"{HTTP}.headers", [{"name": "X-A", "value": "b"}] * 17, "must have at most 16 items"),
    Bad(f"{HTTP}.proxy", "https://proxy.example", "proxy in body should match"),
    Bad(f"{HTTP}.proxy", "http://proxy.example/path", "proxy in body should match"),
    Bad(f"{HTTP}.proxy", "http://me:secret@proxy.example", "must be http://host:port, without user information"),
    Bad(f"{HTTP}.proxy", "http://proxy.example:99999", "must be http://host:port"),
    Bad(f"{HTTP}.proxy", "http://:3128", "must be http://host:port"),
    Bad(f"{HTTP}.serverName", "*.siem.example", "serverName in body should match"),
    Bad(f"{HTTP}.basicAuthSecretRef", {"name": "siem"}, "keep the one that the server asks for"),
    Bad(f"{HTTP}.clientCertificateSecretRef", {"name": "siem"}, "one way to authenticate is enough"),
    Bad("spec.outputs.3.http.clientCertificateSecretRef", {"name": "siem"}, "one way to authenticate is enough"),
    Bad("spec.outputs.3.http.basicAuthSecretRef", {"name": "../a"}, "basicAuthSecretRef.name in body should match"),
    Bad("spec.outputs.4.http.clientCertificateSecretRef", {}, "clientCertificateSecretRef.name: Required value"),
    Bad(f"{HTTP}.caBundle", BUNDLE, "both say which CAs to trust: keep one of the two"),
    Bad("spec.outputs.3.http.caBundle", "no base64!", "must be of type byte"),
    Bad(f"{HTTP}.url", "http://siem.example", "need https: over http anybody on the way could read along"),
    Bad("spec.outputs.1.http.bearerTokenSecretRef", {"name": "siem"}, "bearerTokenSecretRef.key: Required value"),
    Bad("spec.outputs.1.http.caSecretRef", {"name": "", "key": "a"}, "should be at least 1 chars long"),
    Bad("spec.outputs.1.http.caSecretRef", {"name": "a", "key": "../a"}, "caSecretRef.key in body should match"),
    Bad("spec.outputs.1.http.caSecretRef", {"name": "a", "key": ".."}, "caSecretRef.key in body should match"),
    Bad("spec.outputs.1.http.caSecretRef", {"name": "../a", "key": "a"}, "caSecretRef.name in body should match"),
    Bad("spec.webhook.replicas", 11, "should be less than or equal to 10"),
    Bad("spec.webhook.storage.size", "ten", "size in body should match"),
    Bad("spec.webhook.spool.backpressure", "drop", 'supported values: "reject", "dropOldest"'),
    Bad("spec.webhook.spool.deadLetters", "none", 'supported values: "whole", "digest"'),
    Bad("spec.webhook.spool.maxAge", "3d", "maxAge in body should match"),
    Bad("spec.webhook.spool.maxAge", "59s", "is too short: at least 1m is needed"),
    Bad("spec.webhook.resources", {"limits": {"cpu": "much"}}, "limits.cpu in body should match", parser=False),
    Bad("spec.webhook.tolerations", [{"effect": "Never"}], 'Unsupported value: "Never"', parser=False),
    Bad("spec.throttle.qps", 0, "should be greater than or equal to 1"),
    Bad("spec.redaction.method", "encrypt", 'supported values: "mask", "hash"'),
    Bad("spec.redaction.rules.0.action", "keep", 'supported values: "remove", "mask", "hash"'),
    Bad("spec.redaction.rules.0.paths", [], "should have at least 1 items"),
    Bad("spec.redaction.rules.0.paths", REMOVED, "paths: Required value"),
    Bad("spec.redaction.rules.0.paths", ["a"] * 65, "must have at most 64 items"),
    Bad("spec.redaction.rules.0.paths.0", "", "should be at least 1 chars long"),
    Bad("spec.redaction.rules.0.paths.0", "a..b", "in body should match"),
    Bad("spec.redaction.rules.0.paths.0", "*.**", "takes everything: name a key"),
    Bad("spec.redaction.rules.0.resources.0.group", "-a", "group in body should match"),
    Bad("spec.redaction.rules.0.resources.0.resources.0", "Secrets", "in body should match"),
    Bad("spec.redaction.rules", [{"paths": ["a"]}] * 65, "must have at most 64 items"),
    Bad("spec.redaction.unknown", 1, 'unknown field "spec.redaction.unknown"'),
    Bad("spec.expireAfter", "two hours", "expireAfter in body should match"),
    Bad("spec.expireAfter", "", "expireAfter in body should match"),
    Bad("spec.unknown", 1, 'unknown field "spec.unknown"'),
]
BAD_SINKS = [
    Bad("spec.policy.level", "Everything", 'supported values: "None", "Metadata", "Request", "RequestResponse"'),
    Bad("spec.policy.level", REMOVED, "spec.policy.level: Required value"),
    Bad("spec.policy.stages", REMOVED, "stages is required for a level other than None"),
    Bad("spec.policy.stages", ["Never"], 'Unsupported value: "Never"'),
    Bad("spec.policy.rules", [{"level": "All"}], 'Unsupported value: "All"'),
    Bad("spec.policy.rules", [{"level": "None", "resources": [{"resourceNames": ["a"]}]}], "at least one resource"),
    Bad("spec.webhook", REMOVED, "spec.webhook: Required value"),
    Bad(f"{CONFIG}.url", REMOVED, "exactly one of url or service is required"),
    Bad(f"{CONFIG}.service", SERVICE, "exactly one of url or service is required"),
    Bad(f"{CONFIG}.url", "audit.example", "host must be specified; desired format: https://host[/path]"),
    Bad(f"{CONFIG}.url", "https://me:secret@audit.example", "user information is not permitted in the URL"),
    Bad(f"{CONFIG}.url", "https://audit.example/?a=b", "query parameters are not permitted"),
    Bad(CONFIG, {"service": {"namespace": "audit"}}, "service.name: Required value"),
    Bad(CONFIG, {"service": SERVICE | {"name": ""}}, "should be at least 1 chars long"),
    Bad(CONFIG, {"service": SERVICE | {"port": 0}}, "should be greater than or equal to 1"),
    Bad(CONFIG, {"service": SERVICE | {"path": "audit"}}, "service.path in body should match"),
    Bad(f"{CONFIG}.caBundle", "no base64!", "must be of type byte", parser=False),
    Bad("spec.webhook.throttle.burst", 0, "should be greater than or equal to 1"),
    Bad("spec.webhook.retries", 3, 'unknown field "spec.webhook.retries"'),
    # pkg/apis/auditregistration/validation and apiserver/pkg/util/webhook/validation.go of 1.18, line by line.
    Bad("spec.policy.level", "", "Unsupported value"),
    Bad("spec.policy.level", "metadata", "Unsupported value"),
    Bad("spec.policy.stages", [], "stages is required for a level other than None"),
    Bad("spec.policy.stages", ["ResponseComplete", ""], "Unsupported value"),
    Bad("spec.policy", {"level": "None", "stages": ["Never"]}, "Unsupported value"),
    Bad("spec.webhook.clientConfig", {}, "exactly one of url or service is required"),
    Bad("spec.webhook.throttle.qps", 0, "should be greater than or equal to 1"),
    Bad("spec.webhook.throttle.qps", -1, "should be greater than or equal to 1"),
    Bad("spec.webhook.throttle", {"burst": -5}, "should be greater than or equal to 1"),
    Bad(f"{CONFIG}.url", "", "host must be specified"),
    Bad(f"{CONFIG}.url", "https://", "host must be specified"),
    Bad(f"{CONFIG}.url", "https:///audit", "host must be specified"),
    Bad(f"{CONFIG}.url", "/audit", "host must be specified"),
    Bad(f"{CONFIG}.url", "https://[::1", "host must be specified"),
    Bad(f"{CONFIG}.url", "https://audit.example:port/", "host must be specified"),
    Bad(f"{CONFIG}.url", "https://me@audit.example", "user information is not permitted in the URL"),
    Bad(f"{CONFIG}.url", "https://audit.example/#part", "fragments"),
    Bad(f"{CONFIG}.url", "https://audit.example?a=b#part", "query parameters are not permitted"),
    Bad(CONFIG, {"service": {"name": "hook"}}, "service.namespace: Required value"),
    Bad(CONFIG, {"service": SERVICE | {"namespace": ""}}, "should be at least 1 chars long"),
    Bad(CONFIG, {"service": SERVICE | {"port": 65536}}, "should be less than or equal to 65535"),
    Bad(CONFIG, {"service": SERVICE | {"path": "//"}}, "service.path in body should match"),
    Bad(CONFIG, {"service": SERVICE | {"path": "/a//b"}}, "service.path in body should match"),
    Bad(CONFIG, {"service": SERVICE | {"path": "/a//"}}, "service.path in body should match"),
    Bad(CONFIG, {"service": SERVICE | {"path": "/Audit"}}, "service.path in body should match"),
    Bad(CONFIG, {"service": SERVICE | {"path": "/a_b"}}, "service.path in body should match"),
    Bad(CONFIG, {"service": SERVICE | {"path": "/-a"}}, "service.path in body should match"),
    # Stricter than 1.18, which took these and could not dial them.
    Bad(CONFIG, {"service": SERVICE | {"name": "."}}, "service.name in body should match"),
    Bad(CONFIG, {"service": SERVICE | {"name": "../secrets/auditpipeline-ca"}}, "service.name in body should match"),
    Bad(CONFIG, {"service": SERVICE | {"name": "Hook"}}, "service.name in body should match"),
    Bad(CONFIG, {"service": SERVICE | {"namespace": "a/b"}}, "service.namespace in body should match"),
    Bad(f"{CONFIG}.url", "ftp://audit.example/", "host must be specified"),
    Bad(f"{CONFIG}.url", "https://:443/", "host must be specified"),
    Bad(f"{CONFIG}.url", "https://audit.example:99999/", "host must be specified"),
]


class Good(NamedTuple):
    """One difference from the good object that is taken, and what is stored at `path` then."""

    path: str
    value: Any
    stored: Any = None


GOOD_SINKS = [
    Good("spec.policy", {"level": "None"}),
    Good("spec.policy", {"level": "None", "stages": ["Panic"]}),
    Good("spec.policy", {"level": "Request", "stages": ["RequestReceived", "ResponseStarted", "Panic"]}),
    Good("spec.policy", {"level": "RequestResponse", "stages": ["ResponseComplete", "ResponseComplete"]}),
    Good(f"{CONFIG}.url", "https://audit.example"),
    Good(f"{CONFIG}.url", "http://audit.example:8080/a/b?"),
    Good(f"{CONFIG}.url", "https://audit.example/#"),
    Good(f"{CONFIG}.url", "https://[::1]:8443/Audit_1"),
    Good(f"{CONFIG}.url", "https://127.0.0.1:9880/"),
    Good(f"{CONFIG}.url", "https://localhost/"),
    Good(CONFIG, {"service": SERVICE}, {"service": SERVICE | {"port": 443}}),
    Good(CONFIG, {"service": SERVICE | {"port": 65535, "path": ""}}),
    Good(CONFIG, {"service": SERVICE | {"port": 1, "path": "/"}}),
    Good(CONFIG, {"service": SERVICE | {"port": 443, "path": "/a/b.c-d/"}}),
    Good("spec.webhook.throttle", REMOVED, {"qps": 10, "burst": 15}),
    Good("spec.webhook.throttle", {}, {"qps": 10, "burst": 15}),
    Good("spec.webhook.throttle", {"qps": 5}, {"qps": 5, "burst": 15}),
    Good("spec.webhook.throttle", {"burst": 5}, {"qps": 10, "burst": 5}),
]


def changed(good: Object, path: str, value: Any) -> Object:
    """A copy of `good` in which the field at `path` (dots; numbers for items) has `value`, or is gone."""
    copy = deepcopy(good)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    node: Any = copy
    for step in parents:
        node = node[step]
    if value is REMOVED:
        del node[last]
    else:
        node[last] = value
    return copy


def at(obj: Object, path: str) -> Any:
    """The field at `path`."""
    node: Any = obj
    for step in path.split("."):
        node = node[step]
    return node


def named(case: Bad | Good) -> str:
    """A test's name for the case."""
    return f"{case.path}={'-' if case.value is REMOVED else str(case.value)[:32]}"
