"""Sinks that point back at the gateway, in every way that can be told; and those that do not."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from auditpipeline.control.loops import Loop, refuse_loop
from auditpipeline.core.spec import ClientConfig, ServiceReference

HOME = "auditpipeline-system"
NAME = "app.kubernetes.io/name"
PART = "app.kubernetes.io/part-of"
NODES = {"10.0.0.7", "fd00::7"}
SERVICES = {"10.96.0.9", "fd00:96::9"}


@pytest.mark.parametrize(
    ("url", "loop"),
    [
        ("https://127.0.0.1:9443/audit", True),
        ("https://127.9.9.9:9443", True),
        ("https://127.1:9443/", True),
        ("https://0x7f000001:9443/", True),
        ("https://0.0.0.0:9443/", True),
        ("https://[::1]:9443/", True),
        ("https://[::]:9443/", True),
        ("https://[::ffff:127.0.0.1]:9443/", True),
        ("https://localhost:9443/", True),
        ("https://LOCALHOST.:9443/", True),
        ("http://any.localhost:9444/", True),
        ("https://10.0.0.7:9443/", True),
        ("https://[fd00::7]:9444/status", True),
        ("https://auditpipeline-gateway.auditpipeline-system.svc/", True),
        ("https://auditpipeline-gateway.auditpipeline-system.svc.cluster.local:8443/", True),
        ("https://auditpipeline-gateway.auditpipeline-system/", True),
        ("https://127.0.0.1:9880/", False),
        ("https://localhost/", False),
        ("https://10.0.0.7:8443/", False),
        ("https://10.0.0.8:9443/", False),
        ("https://siem.example:9443/", False),
        ("https://auditpipeline-gateway.other.svc/", False),
        ("https://auditpipeline-gateway.auditpipeline-system.svc-mirror.example/", False),
        ("https://[fd00:0::7]:9443/", True),
        ("https://10.96.0.9/", True),
        ("https://10.96.0.9:9880/audit", True),
        ("https://[fd00:96:0::9]/", True),
        ("https://10.96.0.10/", False),
    ],
)
def test_a_url_is_judged_by_host_and_port(url: str, loop: bool) -> None:
    """Loopback addresses with another port are a good place for events; the Service before a gateway is none, whatever
    the port."""
    with pytest.raises(Loop, match="points back at the gateway") if loop else nullcontext():
        refuse_loop(ClientConfig(url=url), HOME, {}, NODES, SERVICES)


def test_without_a_service_before_the_gateway_its_address_is_anybodys() -> None:
    """On the control-plane nodes the gateway has none."""
    refuse_loop(ClientConfig(url="https://10.96.0.9/"), HOME, {}, NODES)


@pytest.mark.parametrize(
    ("service", "selector", "loop"),
    [
        ({}, {NAME: "auditpipeline-gateway"}, True),
        ({}, {NAME: "auditpipeline-gateway", "pod-template-generation": "1"}, True),
        ({}, {PART: "auditpipeline"}, True),
        ({"name": "auditpipeline-gateway"}, {}, True),
        ({}, {NAME: "falco"}, False),
        ({}, {PART: "auditpipeline", "app": "falco"}, False),
        ({}, {}, False),
        ({"namespace": "tools"}, {NAME: "auditpipeline-gateway"}, False),
        ({"namespace": "tools", "name": "auditpipeline-gateway"}, {}, False),
    ],
)
def test_a_service_is_judged_by_its_selector_and_its_name(
    service: dict[str, Any], selector: dict[str, str], loop: bool
) -> None:
    """The gateway's Pods are in the operator's namespace alone."""
    reference = ServiceReference(**({"namespace": HOME, "name": "falco"} | service))
    with pytest.raises(Loop, match="points back at the gateway") if loop else nullcontext():
        refuse_loop(ClientConfig(service=reference), HOME, selector, NODES)
