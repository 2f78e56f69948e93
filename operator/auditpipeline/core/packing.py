"""The forms in which configurations lie in Secrets, of which each may hold 1 MiB.

    a receiver's       config.json        version 1, as long as that has 512 KiB at most
                       config.json.gz     the same, compressed, up to 1 MiB before that
                                          beyond: version 2, in either of the two
    the gateway's      config.json(.gz)   the head: version 1, and the first routes
                       routes-N.json.gz   further routes, each in a Secret of its own: a shard

A digest is that of the bytes before compression. The release before reads version 1 and the head, and no shard: so
these come into use only for what would be too large for it in any case.

A route's digest is that of its text in the file, without white space: it says the same to a data plane that does not
know every field of the route.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from auditpipeline.core import config as contract
from auditpipeline.core.config import SHARED, VERSION, Config, Route
from auditpipeline.core.errors import Invalid

PLAIN = "config.json"
PACKED = f"{PLAIN}.gz"
GZIP_FROM = 512 * 2**10
SECRET_BYTES = 2**20 - 16 * 2**10
"""Bytes of content that a Secret is given at most: a little less than an API server allows."""
SEPARATE_BYTES = 2**20
"""Bytes of a receiver's configuration that says policies beside each route: more, the release before could not have
been given."""
SHARDS = 32
"""Files of a gateway's routes, the head included."""
SHARD_INFLATED = 16 * 2**20
"""Bytes that a shard has at most before compression; all of them and the head have `config.MAX_CONFIG`."""


class Shard(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Further routes of a gateway; `moving` as in Config."""

    routes: tuple[Route, ...]
    moving: tuple[str, ...] = ()
    version: int = VERSION


class _Texts(msgspec.Struct):
    """The routes of a file as they stand there."""

    routes: tuple[msgspec.Raw, ...] = ()


def render(config: Config) -> bytes:
    """A receiver's configuration in the form that suits its size. Invalid if it is too large in any."""
    one = contract.encode(replace(config, routes=()))
    policies = sum(_length(policy) for route in config.routes for policy in route.policies)
    if len(one) + policies <= SEPARATE_BYTES:
        body = contract.encode(config)
        if len(body) <= SEPARATE_BYTES:
            return body
    body = _shared(config)
    size = max(map(len, packed(body).values()))
    if size > SECRET_BYTES or len(body) > contract.MAX_CONFIG:
        said = f"the receivers' configuration has {size} bytes, and at most {SECRET_BYTES} fit into a Secret"
        raise Invalid("spec", f"{said}: shorten the policies of the pipeline and of its outputs")
    return body


def packed(body: bytes) -> dict[str, bytes]:
    """The keys of a configuration's Secret: compressed if it grows towards what a Secret may hold."""
    return {PLAIN: body} if len(body) <= GZIP_FROM else {PACKED: compressed(body)}


def unpacked(data: Mapping[str, bytes]) -> bytes | None:
    """The configuration in a Secret with these keys, or None; Invalid if it is compressed and cannot be read."""
    return contract.inflate(data[PACKED]) if PACKED in data else data.get(PLAIN)


def compressed(body: bytes) -> bytes:
    """gzip, without a time: the same bytes for the same content."""
    return gzip.compress(body, 6, mtime=0)


def shard_key(number: int) -> str:
    """The file of a shard, and the key of its Secret."""
    return f"routes-{number}.json.gz"


def encode_shard(shard: Shard) -> bytes:
    """A shard as indented JSON: the same value is always the same bytes."""
    return msgspec.json.format(msgspec.json.encode(shard, order="deterministic"), indent=1)


def decode_shard(body: bytes) -> Shard:
    """The shard in `body`; Invalid with the field's path."""
    shard = contract.read(body, Shard)
    if shard.version != VERSION:
        raise Invalid("version", f"{shard.version} is not {VERSION}: run controller and data plane of one release")
    contract.check_routes(shard.routes)
    return shard


def route_digest(route: Route) -> str:
    """The name of a route's content."""
    return _digest(msgspec.json.encode(route, order="deterministic"))


def route_digests(body: bytes, routes: Sequence[Route]) -> Mapping[str, str]:
    """The digests of the `routes` that were decoded from `body`, by name, from their text there."""
    texts = contract.read(body, _Texts).routes
    return {
        route.name: _digest(msgspec.json.format(text, indent=-1)) for route, text in zip(routes, texts, strict=True)
    }


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _length(value: object) -> int:
    return len(msgspec.json.encode(value))


def _shared(config: Config) -> bytes:
    """The configuration in version 2."""
    numbers: dict[bytes, int] = {}
    uses = [
        [
            numbers.setdefault(msgspec.json.encode(policy, order="deterministic"), len(numbers))
            for policy in route.policies
        ]
        for route in config.routes
    ]
    found = msgspec.to_builtins(replace(config, routes=tuple(replace(route, policies=()) for route in config.routes)))
    for route, used in zip(found["routes"], uses, strict=True):
        route["uses"] = used
        del route["policies"]
    found |= {"version": SHARED, "policies": [msgspec.Raw(policy) for policy in numbers]}
    return msgspec.json.format(msgspec.json.encode(found, order="deterministic"), indent=1)
