"""The configuration is the same on both sides, byte for byte."""

from __future__ import annotations

import gzip

import msgspec
import pytest

from auditpipeline.core import config as contract
from auditpipeline.core import report
from auditpipeline.core.config import Config, FileOutput, HttpOutput, Listen, Route, Spool, Tls
from auditpipeline.core.errors import Invalid
from auditpipeline.core.policy import Policy, Rule

TLS = Tls("/tls/tls.crt", "/tls/tls.key", "/tls/ca.crt")
POLICY = Policy(rules=(Rule(level="Metadata", non_resource_urls=("/healthz*",)),))
CONFIG = Config(
    plane="receiver",
    name="security",
    listen=Listen("0.0.0.0:8443", "0.0.0.0:8444", TLS, TLS),
    spool=Spool("/var/lib/auditpipeline/spool.sqlite"),
    routes=(
        Route("archive", (POLICY,), FileOutput("/var/log/audit/events.jsonl")),
        Route("siem", (POLICY,), HttpOutput("https://siem/", client_tls=TLS, bearer_token_file="/secrets/token")),
    ),
)


def test_what_the_controller_writes_is_what_the_data_plane_reads() -> None:
    """And the same value is always the same bytes, so that a digest can stand for it."""
    body = contract.encode(CONFIG)
    assert contract.decode(body) == CONFIG
    assert contract.encode(contract.decode(body)) == body
    assert contract.digest(body) == contract.digest(contract.encode(CONFIG))


def test_unknown_fields_are_ignored() -> None:
    """So that a controller can be newer than its data plane."""
    fields = msgspec.json.decode(contract.encode(CONFIG)) | {"added": {"later": 1}}
    assert contract.decode(msgspec.json.encode(fields)) == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version: 3 is not 1"),
        ({"plane": "cloud"}, "plane: Invalid enum"),
        ({"routes": [{"name": "a"}]}, "routes"),
        ({"spool": {"path": "/x", "maxBytes": 1}}, "spool.maxBytes"),
    ],
)
def test_a_bad_configuration_names_the_field(change: dict[str, object], message: str) -> None:
    """One line a case."""
    fields = msgspec.json.decode(contract.encode(CONFIG)) | change
    with pytest.raises(Invalid, match=message):
        contract.decode(msgspec.json.encode(fields))


@pytest.mark.parametrize("body", [b'{"plane":"receiver","name":"\xff"}', b'{"later":' * 100_000], ids=["utf8", "depth"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """Whatever the decoder raises for it; the report's too, which comes over the network."""
    with pytest.raises(Invalid, match="no JSON"):
        contract.decode(body)
    with pytest.raises(msgspec.DecodeError):
        report.decode(body)


def test_routes_with_one_name_are_refused() -> None:
    """A route's cursor goes by its name."""
    doubled = msgspec.structs.replace(CONFIG, routes=(CONFIG.routes[0], CONFIG.routes[0]))
    with pytest.raises(Invalid, match=r"routes\[1\].name"):
        contract.decode(contract.encode(doubled))


def test_a_large_configuration_may_be_gzipped_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What inflates to more than the bound is refused, as is what is no gzip."""
    body = contract.encode(CONFIG)
    assert contract.inflate(gzip.compress(body)) == body
    with pytest.raises(Invalid, match="not gzip"):
        contract.inflate(b"plain")
    with pytest.raises(Invalid, match="not gzip"):
        contract.inflate(gzip.compress(b"")[:10] + b"\xff" * 9)
    monkeypatch.setattr(contract, "MAX_CONFIG", 10)
    with pytest.raises(Invalid, match="larger than"):
        contract.inflate(gzip.compress(body))


def test_outside_of_a_pod_every_path_lies_below_the_root() -> None:
    """No file of the machine is touched by a process that runs with --root."""
    moved = contract.encode(contract.relocated(CONFIG, "/run/pod", ops="127.0.0.1:0")).decode()
    assert '"/tls' not in moved
    assert '"/var' not in moved
    assert '"/secrets' not in moved
    assert '"127.0.0.1:0"' in moved


def test_the_conditions_of_a_route_are_bounded() -> None:
    """Eight of the pipeline, and eight of the output."""
    body = msgspec.json.decode(contract.encode(CONFIG))
    condition = {"name": "a", "expression": "event.verb != 'get'"}
    body["routes"][0]["conditions"] = [condition] * 16
    assert len(contract.decode(msgspec.json.encode(body)).routes[0].conditions) == 16
    body["routes"][0]["conditions"] = [condition] * 17
    with pytest.raises(Invalid, match="conditions"):
        contract.decode(msgspec.json.encode(body))
