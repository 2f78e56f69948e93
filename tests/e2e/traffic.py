"""What the end-to-end tests do and look at, on either tier."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.cluster.deployment import NAMESPACE, Deployment
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import Failed

MINE = {"level": "Metadata", "verbs": ["create"], "resources": [{"group": "", "resources": ["configmaps"]}]}
numbers = itertools.count()


def pipeline(name: str, *rules: dict[str, Any], **changes: Any) -> dict[str, Any]:
    spec = {
        "policy": {"omitStages": ["RequestReceived"], "rules": list(rules) or [MINE]},
        "outputs": [{"name": "archive", "file": {"path": "/var/log/audit/events.jsonl"}}],
        "webhook": {"replicas": 1, "storage": {"ephemeral": False, "size": "2Gi"}},
        **changes,
    }
    return {
        "apiVersion": "auditpipeline.dev/v1alpha1",
        "kind": "AuditPipeline",
        "metadata": {"name": name},
        "spec": spec,
    }


def touch(it: Deployment, user: str = "alice") -> str:
    """One request that audit can be asked for: a ConfigMap made by `user`. Returns its name."""
    made = f"marker-{next(numbers)}"
    kubeconfig = it.cluster.user_kubeconfig(user, ["system:masters"])
    it.kubectl("create", "configmap", made, "-n", "default", kubeconfig=kubeconfig)
    return made


def recorded(it: Deployment, pipeline_name: str) -> set[str]:
    """The names of the objects in the events that the pipeline has delivered."""
    return {event.get("objectRef", {}).get("name", "") for event in it.events(pipeline_name)}


def asked_for(it: Deployment, pipeline_name: str) -> list[dict[str, Any]]:
    """The events that the pipeline's own rules want: the floor adds changes to auditing itself, whoever makes them."""
    floor = {"auditpipelines", "auditsinks"}
    return [event for event in it.events(pipeline_name) if event.get("objectRef", {}).get("resource") not in floor]


def wait_recorded(it: Deployment, pipeline_name: str, wanted: set[str], timeout: float = 60) -> None:
    it.wait_for(f"{sorted(wanted)} in {pipeline_name}", lambda: wanted <= recorded(it, pipeline_name), timeout)


def gone(it: Deployment, pipeline_name: str) -> Callable[[], bool]:
    kinds = "statefulsets,services,secrets,pods,serviceaccounts,poddisruptionbudgets,networkpolicies,pvc"
    selector = f"auditpipeline.dev/pipeline={pipeline_name}"
    return lambda: (
        not (
            it.kubectl("get", kinds, "-A", "-l", selector, "-o", "name").strip()
            or f"audit-{pipeline_name}" in it.kubectl("get", "auditsinks", "-o", "name")
        )
    )


def count(it: Deployment, pipeline_name: str, marker: str) -> int:
    """How often the marker's event is in the file, when it is there at all."""
    wait_recorded(it, pipeline_name, {marker})
    # Both sinks post at their own pace: a later event through the same gateway comes after this one through both.
    wait_recorded(it, pipeline_name, {touch(it)})
    names = [event["objectRef"].get("name") for event in it.events(pipeline_name) if "objectRef" in event]
    return names.count(marker)


def restart_apiserver(local: LocalDeployment) -> None:
    """Restart kube-apiserver, and the operator as kubelet would where it lost its Lease meanwhile."""
    local.cluster.restart_apiserver()
    wait_led(local)


def wait_led(local: LocalDeployment) -> None:
    """Wait until an operator leads, with a Lease that it renewed just now, and our kinds are served."""
    begun = datetime.now(UTC)

    def leading() -> bool:
        if not local.operator.running:
            local.operator.stop()
            local.operator.start()
        try:
            lease = local.get("lease", "auditpipeline-operator", "-n", NAMESPACE)
            # An API server that has just become ready may lack the kinds of CustomResourceDefinitions for a moment.
            local.kubectl("get", "auditpipelines,auditsinks")
        except Failed:
            return False
        return datetime.fromisoformat(lease["spec"]["renewTime"]) > begun

    local.cluster.wait_for("an operator that leads", leading, 60)
