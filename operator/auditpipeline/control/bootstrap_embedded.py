"""Configurations that carry the files themselves, private keys too: Talos and kOps. Pure.

Nobody runs a command on such a node: what `bootstrap files --dir` made elsewhere is embedded. The CA's key is not,
since a node needs none. Every control-plane node gets the same certificates; each gateway listens on its own loopback.
Field names: Talos' configuration reference (1.13, 1.14), kOps' cluster_spec.md and pkg/apis/kops/v1alpha2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from auditpipeline.control.bootstrap import DIRECTORY, flags
from auditpipeline.control.bootstrap_text import INSTALL, SECRETS, comment, dump
from auditpipeline.core.errors import Invalid

EMBEDDED = ("policy.yaml", "webhook.kubeconfig", "gateway/tls.crt", "gateway/tls.key", "gateway/client-ca.crt")
TALOS_VERSIONS = ("v1.14", "v1.13")
# Talos' /etc is read-only, and machine.files makes files below /var alone.
TALOS_FOLDER = "/var/lib/auditpipeline-node"
# Of kube-apiserver's own user (65534), mode 0700, and in its Pod already: Talos keeps the audit log there.
TALOS_AUDIT_LOGS = "/var/log/audit/kube"
# Without truncation a batch is bounded by its number of events alone.
KOPS_BATCH = 100
KOPS_BATCHES_A_SECOND = 40


def talos(version: str, files: Mapping[str, bytes]) -> str:
    """A patch of the machine configuration of control-plane nodes.

    v1.14 speaks of the documents KubeAPIServerConfig and KubeAuditPolicyConfig, v1.13 of `cluster.apiServer`; which of
    them a configuration has depends on the release that generated it, and Talos refuses the other.
    """
    if version not in TALOS_VERSIONS:
        raise Invalid("--config-version", f"{version!r} is not one of {', '.join(TALOS_VERSIONS)}")
    texts = _texts(files)
    policy = yaml.safe_load(texts["policy.yaml"])
    documents = _talos_documents(texts, policy) if version == "v1.14" else [_talos_single(texts, policy)]
    head = f"{SECRETS}\n{_TALOS.format(folder=TALOS_FOLDER, version=version, install=INSTALL)}"
    return comment(head) + dump(*documents)


def _talos_documents(texts: Mapping[str, str], policy: Any) -> list[dict[str, Any]]:
    # The document has no extra volumes: the kubeconfig goes into a folder that kube-apiserver's Pod has.
    kubeconfig = f"{TALOS_AUDIT_LOGS}/auditpipeline.kubeconfig"
    head = {"apiVersion": "v1alpha1"}
    return [
        {"machine": {"files": _talos_files(texts, kubeconfig)}},
        {**head, "kind": "KubeAPIServerConfig", "extraArgs": _talos_flags(kubeconfig)},
        {**head, "kind": "KubeAuditPolicyConfig", "configuration": policy},
    ]


def _talos_single(texts: Mapping[str, str], policy: Any) -> dict[str, Any]:
    kubeconfig = f"{TALOS_FOLDER}/webhook.kubeconfig"
    server = {
        "extraArgs": _talos_flags(kubeconfig),
        "extraVolumes": [{"hostPath": kubeconfig, "mountPath": kubeconfig, "readonly": True}],
        "auditPolicy": policy,
    }
    return {"machine": {"files": _talos_files(texts, kubeconfig)}, "cluster": {"apiServer": server}}


def _talos_flags(kubeconfig: str) -> dict[str, str]:
    # Talos writes the policy file itself, and sets the flag.
    others = {name: value for name, value in flags().items() if name != "audit-policy-file"}
    return others | {"audit-webhook-config-file": kubeconfig}


def _talos_files(texts: Mapping[str, str], kubeconfig: str) -> list[dict[str, str]]:
    """The kubeconfig is 0644, since machine.files cannot give a file to kube-apiserver's user; both folders that it may
    be in are 0700. The gateway's files are root's until its init container gives them to the gateway's user."""
    paths = {name: f"{TALOS_FOLDER}/{name}" for name in EMBEDDED if name.startswith("gateway/")}
    paths["webhook.kubeconfig"] = kubeconfig
    modes = {"webhook.kubeconfig": "0o644", "gateway/tls.key": "0o600"}
    return [
        {"path": path, "permissions": modes.get(name, "0o644"), "op": "create", "content": texts[name]}
        for name, path in sorted(paths.items())
    ]


def kops(files: Mapping[str, bytes]) -> str:
    """The fields of a kOps Cluster to merge into one's own."""
    texts = _texts(files)
    assets = [
        {
            "name": f"auditpipeline-{name.replace('/', '-').replace('.', '-')}",
            "path": f"{DIRECTORY}/{name}",
            "roles": ["ControlPlane"],
            "mode": "0600" if name in ("webhook.kubeconfig", "gateway/tls.key") else "0644",
            "content": texts[name],
        }
        for name in EMBEDDED
    ]
    values = flags()
    server = {
        "auditPolicyFile": values["audit-policy-file"],
        "auditWebhookConfigFile": values["audit-webhook-config-file"],
        "auditWebhookMode": values["audit-webhook-mode"],
        "auditWebhookBatchMaxSize": KOPS_BATCH,
        "auditWebhookBatchMaxWait": values["audit-webhook-batch-max-wait"],
        "auditWebhookBatchThrottleQps": str(KOPS_BATCHES_A_SECOND),
        "auditWebhookInitialBackoff": values["audit-webhook-initial-backoff"],
    }
    cluster = {
        "apiVersion": "kops.k8s.io/v1alpha2",
        "kind": "Cluster",
        "spec": {"kubeAPIServer": server, "fileAssets": assets},
    }
    return comment(f"{SECRETS}\n{_KOPS.format(install=INSTALL)}") + dump(cluster)


def _texts(files: Mapping[str, bytes]) -> dict[str, str]:
    missing = [name for name in EMBEDDED if name not in files]
    if missing:
        raise Invalid("--dir", f"{missing[0]} is missing there: run `auditpipeline bootstrap files --dir DIR` first")
    return {name: files[name].decode() for name in EMBEDDED}


_TALOS = """\
A patch for machine configurations of control-plane nodes that Talos {version} generated or that have the same form:
v1.14 and newer have a document KubeAPIServerConfig, older ones have cluster.apiServer (--config-version v1.13).
New nodes:      talosctl gen config NAME ENDPOINT --config-patch-control-plane @THIS_FILE
Running nodes:  talosctl machineconfig patch controlplane.yaml --patch @THIS_FILE --output new.yaml, then on each
                node, one after the other: talosctl apply-config --nodes NODE --file new.yaml
                machine.files counts after a reboot, which apply-config does by itself.
The gateway:    kubectl create namespace auditpipeline-system
                kubectl label namespace auditpipeline-system pod-security.kubernetes.io/enforce=privileged
                {install} \\
                  --set gateway.hostPaths.bootstrap={folder}/gateway
                before the nodes reboot.
To renew:       auditpipeline bootstrap files --dir DIR again, this command again, and apply it to the configuration
                as it was without the patch: patches append to machine.files. Nodes reboot.
To go back:     apply the configuration as it was without the patch.
Talos writes an audit log to /var/log/audit/kube beside the webhook (30 days, at most 10 files of 100 MB).
"""

_KOPS = """\
1. kops get cluster NAME -o yaml > cluster.yaml, and merge spec.kubeAPIServer and spec.fileAssets of this file into
   it. The state store and the nodes' metadata hold the private keys then: who reads them can post to the gateways.
2. {install}
3. kops replace -f cluster.yaml && kops update cluster NAME --yes
4. kops rolling-update cluster NAME --instance-group-roles control-plane --yes   (nodes are replaced one by one)
To renew: auditpipeline bootstrap files --dir DIR again, this command again, and steps 1, 3 and 4.
To go back: take both out of the Cluster, and steps 3 and 4.

kOps has no fields for audit-webhook-truncate-*: an event is never cut, and a batch of more than 20 MiB is refused by
the gateway and dropped by kube-apiserver after its retries. Batches are therefore of 100 events instead of 400, and up
to 40 of them go a second instead of 10: the same number of events. Watch apiserver_audit_error_total.
policy.yaml and webhook.kubeconfig have to be in one folder, which kOps mounts into kube-apiserver's Pod.
"""
