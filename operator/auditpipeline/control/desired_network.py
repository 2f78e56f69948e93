"""The NetworkPolicy of a pipeline's receivers: who may reach them, and what they may reach. Pure.

Client certificates say who may post events; this bounds what a network lets through besides. A gateway on the nodes'
network and kubelet come from nodes' addresses, which no selector describes: they are let in by CIDR, or by port alone.
Link-local addresses, where clouds keep their metadata services, are never reached but for DNS.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from auditpipeline.control import names
from auditpipeline.control.desired_pod import metadata
from auditpipeline.control.settings import Settings
from auditpipeline.core.destination import Http
from auditpipeline.core.spec import Pipeline

Manifest = dict[str, Any]

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The label that every namespace has by itself (from Kubernetes 1.22 on)."""
NOT_LINK_LOCAL: tuple[Manifest, ...] = (
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}},
)
DNS: Manifest = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def network_policy(pipeline: Pipeline, namespace: str, settings: Settings) -> Manifest:
    """Lets in the two ports and nothing else; the egress is bounded only if the settings say so."""
    name = pipeline.metadata.name
    spec: Manifest = {
        "podSelector": {"matchLabels": {names.PIPELINE: name, names.APP: names.RECEIVER}},
        "policyTypes": ["Ingress"],
        "ingress": _ingress(settings),
    }
    if settings.restrict_egress:
        spec |= {"policyTypes": ["Ingress", "Egress"], "egress": _egress(pipeline, settings)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(pipeline, names.child(name), namespace),
        "spec": spec,
    }


def _ingress(settings: Settings) -> list[Manifest]:
    audit, ops = {"protocol": "TCP", "port": "audit"}, {"protocol": "TCP", "port": "ops"}
    if not settings.node_cidrs:
        return [{"ports": [audit, ops]}]
    nodes = [{"ipBlock": {"cidr": cidr}} for cidr in settings.node_cidrs]
    scrapers = [{"ipBlock": {"cidr": cidr}} for cidr in settings.scraper_cidrs]
    return [
        {"from": [*nodes, _pods(settings, names.GATEWAY)], "ports": [audit]},
        {"from": [*nodes, _pods(settings, names.OPERATOR), *scrapers], "ports": [ops]},
    ]


def _pods(settings: Settings, app: str) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: settings.namespace}},
        "podSelector": {"matchLabels": {names.APP: app}},
    }


def _egress(pipeline: Pipeline, settings: Settings) -> list[Manifest]:
    """DNS, and the ports of the outputs; nothing for outputs that stay in the Pod."""
    https = [output.http for output in pipeline.spec.outputs if output.http]
    ports = sorted({port for http in https for port in _ports(http)} | set(settings.egress_ports if https else ()))
    if not ports:
        return []
    return [DNS, {"to": list(NOT_LINK_LOCAL), "ports": [{"protocol": "TCP", "port": port} for port in ports]}]


def _ports(http: Http) -> set[int]:
    """The port that is dialled: the proxy's, if there is one."""
    parts = urlsplit(http.proxy or http.url)
    return {parts.port or (443 if parts.scheme == "https" else 80)}
