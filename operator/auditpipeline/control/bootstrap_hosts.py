"""Configurations where the host itself is told: k3s, RKE2, and a plain kube-apiserver. Pure.

Option names: k3s' and RKE2's server configuration references; a value of `kube-apiserver-arg` is a flag of
kube-apiserver without its dashes.
"""

from __future__ import annotations

from collections.abc import Callable

from auditpipeline.control.bootstrap import DIRECTORY, flags
from auditpipeline.control.bootstrap_kubeadm import mounted
from auditpipeline.control.bootstrap_text import INSTALL, comment, dump

# k3s and RKE2 label with the value "true" what others label with none.
LABELLED = f"{INSTALL} \\\n       --set-string 'gateway.nodeSelector.node-role\\.kubernetes\\.io/control-plane=true'"


def k3s(directory: str = DIRECTORY) -> str:
    """What belongs into k3s' config.yaml: kube-apiserver runs inside the k3s process and reads the host's files."""
    return comment(_K3S.format(directory=directory, install=LABELLED)) + _arguments(directory)


def rke2(directory: str = DIRECTORY) -> str:
    """What belongs into RKE2's config.yaml: kube-apiserver is a static Pod that RKE2 writes."""
    return comment(_RKE2.format(directory=directory, install=LABELLED)) + _arguments(directory)


def systemd(directory: str = DIRECTORY) -> str:
    """An environment file with the flags, for a unit that starts kube-apiserver itself."""
    words = " ".join(f"--{name}={value}" for name, value in flags(directory).items())
    text = _SYSTEMD.format(directory=directory, install=INSTALL)
    return f'{comment(text)}AUDITPIPELINE_FLAGS="{words}"\n'


def static_pod(directory: str = DIRECTORY) -> str:
    """What to add to kube-apiserver's static Pod, as a Pod that holds nothing else."""
    paths = mounted(directory)
    container = {
        "name": "kube-apiserver",
        "command": ["kube-apiserver", *(f"--{name}={value}" for name, value in flags(directory).items())],
        "volumeMounts": [{"name": name, "mountPath": path, "readOnly": True} for name, path in paths.items()],
    }
    volumes = [{"name": name, "hostPath": {"path": path, "type": "File"}} for name, path in paths.items()]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kube-apiserver", "namespace": "kube-system"},
        "spec": {"containers": [container], "volumes": volumes},
    }
    return comment(_STATIC_POD.format(directory=directory, install=INSTALL)) + dump(pod)


PLAIN_FORMS: dict[str, Callable[[str], str]] = {"systemd": systemd, "static-pod": static_pod}


def _arguments(directory: str) -> str:
    return dump({"kube-apiserver-arg": [f"{name}={value}" for name, value in flags(directory).items()]})


_K3S = """\
On every k3s server, one after the other:
1. auditpipeline bootstrap files --dir {directory}
2. Write this file to /etc/rancher/k3s/config.yaml.d/90-auditpipeline.yaml, or add the lines to
   /etc/rancher/k3s/config.yaml. Where kube-apiserver-arg stands in a file before it already, write
   `kube-apiserver-arg+:` here: without the plus the last file's list replaces the others.
3. systemctl restart k3s   (kube-apiserver is a part of k3s: this restarts both, and workloads go on)
4. auditpipeline preflight --dir {directory} --manifest THIS_FILE
Once for the cluster, before step 3:
   {install}
To go back: remove the file (or the lines), systemctl restart k3s.
"""

_RKE2 = """\
On every RKE2 server, one after the other:
1. auditpipeline bootstrap files --dir {directory}
2. Write this file to /etc/rancher/rke2/config.yaml.d/90-auditpipeline.yaml, or add the lines to
   /etc/rancher/rke2/config.yaml. Where kube-apiserver-arg stands in a file before it already, write
   `kube-apiserver-arg+:` here: without the plus the last file's list replaces the others.
3. systemctl restart rke2-server   (writes the static Pod of kube-apiserver again)
4. auditpipeline preflight --dir {directory}
Once for the cluster, before step 3:
   {install}
To go back: remove the file (or the lines), systemctl restart rke2-server.

No kube-apiserver-extra-mount: RKE2 mounts each file that an argument names into the Pod by itself, and a second mount
of the same path would make the Pod invalid. So the files have to be there before step 3.
Not RKE2's own option audit-policy-file: it would switch on the log backend besides, a second copy of every event in
/var/lib/rancher/rke2/server/logs. With `profile: cis` RKE2 does that anyway; the argument below wins over its policy.
"""

_SYSTEMD = """\
On every node that runs kube-apiserver, one after the other:
1. auditpipeline bootstrap files --dir {directory}
2. Write this file to {directory}/flags.env, and let the unit use it: systemctl edit kube-apiserver
     [Service]
     EnvironmentFile={directory}/flags.env
     ExecStart=
     ExecStart=THE COMMAND LINE THAT STANDS THERE NOW $AUDITPIPELINE_FLAGS
   Take audit flags out of the command line that the file has too.
3. systemctl restart kube-apiserver
4. auditpipeline preflight --dir {directory}
The unit's user has to be able to read webhook.kubeconfig: where it is not root, give the file to that user (mode 0600),
again after each renewal.
Once for the cluster, before step 3:
   {install}
To go back: systemctl revert kube-apiserver, systemctl restart kube-apiserver.
"""

_STATIC_POD = """\
On every control-plane node, one after the other:
1. auditpipeline bootstrap files --dir {directory}
2. Add the flags, volumeMounts and volumes of this Pod to those of kube-apiserver's manifest, usually
   /etc/kubernetes/manifests/kube-apiserver.yaml; flags of the same name go. kubelet then restarts kube-apiserver.
   Keep a copy of the manifest outside of that folder, where kubelet would take it for another Pod.
3. auditpipeline preflight --dir {directory}
Where the Pod does not run as root, give webhook.kubeconfig to its user (mode 0600), again after each renewal.
Once for the cluster, before step 2:
   {install}
To go back: put the copy of the manifest back.
"""
