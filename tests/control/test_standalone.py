"""An AuditPipeline without Kubernetes: where things lie, what is ignored, when certificates are made again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from auditpipeline.control import certificates, standalone
from auditpipeline.control.bootstrap import pair_in
from auditpipeline.control.desired import receiver_config
from auditpipeline.control.standalone import Places
from auditpipeline.core.config import Egress, FileOutput, HttpOutput
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.spec import parse_pipeline

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACES = Places("/data", "/root", "/secrets", "127.0.0.1:1", "127.0.0.1:2")
HOSTS = ("127.0.0.1", "localhost")


def pipeline(**spec: Any) -> dict[str, Any]:
    """With a file and an HTTP output."""
    return {
        "metadata": {"name": "test"},
        "spec": {
            "policy": {"rules": [{"level": "Metadata"}]},
            "outputs": [
                {"name": "archive", "file": {"path": "/var/log/audit/events.jsonl"}},
                {
                    "name": "siem",
                    "http": {
                        "url": "https://siem.example",
                        "bearerTokenSecretRef": {"name": "siem", "key": "token"},
                        "caSecretRef": {"name": "siem", "key": "ca.crt"},
                    },
                },
            ],
            **spec,
        },
    }


def made(now: datetime, existing: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """The files after a start at that time."""
    fresh = standalone.files(existing or {}, HOSTS, now)
    return {**(existing or {}), **{name: file.content for name, file in fresh.items()}}


def test_it_is_the_configuration_of_a_pod_with_its_paths_elsewhere() -> None:
    """Policies, limits and everything else are what the controller renders."""
    parsed = parse_pipeline(pipeline())
    config, pods = standalone.configuration(parsed, PLACES), receiver_config(parsed)
    archive, siem = (route.output for route in config.routes)
    assert isinstance(archive, FileOutput)
    assert isinstance(siem, HttpOutput)
    assert archive.path == "/root/var/log/audit/events.jsonl"
    assert (siem.bearer_token_file, siem.ca_file) == ("/secrets/siem/token", "/secrets/siem/ca.crt")
    assert config.spool.path == "/data/spool.sqlite"
    assert config.listen.audit_tls.key == "/data/tls/tls.key"
    assert (config.listen.audit, config.listen.ops) == ("127.0.0.1:1", "127.0.0.1:2")
    assert [route.policies for route in config.routes] == [route.policies for route in pods.routes]
    assert config.spool.max_bytes == pods.spool.max_bytes
    assert standalone.configuration(parsed, PLACES._replace(root="/")).routes[0].output == pods.routes[0].output
    assert not config.suspended
    assert standalone.configuration(parse_pipeline(pipeline(suspend=True)), PLACES).suspended
    assert sorted(standalone.secret_files(parsed)) == ["siem/ca.crt", "siem/token"]


def test_whoever_runs_it_owns_the_machine() -> None:
    """So that its outputs may connect to everything, also to the machine itself; those of a Pod may not."""
    egress = Egress(("127.0.0.1:8088",))
    assert standalone.configuration(parse_pipeline(pipeline()), PLACES).egress is None
    assert receiver_config(parse_pipeline(pipeline()), egress=egress).egress == egress


@pytest.mark.parametrize(("given", "file"), [("", "/data/redaction.key"), ("/etc/key", "/etc/key")])
def test_the_key_of_hashes_is_the_given_one_or_that_of_the_data_folder(given: str, file: str) -> None:
    """And none, if nothing is hashed; opting out is allowed."""
    places = PLACES._replace(redaction_key=given)
    hashed = standalone.configuration(parse_pipeline(pipeline(redaction={"method": "hash"})), places)
    whole = standalone.configuration(parse_pipeline(pipeline(redaction={"default": False})), places)
    assert (hashed.redaction_key_file, whole.redaction_key_file) == (file, None)
    assert {route.redaction for route in whole.routes} == {Redaction(default=False)}


def test_fields_about_pods_are_named() -> None:
    """Only those that are written."""
    document = pipeline(
        targetNamespace="a", webhook={"storage": {"size": "1Gi", "ephemeral": False}, "tolerations": []}
    )
    assert list(standalone.ignored(document)) == [
        "spec.targetNamespace",
        "spec.webhook.tolerations",
        "spec.webhook.storage.ephemeral",
    ]
    assert list(standalone.ignored(pipeline())) == []


def test_certificates_are_used_again_and_renewed_in_time() -> None:
    """The server's past two thirds of 90 days, the client's of a year; the authority stays."""
    first = made(NOW)
    assert made(NOW + timedelta(days=59), first) == first
    second = made(NOW + timedelta(days=61), first)
    assert {name for name in second if second[name] != first[name]} == {"tls/tls.crt", "tls/tls.key"}
    third = made(NOW + timedelta(days=250), second)
    assert {name for name in third if third[name] != second[name]} == {
        "tls/tls.crt",
        "tls/tls.key",
        "client.crt",
        "client.key",
    }


def test_other_names_make_another_server_certificate() -> None:
    """And no other client's."""
    first = made(NOW)
    fresh = standalone.files(first, (*HOSTS, "edge.example"), NOW)
    assert set(fresh) == {"tls/tls.crt", "tls/tls.key"}
    leaf = pair_in({name: file.content for name, file in fresh.items()}, "tls/tls")
    assert leaf
    assert sorted(certificates.names(certificates.load(leaf)[0])) == sorted((*HOSTS, "edge.example"))


def test_an_authority_that_ended_or_cannot_be_read_is_made_again_with_all_that_it_signed() -> None:
    """Else nothing would verify."""
    first = made(NOW)
    for existing, now in ((first, NOW + timedelta(days=3651)), ({**first, "ca.key": b"x"}, NOW)):
        assert set(standalone.files(existing, HOSTS, now)) == set(first)
