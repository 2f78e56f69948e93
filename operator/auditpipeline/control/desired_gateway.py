"""The gateway's configuration: every AuditSink of the cluster as one route. Pure.

One sink that cannot be used must not cost the others theirs: `route` raises Invalid for that one alone, and says
which field is wrong. A sink's Service is dialled by its ClusterIP, since the gateway runs without cluster DNS.

On the control-plane nodes the gateway listens on their loopback and reads kube-apiserver's policy file beside it.
Behind a Service it listens on its Pod's address, and there is no such file.
"""

from __future__ import annotations

import base64
import binascii
import gzip
from collections.abc import Iterable

from auditpipeline.control import names
from auditpipeline.control.certificates import is_bundle
from auditpipeline.control.settings import GatewayKind
from auditpipeline.core import config
from auditpipeline.core.canary import with_canary
from auditpipeline.core.errors import Invalid
from auditpipeline.core.spec import ServiceReference, Sink, sink_policy

GZIP_FROM = 512 * 2**10
CLIENT = config.Tls(f"{names.TLS_FOLDER}/tls.crt", f"{names.TLS_FOLDER}/tls.key")


def gateway_config(
    routes: Iterable[config.Route],
    spool_bytes: int,
    canary_user: str = "",
    kind: GatewayKind = "DaemonSet",
    egress: config.Egress | None = None,
) -> config.Config:
    """The configuration with these routes, in the order of their names, for Pods that a `kind` makes. `egress` says
    what the routes may connect to (None: everything)."""
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
    )


def packed(body: bytes) -> dict[str, bytes]:
    """The keys of the configuration's Secret: gzipped where it grows towards the 1 MiB that a Secret may hold."""
    if len(body) <= GZIP_FROM:
        return {"config.json": body}
    return {"config.json.gz": gzip.compress(body, mtime=0)}


def route(sink: Sink, address: str | None, canary_user: str | None = None) -> config.Route:
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
