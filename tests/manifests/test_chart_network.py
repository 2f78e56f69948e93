"""The chart's NetworkPolicies, as they are rendered: no network plugin enforces them in these tests."""

from __future__ import annotations

import pytest

from auditpipeline.cli.operator import operator
from auditpipeline.control import names
from tests.manifests.lint import VALUE_SETS
from tests.manifests.render import template
from tests.manifests.test_chart import BEHIND_SERVICE, container, kinds, named

pytestmark = pytest.mark.controlplane  # for helm, which is built once like the cluster's programs

NOT_LINK_LOCAL = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}},
]
DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def test_network_policies_are_off_by_default(helm: str) -> None:
    """Client certificates are what says who may come in."""
    objects = template(helm)
    assert "NetworkPolicy" not in kinds(objects)
    assert "--restrict-egress" not in container(objects)["args"]


def test_the_operators_network_policy_lets_it_reach_what_it_works_with(helm: str) -> None:
    """DNS, API servers and the data plane, and no link-local address; in, from nodes and scrapers if they are named."""
    spec = named(template(helm, "--set", "networkPolicy.enabled=true"), "NetworkPolicy")["spec"]
    dns, others = spec["egress"]
    assert dns == DNS
    assert others["to"] == NOT_LINK_LOCAL
    assert [port["port"] for port in others["ports"]] == [443, 6443, names.OPS_PORT, names.GATEWAY_OPS_PORT]
    assert spec["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8080}]}]
    bounded = named(template(helm, *VALUE_SETS["everything"]), "NetworkPolicy")["spec"]["ingress"]
    assert [block["ipBlock"]["cidr"] for block in bounded[0]["from"]] == ["10.0.0.0/16", "fd00::/64", "10.1.0.0/16"]


def test_a_gateway_on_the_hosts_network_has_no_network_policy(helm: str) -> None:
    """None would hold there, and one that does nothing would lie."""
    found = [obj for obj in template(helm, *VALUE_SETS["everything"]) if obj["kind"] == "NetworkPolicy"]
    assert [obj["metadata"]["name"] for obj in found] == ["auditpipeline-operator"]


def test_a_gateway_behind_a_service_is_reached_from_nodes_and_reaches_nothing_of_one(helm: str) -> None:
    """kube-apiserver posts from a node's address, kubelet probes from one; the operator is a Pod."""
    values = (*BEHIND_SERVICE, "--set", "networkPolicy.nodes={10.0.0.0/16},networkPolicy.scrapers={10.1.0.0/16}")
    spec = named(template(helm, *values), "NetworkPolicy", "auditpipeline-gateway")["spec"]
    audit, ops = spec["ingress"]
    assert (audit["ports"], audit["from"]) == (
        [{"protocol": "TCP", "port": "audit"}],
        [{"ipBlock": {"cidr": "10.0.0.0/16"}}],
    )
    assert [next(iter(peer)) for peer in ops["from"]] == ["podSelector", "ipBlock", "ipBlock"]
    assert spec["egress"] == [DNS, {"to": NOT_LINK_LOCAL}]
    open_ = named(template(helm, *BEHIND_SERVICE), "NetworkPolicy", "auditpipeline-gateway")["spec"]["ingress"]
    assert not [rule for rule in open_ if "from" in rule]


def test_the_operator_makes_the_receivers_network_policies_from_the_same_values(helm: str) -> None:
    """They are its own children; tests/control/test_desired_network.py has what it makes of them."""
    arguments = container(template(helm, *VALUE_SETS["everything"]))["args"]
    assert {
        *("--restrict-egress", "--node-cidr=10.0.0.0/16", "--node-cidr=fd00::/64"),
        *("--scraper-cidr=10.1.0.0/16", "--egress-port=8443"),
    } <= set(arguments)
    operator.make_context("operator", [argument for argument in arguments[1:] if "$(" not in argument])
