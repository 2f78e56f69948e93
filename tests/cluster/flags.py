"""The command lines of the control plane's programs: values in, flags out, nothing read or written.

Everything here was tried on Kubernetes 1.37; the reasons stand beside the flags that have one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .pki import Pair


@dataclass(frozen=True)
class Site:
    """The addresses of a control plane; `port` 0 means a free one. `etcd` is its socket as kube-apiserver is given it,
    which runs in the data folder; "" is the whole path."""

    address: str = "127.0.0.1"
    port: int = 0
    services: str = "127.96.0.0/16"
    first_service: str = "127.96.0.1"
    endpoint_reconciler: str = "none"
    etcd: str = ""


@dataclass(frozen=True)
class Audit:
    """The audit files of kube-apiserver; paths are as kube-apiserver sees them."""

    policy: Path | None = None
    webhook: Path | None = None
    log: Path | None = None


@dataclass(frozen=True)
class Credentials:
    """What kube-apiserver and kube-controller-manager are given of one cluster's PKI."""

    authority: Pair
    serving: Pair
    service_accounts: Path


def etcd(data: Path) -> list[str]:
    """An etcd that listens on a Unix socket in `data` only: no port to be taken, no other user who may read it."""
    return [
        *["--name=test", f"--data-dir={data / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn"],
        *[f"--listen-client-urls={_etcd_url(data)}", f"--advertise-client-urls={_etcd_url(data)}"],
        # One member has no peers; the address must look like one all the same.
        f"--listen-peer-urls=unix://{data / 'etcd-peer.sock'}",
        *["--initial-advertise-peer-urls=http://localhost:2380", "--initial-cluster=test=http://localhost:2380"],
    ]


def apiserver(data: Path, site: Site, port: int, credentials: Credentials) -> list[str]:
    """A kube-apiserver with RBAC and default admission."""
    return [
        *[f"--bind-address={site.address}", f"--advertise-address={site.address}", f"--secure-port={port}"],
        f"--etcd-servers={site.etcd or _etcd_url(data)}",
        f"--service-cluster-ip-range={site.services}",
        # A loopback address is refused as an endpoint: the `kubernetes` Service has none on a control plane alone.
        f"--endpoint-reconciler-type={site.endpoint_reconciler}",
        *["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged"],
        f"--client-ca-file={credentials.authority.certificate}",
        *_served_with(credentials.serving),
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={credentials.service_accounts}",
        f"--service-account-signing-key-file={credentials.service_accounts}",
        "--profiling=false",
    ]


def audit(files: Audit) -> list[str]:
    """Audit flags with waiting times that suit tests: a batch leaves after a second, a failed one is retried soon."""
    flags = [f"--audit-policy-file={files.policy}"] if files.policy else []
    if files.log:
        flags += [f"--audit-log-path={files.log}"]
    if files.webhook:
        flags += [
            f"--audit-webhook-config-file={files.webhook}",
            "--audit-webhook-mode=batch",
            "--audit-webhook-batch-max-wait=1s",
            "--audit-webhook-initial-backoff=1s",
        ]
    return flags


def controller_manager(kubeconfig: Path, credentials: Credentials) -> list[str]:
    """A kube-controller-manager that serves nothing and never waits for a lease."""
    return [
        *[f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0", "--profiling=false"],
        # At the default 20 requests a second it takes five seconds to make its own service accounts.
        *["--kube-api-qps=500", "--kube-api-burst=1000"],
        *["--use-service-account-credentials", f"--root-ca-file={credentials.authority.certificate}"],
        f"--service-account-private-key-file={credentials.service_accounts}",
        f"--cluster-signing-cert-file={credentials.authority.certificate}",
        f"--cluster-signing-key-file={credentials.authority.key}",
    ]


def _etcd_url(data: Path) -> str:
    return f"unix://{data / 'etcd.sock'}"


def _served_with(pair: Pair) -> list[str]:
    return [f"--tls-cert-file={pair.certificate}", f"--tls-private-key-file={pair.key}"]
