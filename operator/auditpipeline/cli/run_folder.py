"""The data folder of `auditpipeline run`: certificates, kubeconfig, rendered configuration, spool, position in a log.

    ca.crt ca.key   client.crt client.key   tls/   webhook.kubeconfig   config.json   spool.sqlite   log.position
    redaction.key   if the pipeline hashes, and no key was given

Mode 0700, keys 0600. Files are replaced whole or not at all.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from auditpipeline.control import standalone
from auditpipeline.control.bootstrap import kubeconfig, pair_in
from auditpipeline.core.config import Tls
from auditpipeline.core.errors import Invalid
from auditpipeline.core.redaction.model import KEY_BYTES
from auditpipeline.dataplane.disk import make_folders, sync_folder, write_all
from auditpipeline.dataplane.tls import ServerTls

_CERTIFICATES = ("ca.crt", "ca.key", "tls/tls.crt", "tls/tls.key", "tls/ca.crt", "client.crt", "client.key")
_FIRST = (*_CERTIFICATES, standalone.KEY)


class DataFolder:
    """One folder; `make` makes it, with mode 0700. Whatever is written here is written only if it differs, so that a
    start needs no room."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.kubeconfig = path / "webhook.kubeconfig"
        self.position = path / "log.position"
        self.redaction_key = path / standalone.KEY

    def make(self) -> None:
        """Makes the folder if there is none. Invalid if it is somebody else's, OSError if it cannot be made."""
        make_folders(self.path)
        if not (self.path / "ca.key").exists() and any(not _is_ours(found.name) for found in self.path.iterdir()):
            raise Invalid("--data-dir", f"{self.path} holds other files: name a folder that is new, empty or its own")
        self.path.chmod(0o700)

    def renew(self, hosts: tuple[str, ...]) -> set[str]:
        """Makes the certificates that are missing or old; the names of the files that changed. OSError, and none of
        them changed, if there is no room for all of them."""
        existing = self._certificates()
        fresh = standalone.files(existing, hosts, datetime.now(UTC))
        staged = [(stage(self.path / name, file.content, file.mode), self.path / name) for name, file in fresh.items()]
        for scratch, path in staged:
            put(scratch, path)
        return set(fresh)

    @property
    def servable(self) -> bool:
        """Whether the certificates that are there can be served with, even if they are old."""
        tls = self.path / "tls"
        try:
            ServerTls(Tls(str(tls / "tls.crt"), str(tls / "tls.key"), str(tls / "ca.crt")), required=True).refresh()
        except Invalid:
            return False
        return True

    def write_kubeconfig(self, server: str, also: Path | None) -> None:
        """Writes the kubeconfig for kube-apiserver into the folder, and where it was asked for."""
        existing = self._certificates()
        authority, client = pair_in(existing, "ca"), pair_in(existing, "client")
        if authority and client:
            content = kubeconfig(server, authority, client)
            for path in (self.kubeconfig, also):
                if path:
                    write(path, content, 0o600)

    def make_key(self) -> None:
        """Makes the key of hashes, unless it is there. OSError if there is no room for it."""
        if not self.redaction_key.exists():
            write(self.redaction_key, secrets.token_bytes(KEY_BYTES), 0o600)

    def write_copy(self, configuration: bytes) -> None:
        """Writes what the pipeline was rendered to, for people."""
        write(self.config, configuration, 0o600)

    def _certificates(self) -> dict[str, bytes]:
        return {name: (self.path / name).read_bytes() for name in _CERTIFICATES if (self.path / name).exists()}


def _is_ours(name: str) -> bool:
    """Whether a file may be there before `ca.key`: what a start left that found no room, or what a fresh file system
    has at its top."""
    return name in ("tls", "lost+found") or name.removeprefix(".").removesuffix(".new") in _FIRST


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
    """Replaces the file at once, if it differs; it is on disk when this returns. OSError with the path."""
    with named(path):
        if path.exists() and path.read_bytes() == content:
            return
    put(stage(path, content, mode), path)


def stage(path: Path, content: bytes, mode: int) -> Path:
    """Writes what is to replace the file, beside it; nothing is left of it if that fails."""
    scratch = path.with_name(f".{path.name}.new")
    with named(path):
        make_folders(path.parent)
        scratch.unlink(missing_ok=True)
        number = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(number, content)
            os.fsync(number)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        finally:
            os.close(number)
    return scratch


def put(scratch: Path, path: Path) -> None:
    """Puts what was staged into its place."""
    with named(path):
        scratch.rename(path)
        sync_folder(path.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Makes sure that an OSError says which file it is about: those of write and fsync do not."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
