"""Thirty rules as a cluster's policy has them, and requests and events that they decide."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from auditpipeline.core.policy import GroupResources, Policy, Rule
from tests.bench.kinds import mixed

BATCHES = Path(__file__).parents[1] / "data" / "batches"
SYSTEM = "system:serviceaccount:kube-system:"


def _on(*resources: str, group: str = "", names: tuple[str, ...] = ()) -> tuple[GroupResources, ...]:
    return (GroupResources(group, resources, names),)


_READ = ("get", "list", "watch")
_WRITE = ("create", "update", "patch", "delete", "deletecollection")
_RULES = (
    Rule("None", non_resource_urls=("/healthz*", "/livez*", "/readyz*", "/version", "/swagger*")),
    Rule("None", users=("system:kube-proxy",), verbs=("watch",), resources=_on("endpoints", "services")),
    Rule("None", users=("system:unsecured",), namespaces=("kube-system",), verbs=("get",), resources=_on("configmaps")),
    Rule("None", users=("kubelet",), verbs=("get",), resources=_on("nodes", "nodes/status")),
    Rule("None", user_groups=("system:nodes",), verbs=("get",), resources=_on("nodes", "nodes/status")),
    Rule(
        "None",
        users=("system:kube-controller-manager", "system:kube-scheduler", f"{SYSTEM}endpoint-controller"),
        verbs=("get", "update"),
        namespaces=("kube-system",),
        resources=_on("endpoints"),
    ),
    Rule("None", users=("system:apiserver",), verbs=("get",), resources=_on("namespaces", "namespaces/status")),
    Rule("None", users=("cluster-autoscaler",), verbs=("get", "update"), namespaces=("kube-system",)),
    Rule(
        "None",
        users=("system:kube-controller-manager",),
        verbs=("get", "list"),
        resources=_on(group="metrics.k8s.io"),
    ),
    Rule("None", verbs=_READ, resources=_on("leases", group="coordination.k8s.io")),
    Rule(
        "None",
        user_groups=("system:nodes",),
        verbs=("update", "patch"),
        resources=_on("leases", group="coordination.k8s.io"),
    ),
    Rule("None", resources=_on("events")),
    Rule("None", resources=_on("events", group="events.k8s.io")),
    Rule("None", verbs=_READ, user_groups=("system:serviceaccounts:kube-system",), resources=_on("configmaps")),
    Rule("None", verbs=_READ, resources=_on("endpointslices", group="discovery.k8s.io")),
    Rule("Metadata", resources=_on("secrets", "configmaps", "serviceaccounts/token")),
    Rule("Metadata", resources=_on("tokenreviews", group="authentication.k8s.io")),
    Rule(
        "Request",
        users=("kubelet", "system:node-problem-detector"),
        verbs=("update", "patch"),
        resources=_on("*/status"),
    ),
    Rule(
        "Request",
        user_groups=("system:nodes",),
        verbs=("update", "patch"),
        resources=_on("nodes/status", "pods/status"),
    ),
    Rule("Request", users=(f"{SYSTEM}namespace-controller",), verbs=("deletecollection",)),
    Rule("RequestResponse", resources=_on("pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers")),
    Rule("RequestResponse", verbs=_WRITE, resources=_on(group="rbac.authorization.k8s.io")),
    Rule("RequestResponse", verbs=_WRITE, resources=_on("*", group="admissionregistration.k8s.io")),
    Rule("RequestResponse", verbs=_WRITE, resources=_on("certificatesigningrequests*", group="certificates.k8s.io")),
    Rule("RequestResponse", verbs=_WRITE, namespaces=("prod-payments", "prod-identity")),
    Rule("Request", verbs=_WRITE, resources=_on("deployments", "statefulsets", "daemonsets", "*/scale", group="apps")),
    Rule("Request", verbs=_WRITE, resources=_on("jobs", "cronjobs", group="batch")),
    Rule("Request", verbs=_WRITE, resources=_on("pods", "services", "namespaces", "nodes")),
    Rule(
        "None",
        user_groups=("system:authenticated",),
        verbs=("get",),
        non_resource_urls=("/api*", "/openapi*", "/apis*"),
    ),
    Rule("Metadata"),
)
POLICY = Policy(rules=_RULES, omit_stages=("RequestReceived",))


def events() -> list[dict[str, Any]]:
    """Real events of an API server, each as large as it was."""
    return [event for path in sorted(BATCHES.glob("*.json")) for event in json.loads(path.read_bytes())["items"]]


def bodies(count: int = 10, at_once: int = 400, average: int = 3200) -> Iterator[bytes]:
    """Request bodies as kube-apiserver posts them, the events captured at RequestResponse and of that size on average.

    Real events whose objects are filled up with fields, so that their shares are 70 of 100 small ones without bodies of
    their own account, 20 with a request object and 10 with both.
    """
    chance = random.Random(7)
    finished = [event for event in events() if event["stage"] == "ResponseComplete"]
    for _ in range(count):
        items = [_sized(chance, chance.choice(finished), average) for _ in range(at_once)]
        yield event_list(items)


def mixed_bodies(count: int = 10, at_once: int = 400, average: int = 3200) -> Iterator[bytes]:
    """The same with the kinds of `tests.bench.kinds`: 70 of 100 are real events without bodies, the others are of the
    kinds that a cluster writes, in their shares, and as large as those are: `average` is not heeded."""
    chance = random.Random(7)
    finished = [event for event in events() if event["stage"] == "ResponseComplete"]
    for _ in range(count):
        yield event_list(
            mixed(chance) if chance.random() >= 0.7 else _bare(chance.choice(finished)) for _ in range(at_once)
        )


def event_list(items: Iterable[object]) -> bytes:
    """A body as kube-apiserver posts it."""
    whole = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": list(items)}
    return json.dumps(whole, separators=(",", ":")).encode() + b"\n"


_BEHIND = ("requestReceivedTimestamp", "stageTimestamp", "annotations")
_BEFORE = (
    *("level", "auditID", "stage", "requestURI", "verb", "user", "impersonatedUser", "sourceIPs", "userAgent"),
    *("objectRef", "responseStatus"),
)


def _sized(chance: random.Random, event: dict[str, Any], average: int) -> dict[str, Any]:
    kind = chance.random()
    # 0.7 of about 800 bytes leave so much for the rest.
    target = int((average - 0.75 * 800) / 0.4)
    sized = {"level": "Metadata"} | {key: event[key] for key in _BEFORE if key in event and key != "level"}
    if kind >= 0.7:
        sized |= {"level": "Request", "requestObject": _object(chance, target)}
    if kind >= 0.9:
        sized |= {"level": "RequestResponse", "responseObject": _object(chance, target)}
    # As kube-apiserver writes it: the objects stand in the middle.
    return sized | {key: value for key, value in event.items() if key in _BEHIND}


def _bare(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("requestObject", "responseObject")} | {
        "level": "Metadata"
    }


def _object(chance: random.Random, size: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": f"web-{chance.randrange(1000)}", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": []}}},
    }
    containers = found["spec"]["template"]["spec"]["containers"]
    while len(json.dumps(found)) < size:
        container: dict[str, Any] = {
            "name": f"c{len(containers)}",
            "image": "registry.example/web:1.2.3",
            "ports": [{"containerPort": 80}],
        }
        container["env"] = [{"name": f"NAME_{i}", "value": f"{chance.random()}"} for i in range(12)]
        container["resources"] = {"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "100m"}}
        containers.append(container)
    return found
