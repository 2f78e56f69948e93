"""Sinks that point back at the gateway: what it took would come in again, for ever. Pure.

A sink's Service is known by its selector or by its name, a URL by its host and port, or by the address of the Service
before the gateway, whatever the port. Other loopback addresses are for the administrator to allow (core/egress.py), for
an agent on the control-plane nodes. A name that only DNS leads to the gateway cannot be told here; there the gateway's
own client certificate, which its audit listener does not take, ends the loop.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from auditpipeline.control import names
from auditpipeline.core.errors import Invalid
from auditpipeline.core.spec import ClientConfig, ServiceReference

FIELD = "spec.webhook.clientConfig"
ADVICE = "points back at the gateway: name the webhook that shall take the events"
PORTS = (names.GATEWAY_AUDIT_PORT, names.GATEWAY_OPS_PORT)
_TEMPLATE = {names.APP: names.GATEWAY, "app.kubernetes.io/part-of": "auditpipeline"}
"""Labels of every gateway Pod, as the chart sets them."""


class Loop(Invalid):
    """The sink is the gateway itself."""


def refuse_loop(
    client: ClientConfig,
    namespace: str,
    selector: Mapping[str, str],
    pods: Collection[str],
    services: Collection[str] = (),
) -> None:
    """Loop where the sink is the gateway itself, which runs in `namespace` in Pods (or on nodes) with these addresses,
    behind `services`, if any; `selector` is that of the sink's Service."""
    if client.service and _is_gateway(client.service, namespace, selector):
        raise Loop(f"{FIELD}.service", ADVICE)
    if client.url and _leads_back(client.url, namespace, pods, services):
        raise Loop(f"{FIELD}.url", ADVICE)


def _is_gateway(service: ServiceReference, namespace: str, selector: Mapping[str, str]) -> bool:
    if service.namespace != namespace:
        return False
    return service.name == names.GATEWAY or selects_gateway(selector)


def selects_gateway(selector: Mapping[str, str]) -> bool:
    """Whether a Service with this selector, in the gateway's namespace, may lead to its Pods. No other Pod has the
    gateway's name for a label, whatever else the selector asks for."""
    if selector.get(names.APP) == names.GATEWAY:
        return True
    return bool(selector) and selector.items() <= _TEMPLATE.items()


def _leads_back(url: str, namespace: str, pods: Collection[str], services: Collection[str]) -> bool:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    own = f"{names.GATEWAY}.{namespace}"
    if host in (own, f"{own}.svc") or host.startswith(f"{own}.svc.") or _canonical(host) in map(_canonical, services):
        return True
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return port in PORTS and (is_local(host) or _canonical(host) in map(_canonical, pods))


def _canonical(host: str) -> str:
    """An address in its shortest form; a name as it is."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def is_local(host: str) -> bool:
    """Whether the host is this machine, in any of the ways to write a loopback or unspecified address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1, 0x7f000001
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)
