"""The contract between the planes: the one file that the controller renders and the data plane reads.

The same shape configures both forms of the data plane:

    receiver   one source (kube-apiserver's or the gateway's webhook), one route for each output of a pipeline
    gateway    one source (kube-apiserver's webhook on 127.0.0.1), one route for each AuditSink

Every path in it is a path inside the Pod. No secret stands in it: credentials are files that it names, read again at
each use, so that a changed Secret needs no new configuration. Unknown fields are ignored, so that a controller can be
newer than its data plane. The forms in which it lies in Secrets are in `packing`.

Version 1 says the policies of each route beside it. Version 2 says every policy once (`policies`), and a route says
which of them it `uses`, by their indexes: for what version 1 makes too large. A data plane that knows version 1 alone
refuses it, since a route without `policies` is not valid there, and keeps what it runs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from auditpipeline.core.conditions.model import MAX_CONDITIONS, Condition
from auditpipeline.core.destination import FileCompression, Format, Fsync, HttpCompression
from auditpipeline.core.errors import Invalid
from auditpipeline.core.policy import Policy, validate
from auditpipeline.core.redaction.model import DEFAULT, Redaction

VERSION, SHARED = 1, 2
MAX_CONFIG = 64 * 2**20
MAX_BODY = 20 * 2**20
Plane = Literal["receiver", "gateway"]
Backpressure = Literal["reject", "dropOldest"]
DeadLetters = Literal["whole", "digest"]
T = TypeVar("T")


class _Value(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A value of the configuration: camelCase outside."""


class Tls(_Value, frozen=True):
    """PEM files of one listener or one client. `client_ca` is the CA whose client certificates are let in."""

    certificate: str
    key: str
    client_ca: str | None = None


class Listen(_Value, frozen=True):
    """Addresses as `host:port`.

    `audit` takes events and demands a client certificate, or, where `audit_token_file` names a file with a token,
    one of both: as a bearer token or as the last part of the path; `ops` serves /healthz, /readyz and /metrics to
    everybody and /status to holders of a client certificate.
    """

    audit: str
    ops: str
    audit_tls: Tls
    ops_tls: Tls
    audit_token_file: str | None = None


class Spool(_Value, frozen=True):
    """The durable queue: an SQLite file, how many bytes of it may hold events, and what happens then: new ones are
    refused, or the oldest are lost. Events that are older than `max_age` seconds are lost in any case.

    With `isolate`, new ones are refused only where every route is far behind: else the oldest are lost, for the routes
    that are, and for nobody else. So it is in a gateway, whose routes belong to users who do not know of each other.

    `dead_letters` says what is kept of a body that cannot be read: all of it, or its size and SHA-256 alone.
    """

    path: str
    max_bytes: Annotated[int, msgspec.Meta(ge=2**20)] = 8 * 2**30
    backpressure: Backpressure = "reject"
    max_age: Annotated[float, msgspec.Meta(gt=0)] | None = None
    isolate: bool = False
    dead_letters: DeadLetters = "digest"


class StdoutOutput(_Value, frozen=True, tag="stdout", tag_field="type"):
    """JSON lines on standard output."""


class FileOutput(_Value, frozen=True, tag="file", tag_field="type"):
    """JSON lines in a file, which is rotated at `max_bytes` and at an age of `max_age` seconds; `keep` rotated files
    stay."""

    path: str
    max_bytes: int = 100 * 2**20
    keep: int = 10
    max_age: float | None = None
    compression: FileCompression = "none"
    fsync: Fsync = "batch"


class Basic(_Value, frozen=True):
    """Files that hold a user name and a password."""

    username_file: str
    password_file: str


class HttpOutput(_Value, frozen=True, tag="http", tag_field="type"):
    """POST to `url`.

    Where `address` is given (`host:port`) that is connected to, with no DNS, and the host of the URL is the TLS name
    unless `server_name` is another. `ca` is PEM text or None for the system's; certificates, tokens and passwords are
    files, read at each use. `timeout` is in seconds, for a whole request, and so is `batch_max_wait`, how long a batch
    that is not full waits for more events; `proxy` is `http://host:port`; `headers` are
    pairs of name and value, nothing secret.
    """

    url: str
    format: Format = "json-lines"
    address: str | None = None
    ca: str | None = None
    ca_file: str | None = None
    client_tls: Tls | None = None
    bearer_token_file: str | None = None
    basic: Basic | None = None
    server_name: str | None = None
    proxy: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    compression: HttpCompression = "none"
    timeout: float = 30.0
    batch_max_wait: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Throttle(_Value, frozen=True):
    """Batches a second, and how many may go at once before that counts."""

    qps: float
    burst: int


class Route(_Value, frozen=True):
    """What one destination gets: an event must pass every policy; its level is the lowest that any of them gives.

    `uid` is that of the AuditSink that a gateway's route was made from: whoever deletes an AuditSink and makes one of
    the same name and content gets another route, so that a report of the first is none of the second.

    `redaction` is what this destination must not get, None for the default. What all routes take is taken before
    events are stored.

    `conditions` must all be true of an event that passes the policies. One that fails counts as true, and one that
    cannot be compiled fails on every event.
    """

    name: str
    policies: tuple[Policy, ...]
    output: StdoutOutput | FileOutput | HttpOutput
    uid: str = ""
    delivery: Literal["Guaranteed", "BestEffort"] = "Guaranteed"
    throttle: Throttle | None = None
    max_events: Annotated[int, msgspec.Meta(ge=1, le=10000)] | None = None
    redaction: Redaction | None = None
    conditions: Annotated[tuple[Condition, ...], msgspec.Meta(max_length=2 * MAX_CONDITIONS)] = ()

    @property
    def taken(self) -> Redaction:
        """What this destination must not get."""
        return self.redaction or DEFAULT

    @property
    def batch_events(self) -> int:
        """Events that a batch may have: `max_events`, or else as many as suit the output. What goes to a server is one
        request; a file takes at once what there is."""
        return self.max_events or (400 if isinstance(self.output, HttpOutput) else 10000)

    @property
    def batch_bytes(self) -> int:
        """Bytes of lines at which a batch is enough; it ends with a row, so that it may have twice as many. What a file
        takes at once costs one fsync."""
        return 2 * 2**20 if isinstance(self.output, HttpOutput) else 4 * 2**20

    @property
    def batch_wait(self) -> float:
        """Seconds that a batch which is not full waits for more events."""
        return (isinstance(self.output, HttpOutput) and self.output.batch_max_wait) or 0.0


class Egress(_Value, frozen=True):
    """What outputs may connect to: `allow` are networks and ports that are exempt from the rules of `core/egress.py`,
    `api_servers` addresses that are refused besides."""

    allow: tuple[str, ...] = ()
    api_servers: tuple[str, ...] = ()


class Config(_Value, frozen=True):
    """A whole configuration. `name` is the pipeline's name (`gateway` for the gateway). While `suspended`, events are
    acknowledged and not recorded; what is in the spool is delivered. `static_policy` is the path of kube-apiserver's
    policy file, which a gateway reports; `canary_user` makes the canaries (empty: whoever does). Without `egress`, as
    the release before renders it and `auditpipeline run` does, outputs may connect to every address. `metrics_token` is
    the digest (core.bearer) of the token that reads /metrics (empty: everybody may). `redaction_key_file` holds the key
    of hashes (core.redaction), if any route has them.

    A gateway's may go on in `shards` further files (`packing.Shard`). `moving` names routes that are about to go from
    this file: they count only as long as no other file has them."""

    plane: Plane
    name: str
    listen: Listen
    spool: Spool
    routes: tuple[Route, ...]
    version: int = VERSION
    suspended: bool = False
    max_body: int = MAX_BODY
    static_policy: str | None = None
    canary_user: str = ""
    egress: Egress | None = None
    metrics_token: str = ""
    redaction_key_file: str | None = None
    shards: Annotated[int, msgspec.Meta(ge=0)] = 0
    moving: tuple[str, ...] = ()


class _Version(msgspec.Struct):
    """What tells how to read the rest."""

    version: int = VERSION


class _Shared(msgspec.Struct):
    """What version 2 says otherwise."""

    policies: tuple[Policy, ...]
    routes: tuple[dict[str, Any], ...]


def encode(config: Config) -> bytes:
    """The configuration as indented JSON: the same value is always the same bytes."""
    return msgspec.json.format(msgspec.json.encode(config, order="deterministic"), indent=1)


def digest(body: bytes) -> str:
    """The name of a configuration's bytes (before gzip): the data plane reports which one it runs."""
    return hashlib.sha256(body).hexdigest()[:16]


def decode(body: bytes) -> Config:
    """The configuration in `body`; Invalid with the field's path."""
    version = read(body, _Version).version
    if version not in (VERSION, SHARED):
        raise Invalid("version", f"{version} is not {VERSION}: run controller and data plane of one release")
    config = read(body, Config) if version == VERSION else _expanded(body)
    check_routes(config.routes)
    return config


def read(body: bytes, kind: type[T]) -> T:
    """The value of that type in `body`; Invalid with the field's path."""
    with _named():
        return msgspec.json.decode(body, type=kind)


def _expanded(body: bytes) -> Config:
    """The configuration in a `body` of version 2: its routes share the values of their policies."""
    found = read(body, _Shared)
    with _named():
        uses = [msgspec.convert(route.pop("uses", ()), tuple[int, ...]) for route in found.routes]
        routes = [route | {"policies": ()} for route in found.routes]
        whole = msgspec.json.decode(body) | {"version": VERSION, "routes": routes}
        config = msgspec.convert(whole, Config)
    used = [_using(route, found.policies, uses[index], index) for index, route in enumerate(config.routes)]
    return replace(config, routes=tuple(used))


def _using(route: Route, policies: tuple[Policy, ...], used: tuple[int, ...], index: int) -> Route:
    if not used or not all(0 <= number < len(policies) for number in used):
        raise Invalid(f"routes[{index}].uses", f"names no policies of {len(policies)}")
    return replace(route, policies=tuple(policies[number] for number in used))


@contextmanager
def _named() -> Iterator[None]:
    """What a decoder raises, as Invalid with the field's path."""
    try:
        yield
    except msgspec.DecodeError as error:
        message, _, path = str(error).partition(" - at `$")
        raise Invalid(path.rstrip("`").lstrip("."), message) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise Invalid("", f"no JSON that can be read: {error}") from None


def inflate(body: bytes, most: int | None = None) -> bytes:
    """The bytes of a `config.json.gz`, at most `most`; Invalid if they are more, or not gzip."""
    most = MAX_CONFIG if most is None else most
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
            data = stream.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Invalid("", f"not gzip: {error}") from None
    if len(data) > most:
        raise Invalid("", f"larger than {most} bytes")
    return data


def relocated(config: Config, root: str, audit: str | None = None, ops: str | None = None) -> Config:
    """The configuration for a process outside of a Pod: every path below `root`, listeners at other addresses."""
    return moved(config, lambda path: f"{root.rstrip('/')}/{path.lstrip('/')}", audit, ops)


def moved(config: Config, place: Callable[[str], str], audit: str | None = None, ops: str | None = None) -> Config:
    """The configuration with every path where `place` says that it lies, and listeners at other addresses."""

    def below(path: str | None) -> str | None:
        return path and place(path)

    def tls(value: Tls) -> Tls:
        return Tls(below(value.certificate) or "", below(value.key) or "", below(value.client_ca))

    def basic(value: Basic) -> Basic:
        return Basic(below(value.username_file) or "", below(value.password_file) or "")

    def route(value: Route) -> Route:
        output = value.output
        if isinstance(output, FileOutput):
            output = replace(output, path=below(output.path))
        elif isinstance(output, HttpOutput):
            output = replace(
                output,
                ca_file=below(output.ca_file),
                bearer_token_file=below(output.bearer_token_file),
                client_tls=output.client_tls and tls(output.client_tls),
                basic=output.basic and basic(output.basic),
            )
        return replace(value, output=output)

    listen = config.listen
    return replace(
        config,
        listen=Listen(
            audit or listen.audit,
            ops or listen.ops,
            tls(listen.audit_tls),
            tls(listen.ops_tls),
            below(listen.audit_token_file),
        ),
        spool=replace(config.spool, path=below(config.spool.path)),
        routes=tuple(route(value) for value in config.routes),
        static_policy=below(config.static_policy),
        redaction_key_file=below(config.redaction_key_file),
    )


def check_routes(routes: Sequence[Route]) -> None:
    """Invalid if two routes have one name, or a policy cannot be used. A policy of several routes is checked once."""
    names: set[str] = set()
    checked: set[int] = set()
    for index, route in enumerate(routes):
        if route.name in names:
            raise Invalid(f"routes[{index}].name", f"{route.name!r} is taken: names are unique")
        names.add(route.name)
        for number, policy in enumerate(route.policies):
            if id(policy) not in checked:
                checked.add(id(policy))
                for problem in validate(policy, f"routes[{index}].policies[{number}]"):
                    raise problem
