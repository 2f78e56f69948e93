"""Where a configuration comes from: memory, or the file `config.json`, or `config.json.gz` beside it; whichever is
there, the plain one first."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from auditpipeline.core.config import Config, decode, digest, inflate
from auditpipeline.core.errors import Retryable

_Stamp = tuple[str, int, int, int] | None


class Found(NamedTuple):
    """A configuration, and the digest of its bytes."""

    config: Config
    digest: str


class Source(Protocol):
    """What the data plane follows."""

    def changed(self) -> Found | None:
        """The configuration if it is new, or another since the last call; Invalid (once) if it cannot be used,
        Retryable (each time) if it cannot be read just now."""

    def forget(self) -> None:
        """Makes `changed` return the configuration again: it could not be put in force."""

    def missing(self) -> str:
        """What is waited for, if there is no configuration yet."""


class Rendered:
    """A configuration in memory: following it needs no room on a disk."""

    def __init__(self) -> None:
        self._found: Found | None = None
        self._fresh = False

    def put(self, body: bytes) -> None:
        """Replaces the configuration. Invalid if it is not one."""
        self._found, self._fresh = Found(decode(body), digest(body)), True

    def changed(self) -> Found | None:
        """The configuration, once for each `put`."""
        fresh, self._fresh = self._fresh, False
        return self._found if fresh else None

    def forget(self) -> None:
        """Makes `changed` return the configuration again."""
        self._fresh = True

    def missing(self) -> str:
        """Nothing is waited for that has a name."""
        return ""


class ConfigFile:
    """Watches one file. kubelet replaces mounted Secrets by a link, which `stat` follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: _Stamp = None

    def changed(self) -> Found | None:
        """The configuration, where the file is new or another since the last call; Invalid (once) where it cannot be
        used, Retryable where it cannot be read.

        A file that went away is no change: what is in force stays.
        """
        path, stamp = self._look()
        if path is None or stamp == self._stamp:
            return None
        try:
            body = path.read_bytes()
        except OSError as error:
            raise Retryable(f"{path}: cannot be read: {error.strerror}") from error
        self._stamp = stamp
        plain = inflate(body) if path.suffix == ".gz" else body
        return Found(decode(plain), digest(plain))

    def forget(self) -> None:
        """Makes `changed` return the configuration again: it could not be put in force."""
        self._stamp = None

    def missing(self) -> str:
        """The file, if it is not there yet."""
        return "" if self.path.exists() else str(self.path)

    def _look(self) -> tuple[Path | None, _Stamp]:
        for path in (self.path, self.path.with_name(f"{self.path.name}.gz")):
            try:
                found = path.stat()
            except OSError:
                continue
            return path, (str(path), found.st_ino, found.st_mtime_ns, found.st_size)
        return None, None
