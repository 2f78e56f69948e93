"""What a control-plane node needs so that kube-apiserver posts its audit events to the gateway.

    policy.yaml           the static audit policy: the most that any AuditPipeline can record
    webhook.kubeconfig    how kube-apiserver reaches the gateway: address, CA and client certificate
    ca.crt, ca.key        the node's own CA; it signs nothing but these two certificates
    gateway/              what the gateway serves with, and which client certificates it lets in

Pure: texts and certificates in, files out; the command line writes them. kube-apiserver reads its files once, at its
start. What a distribution has to be told of them is in `bootstrap_kubeadm.py`, `bootstrap_hosts.py` and
`bootstrap_embedded.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import yaml

from auditpipeline.control import certificates
from auditpipeline.control.certificates import Pair

DIRECTORY = "/etc/kubernetes/auditpipeline"
ADDRESS = "127.0.0.1:9443"
LEAF_LIFETIME = timedelta(days=365)

# The gateway's own limit for a body is 20 MiB; kube-apiserver cuts what is larger than these before it posts. A batch
# is lost after 8 times the initial backoff: a gateway's Pod that is replaced may need its image first.
APISERVER_FLAGS: dict[str, str] = {
    "audit-policy-file": f"{DIRECTORY}/policy.yaml",
    "audit-webhook-config-file": f"{DIRECTORY}/webhook.kubeconfig",
    "audit-webhook-mode": "batch",
    "audit-webhook-batch-max-size": "400",
    "audit-webhook-batch-max-wait": "1s",
    "audit-webhook-initial-backoff": "10s",
    "audit-webhook-truncate-enabled": "true",
    "audit-webhook-truncate-max-batch-size": "10485760",
    "audit-webhook-truncate-max-event-size": "1048576",
}


class File(NamedTuple):
    """One file: its bytes and its mode."""

    content: bytes
    mode: int


STATIC_POLICY = """\
# The static audit policy of kube-apiserver, written by `auditpipeline bootstrap`.
# It is the most that any AuditPipeline can record: AuditPipelines choose from it, at any time, without a restart.
# A change of this file counts after a restart of kube-apiserver.
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
# Who changed what is audited: nobody can switch this off through an AuditPipeline.
- level: RequestResponse
  verbs: [create, update, patch, delete, deletecollection]
  resources:
  - {group: auditpipeline.dev, resources: [auditpipelines]}
  - {group: auditregistration.k8s.io, resources: [auditsinks]}
# The canary: a request that the operator makes to see its event arrive.
- level: Metadata
  verbs: [get]
  nonResourceURLs: ["/auditpipeline-canary/*"]
# Probes and discovery: many, and nobody asks for them afterwards.
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi*"]
# Heartbeats of the control plane and of nodes.
- level: None
  userGroups: ["system:nodes"]
  verbs: [get, update, patch]
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
- level: None
  users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
# Credentials never leave the API server: who touched them, and never what they hold.
- level: Metadata
  resources:
  - {group: "", resources: [secrets, configmaps, "serviceaccounts/token"]}
  - {group: authentication.k8s.io, resources: [tokenreviews]}
  - {group: certificates.k8s.io, resources: [certificatesigningrequests]}
# Kubernetes Events are a log already.
- level: Metadata
  resources:
  - {group: "", resources: [events]}
  - {group: events.k8s.io, resources: [events]}
# Answers to reads are large; that they were given is enough.
- level: Metadata
  verbs: [get, list, watch]
- level: RequestResponse
"""


def files(existing: Mapping[str, bytes], address: str, now: datetime, policy: str = STATIC_POLICY) -> dict[str, File]:
    """The files to write, by path below the directory; what is there and still good is not among them.

    `existing` has the present files and `address` (`host:port`) is where the gateway takes audit. A policy that is
    there stays; a certificate is made anew past two thirds of its year, or when the address or the CA changed.
    """
    fresh: dict[str, File] = {}
    authority = pair_in(existing, "ca")
    if authority is None or not certificates.is_authority(authority, now):
        authority = certificates.authority(now)
        fresh |= pair_files("ca", authority)
    if "policy.yaml" not in existing:
        fresh["policy.yaml"] = File(policy.encode(), 0o644)
    host = address.rpartition(":")[0].strip("[]")
    if is_stale(pair_in(existing, "gateway/tls"), authority, (host,), now):
        leaf = certificates.leaf(authority, "auditpipeline-gateway", (host,), now, LEAF_LIFETIME)
        fresh |= pair_files("gateway/tls", leaf)
        fresh["gateway/client-ca.crt"] = File(authority.certificate.encode(), 0o644)
    server = f"https://{address}/audit"
    if is_stale(_kubeconfig_pair(existing.get("webhook.kubeconfig", b""), server), authority, (), now):
        client = certificates.leaf(authority, "kube-apiserver-audit", (), now, LEAF_LIFETIME)
        fresh["webhook.kubeconfig"] = File(kubeconfig(server, authority, client), 0o600)
    return fresh


def flags(directory: str = DIRECTORY) -> dict[str, str]:
    """kube-apiserver's flags where the files are in `directory`."""
    return {name: value.replace(DIRECTORY, directory) for name, value in APISERVER_FLAGS.items()}


def pair_in(existing: Mapping[str, bytes], stem: str) -> Pair | None:
    """The certificate `stem.crt` with its key; None where one of them is not there."""
    if f"{stem}.crt" not in existing or f"{stem}.key" not in existing:
        return None
    return Pair(existing[f"{stem}.crt"].decode(errors="replace"), existing[f"{stem}.key"].decode(errors="replace"))


def pair_files(stem: str, pair: Pair) -> dict[str, File]:
    """The same as files."""
    return {f"{stem}.crt": File(pair.certificate.encode(), 0o644), f"{stem}.key": File(pair.key.encode(), 0o600)}


def is_stale(pair: Pair | None, authority: Pair, hosts: tuple[str, ...], now: datetime) -> bool:
    """Whether a leaf has to be made (again)."""
    return pair is None or certificates.needs_renewal(pair, now, hosts, authority.certificate)


def kubeconfig(server: str, authority: Pair, client: Pair) -> bytes:
    """What kube-apiserver's --audit-webhook-config-file holds, with everything inline."""

    def inline(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    user = {"client-certificate-data": inline(client.certificate), "client-key-data": inline(client.key)}
    cluster = {"server": server, "certificate-authority-data": inline(authority.certificate)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "auditpipeline", "cluster": cluster}],
        "users": [{"name": "kube-apiserver", "user": user}],
        "contexts": [{"name": "audit", "context": {"cluster": "auditpipeline", "user": "kube-apiserver"}}],
        "current-context": "audit",
    }
    return yaml.safe_dump(document, sort_keys=False).encode()


def _kubeconfig_pair(content: bytes, server: str) -> Pair | None:
    """The client certificate of a kubeconfig that we wrote for `server`; None where it is another or unreadable."""
    try:
        document = yaml.safe_load(content)
        user, cluster = document["users"][0]["user"], document["clusters"][0]["cluster"]
        if cluster["server"] != server:
            return None
        fields = (user["client-certificate-data"], user["client-key-data"])
        return Pair(*(base64.b64decode(field).decode() for field in fields))
    except (yaml.YAMLError, TypeError, KeyError, IndexError, ValueError):
        return None
