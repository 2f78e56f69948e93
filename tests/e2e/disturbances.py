"""What is done to the operator and to the cluster while the recorder watches, on the control plane alone."""

from __future__ import annotations

import json
import re
import signal
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPException
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

from tests.cluster.controlplane import ADMINS, ControlPlane
from tests.cluster.deployment import NAMESPACE, RECEIVERS
from tests.cluster.local import LocalDeployment, free_port
from tests.cluster.processes import Failed, Process
from tests.cluster.rest import MERGE, Rest

RECONCILES = re.compile(r'^auditpipeline_reconciles_total\{kind="(\w+)"\} (\S+)$', re.MULTILINE)
KINDS = ("pipeline", "sinks")
WEBHOOK = "down"


class Operators:
    """The operator's processes, kept running as kubelet keeps containers: one that ends is started again.

    A context manager; nobody else may start or stop an operator meanwhile.
    """

    def __init__(self, local: LocalDeployment) -> None:
        self._local = local
        self._processes = {local.health: local.operator}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operators", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        for health in list(self._processes):
            if health != self._local.health:
                self.remove(health)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            with self._lock:
                for process in self._processes.values():
                    if not process.running:
                        process.stop()
                        process.start()

    def restart(self, health: str, sig: int) -> None:
        """End the process; it is started again."""
        with self._lock:
            self._processes[health].stop(sig, timeout=30)
            self._processes[health].start()

    def add(self) -> str:
        """One more operator process; returns its health address once it waits to lead."""
        health = f"127.0.0.1:{free_port()}"
        first = self._local.operator
        command = [health if part == self._local.health else part for part in first.command]
        process = Process("standby", [*command, "--identity", "standby"], first.log.with_name(f"operator-{health}.log"))
        with self._lock:
            process.start()
            self._processes[health] = process
        self._local.cluster.wait_for("a standby", lambda: self._get(health, "/readyz") == "waiting to lead", 30)
        return health

    def remove(self, health: str, sig: int = signal.SIGTERM) -> None:
        """End the process for good; the first one is started again by the next `restore`."""
        with self._lock:
            self._processes.pop(health).stop(sig, timeout=30)

    def put_back(self) -> None:
        """Keep the first process running again, if it was removed."""
        with self._lock:
            self._processes.setdefault(self._local.health, self._local.operator)

    def leader(self) -> str:
        """The health address of the process that leads, or ""."""
        return next((health for health in list(self._processes) if self._get(health, "/readyz") == "leading"), "")

    def wait_led(self, since: float) -> None:
        """Wait until an operator leads that has renewed its Lease after `since`."""

        def led() -> bool:
            try:
                spec = self._local.get("lease", "auditpipeline-operator", "-n", NAMESPACE)["spec"]
            except Failed:
                return False
            return bool(self.leader()) and datetime.fromisoformat(spec["renewTime"]).timestamp() > since

        self._local.cluster.wait_for("an operator that leads", led, 120)

    def wait_rounds(self, rounds: int, pipelines: int) -> None:
        """Wait until one and the same leader has looked at everything so many times from now on."""
        before: dict[str, dict[str, float]] = {}

        def looked() -> bool:
            leader = self.leader()
            counts = self._reconciles(leader) if leader else {}
            grown = {kind: counts.get(kind, 0.0) - before.get(leader, {}).get(kind, 0.0) for kind in KINDS}
            if leader not in before or min(grown.values()) < 0:  # another leader, or its process has started anew
                before.clear()
                before[leader] = counts
                return False
            return bool(leader) and grown["pipeline"] >= rounds * pipelines and grown["sinks"] >= rounds

        self._local.cluster.wait_for(f"{rounds} rounds", looked, 300)

    def wait_asked(self) -> None:
        """Wait until the API servers have been asked anew for what they lost: of what is made after that, it is no loss
        that they posted events before there was a gateway."""
        before = self._reconciles(self.leader()).get("apiservers", 0.0)
        self._local.cluster.wait_for(
            "a new reading", lambda: self._reconciles(self.leader()).get("apiservers", 0.0) >= before + 2, 120
        )

    def _reconciles(self, health: str) -> dict[str, float]:
        return {kind: float(count) for kind, count in RECONCILES.findall(self._get(health, "/metrics"))}

    def _get(self, health: str, path: str) -> str:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # kubelet does not verify it either
        try:
            with urlopen(f"https://{health}{path}", timeout=2, context=context) as answer:
                return str(answer.read().decode())
        except (URLError, HTTPException, OSError):
            return ""


def write_much(cluster: ControlPlane, writes: int) -> None:
    """Raise the cluster's resourceVersion by so many writes at least."""
    rest = Rest(cluster.url, cluster.authority, cluster.authority.client("writer", "writer", [ADMINS]))
    path = "/api/v1/namespaces/default/configmaps"
    rest("POST", path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written"}})
    for number in range(writes):
        rest("PATCH", f"{path}/written", {"data": {"number": str(number)}}, MERGE)
    rest.close()


@contextmanager
def webhook_down(local: LocalDeployment, rules: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Admission of what `rules` name asks a webhook meanwhile at which nobody answers, in the namespaces of ours."""
    local.apply(_configuration(rules))
    try:
        local.cluster.wait_for("a refusal", lambda: _refused(local, rules), 30)
        yield
    finally:
        local.kubectl("delete", "validatingwebhookconfiguration", WEBHOOK)
        local.cluster.wait_for("no more refusals", lambda: not _refused(local, rules), 30)


def rule(groups: Sequence[str], *resources: str) -> dict[str, Any]:
    """Creations and updates of these resources in namespaces: a selector of namespaces leaves nothing else out."""
    return {
        "apiGroups": list(groups),
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": list(resources),
        "scope": "Namespaced",
    }


_OURS = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [NAMESPACE, RECEIVERS]}


def _configuration(rules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": WEBHOOK},
        "webhooks": [
            {
                "name": "down.example.com",
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": list(rules),
                "namespaceSelector": {"matchExpressions": [_OURS]},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 2,
            }
        ],
    }


PROBES: dict[str, dict[str, Any]] = {
    "statefulsets": {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "spec": {
            "serviceName": "probe",
            "replicas": 0,
            "selector": {"matchLabels": {"app": "probe"}},
            "template": {
                "metadata": {"labels": {"app": "probe"}},
                "spec": {"containers": [{"name": "probe", "image": "probe"}]},
            },
        },
    },
    "secrets": {"apiVersion": "v1", "kind": "Secret"},
    "*": {"apiVersion": "v1", "kind": "ConfigMap"},
}


def _refused(local: LocalDeployment, rules: Sequence[dict[str, Any]]) -> bool:
    """Whether the webhook is asked: the API server takes a moment to learn of it."""
    named = next(name for name in PROBES if any(name in found["resources"] for found in rules))
    probe = PROBES[named] | {"metadata": {"name": "probe", "namespace": RECEIVERS}}
    try:
        local.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(probe))
    except Failed as error:
        return "down.example.com" in str(error)
    return False
