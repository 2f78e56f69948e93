"""A real single-node Kubernetes on this machine, as root, without Docker and without a registry.

Promises: everything that `ControlPlane` has, and a scheduler, kubelet, kube-proxy, containerd and CNI beside it, all in
private namespaces: Pods run, Services answer, claims are bound, from nothing to Ready in some ten seconds. It takes no
port of the host and reaches nothing outside of itself, so that images come by `load_image` and Pods must not pull.
`stop()` leaves no process, mount, cgroup or file. There is no cluster DNS: give Services a fixed ClusterIP where TLS
names it, or the name by other means.

With `bootstrap_dir` that folder is /etc/kubernetes/auditpipeline on the node, and kube-apiserver audits by the
policy.yaml and webhook.kubeconfig in it, as `auditpipeline bootstrap` writes them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import binaries, image, node_config
from .controlplane import ADMINS, ControlPlane
from .node_config import ADDRESS, NAME, PAUSE, SITE, STORAGE_CLASS, Runtime
from .processes import Failed, run
from .sandbox import Sandbox
from .volumes import Volumes

BOOTSTRAP = Path("/etc/kubernetes/auditpipeline")


class Node(ControlPlane):
    """A cluster of one node. Everything that talks to it from outside goes through `kubectl()` or `run()`."""

    programs = (
        *ControlPlane.programs,
        *("kube-scheduler", "kubelet", "kube-proxy", "pause"),
        *("containerd", "containerd-shim-runc-v2", "ctr", "runc", "iptables", "conntrack", "ip", "nsenter", "unshare"),
    )
    site = SITE
    # Under /var, /etc or /run the node would not see it.
    parent = Path("/tmp")

    def __init__(
        self,
        *,
        bootstrap_dir: Path | None = None,
        audit_log: Path | None = None,
        extra_apiserver_args: Sequence[str] = (),
    ) -> None:
        super().__init__(
            audit_policy=BOOTSTRAP / "policy.yaml" if bootstrap_dir else None,
            audit_webhook_kubeconfig=BOOTSTRAP / "webhook.kubeconfig" if bootstrap_dir else None,
            audit_log=audit_log,
            extra_apiserver_args=extra_apiserver_args,
        )
        self._bootstrap = bootstrap_dir
        self._sandbox: Sandbox | None = None
        self._volumes: Volumes | None = None

    @property
    def sandbox(self) -> Sandbox:
        """The namespaces of the node."""
        if self._sandbox is None:
            raise Failed("the node is not started")
        return self._sandbox

    @property
    def kubectl_script(self) -> Path:
        """A program for people: kubectl against this node, for as long as it runs."""
        script = self.data / "kubectl"
        if not script.exists():
            script.write_text(f'#!/bin/sh\nexec {" ".join(self.kubectl_command())} "$@"\n')
            script.chmod(0o755)
        return script

    def stop(self) -> None:
        """Kill every process and delete every file; may be called twice."""
        if self._volumes:
            self._volumes.stop()
            self._volumes = None
        if self._sandbox:
            self._sandbox.kill()
            self._sandbox = None
        super().stop()

    def wait_ready(self) -> None:
        """Wait until the node is Ready."""
        self.wait_for("Ready node", self._node_ready)

    def load_image(self, archive: Path) -> None:
        """Load a docker-archive; Pods use it with `imagePullPolicy` Never or IfNotPresent."""
        self.run("ctr", f"--address={self._runtime.socket}", "--namespace=k8s.io", "images", "import", str(archive))

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command as if logged in to the node; its paths must be absolute. Raises `Failed`."""
        return run(self.inside(command), stdin=stdin)

    def entered(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in the node's network."""
        return self.sandbox.entered(command)

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on the node."""
        return self.sandbox.inside(command)

    def _start(self) -> None:
        super()._start()
        self._start_node()
        self.kubectl("apply", "-f", "-", input=node_config.storage_class())
        self._volumes = Volumes(self.data / "volumes", STORAGE_CLASS, NAME, self.kubectl_command)
        self._volumes.start()
        self.wait_ready()
        self.kubectl("label", "node", NAME, "node-role.kubernetes.io/control-plane=")

    def _prepare(self) -> None:
        if sys.platform != "linux" or os.geteuid():
            raise binaries.Missing("a node needs root on Linux: run as root, or install Docker and kind")
        super()._prepare()
        client = self.authority.client("kube-apiserver-kubelet-client", "kube-apiserver-kubelet-client", [ADMINS])
        self._extra_apiserver_args += [
            *[f"--kubelet-client-certificate={client.certificate}", f"--kubelet-client-key={client.key}"],
            f"--kubelet-certificate-authority={self.authority.certificate}",
            "--kubelet-preferred-address-types=InternalIP",
        ]
        self._sandbox = Sandbox(self.data, f"{ADDRESS}/24", SITE.services, self._bootstrap)
        self._sandbox.start()
        self._start_containerd()

    def _start_containerd(self) -> None:
        self._runtime = Runtime(self.data / "containerd")
        (self._runtime.folder / "net.d").mkdir(parents=True, exist_ok=True)
        self._runtime.config.write_text(node_config.containerd(self._runtime))
        (self._runtime.folder / "net.d" / "pods.conflist").write_text(node_config.network())
        self._launch("containerd", [f"--config={self._runtime.config}"])

    def _start_node(self) -> None:
        self._launch("kube-scheduler", node_config.scheduler(self.user_kubeconfig("system:kube-scheduler")))
        self._launch("kube-proxy", node_config.kube_proxy(self.user_kubeconfig("system:kube-proxy")))
        self.load_image(image.pause(PAUSE))
        serving = self.authority.serving("kubelet", [ADDRESS, NAME])
        config = self.data / "kubelet.yaml"
        config.write_text(node_config.kubelet(self._runtime, self.sandbox.cgroup, self.authority.certificate, serving))
        kubeconfig = self.user_kubeconfig(f"system:node:{NAME}", ["system:nodes"])
        self._launch("kubelet", node_config.kubelet_flags(config, kubeconfig))

    def ready(self) -> bool:
        """Whether /readyz answers ok now; seen from within, the host has no way to the node."""
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except Failed:
            return False

    def _node_ready(self) -> bool:
        condition = "{.items[*].status.conditions[?(@.type=='Ready')].status}"
        return self.kubectl("get", "nodes", "-o", f"jsonpath={condition}") == "True"
