"""auditpipeline on a cluster, as tests and the demo see it, whatever it runs on."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from .controlplane import ControlPlane
from .processes import Process, run, wait_for

NAMESPACE = "auditpipeline-system"
RECEIVERS = "auditpipeline-receivers"
ROOT = Path(__file__).parents[2]
CHART = ROOT / "manifests" / "chart"
EVENTS = "/var/log/audit/events.jsonl"


class Deployment(ABC):
    """An installed auditpipeline: a context manager, or plain `start()` and `stop()`."""

    cluster: ControlPlane
    watched: tuple[Process, ...] = ()
    apply_args: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start the cluster and install; returns when the gateway takes events."""

    @abstractmethod
    def stop(self) -> None:
        """Stop everything that was started; may be called twice."""

    @abstractmethod
    def lines(self, namespace: str, pod: str, path: str) -> list[bytes]:
        """The whole lines of a file in a Pod; none while Pod or file is not there."""

    @abstractmethod
    def kill(self, pod: str) -> None:
        """`kill -9` on the process of a Pod of ours; it is started again."""

    @abstractmethod
    def hints(self) -> list[str]:
        """How a person goes on: one line each."""

    def kubectl(self, *args: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """kubectl as the administrator, or with `kubeconfig`."""
        return self.cluster.kubectl(*args, input=stdin, kubeconfig=kubeconfig)

    def get(self, kind: str, name: str, *args: str) -> dict[str, Any]:
        """An object as the API server has it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json", *args))
        return found

    def apply(self, *objects: dict[str, Any]) -> None:
        """`kubectl apply` of the objects."""
        self.kubectl("apply", "-f", "-", *self.apply_args, stdin=yaml.safe_dump_all(objects))

    def condition(self, name: str, kind: str = "Ready") -> dict[str, str]:
        """A condition of an AuditPipeline; empty while there is none."""
        conditions = self.get("auditpipeline", name).get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def wait_ready(self, name: str, timeout: float = 120) -> None:
        """Wait until the AuditPipeline is Ready for its newest generation."""

        def ready() -> bool:
            found = self.get("auditpipeline", name)
            status = found.get("status", {})
            states = [c["status"] for c in status.get("conditions", []) if c["type"] == "Ready"]
            return status.get("observedGeneration") == found["metadata"]["generation"] and states == ["True"]

        self.wait_for(f"Ready AuditPipeline {name}", ready, timeout)

    def wait_for(self, what: str, state: Callable[[], bool], timeout: float = 60) -> None:
        """Wait for a state; fails with the logs at once when a watched process ends."""
        wait_for(what, state, timeout, self.watched)

    def events(self, pipeline: str, path: str = EVENTS) -> list[dict[str, Any]]:
        """What the file output of every Pod of the pipeline holds now."""
        return [json.loads(line) for pod in self._pods(pipeline) for line in self.lines(*pod, path)]

    def _pods(self, pipeline: str) -> Iterator[tuple[str, str]]:
        selector = f"auditpipeline.dev/pipeline={pipeline}"
        for pod in json.loads(self.kubectl("get", "pods", "-A", "-l", selector, "-o", "json"))["items"]:
            yield pod["metadata"]["namespace"], pod["metadata"]["name"]

    def gateway_ready(self) -> bool:
        """Whether a gateway Pod is Ready."""
        return "true" in self.kubectl(
            *["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=auditpipeline-gateway"],
            *["-o", "jsonpath={.items[*].status.containerStatuses[*].ready}"],
        )


def bootstrap(directory: Path, command: list[str], *args: str) -> None:
    """Write the static side of a control-plane node, as its administrator would."""
    run([*command, "bootstrap", "files", "--dir", str(directory), *args])
    # kube-apiserver's start is known to the second alone, and nobody restarts it within one of writing its policy.
    written = (directory / "policy.yaml").stat().st_ctime
    wait_for("a second", lambda: time.time() > written + 1, 5, ())
