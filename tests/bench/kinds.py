"""Events by kind, as kube-apiserver writes them: what redaction leaves alone, looks at and finds something in.

A share is that among the events with bodies. It follows what a cluster writes: `tests/data/audit-events.jsonl` has
295 finished creates, updates and patches, of which 6 % are Secrets, 3 % tokens and 9 % workloads and their status; a
cluster in use has more workloads than that, and Leases and status patches of its nodes besides. A third of the
workloads have a secret among their variables and arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tests.bench import objects
from tests.bench.objects import Object, uid, word

Event = dict[str, Any]
_GROUPS = {
    "deployments": "apps",
    "leases": "coordination.k8s.io",
    "endpointslices": "discovery.k8s.io",
    "tokenreviews": "authentication.k8s.io",
}


class Kind(NamedTuple):
    """A kind of event; `share` of 100 events with bodies, 0 if it is only measured by itself."""

    name: str
    make: Callable[[Random], Event]
    share: int = 0


def event(
    chance: Random,
    verb: str,
    resource: str,
    request: Object | None = None,
    response: Object | None = None,
    *,
    query: str = "",
    code: int = 200,
    message: str = "",
    notes: dict[str, str] | None = None,
) -> Event:
    """A finished event. Its level follows from the bodies."""
    resource, _, subresource = resource.partition("/")
    reference = {"resource": resource, "namespace": "team-1", "name": word(chance, 10), "apiVersion": "v1"}
    group = _GROUPS.get(resource, "")
    if group:
        reference["apiGroup"] = group
    if subresource:
        reference["subresource"] = subresource
    path = f"/apis/{group}/v1" if group else "/api/v1"
    uri = "/".join(filter(None, (path, "namespaces/team-1", resource, reference["name"], subresource)))
    failure = {"status": "Failure", "message": message} if message else {}
    made: Event = {
        "level": "RequestResponse" if response else "Request" if request else "Metadata",
        "auditID": uid(chance),
        "stage": "ResponseComplete",
        "requestURI": uri + query,
        "verb": verb,
        "user": {
            "username": "system:serviceaccount:kube-system:replicaset-controller",
            "uid": uid(chance),
            "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
        },
        "sourceIPs": ["127.0.0.1"],
        "userAgent": "kube-controller-manager/v1.32.4 (linux/amd64) kubernetes/4cb5f07",
        "objectRef": reference,
        "responseStatus": {"metadata": {}, "code": code} | failure,
    }
    if request:
        made["requestObject"] = request
    if response:
        made["responseObject"] = response
    allowed = {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""}
    return made | {
        "requestReceivedTimestamp": "2026-11-24T00:53:00.358675Z",
        "stageTimestamp": "2026-11-24T00:53:00.361963Z",
        "annotations": allowed | (notes or {}),
    }


def _exec(chance: Random) -> Event:
    query = f"?command=mysql&command=-uroot&command=--password%3D{word(chance)}&container=db&stdin=true&stdout=true"
    return event(chance, "create", "pods/exec", query=query, code=101)


def _pod(chance: Random, *, secret: bool, whole: bool = False) -> Event:
    stored = objects.pod(chance, secret=secret) if whole else None
    return event(chance, "create", "pods", objects.pod(chance, secret=secret, stored=False), stored, code=201)


def _deployment(chance: Random, *, secret: bool) -> Event:
    stored = objects.deployment(chance, secret=secret, applied=True)
    return event(
        chance, "update", "deployments", objects.deployment(chance, secret=secret, applied=True, stored=False), stored
    )


def _patched(chance: Random, *, secret: bool) -> Event:
    """`kubectl set env`: a strategic patch."""
    name, value = ("API_TOKEN", word(chance)) if secret else ("LOG_LEVEL", "debug")
    containers = [{"name": "main", "env": [{"name": name, "value": value}]}]
    order = {"$setElementOrder/containers": [{"name": "main"}]}
    request: Object = {"spec": {"template": {"spec": order | {"containers": containers}}}}
    return event(chance, "patch", "deployments", request, objects.deployment(chance, secret=secret, applied=True))


def _pod_status(chance: Random) -> Event:
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-24T00:53:00Z"}
    request: Object = {"metadata": {"uid": uid(chance)}, "status": {"conditions": [condition], "phase": "Running"}}
    return event(chance, "patch", "pods/status", request, objects.pod(chance, secret=False))


def _lease(chance: Random) -> Event:
    return event(chance, "update", "leases", objects.lease(chance), objects.lease(chance))


def _node(chance: Random) -> Event:
    whole: Object = {"kind": "Node", "apiVersion": "v1", "metadata": objects.metadata(chance, "node-1", "kubelet", 40)}
    return event(chance, "patch", "nodes/status", objects.node_status(chance), whole | objects.node_status(chance))


def _map(chance: Random) -> Event:
    return event(chance, "update", "configmaps", objects.config_map(chance), objects.config_map(chance))


def _slice(chance: Random) -> Event:
    return event(chance, "update", "endpointslices", objects.slice_(chance))


def _secret(chance: Random) -> Event:
    made = objects.secret(chance, applied=True, stored=False)
    return event(chance, "create", "secrets", made, objects.secret(chance, applied=True), code=201)


def _secret_patch(chance: Random) -> Event:
    """A merge patch."""
    return event(chance, "patch", "secrets", {"stringData": {"password": word(chance)}}, objects.secret(chance))


def _token(chance: Random) -> Event:
    request: Object = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}
    spec = {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 3607}
    status = {"token": f"ey{word(chance, 300)}.{word(chance, 300)}", "expirationTimestamp": "2026-11-24T01:53:00Z"}
    stored = request | {"spec": spec, "status": status}
    return event(chance, "create", "serviceaccounts/token", request | {"spec": spec}, stored, code=201)


def _secrets(chance: Random) -> Event:
    items = [objects.secret(chance) for _ in range(20)]
    listed: Object = {"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items}
    return event(chance, "list", "secrets", None, listed)


def _table(chance: Random) -> Event:
    return event(chance, "list", "secrets", None, objects.table(chance, [objects.secret(chance) for _ in range(20)]))


def _refused(chance: Random) -> Event:
    message = f'Secret "x" is invalid: data[a]: Invalid value: "{word(chance)}": is not base64'
    return event(chance, "create", "secrets", code=422, message=message)


def _mutated(chance: Random) -> Event:
    patch = [{"op": "add", "path": "/data/injected", "value": word(chance)}]
    note = objects.compact({"configuration": "inject", "webhook": "inject.example", "patch": patch})
    notes = {"patch.webhook.admission.k8s.io/round_0_index_0": note}
    return event(chance, "create", "secrets", objects.secret(chance, stored=False), code=201, notes=notes)


KINDS = (
    Kind("Metadata", lambda chance: event(chance, "get", "pods")),
    Kind("Metadata, of a Secret", lambda chance: event(chance, "get", "secrets")),
    Kind("Metadata, query without secrets", lambda chance: event(chance, "list", "pods", query="?limit=500&watch=0")),
    Kind("Metadata, exec with a password", _exec),
    Kind("Metadata, a Secret that is refused", _refused),
    Kind("Lease, update", _lease, 22),
    Kind("Node, status patch", _node, 16),
    Kind("Event, create", lambda chance: event(chance, "create", "events", objects.happening(chance)), 9),
    Kind("ConfigMap, update", _map, 11),
    Kind("EndpointSlice, update", _slice, 10),
    Kind("Pod, status patch", _pod_status, 8),
    Kind("Pod, create, no secret", lambda chance: _pod(chance, secret=False, whole=True), 4),
    Kind("Pod, create, a secret", lambda chance: _pod(chance, secret=True, whole=True), 2),
    Kind("Deployment, update, no secret", lambda chance: _deployment(chance, secret=False), 4),
    Kind("Deployment, update, a secret", lambda chance: _deployment(chance, secret=True), 2),
    Kind("Deployment, patch, no secret", lambda chance: _patched(chance, secret=False), 2),
    Kind("Deployment, patch, a secret", lambda chance: _patched(chance, secret=True), 1),
    Kind("Secret, create", _secret, 3),
    Kind("Secret, merge patch", _secret_patch, 2),
    Kind("Secret, mutated by a webhook", _mutated, 1),
    Kind("TokenRequest", _token, 3),
    Kind("Secrets, list of 20", _secrets),
    Kind("Secrets, Table of 20", _table),
)


def mixed(chance: Random) -> Event:
    """One of the kinds that have bodies, as often as its share says."""
    shared = [kind for kind in KINDS if kind.share]
    return chance.choices(shared, [kind.share for kind in shared])[0].make(chance)
