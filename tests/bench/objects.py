"""Objects as a cluster has them, of the sizes that they have there, for events with bodies (`tests.bench.kinds`).

Sizes as JSON: a Pod with two containers 6 KB, of which managedFields are a third; a Deployment that was applied has
its configuration a second time in an annotation; a Node's status lists its images; a Lease is small. There are 200
workloads: their Pods, and all updates of these, have the template of the workload.
"""

from __future__ import annotations

import base64
import json
from random import Random
from typing import Any

Object = dict[str, Any]
_WORKLOADS = 200
LAST = "kubectl.kubernetes.io/last-applied-configuration"
_WORDS = ("cache", "queue", "web", "api", "orders", "users", "mail", "search", "billing", "images")
_PLAIN = (
    *("LOG_LEVEL", "HTTP_PORT", "DB_HOST", "DB_USER", "REGION", "CACHE_SIZE", "KEYCLOAK_URL", "TLS_CERT_FILE"),
    *("JAVA_OPTS", "FEATURE_FLAGS", "TIMEOUT_SECONDS", "QUEUE_URL", "WORKERS", "METRICS_ADDRESS"),
)
_HOT = ("DB_PASSWORD", "API_TOKEN", "CLIENT_SECRET", "AWS_SECRET_ACCESS_KEY")


def compact(value: Any) -> str:
    """JSON as kube-apiserver writes it."""
    return json.dumps(value, separators=(",", ":"))


def word(chance: Random, length: int = 24) -> str:
    """A random word, as a password or an identifier is one."""
    return f"{chance.getrandbits(length * 4):0{length}x}"


def uid(chance: Random) -> str:
    """A UID."""
    found = word(chance, 32)
    return "-".join((found[:8], found[8:12], found[12:16], found[16:20], found[20:]))


def metadata(chance: Random, name: str, manager: str = "", fields: int = 0) -> Object:
    """Metadata of an object that is stored; `fields` leaves of managedFields."""
    found: Object = {
        "name": name,
        "namespace": f"team-{chance.randrange(20)}",
        "uid": uid(chance),
        "resourceVersion": str(chance.randrange(10**8)),
        "creationTimestamp": "2026-11-24T00:52:55Z",
        "labels": {"app": name, "app.kubernetes.io/part-of": chance.choice(_WORDS)},
    }
    if fields:
        owned: Object = {f"f:{chance.choice(_WORDS)}-{number}": {"f:name": {}, ".": {}} for number in range(fields)}
        entry = {"manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-11-24T00:52:55Z"}
        found["managedFields"] = [entry | {"fieldsType": "FieldsV1", "fieldsV1": {"f:spec": owned}}]
    return found


def environment(chance: Random, *, secret: bool) -> list[Object]:
    """Twelve variables: two refer to a Secret, and if `secret`, one holds what it should not."""
    found: list[Object] = [{"name": name, "value": word(chance, 12)} for name in chance.sample(_PLAIN, 9)]
    found += (
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "settings", "key": name.lower()}}}
        for name in chance.sample(_HOT, 2)
    )
    last = (chance.choice(_HOT), word(chance)) if secret else ("STARTED_BY", "helm")
    return [*found, {"name": last[0], "value": last[1]}]


def pod_spec(any_of: Random, *, secret: bool) -> Object:
    """The spec of one workload's Pods, with two containers; if `secret`, one of them has a password in its variables
    and arguments."""
    chance = Random(any_of.randrange(_WORKLOADS))
    arguments = ["--listen=:8080", "--key-file=/tls/tls.key", "--log-level=info", f"--shard={chance.randrange(9)}"]
    if secret:
        arguments.append(f"--password={word(chance)}")
    probe = {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1}
    containers = [
        {
            "name": name,
            "image": f"registry.example/{chance.choice(_WORDS)}:{chance.randrange(9)}.{chance.randrange(99)}",
            "command": ["/bin/server"],
            "args": arguments if name == "main" else ["--listen=:9090"],
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "env": environment(chance, secret=secret and name == "main"),
            "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "tls", "readOnly": True, "mountPath": "/tls"}],
            "livenessProbe": probe,
            "readinessProbe": probe,
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
        }
        for name in ("main", "sidecar")
    ]
    return {
        "volumes": [{"name": "tls", "secret": {"secretName": "tls", "defaultMode": 420}}],
        "containers": containers,
        "restartPolicy": "Always",
        "serviceAccountName": "default",
        "securityContext": {"runAsNonRoot": True},
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
    }


def pod(chance: Random, *, secret: bool, stored: bool = True) -> Object:
    """A Pod, as it is sent or as it is `stored`."""
    name = f"{chance.choice(_WORDS)}-{word(chance, 10)}"
    meta = metadata(chance, name, "kube-controller-manager", 60 if stored else 0)
    made: Object = {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": pod_spec(chance, secret=secret)}
    condition = {"status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-11-24T00:53:00Z"}
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    return made | {"status": {"phase": "Running", "conditions": [{"type": kind, **condition} for kind in kinds]}}


def deployment(chance: Random, *, secret: bool, applied: bool = False, stored: bool = True) -> Object:
    """A Deployment, as it is sent or as it is `stored`; if `applied`, kubectl's annotation has it once more."""
    name = chance.choice(_WORDS)
    meta = metadata(chance, name, "kubectl-client-side-apply", 60 if stored else 0)
    template = {"metadata": {"labels": {"app": name}}, "spec": pod_spec(chance, secret=secret)}
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": name}}, "template": template}
    made: Object = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": meta, "spec": spec}
    if applied:
        plain = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"annotations": {}, "name": name}}
        meta["annotations"] = {LAST: compact(plain | {"spec": spec}) + "\n"}
    return made | {"status": {"replicas": 3, "updatedReplicas": 3} if stored else {}}


def secret(chance: Random, *, applied: bool = False, stored: bool = True, size: int = 4) -> Object:
    """A Secret of so many keys."""
    name = chance.choice(_WORDS)
    meta = metadata(chance, name, "kubectl-create", 8 if stored else 0)
    data = {f"key-{number}": base64.b64encode(word(chance, 40).encode()).decode() for number in range(size)}
    if applied:
        plain = {"apiVersion": "v1", "data": data, "kind": "Secret", "metadata": {"annotations": {}, "name": name}}
        meta["annotations"] = {LAST: compact(plain | {"type": "Opaque"}) + "\n"}
    return {"kind": "Secret", "apiVersion": "v1", "metadata": meta, "data": data, "type": "Opaque"}


def table(chance: Random, objects: list[Object]) -> Object:
    """A list as `kubectl get` asks for it; the whole objects (`?includeObject=Object`)."""
    columns = [{"name": name, "type": "string", "format": "", "description": name} for name in ("Name", "Type", "Data")]
    rows = [{"cells": [each["metadata"]["name"], "Opaque", 4], "object": each} for each in objects]
    meta = {"resourceVersion": str(chance.randrange(10**8))}
    head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns}
    return head | {"rows": rows}


def lease(chance: Random) -> Object:
    """A Lease."""
    meta = metadata(chance, f"node-{chance.randrange(100)}", "kubelet", 4)
    spec = {"holderIdentity": meta["name"], "leaseDurationSeconds": 40, "renewTime": "2026-11-24T00:52:58.008880Z"}
    return {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": meta, "spec": spec}


def node_status(chance: Random) -> Object:
    """What a kubelet patches: conditions and the images that it has."""
    names = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    heard = {"status": "False", "lastHeartbeatTime": "2026-11-24T00:52:58Z", "reason": "KubeletHasNoPressure"}
    images = [
        {
            "names": [
                f"registry.example/{chance.choice(_WORDS)}@sha256:{word(chance, 64)}",
                f"registry.example/{chance.choice(_WORDS)}:{chance.randrange(9)}.{chance.randrange(99)}",
            ],
            "sizeBytes": chance.randrange(10**9),
        }
        for _ in range(50)
    ]
    return {"status": {"conditions": [{"type": name, **heard} for name in names], "images": images}}


def config_map(chance: Random, lines: int = 120) -> Object:
    """A ConfigMap with a file in it."""
    text = "\n".join(f"{chance.choice(_WORDS)}.{number} = {word(chance)}" for number in range(lines))
    meta = metadata(chance, chance.choice(_WORDS), "helm", 8)
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta, "data": {"settings.properties": text}}


def slice_(chance: Random) -> Object:
    """An EndpointSlice."""
    meta = metadata(chance, chance.choice(_WORDS), "endpoint-slice-controller", 8)
    endpoints = [
        {
            "addresses": [f"10.{chance.randrange(255)}.{chance.randrange(255)}.{number}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{chance.randrange(100)}",
            "targetRef": {"kind": "Pod", "namespace": meta["namespace"], "name": word(chance), "uid": uid(chance)},
        }
        for number in range(25)
    ]
    head = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": meta, "addressType": "IPv4"}
    return head | {"endpoints": endpoints}


def happening(chance: Random) -> Object:
    """A Kubernetes Event."""
    meta = metadata(chance, f"{chance.choice(_WORDS)}.{word(chance, 16)}", "kubelet", 12)
    regarding = {"kind": "Pod", "namespace": meta["namespace"], "name": word(chance), "uid": uid(chance)}
    what = {"reason": "Pulled", "message": "Container image already present on machine", "count": 7, "type": "Normal"}
    return {"kind": "Event", "apiVersion": "v1", "metadata": meta, "involvedObject": regarding, **what}
