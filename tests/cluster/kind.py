"""The same node on kind, where Docker answers. Written from kind's documentation; not tried with Docker yet.

Promises: the surface of `Node` as far as tests use it; `stop()` deletes the cluster. kind brings cluster DNS, its own
default StorageClass (also named `standard`) and its own Kubernetes version.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from . import binaries
from .binaries import Missing
from .pki import Authority
from .processes import Failed, run, wait_for

NAME = "auditpipeline-test"
BOOTSTRAP = "/etc/kubernetes/auditpipeline"
MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"


class Kind:
    """A kind cluster of one node."""

    def __init__(self, *, bootstrap_dir: Path | None = None) -> None:
        self._bootstrap = bootstrap_dir
        self._data: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def data(self) -> Path:
        """The folder of this run; gone after `stop()`."""
        if self._data is None:
            raise Failed("the cluster is not started")
        return self._data

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator."""
        return self.data / "admin.kubeconfig"

    def start(self) -> None:
        """Create the cluster; returns when the node is Ready."""
        if shutil.which("kind") is None:
            raise Missing("kind is not installed: install kind, which needs Docker")
        self._kubectl = binaries.find("kubectl")["kubectl"]
        self._data = Path(tempfile.mkdtemp(prefix="auditpipeline-kind-"))
        try:
            config = yaml.safe_dump(_config(self._bootstrap))
            command = ["kind", "create", "cluster", f"--name={NAME}", f"--kubeconfig={self.kubeconfig}", "--wait=180s"]
            run([*command, "--config=-"], stdin=config, timeout=900)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Delete the cluster; may be called twice."""
        if self._data:
            run(["kind", "delete", "cluster", f"--name={NAME}", f"--kubeconfig={self.kubeconfig}"])
            shutil.rmtree(self._data)
            self._data = None

    def kubectl(self, *args: str, input: str | None = None, kubeconfig: Path | None = None) -> str:  # noqa: A002
        """Run kubectl as the administrator, or with `kubeconfig`; raises `Failed` with what it says on stderr."""
        return run([str(self._kubectl), f"--kubeconfig={kubeconfig or self.kubeconfig}", *args], stdin=input)

    def user_kubeconfig(self, name: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for any user in any groups, signed by the cluster's own authority."""
        stem = "_".join([name, *groups]).translate(str.maketrans(":/", "--"))
        path = self.data / f"{stem}.kubeconfig"
        if not path.exists():
            admin = yaml.safe_load(self.kubeconfig.read_text())
            authority = Authority(self.data / "pki", signer=(self._read("pki/ca.crt"), self._read("pki/ca.key")))
            server = admin["clusters"][0]["cluster"]["server"]
            authority.kubeconfig(path, server, authority.client(stem, name, groups))
        return path

    def load_image(self, archive: Path) -> None:
        """Load a docker-archive into the node."""
        run(["kind", "load", "image-archive", str(archive), f"--name={NAME}"], timeout=300)

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command on the node."""
        return run(["docker", "exec", "--interactive", f"{NAME}-control-plane", *command], stdin=stdin)

    def wait_ready(self) -> None:
        """Wait until the node is Ready."""
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s")

    def stop_apiserver(self, sig: int = signal.SIGKILL) -> None:
        """Take kube-apiserver's manifest away, so that kubelet does not start it again, and stop it."""
        self.run("mv", MANIFEST, "/root/kube-apiserver.yaml")
        self.run("pkill", f"-{int(sig)}", "-x", "kube-apiserver")

    def start_apiserver(self) -> None:
        """Give the manifest back and wait until kube-apiserver is ready."""
        self.run("mv", "/root/kube-apiserver.yaml", MANIFEST)
        wait_for("ready kube-apiserver", self.ready, 120)

    def restart_apiserver(self, sig: int = signal.SIGKILL) -> None:
        """Restart kube-apiserver, which reads its audit files anew."""
        self.stop_apiserver(sig)
        self.start_apiserver()

    def ready(self) -> bool:
        """Whether /readyz answers ok now."""
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except Failed:
            return False

    def _read(self, name: str) -> bytes:
        return self.run("cat", f"/etc/kubernetes/{name}").encode()


def _config(bootstrap: Path | None) -> dict[str, object]:
    """kind's configuration: the bootstrap folder on the node and in kube-apiserver's Pod, and the audit flags."""
    node: dict[str, object] = {"role": "control-plane"}
    if bootstrap:
        arguments = {
            "audit-policy-file": f"{BOOTSTRAP}/policy.yaml",
            "audit-webhook-config-file": f"{BOOTSTRAP}/webhook.kubeconfig",
            "audit-webhook-mode": "batch",
            "audit-webhook-batch-max-wait": "1s",
            "audit-webhook-initial-backoff": "1s",
        }
        volume = {"name": "auditpipeline", "hostPath": BOOTSTRAP, "mountPath": BOOTSTRAP, "pathType": "Directory"}
        patch = {
            "kind": "ClusterConfiguration",
            "apiServer": {
                # kubeadm's v1beta4 takes a list here, v1beta3 took a map.
                "extraArgs": [{"name": name, "value": value} for name, value in arguments.items()],
                "extraVolumes": [volume],
            },
        }
        node["extraMounts"] = [{"hostPath": str(bootstrap.absolute()), "containerPath": BOOTSTRAP}]
        node["kubeadmConfigPatches"] = [yaml.safe_dump(patch)]
    return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [node]}
