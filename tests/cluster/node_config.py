"""The configuration files and command lines of a node's programs: values in, documents out.

Tried with Kubernetes 1.37 and containerd 1.6, on cgroup v1. What looks odd has its reason beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from .flags import Site
from .pki import Pair

NAME = "node1"
ADDRESS = "10.99.0.1"
PODS = "10.97.0.0/24"
SITE = Site(ADDRESS, 6443, "10.98.0.0/16", "10.98.0.1", "lease")
PAUSE = "localhost/auditpipeline-pause:1"
STORAGE_CLASS = "standard"


@dataclass(frozen=True)
class Runtime:
    """The folder of containerd's files and its socket."""

    folder: Path

    @property
    def socket(self) -> Path:
        """Where containerd and its CRI listen."""
        return self.folder / "containerd.sock"

    @property
    def config(self) -> Path:
        """containerd's configuration file."""
        return self.folder / "config.toml"


def containerd(runtime: Runtime) -> str:
    """containerd's configuration, in the form that 1.x and 2.x read."""
    folder, networks = runtime.folder, runtime.folder / "net.d"
    return f"""version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{runtime.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
# Without CAP_SYS_RESOURCE a lower score than the parent's is refused, and the sandbox with it.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
"""


def network() -> str:
    """The CNI network of the Pods: one bridge, host-local addresses, host ports."""
    bridge = {
        "type": "bridge",
        "bridge": "pods0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]})


def kubelet(runtime: Runtime, cgroup: str, authority: Path, serving: Pair) -> str:
    """KubeletConfiguration of a node that never evicts, and that notices and tells changes soon."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{runtime.socket}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            # containerd 1.6 cannot tell its driver, so that kubelet takes this one.
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            # The disk is the developer's own: its filling up is no reason to evict Pods or to remove images.
            "evictionHard": dict.fromkeys(("imagefs.available", "nodefs.available", "nodefs.inodesFree"), "0%"),
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "1s",
            "syncFrequency": "5s",
            # A test deletes more than one Pod a second.
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
        },
        sort_keys=False,
    )


def kubelet_flags(config: Path, kubeconfig: Path) -> list[str]:
    """What KubeletConfiguration cannot say."""
    return [f"--config={config}", f"--kubeconfig={kubeconfig}", f"--node-ip={ADDRESS}", f"--hostname-override={NAME}"]


def kube_proxy(kubeconfig: Path) -> list[str]:
    """kube-proxy that leaves the machine-wide connection-tracking settings alone."""
    return [
        *[f"--kubeconfig={kubeconfig}", f"--hostname-override={NAME}"],
        *["--proxy-mode=iptables", f"--cluster-cidr={PODS}", "--oom-score-adj=0"],
        *[
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ],
    ]


def scheduler(kubeconfig: Path) -> list[str]:
    """kube-scheduler that never waits for a lease and serves nothing."""
    return [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0", "--profiling=false"]


def storage_class() -> str:
    """The default StorageClass; `volumes` makes its volumes."""
    return yaml.safe_dump(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "reclaimPolicy": "Retain",
            "volumeBindingMode": "Immediate",
        }
    )
