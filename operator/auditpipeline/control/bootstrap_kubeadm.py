"""Configurations of what starts kube-apiserver with kubeadm: kubeadm itself, kind and minikube. Pure.

kube-apiserver is a static Pod there, so that each file has to be mounted into it. Field names: the kubeadm API
reference (v1beta2 to v1beta4), kind's configuration reference (v1alpha4), minikube's handbook (--extra-config, file
sync) and its tutorial on audit policies.
"""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import Any

from auditpipeline.control.bootstrap import DIRECTORY, flags
from auditpipeline.control.bootstrap_text import INSTALL, comment, dump
from auditpipeline.core.errors import Invalid

KUBEADM_VERSIONS = ("v1beta4", "v1beta3", "v1beta2")
KIND_PATCHED = ("v1beta4", "v1beta3")
MINIKUBE_FOLDER = "/etc/ssl/certs/auditpipeline"


def kubeadm(version: str, directory: str = DIRECTORY) -> str:
    """The ClusterConfiguration that starts kube-apiserver with the files of `directory`."""
    if version not in KUBEADM_VERSIONS:
        raise Invalid("--config-version", f"{version!r} is not one of {', '.join(KUBEADM_VERSIONS)}")
    return comment(_KUBEADM.format(directory=directory)) + dump(_cluster_configuration(version, directory))


def kind(local: str) -> str:
    """kind's Cluster; `local` is the folder with the files on the machine that runs kind.

    kind patches the kubeadm configuration that it makes, v1beta4 from Kubernetes 1.36 on and v1beta3 before: there is
    one patch for each, and the one of the other version is passed over.
    """
    patches = [dump(_cluster_configuration(version, DIRECTORY)) for version in KIND_PATCHED]
    node = {
        "role": "control-plane",
        # Not read-only: the gateway's init container gives the folder `gateway` to the gateway's user.
        "extraMounts": [{"hostPath": local, "containerPath": DIRECTORY}],
        "kubeadmConfigPatches": patches,
    }
    cluster = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [node]}
    return comment(_KIND.format(local=local, install=INSTALL)) + dump(cluster)


def minikube(local: str) -> str:
    """A shell script: the files where minikube's file sync finds them, and `minikube start` with the flags.

    minikube cannot mount anything more into kube-apiserver. /etc/ssl/certs of its node is mounted there already.
    """
    arguments = [f"--extra-config=apiserver.{name}={value}" for name, value in flags(MINIKUBE_FOLDER).items()]
    script = _MINIKUBE_SCRIPT.format(
        local=shlex.quote(local),
        audit=MINIKUBE_FOLDER,
        gateway=f"{DIRECTORY}/gateway",
        arguments=" \\\n  ".join(arguments),
    )
    return "#!/bin/sh\n" + comment(_MINIKUBE.format(local=local, audit=MINIKUBE_FOLDER, install=INSTALL)) + script


def _cluster_configuration(version: str, directory: str) -> dict[str, Any]:
    values = flags(directory)
    arguments = [{"name": k, "value": v} for k, v in values.items()] if version == "v1beta4" else values
    volumes = [
        {"name": name, "hostPath": path, "mountPath": path, "readOnly": True, "pathType": "File"}
        for name, path in mounted(directory).items()
    ]
    return {
        "apiVersion": f"kubeadm.k8s.io/{version}",
        "kind": "ClusterConfiguration",
        "apiServer": {"extraArgs": arguments, "extraVolumes": volumes},
    }


def mounted(directory: str) -> dict[str, str]:
    """Name and path of the two files that kube-apiserver reads: all that its Pod gets to see of the folder."""
    folder = PurePath(directory)
    return {"audit-policy": str(folder / "policy.yaml"), "audit-webhook": str(folder / "webhook.kubeconfig")}


_KUBEADM = """\
On every control-plane node first:  auditpipeline bootstrap files --dir {directory}
A new cluster:       kubeadm init --config THIS_FILE
A running cluster:   add the apiServer section to the ConfigMap kubeadm-config (namespace kube-system), then on each
                     control-plane node, one after the other: kubeadm upgrade node phase control-plane, or
                     kubeadm init phase control-plane apiserver --config THIS_FILE
Then:                auditpipeline preflight --dir {directory}
"""

_KIND = """\
1. auditpipeline bootstrap files --dir {local}
   (the folder stays: the node mounts it, and the gateway's init container gives {local}/gateway to user 65532)
2. kind create cluster --config THIS_FILE
   kind cannot change a cluster that runs: delete it and create it again.
3. {install}
Several control-plane nodes: repeat extraMounts in each of them; the patches stand in the first one alone.
kind before 0.32 replaces the list extraArgs of v1beta4 as a whole: there, add the arguments for your featureGates.
To go back: delete the cluster, and create it without extraMounts and kubeadmConfigPatches.
"""

_MINIKUBE = """\
Makes the certificates in {local}, puts what the node needs where minikube's file sync finds it, and starts minikube
with kube-apiserver's flags. A cluster that runs: minikube stop, then this script.

kube-apiserver sees of its node /etc/ssl/certs and the cluster's own PKI alone, hence {audit}
(minikube's tutorial on audit policies does the same). The gateway's files go where the chart looks for them.

After it:    {install}
To check:    minikube ssh, and there: ps -ef | grep audit-webhook
To renew:    run it again after minikube stop.
To go back:  minikube delete, remove what is listed below from $HOME/.minikube/files, minikube start. minikube keeps
             extra-config in the profile, so that stopping alone does not take the flags away.
"""

_MINIKUBE_SCRIPT = """\
set -eu
made={local}
files="$HOME/.minikube/files"
auditpipeline bootstrap files --dir "$made"
mkdir -p "$files{audit}" "$files{gateway}"
cp -p "$made/policy.yaml" "$made/webhook.kubeconfig" "$files{audit}/"
cp -p "$made/gateway/tls.crt" "$made/gateway/tls.key" "$made/gateway/client-ca.crt" "$files{gateway}/"
minikube start \\
  {arguments}
"""
