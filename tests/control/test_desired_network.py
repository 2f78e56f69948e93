"""The NetworkPolicies of receivers, as they are rendered: no network plugin enforces them in these tests."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from auditpipeline.control.desired_network import network_policy
from auditpipeline.control.settings import Settings
from tests.control import bodies

OWN = "auditpipeline-system"
OPEN = Settings(namespace=OWN, receivers_namespace="auditpipeline-receivers")
NODES = Settings(namespace=OWN, node_cidrs=("10.0.0.0/16", "fd00::/64"), scraper_cidrs=("10.1.0.0/16",))
BOUNDED = Settings(namespace=OWN, restrict_egress=True, egress_ports=(8443,))
STDOUT = {"name": "console", "stdout": {}}


def policy(settings: Settings, *outputs: dict[str, Any]) -> dict[str, Any]:
    """The specification of the policy, which Kubernetes' schema takes."""
    body = bodies.pipeline("shop", outputs=list(outputs or (STDOUT,)))
    made = network_policy(bodies.parsed(body), "auditpipeline-receivers", settings)
    kubernetes_validate.validate(made, "1.37.0", strict=True)
    spec: dict[str, Any] = made["spec"]
    return spec


def http(name: str, url: str, **more: Any) -> dict[str, Any]:
    """An output to a server."""
    return {"name": name, "http": {"url": url, **more}}


def ports(spec: dict[str, Any]) -> list[int]:
    """The ports of servers that are reached."""
    return [port["port"] for rule in spec["egress"] if "to" in rule for port in rule["ports"]]


def test_by_default_two_ports_are_open_and_nothing_else_is_bounded() -> None:
    """Client certificates say who may come in."""
    spec = policy(OPEN)
    assert spec["ingress"] == [{"ports": [{"protocol": "TCP", "port": "audit"}, {"protocol": "TCP", "port": "ops"}]}]
    assert spec["policyTypes"] == ["Ingress"]
    assert "egress" not in spec


def test_with_the_nodes_networks_each_port_is_for_those_who_use_it() -> None:
    """A gateway on the nodes' network and kubelet come from nodes; one behind a Service and the operator are Pods."""
    audit, ops = policy(NODES)["ingress"]
    nodes = [{"ipBlock": {"cidr": "10.0.0.0/16"}}, {"ipBlock": {"cidr": "fd00::/64"}}]

    def pods(name: str) -> dict[str, Any]:
        return {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OWN}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": name}},
        }

    assert audit == {"from": [*nodes, pods("auditpipeline-gateway")], "ports": [{"protocol": "TCP", "port": "audit"}]}
    scraper = {"ipBlock": {"cidr": "10.1.0.0/16"}}
    assert ops["from"] == [*nodes, pods("auditpipeline-operator"), scraper]
    assert ops["ports"] == [{"protocol": "TCP", "port": "ops"}]


def test_receivers_whose_outputs_stay_in_the_pod_reach_nothing() -> None:
    """Not even DNS."""
    spec = policy(BOUNDED)
    assert (spec["policyTypes"], spec["egress"]) == (["Ingress", "Egress"], [])


@pytest.mark.parametrize(
    ("output", "port"),
    [
        (http("a", "https://siem.example/audit"), 443),
        (http("a", "http://siem.example/audit"), 80),
        (http("a", "https://siem.example:9200/_bulk"), 9200),
        (http("a", "https://[2001:db8::1]:9200/"), 9200),
        (http("a", "https://siem.example/audit", proxy="http://proxy.example:3128"), 3128),
    ],
)
def test_an_output_opens_the_port_that_it_dials(output: dict[str, Any], port: int) -> None:
    """A proxy's, if there is one; and the ports that the operator was given, of Services for instance."""
    assert ports(policy(BOUNDED, STDOUT, output)) == sorted({port, 8443})


def test_link_local_addresses_are_reached_for_dns_alone() -> None:
    """Clouds keep their metadata services there, and some clusters their DNS."""
    spec = policy(BOUNDED, http("a", "https://siem.example/"), http("b", "https://siem.example:9200/"))
    dns, servers = spec["egress"]
    assert dns == {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    blocks = {block["ipBlock"]["cidr"]: block["ipBlock"]["except"] for block in servers["to"]}
    assert blocks == {"0.0.0.0/0": ["169.254.0.0/16"], "::/0": ["fe80::/10"]}
    assert ports(spec) == [443, 8443, 9200]
