"""auditpipeline on the control plane alone: the operator, the gateway and the receivers as processes of this machine.

What is installed is what the chart renders: CRDs, RBAC, policies and the gateway's DaemonSet are applied as they are.
The Deployment's container runs as a process with the Deployment's own ServiceAccount, so that missing permissions show.
The static side is written by `auditpipeline bootstrap`, as on a node.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from . import binaries
from .controlplane import ControlPlane
from .deployment import CHART, NAMESPACE, Deployment, bootstrap
from .kubelet import LocalKubelet
from .processes import Process, run

CLI = [sys.executable, "-m", "auditpipeline.cli.main"]


class LocalDeployment(Deployment):
    """`data` is an empty folder for what is not the cluster's own; `operator_args` come after the chart's. Without a
    `static_policy`, kube-apiserver runs with the one that `bootstrap` writes by itself.

    Everything is on loopback here, so that all of it is in the chart's `egress.allow`, unless a test wants less."""

    helm_args: tuple[str, ...] = ()
    egress_allow: tuple[str, ...] = ("127.0.0.0/8",)

    def __init__(
        self,
        data: Path,
        *,
        operator_args: tuple[str, ...] = (),
        audit_log: Path | None = None,
        static_policy: Path | None = None,
    ) -> None:
        self._data = data
        self._operator_args = operator_args
        self.address = f"127.0.0.1:{free_port()}"
        self.health = f"127.0.0.1:{free_port()}"
        self.bootstrap = data / "bootstrap"
        policy = ("--policy", str(static_policy)) if static_policy else ()
        bootstrap(self.bootstrap, CLI, "--address", self.address, *policy)
        self.cluster = ControlPlane(
            audit_policy=self.bootstrap / "policy.yaml",
            audit_webhook_kubeconfig=self.bootstrap / "webhook.kubeconfig",
            audit_log=audit_log,
        )
        self._kubelet: LocalKubelet | None = None

    @property
    def kubelet(self) -> LocalKubelet:
        """What runs the Pods."""
        assert self._kubelet is not None
        return self._kubelet

    @property
    def operator(self) -> Process:
        """The operator's process."""
        return self.watched[0]

    def start(self) -> None:
        """Start the cluster, install the chart, start the local kubelet and the operator."""
        binaries.find("helm")  # what is missing should be said before a cluster has been waited for
        self.cluster.start()
        deployment = self._install()
        self._kubelet = LocalKubelet(self.cluster, self.address, self.bootstrap / "gateway")
        self._kubelet.start()
        self.watched = (Process("operator", self._operator_command(deployment), self._data / "operator.log"),)
        self.operator.start()
        self.wait_for_intake()

    def wait_for_intake(self) -> None:
        """Wait until somebody takes kube-apiserver's events."""
        self.wait_for("a gateway that is ready", self.gateway_ready)

    def stop(self) -> None:
        """Stop everything that was started."""
        for process in self.watched:
            process.stop()
        if self._kubelet:
            self._kubelet.stop()
            self._kubelet = None
        self.cluster.stop()

    def lines(self, namespace: str, pod: str, path: str) -> list[bytes]:
        """Read where the Pod's folder is."""
        try:
            file = self.kubelet.pod(pod).folder / path.lstrip("/")
        except StopIteration:
            return []
        return file.read_bytes().split(b"\n")[:-1] if file.exists() else []

    def kill(self, pod: str) -> None:
        """Kill the process."""
        self.kubelet.kill(pod)

    def hints(self) -> list[str]:
        """The kubeconfig reaches the API server from this machine."""
        return [f"export KUBECONFIG={self.cluster.kubeconfig}", f"tail -F {self._data}/operator.log"]

    def _install(self) -> dict[str, Any]:
        """Apply what the chart renders but for the Deployment, which is returned."""
        helm = binaries.find("helm")["helm"]
        values = [*self.helm_args, "--set-json", f"egress.allow={json.dumps(self.egress_allow)}"]
        rendered = run([str(helm), "template", "auditpipeline", str(CHART), "--namespace", NAMESPACE, *values])
        objects = [found for found in yaml.safe_load_all(rendered) if found]
        deployment: dict[str, Any] = next(found for found in objects if found["kind"] == "Deployment")
        crds = [found for found in objects if found["kind"] == "CustomResourceDefinition"]
        rest = [found for found in objects if found["kind"] not in ("CustomResourceDefinition", "Deployment")]
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *crds)
        self.kubectl("wait", "--for=condition=Established", *[f"crd/{crd['metadata']['name']}" for crd in crds])
        self.apply(*rest)
        return deployment

    def _operator_command(self, deployment: dict[str, Any]) -> list[str]:
        pod = deployment["spec"]["template"]["spec"]
        token = self.kubectl("create", "token", pod["serviceAccountName"], "-n", NAMESPACE, "--duration=24h").strip()
        kubeconfig = self._data / "operator.kubeconfig"
        document = yaml.safe_load(self.cluster.kubeconfig.read_text())
        document["users"][0]["user"] = {"token": token}
        kubeconfig.write_text(yaml.safe_dump(document))
        command = [*CLI, *pod["containers"][0]["args"], "--namespace", NAMESPACE, "--kubeconfig", str(kubeconfig)]
        command += ["--identity", "local"]
        # Only root may listen on 443, which the receivers' Services would otherwise have.
        port = [] if os.geteuid() == 0 else ["--service-port", "8443"]
        return [*command, "--listen", self.health, *port, *self._operator_args]


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
