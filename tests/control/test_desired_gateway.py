"""The gateway's configuration: one route for each AuditSink, and none for one that cannot be used."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from auditpipeline.control.certificates import authority
from auditpipeline.control.desired_gateway import asked_redaction, gateway_config, route, unpacked
from auditpipeline.control.settings import OptOut
from auditpipeline.core import config
from auditpipeline.core.errors import Invalid
from auditpipeline.core.packing import GZIP_FROM, packed
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.spec import parse_sink
from tests.control import bodies

SERVICE = {"namespace": "tools", "name": "falco"}
PEM = authority(datetime(2026, 1, 1, tzinfo=UTC)).certificate


def http(made: config.Route) -> config.HttpOutput:
    """The output of a route to a sink."""
    assert isinstance(made.output, config.HttpOutput)
    return made.output


def test_a_service_is_dialled_by_its_address_and_verified_by_its_name() -> None:
    """The gateway runs on the host network and has no cluster DNS."""
    made = http(route(parse_sink(bodies.sink("falco", service=SERVICE | {"path": "/k8s-audit"})), "10.96.0.9"))
    assert (made.url, made.address) == ("https://falco.tools.svc/k8s-audit", "10.96.0.9:443")


def test_another_port_is_in_the_url_too() -> None:
    """IPv6 addresses get their brackets."""
    made = http(route(parse_sink(bodies.sink("falco", service=SERVICE | {"port": 8765})), "fd00::9"))
    assert (made.url, made.address) == ("https://falco.tools.svc:8765/", "[fd00::9]:8765")


def test_a_sink_with_a_url_is_sent_to_that() -> None:
    """As of 1.18: no address, the URL says it all."""
    made = http(route(parse_sink(bodies.sink("remote", url="https://siem.example/k8s")), None))
    assert (made.url, made.address, made.format) == ("https://siem.example/k8s", None, "event-list")


def test_a_service_without_an_address_is_refused() -> None:
    """A headless Service cannot be dialled without DNS."""
    with pytest.raises(Invalid, match="has no ClusterIP"):
        route(parse_sink(bodies.sink("falco", service=SERVICE)), None)


@pytest.mark.parametrize("bundle", ["not base64!", base64.b64encode(b"no certificate").decode()])
def test_a_bundle_that_cannot_be_read_costs_that_sink_alone(bundle: str) -> None:
    """In the configuration it would cost every sink its events."""
    with pytest.raises(Invalid, match="caBundle"):
        route(parse_sink(bodies.sink("falco", service=SERVICE, caBundle=bundle)), "10.96.0.9")


def test_a_good_bundle_is_handed_over_as_text() -> None:
    """The data plane trusts nothing else for that sink."""
    encoded = base64.b64encode(PEM.encode()).decode()
    made = http(route(parse_sink(bodies.sink("falco", service=SERVICE, caBundle=encoded)), "10.96.0.9"))
    assert made.ca == PEM


def test_the_configuration_does_not_depend_on_the_order_of_the_sinks() -> None:
    """Lists come in any order; the digest must not change with it."""
    routes = [route(parse_sink(bodies.sink(name, url="https://siem.example/")), None) for name in ("b", "a")]
    assert gateway_config(routes, 2**30) == gateway_config(reversed(routes), 2**30)


def test_on_a_node_the_gateway_listens_on_loopback_and_reads_the_policy_file() -> None:
    """kube-apiserver is on the same node, and so is its file."""
    made = gateway_config([], 2**30)
    assert b"metricsToken" not in config.encode(made)
    assert gateway_config([], 2**30, metrics_token="abc").metrics_token == "abc"
    assert (made.listen.audit, made.listen.ops) == ("127.0.0.1:9443", "0.0.0.0:9444")
    assert made.static_policy == "/etc/auditpipeline/static/policy.yaml"


def test_behind_a_service_the_gateway_listens_on_its_pods_address_and_reads_no_policy_file() -> None:
    """The certificates are where they are on a node, and a client certificate is asked for likewise."""
    made, on_node = gateway_config([], 2**30, kind="StatefulSet"), gateway_config([], 2**30)
    assert made.listen.audit == "0.0.0.0:9443"
    assert made.static_policy is None
    assert made.listen.audit_tls == on_node.listen.audit_tls
    assert made.listen.audit_tls.client_ca == "/etc/auditpipeline/bootstrap/client-ca.crt"


@pytest.mark.parametrize(
    ("annotation", "opt_out", "redaction"),
    [
        (None, "allow", None),
        ("none", "allow", Redaction(default=False)),
        ("none", "refuse", None),
        ("hash", "allow", Redaction(method="hash")),
        ("hash", "refuse", Redaction(method="hash")),
        ("None", "allow", None),
        ("false", "allow", None),
        ("", "allow", None),
    ],
)
def test_a_sink_gets_secrets_only_if_its_annotation_says_so_and_it_may(
    annotation: str | None, opt_out: OptOut, redaction: Redaction | None
) -> None:
    """Whatever else stands there: the default, which takes them."""
    assert asked_redaction(annotation, opt_out) == redaction
    made = route(parse_sink(bodies.sink("a", url="https://siem.example/")), None, redaction=redaction)
    assert made.redaction == redaction


def test_what_sinks_may_lead_to_is_a_part_of_the_configuration() -> None:
    """Of the whole, and not of a route: no route starts anew when it changes."""
    egress = config.Egress(("127.0.0.1:8088",), ("10.96.0.1",))
    sinks = [route(parse_sink(bodies.sink("a", url="https://siem.example/")), None)]
    without, made = gateway_config(sinks, 2**30), gateway_config(sinks, 2**30, egress=egress)
    assert (without.egress, made.egress) == (None, egress)
    assert made.routes == without.routes
    for value in (made, without, gateway_config(sinks, 2**30, egress=config.Egress())):
        assert config.decode(config.encode(value)) == value


def test_no_sink_stops_another() -> None:
    """The sinks of a gateway belong to users who do not know of each other, and they share its spool."""
    spool = gateway_config((), 2**30).spool
    assert (spool.isolate, spool.backpressure) == (True, "reject")


def test_a_large_configuration_is_packed_and_read_back() -> None:
    """A Secret holds 1 MiB at most; the digest is that of the bytes before gzip."""
    body = b"x" * (GZIP_FROM + 1)
    assert list(packed(body)) == ["config.json.gz"]
    for content in (body, b"small"):
        data = {key: base64.b64encode(value).decode() for key, value in packed(content).items()}
        assert unpacked({"data": data}) == content
    assert packed(body) == packed(body)
