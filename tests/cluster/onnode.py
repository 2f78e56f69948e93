"""auditpipeline on a real node: the image is loaded, the chart is installed by helm, everything runs in Pods."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from . import binaries, image
from .deployment import EVENTS, NAMESPACE, RECEIVERS, Deployment, bootstrap
from .node import Node
from .processes import Failed, run

KILL = """
for process in /proc/[0-9]*; do
  if grep -qs '{uid}' $process/cgroup && grep -qs serve $process/cmdline; then kill -9 "${{process#/proc/}}"; fi
done
"""
CLI = [sys.executable, "-m", "auditpipeline.cli.main"]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True)
class Release:
    """A release: the folder of its sources, and the name of its image."""

    sources: Path = image.PROJECT
    image: str = image.NAME

    @property
    def chart(self) -> Path:
        """Its chart."""
        return self.sources / "manifests" / "chart"

    def build(self) -> Path:
        """Its image, built if need be."""
        return image.build(self.sources, self.image)


class NodeDeployment(Deployment):
    """`data` is an empty folder below which the node's bootstrap files are; `values` are `--set` arguments of helm.

    With `behind_service` the gateway is a StatefulSet at `service_address`, in a namespace that is restricted.
    `release` says what is installed at first; `upgrade` installs another one."""

    service_address = "10.98.0.9"

    def __init__(
        self,
        data: Path,
        *,
        values: tuple[str, ...] = (),
        audit_log: Path | None = None,
        behind_service: bool = False,
        release: Release | None = None,
    ) -> None:
        self.bootstrap = data / "bootstrap"
        self._values = values
        self._behind_service = behind_service
        self._release = release or Release()
        bootstrap(self.bootstrap, CLI, *(["--address", f"{self.service_address}:443"] if behind_service else []))
        self.cluster: Node = self._node(audit_log)

    def _node(self, audit_log: Path | None) -> Node:
        return Node(bootstrap_dir=self.bootstrap, audit_log=audit_log)

    def start(self) -> None:
        """Build the image if need be, start the node, install with helm."""
        binaries.find("helm")  # what is missing should be said before an image has been waited for
        archive = self._release.build()
        self.cluster.start()
        self.cluster.load_image(archive)
        if self._behind_service:
            self._hand_over_certificates()
        self._install("install", self._release, "--create-namespace")

    def upgrade(self, release: Release) -> None:
        """Upgrade to a release, newer or older, by its own chart; returns when operator and gateway run it."""
        self.cluster.load_image(release.build())
        self._install("upgrade", release)

    def _install(self, verb: str, release: Release, *args: str) -> None:
        name, _, tag = release.image.rpartition(":")
        self.helm(
            *[verb, "auditpipeline", str(release.chart), *args, "--wait=legacy", "--timeout=180s"],
            *["--set", f"image.repository={name},image.tag={tag},image.pullPolicy=IfNotPresent"],
            *[argument for value in self._all_values() for argument in ("--set", value)],
        )
        self.wait_for("a gateway that is ready", self.gateway_ready)

    def _all_values(self) -> tuple[str, ...]:
        if not self._behind_service:
            return self._values
        return (*self._values, f"gateway.kind=StatefulSet,gateway.service.clusterIP={self.service_address}")

    def _hand_over_certificates(self) -> None:
        """The namespace and the Secret, as the administrator makes them before the chart is installed."""
        metadata = {"name": NAMESPACE, "labels": RESTRICTED}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        secret = run([*CLI, "bootstrap", "secret", "--dir", str(self.bootstrap)])
        self.kubectl("apply", "--server-side", "-f", "-", stdin=secret)

    def stop(self) -> None:
        """The node goes with everything on it."""
        self.cluster.stop()

    def helm(self, *args: str) -> str:
        """helm against the node, in the operator's namespace."""
        command = [str(binaries.find("helm")["helm"]), *args]
        flags = ["--kubeconfig", str(self.cluster.kubeconfig), "--namespace", NAMESPACE]
        return run(self.entered([*command, *flags]), timeout=300)

    def entered(self, command: list[str]) -> list[str]:
        """The command line that runs `command` where the API server is reached."""
        return self.cluster.entered(command)

    def lines(self, namespace: str, pod: str, path: str) -> list[bytes]:
        """Read through `kubectl exec`."""
        try:
            content = self.kubectl("exec", "-n", namespace, pod, "-c", "receiver", "--", "cat", path)
        except Failed:
            return []
        return content.encode().split(b"\n")[:-1]

    def kill(self, pod: str) -> None:
        """Kill the container's process from the node, as no process in the container may."""
        chosen = ("-A", f"--field-selector=metadata.name={pod}", "-o", "jsonpath={.items[*].metadata.uid}")
        uid = self.kubectl("get", "pods", *chosen).replace("-", "[-_]")
        self.cluster.run("/bin/sh", "-c", KILL.format(uid=uid))

    def hints(self) -> list[str]:
        """The node is in namespaces of its own: kubectl goes through a script."""
        kubectl = self.cluster.kubectl_script
        return [
            f"alias kubectl={kubectl}",
            f"{kubectl} exec -n {RECEIVERS} audit-quickstart-0 -- tail -F {EVENTS}",
        ]
