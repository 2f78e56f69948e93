"""auditpipeline on a real node: the image is loaded, the chart is installed by helm, everything runs in Pods."""

from __future__ import annotations

import sys
from pathlib import Path

from . import binaries, image
from .deployment import CHART, EVENTS, NAMESPACE, Deployment, bootstrap
from .node import Node
from .processes import Failed, run

KILL = """
for process in /proc/[0-9]*; do
  if grep -qs '{uid}' $process/cgroup && grep -qs serve $process/cmdline; then kill -9 "${{process#/proc/}}"; fi
done
"""
CLI = [sys.executable, "-m", "auditpipeline.cli.main"]


class NodeDeployment(Deployment):
    """`data` is an empty folder below which the node's bootstrap files are; `values` are `--set` arguments of helm."""

    def __init__(self, data: Path, *, values: tuple[str, ...] = (), audit_log: Path | None = None) -> None:
        self.bootstrap = data / "bootstrap"
        self._values = values
        bootstrap(self.bootstrap, CLI)
        self.cluster: Node = Node(bootstrap_dir=self.bootstrap, audit_log=audit_log)

    def start(self) -> None:
        """Build the image if need be, start the node, install with helm."""
        binaries.find("helm")  # what is missing should be said before an image has been waited for
        archive = image.build()
        self.cluster.start()
        self.cluster.load_image(archive)
        name, _, tag = image.NAME.rpartition(":")
        self.helm(
            *["install", "auditpipeline", str(CHART), "--create-namespace", "--wait=legacy", "--timeout=180s"],
            *["--set", f"image.repository={name},image.tag={tag},image.pullPolicy=IfNotPresent"],
            *[argument for value in self._values for argument in ("--set", value)],
        )
        self.wait_for("a gateway that is ready", self.gateway_ready)

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
        uid = self.get("pod", pod, "-n", NAMESPACE)["metadata"]["uid"].replace("-", "[-_]")
        self.cluster.run("/bin/sh", "-c", KILL.format(uid=uid))

    def hints(self) -> list[str]:
        """The node is in namespaces of its own: kubectl goes through a script."""
        kubectl = self.cluster.kubectl_script
        return [
            f"alias kubectl={kubectl}",
            f"{kubectl} exec -n {NAMESPACE} audit-quickstart-0 -- tail -F {EVENTS}",
        ]
