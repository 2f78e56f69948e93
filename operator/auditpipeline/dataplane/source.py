"""Where a configuration comes from: memory, or the file `config.json`, or `config.json.gz` beside it; whichever is
there, the plain one first. A gateway's may go on in shards beside it (`core.packing`).

    config.json(.gz)   the head: all but some routes   --+
    routes-1.json.gz   further routes                  --+-->  one configuration
    ...                                                --+

A file that cannot be read, or is not valid, costs nothing but its own change: what it held before stays in force, and
the others go on. A route that is in several files is taken from the first that does not call it moving.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from auditpipeline.core import config as contract
from auditpipeline.core import packing
from auditpipeline.core.config import Config, Route, decode, digest, inflate
from auditpipeline.core.errors import AuditPipelineError, Invalid, Retryable

_Stamp = tuple[str, int, int, int] | None


class Placed(NamedTuple):
    """The digest of a route, and the number of the file that it was read from."""

    digest: str
    shard: int = 0


class Found(NamedTuple):
    """A configuration, and the digest of its bytes (of its head, if it has shards). `placed` says of each route of a
    gateway where it comes from; `error` why a part of it is not the newest; `partial` that a part is not known at all,
    so that there may be more routes than it has."""

    config: Config
    digest: str
    placed: Mapping[str, Placed] = {}
    error: str = ""
    partial: bool = False


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


class _Content(NamedTuple):
    """What a file holds: its routes, with their digests at a gateway, and which of them are moving; in the head the
    configuration, and the digest of its bytes. `size` is that before compression."""

    routes: Sequence[Route]
    moving: frozenset[str]
    digests: Mapping[str, str]
    size: int
    config: Config | None = None
    digest: str = ""


class _Part:
    """One file. `content` is what it held when it could last be read; `error` says why that is not the newest."""

    def __init__(self, number: int, *paths: Path) -> None:
        self.paths = paths
        self.content: _Content | None = None
        self.error: AuditPipelineError | None = None
        self._number = number
        self._stamp: _Stamp = None

    @property
    def there(self) -> bool:
        """Whether its file is there, or was."""
        return self._stamp is not None or self.error is not None

    def look(self, most: int) -> bool:
        """Reads the file if it is another one than at the last look; whether `content` or `error` is news then. It may
        have `most` bytes before compression. A file that went away is no change."""
        path, stamp = self._look()
        if path is None or stamp == self._stamp:
            return False
        try:
            body = path.read_bytes()
        except OSError as error:
            self.error = Retryable(f"{path}: cannot be read: {error.strerror}")
            return True
        self._stamp, self.error = stamp, None
        try:
            plain = inflate(body, most) if path.suffix == ".gz" else body
            self.content = _shard(plain) if self._number else _head(plain)
        except Invalid as error:
            self.error = Invalid("", f"{path.name}: {error}") if self._number else error
        return True

    def _look(self) -> tuple[Path | None, _Stamp]:
        for path in self.paths:
            try:
                found = path.stat()
            except OSError:
                continue
            return path, (str(path), found.st_ino, found.st_mtime_ns, found.st_size)
        return None, None


class ConfigFile:
    """Watches the file, and its shards. kubelet replaces mounted Secrets by a link, which `stat` follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = [
            _Part(0, path, path.with_name(f"{path.name}.gz")),
            *(_Part(number, path.with_name(packing.shard_key(number))) for number in range(1, packing.SHARDS)),
        ]
        self._fresh = False

    def changed(self) -> Found | None:
        """The configuration, if a file of it is new or another since the last call. Invalid (once) or Retryable (each
        time) if the head cannot be used and never could, or nothing but what cannot be used is news."""
        news = [part for part in self._watched() if part.look(self._room(part))]
        fresh, self._fresh = self._fresh or any(part.error is None for part in news), False
        head = self._parts[0].content
        if head and head.config and fresh:
            return self._found(head, head.config)
        for part in news:
            if part.error:
                raise part.error
        return None

    def forget(self) -> None:
        """Makes `changed` return the configuration again: it could not be put in force."""
        self._fresh = True

    def missing(self) -> str:
        """The file, if it is not there yet."""
        return "" if self.path.exists() else str(self.path)

    def _watched(self) -> Sequence[_Part]:
        """A receiver's configuration is one file."""
        head = self._parts[0].content
        return self._parts[:1] if head and head.config and head.config.plane == "receiver" else self._parts

    def _room(self, part: _Part) -> int:
        """How many bytes a file may have: all of them together are bounded."""
        left = contract.MAX_CONFIG - sum(
            other.content.size for other in self._parts if other.content and other is not part
        )
        return max(0, left if part is self._parts[0] else min(left, packing.SHARD_INFLATED))

    def _found(self, head: _Content, config: Config) -> Found:
        unknown = [part for part in self._expected(config) if part.content is None]
        said = [str(part.error) for part in self._parts if part.error]
        said += [f"{part.paths[0].name} is not there yet" for part in unknown if not part.there]
        routes, placed = _merged([part.content for part in self._parts])
        whole = replace(config, routes=routes, moving=())
        return Found(whole, head.digest, placed, "; ".join(said), bool(unknown))

    def _expected(self, config: Config) -> Iterator[_Part]:
        """The shards that there should be."""
        for number, part in enumerate(self._parts):
            if 0 < number <= config.shards or (number and part.there):
                yield part


def _head(plain: bytes) -> _Content:
    config = decode(plain)
    gateway = config.plane == "gateway"
    digests = packing.route_digests(plain, config.routes) if gateway else {}
    return _Content(config.routes, frozenset(config.moving), digests, len(plain), config, digest(plain))


def _shard(plain: bytes) -> _Content:
    shard = packing.decode_shard(plain)
    return _Content(shard.routes, frozenset(shard.moving), packing.route_digests(plain, shard.routes), len(plain), None)


def _merged(contents: Sequence[_Content | None]) -> tuple[tuple[Route, ...], dict[str, Placed]]:
    """The routes of all files, and where each comes from."""
    routes: dict[str, Route] = {}
    placed: dict[str, Placed] = {}
    for settled in (True, False):
        for number, content in enumerate(contents):
            for route in content.routes if content else ():
                if content and route.name not in routes and (route.name not in content.moving) is settled:
                    routes[route.name] = route
                    if route.name in content.digests:
                        placed[route.name] = Placed(content.digests[route.name], number)
    return tuple(routes.values()), placed
