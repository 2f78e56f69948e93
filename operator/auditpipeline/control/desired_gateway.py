"""The gateway's configuration: every AuditSink of the cluster as one route, in one Secret or several. Pure.

One sink that cannot be used must not cost the others theirs: `route` raises Invalid for that one alone, and says
which field is wrong. A sink's Service is dialled by its ClusterIP, since the gateway runs without cluster DNS.

On the control-plane nodes the gateway listens on their loopback and reads kube-apiserver's policy file beside it.
Behind a Service it listens on its Pod's address, and there is no such file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from auditpipeline.control import names
from auditpipeline.control.certificates import is_bundle
from auditpipeline.control.settings import GatewayKind, OptOut
from auditpipeline.control.shards import Held, Written
from auditpipeline.core import config, packing
from auditpipeline.core.canary import with_canary
from auditpipeline.core.errors import Invalid
from auditpipeline.core.redaction.model import DEFAULT, Redaction
from auditpipeline.core.spec import ServiceReference, Sink, sink_policy

CLIENT = config.Tls(f"{names.TLS_FOLDER}/tls.crt", f"{names.TLS_FOLDER}/tls.key")


def gateway_config(
    routes: Iterable[config.Route],
    spool_bytes: int,
    canary_user: str = "",
    kind: GatewayKind = "DaemonSet",
    egress: config.Egress | None = None,
    metrics_token: str = "",
    redaction_key_file: str | None = None,
) -> config.Config:
    """The configuration with these routes, in the order of their names, for Pods that a `kind` makes. `egress` says
    what the routes may connect to (None: everything); `redaction_key_file` holds the key of hashes."""
    folder, on_nodes = names.BOOTSTRAP_FOLDER, kind == "DaemonSet"
    return config.Config(
        plane="gateway",
        name="gateway",
        listen=config.Listen(
            audit=f"{'127.0.0.1' if on_nodes else '0.0.0.0'}:{names.GATEWAY_AUDIT_PORT}",  # noqa: S104 - a Pod's own
            ops=f"0.0.0.0:{names.GATEWAY_OPS_PORT}",
            audit_tls=config.Tls(f"{folder}/tls.crt", f"{folder}/tls.key", f"{folder}/client-ca.crt"),
            ops_tls=config.Tls(CLIENT.certificate, CLIENT.key, f"{names.TLS_FOLDER}/ca.crt"),
        ),
        spool=config.Spool(f"{names.DATA_FOLDER}/spool.sqlite", spool_bytes, isolate=True),
        routes=tuple(sorted(routes, key=lambda route: route.name)),
        static_policy=names.STATIC_FILE if on_nodes else None,
        canary_user=canary_user,
        egress=egress,
        metrics_token=metrics_token,
        redaction_key_file=redaction_key_file,
    )


def asked_redaction(annotation: str | None, opt_out: OptOut) -> Redaction | None:
    """What a sink's annotation asks for; None for the default, which also holds if an opt-out is refused."""
    if annotation == "none" and opt_out == "allow":
        return Redaction(default=False)
    return Redaction(method="hash") if annotation == "hash" else None


def written(head: config.Config, number: int, held: Held, shards: int) -> Written:
    """A shard of the configuration as its Secret has it. `head` is the configuration but for its routes."""
    routes = tuple(route for _, route in sorted(held.routes.items()))
    moving = tuple(sorted(held.moving))
    if number:
        body = packing.encode_shard(packing.Shard(routes, moving))
        small = packing.compressed(body)
        return Written(held, {packing.shard_key(number): small}, len(small), len(body), config.digest(body))
    body = config.encode(replace(head, routes=routes, shards=shards, moving=moving))
    data = packing.packed(body)
    size = len(data.get(packing.PACKED) or packing.compressed(body))
    return Written(held, data, size, len(body), config.digest(body), shards)


def read(number: int, secret: Mapping[str, Any]) -> Written | None:
    """What the Secret of a shard holds, read back; None if it holds nothing that can be read."""
    try:
        data = _data(secret)
        return _head(data) if number == 0 else _shard(number, data)
    except (Invalid, ValueError):
        return None


def unpacked(secret: Mapping[str, Any]) -> bytes | None:
    """The configuration's bytes in a Secret, or None."""
    try:
        return packing.unpacked(_data(secret))
    except (Invalid, ValueError):
        return None


def _data(secret: Mapping[str, Any]) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}


def _head(data: Mapping[str, bytes]) -> Written | None:
    body = packing.unpacked(data)
    if body is None:
        return None
    found = config.decode(body)
    held = Held({route.name: route for route in found.routes}, frozenset(found.moving))
    packed = len(data[packing.PACKED]) if packing.PACKED in data else len(packing.compressed(body))
    return Written(held, data, packed, len(body), config.digest(body), found.shards)


def _shard(number: int, data: Mapping[str, bytes]) -> Written | None:
    small = data.get(packing.shard_key(number))
    if small is None:
        return None
    body = config.inflate(small, packing.SHARD_INFLATED)
    found = packing.decode_shard(body)
    held = Held({route.name: route for route in found.routes}, frozenset(found.moving))
    return Written(held, data, len(small), len(body), config.digest(body))


def stricter(one: Redaction | None, other: Redaction | None) -> Redaction | None:
    """That of two redactions of sinks which leaves less in the events: masks less than hashes, and these less than
    nothing at all."""
    return min(one, other, key=lambda each: (not (each or DEFAULT).default, (each or DEFAULT).hashes))


def route(
    sink: Sink, address: str | None, canary_user: str | None = None, redaction: Redaction | None = None
) -> config.Route:
    """The route of one sink; `address` is the ClusterIP of its Service, where it names one. Where `canary_user` is
    given, as for the sinks of AuditPipelines, that user's canaries go there whatever the sink's policy."""
    policy = sink_policy(sink.spec.policy)
    client = sink.spec.webhook.client_config
    throttle = sink.spec.webhook.throttle
    return config.Route(
        name=sink.metadata.name,
        policies=(policy if canary_user is None else with_canary(policy, canary_user),),
        output=config.HttpOutput(
            url=_service_url(client.service) if client.service else str(client.url),
            format="event-list",
            address=_address(client.service, address) if client.service else None,
            ca=_bundle(client.ca_bundle),
            client_tls=CLIENT,
        ),
        uid=sink.metadata.uid,
        throttle=config.Throttle(float(throttle.qps), throttle.burst),
        redaction=redaction,
    )


def _service_url(service: ServiceReference) -> str:
    port = "" if service.port == 443 else f":{service.port}"
    path = service.path if service.path.startswith("/") else f"/{service.path}"
    return f"https://{names.service_host(service.name, service.namespace)}{port}{path}"


def _address(service: ServiceReference, address: str | None) -> str:
    if not address:
        where = f"{service.namespace}/{service.name}"
        raise Invalid(
            "spec.webhook.clientConfig.service", f"{where} has no ClusterIP: name a Service of type ClusterIP"
        )
    return f"[{address}]:{service.port}" if ":" in address else f"{address}:{service.port}"


def _bundle(encoded: str | None) -> str | None:
    if not encoded:
        return None
    try:
        pem = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        pem = ""
    if not is_bundle(pem):
        raise Invalid("spec.webhook.clientConfig.caBundle", "must be base64 of PEM certificates")
    return pem
