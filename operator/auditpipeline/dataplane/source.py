"""The configuration file: `config.json`, or `config.json.gz` beside it; whichever is there, the plain one first."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from auditpipeline.core.config import Config, decode, digest, inflate
from auditpipeline.core.errors import Invalid

_Stamp = tuple[str, int, int, int] | None


class Found(NamedTuple):
    """A configuration, and the digest of its bytes."""

    config: Config
    digest: str


class ConfigFile:
    """Watches one file. kubelet replaces mounted Secrets by a link, which `stat` follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: _Stamp = None

    def changed(self) -> Found | None:
        """The configuration, where the file is new or another since the last call; Invalid (once) where it cannot be
        used.

        A file that went away is no change: what is in force stays.
        """
        path, stamp = self._look()
        if path is None or stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            body = path.read_bytes()
        except OSError as error:
            raise Invalid(str(path), f"cannot be read: {error.strerror}") from error
        plain = inflate(body) if path.suffix == ".gz" else body
        return Found(decode(plain), digest(plain))

    def forget(self) -> None:
        """Makes `changed` return the configuration again: it could not be put in force."""
        self._stamp = None

    def _look(self) -> tuple[Path | None, _Stamp]:
        for path in (self.path, self.path.with_name(f"{self.path.name}.gz")):
            try:
                found = path.stat()
            except OSError:
                continue
            return path, (str(path), found.st_ino, found.st_mtime_ns, found.st_size)
        return None, None
