"""The data folder of `auditpipeline run`: certificates, kubeconfig, rendered configuration, spool, position in a log.

    ca.crt ca.key   client.crt client.key   tls/   webhook.kubeconfig   config.json   spool.sqlite   log.position

Mode 0700, keys 0600. Files are replaced whole or not at all.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import yaml

from auditpipeline.control import standalone
from auditpipeline.control.bootstrap import kubeconfig, pair_in
from auditpipeline.core.errors import Invalid

_CERTIFICATES = ("ca.crt", "ca.key", "tls/tls.crt", "tls/tls.key", "tls/ca.crt", "client.crt", "client.key")


class DataFolder:
    """One folder; made, with mode 0700, where there is none."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (path / "ca.key").exists() and any(path.iterdir()):
            raise Invalid("--data-dir", f"{path} holds other files: name a folder that is new, empty or its own")
        path.chmod(0o700)
        self.path = path
        self.config = path / "config.json"
        self.kubeconfig = path / "webhook.kubeconfig"
        self.position = path / "log.position"

    def renew(self, hosts: tuple[str, ...]) -> set[str]:
        """Makes the certificates that are missing or old; the names of the files that changed."""
        existing = self._certificates()
        fresh = standalone.files(existing, hosts, datetime.now(UTC))
        for name, file in fresh.items():
            write(self.path / name, file.content, file.mode)
        return set(fresh)

    def write_kubeconfig(self, server: str, also: Path | None) -> None:
        """Writes the kubeconfig for kube-apiserver into the folder, and where it was asked for."""
        existing = self._certificates()
        authority, client = pair_in(existing, "ca"), pair_in(existing, "client")
        if authority and client:
            content = kubeconfig(server, authority, client)
            for path in (self.kubeconfig, also):
                if path and (not path.exists() or path.read_bytes() != content):
                    write(path, content, 0o600)

    def _certificates(self) -> dict[str, bytes]:
        return {name: (self.path / name).read_bytes() for name in _CERTIFICATES if (self.path / name).exists()}


def check_kubeconfig(path: Path) -> None:
    """Invalid where the file is there and is somebody else's: it would be replaced."""
    if not path.exists():
        return
    try:
        ours = yaml.safe_load(path.read_bytes())["clusters"][0]["name"] == "auditpipeline"
    except (yaml.YAMLError, TypeError, KeyError, IndexError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise Invalid("--write-kubeconfig", f"{path} was not written by auditpipeline: name another file")


def write(path: Path, content: bytes, mode: int) -> None:
    """Replaces the file at once; it is on disk when this returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.rename(path)
