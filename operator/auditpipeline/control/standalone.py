"""An AuditPipeline without Kubernetes: what the controller would render, for one process on one machine. Pure.

    AuditPipeline  --receiver_config-->  configuration of a Pod  --Places-->  configuration of this process

What the Pod has at fixed paths is elsewhere here: its data and certificates in the data folder, Secrets in a folder of
folders, as they are mounted (`siem/token`), and the outputs' files where the pipeline says, below `root`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from msgspec.structs import replace

from auditpipeline.control import certificates, desired_pod, names
from auditpipeline.control.bootstrap import File, is_stale, pair_files, pair_in
from auditpipeline.control.desired import receiver_config
from auditpipeline.core.config import Config, moved
from auditpipeline.core.spec import Pipeline

CLIENT_LIFETIME = timedelta(days=365)
"""kube-apiserver reads its kubeconfig once, at its start: that may be long ago."""
CLIENT_NAME = "kube-apiserver-audit"
IGNORED = (
    "spec.targetNamespace",
    "spec.throttle",
    "spec.tls",
    "spec.webhook.replicas",
    "spec.webhook.resources",
    "spec.webhook.nodeSelector",
    "spec.webhook.tolerations",
    "spec.webhook.storage.storageClassName",
    "spec.webhook.storage.ephemeral",
)
"""What is about Pods, or about who calls them."""
KEY = "redaction.key"
"""The key of hashes, in the data folder."""
_KEY_FILE = f"{names.CONFIG_FOLDER}/{KEY}"


class Places(NamedTuple):
    """Where things are: folders without a slash at the end, and addresses as `host:port`. `redaction_key` is the file
    with the key of hashes; "" for the one in the data folder."""

    data: str
    root: str
    secrets: str
    audit: str
    ops: str
    redaction_key: str = ""

    def path(self, path: str) -> str:
        """Where that path of a Pod lies here."""
        if path == _KEY_FILE:
            return self.redaction_key or f"{self.data}/{KEY}"
        for folder, here in (
            (names.TLS_FOLDER, f"{self.data}/tls"),
            (names.SECRETS_FOLDER, self.secrets),
            (names.DATA_FOLDER, self.data),
        ):
            if path.startswith(f"{folder}/"):
                return f"{here}{path.removeprefix(folder)}"
        return f"{self.root.rstrip('/')}/{path.lstrip('/')}"


def configuration(pipeline: Pipeline, places: Places) -> Config:
    """The configuration of a process that runs this pipeline."""
    redaction = pipeline.spec.redaction
    key_file = _KEY_FILE if redaction and redaction.hashes else None
    rendered = receiver_config(pipeline, redaction_key_file=key_file)
    config = moved(rendered, places.path, places.audit, places.ops)
    return replace(config, suspended=pipeline.spec.suspend)


def secret_files(pipeline: Pipeline) -> list[str]:
    """The files that have to be in the Secrets' folder, each as `name/key`."""
    return [f"{reference.name}/{reference.key}" for reference in desired_pod.secret_keys(pipeline)]


def ignored(document: Mapping[str, Any]) -> Iterator[str]:
    """The fields that are written in the object and mean nothing here."""
    for path in IGNORED:
        node: Any = document
        for key in path.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        if node is not None:
            yield path


def files(existing: Mapping[str, bytes], hosts: tuple[str, ...], now: datetime) -> dict[str, File]:
    """The certificates to write, by path below the data folder; what is there and still good is not among them.

    `hosts` are the names of the server's. A leaf is made anew past two thirds of its life, or when its names or the
    authority changed.
    """
    fresh: dict[str, File] = {}
    authority = pair_in(existing, "ca")
    if authority is None or not certificates.is_authority(authority, now):
        authority = certificates.authority(now)
        fresh |= pair_files("ca", authority)
    if is_stale(pair_in(existing, "tls/tls"), authority, hosts, now):
        fresh |= pair_files("tls/tls", certificates.leaf(authority, "auditpipeline", hosts, now))
    if existing.get("tls/ca.crt") != authority.certificate.encode():
        fresh["tls/ca.crt"] = File(authority.certificate.encode(), 0o644)
    if is_stale(pair_in(existing, "client"), authority, (), now):
        fresh |= pair_files("client", certificates.leaf(authority, CLIENT_NAME, (), now, CLIENT_LIFETIME))
    return fresh
