"""`auditpipeline bootstrap` writes what a node needs and keeps what is good."""

from __future__ import annotations

import base64
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import yaml

from auditpipeline.control import bootstrap, certificates
from auditpipeline.core.config import Config
from auditpipeline.core.policy import Attributes, Level, Policy, decide, validate

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def written(files: dict[str, bootstrap.File]) -> dict[str, bytes]:
    return {name: file.content for name, file in files.items()}


def static_policy() -> Policy:
    document = yaml.safe_load(bootstrap.STATIC_POLICY)
    return msgspec.convert({k: v for k, v in document.items() if k not in ("apiVersion", "kind")}, Policy)


def test_the_first_run_writes_everything_and_the_second_nothing() -> None:
    """Running it again is always safe."""
    files = bootstrap.files({}, bootstrap.ADDRESS, NOW)
    expected = {"policy.yaml", "webhook.kubeconfig", "ca.crt", "ca.key"}
    assert files.keys() == expected | {f"gateway/{name}" for name in ("tls.crt", "tls.key", "client-ca.crt")}
    assert bootstrap.files(written(files), bootstrap.ADDRESS, NOW + timedelta(days=30)) == {}


def test_no_private_key_may_be_read_by_others() -> None:
    """The kubeconfig holds one too."""
    for name, file in bootstrap.files({}, bootstrap.ADDRESS, NOW).items():
        assert (file.mode == 0o600) is (b"PRIVATE KEY" in file.content or name == "webhook.kubeconfig")


def test_leaves_are_renewed_in_time_and_the_policy_stays() -> None:
    """After two thirds of their year; the CA and a policy that somebody edited are not touched."""
    files = written(bootstrap.files({}, bootstrap.ADDRESS, NOW)) | {"policy.yaml": b"mine"}
    renewed = bootstrap.files(files, bootstrap.ADDRESS, NOW + timedelta(days=250))
    assert renewed.keys() == {"gateway/tls.crt", "gateway/tls.key", "gateway/client-ca.crt", "webhook.kubeconfig"}


def test_another_address_makes_new_certificates() -> None:
    """A certificate for 127.0.0.1 is no good for another address."""
    files = written(bootstrap.files({}, bootstrap.ADDRESS, NOW))
    assert "webhook.kubeconfig" in bootstrap.files(files, "127.0.0.2:9443", NOW)


def test_a_damaged_file_is_mended() -> None:
    """Instead of a traceback, or a kube-apiserver that cannot start."""
    files = written(bootstrap.files({}, bootstrap.ADDRESS, NOW))
    assert "webhook.kubeconfig" in bootstrap.files(files | {"webhook.kubeconfig": b"\xff: ["}, bootstrap.ADDRESS, NOW)
    assert "gateway/tls.key" in bootstrap.files(files | {"gateway/tls.key": b""}, bootstrap.ADDRESS, NOW)


def test_the_two_sides_trust_each_other(tmp_path: Path) -> None:
    """A handshake in memory: the gateway is 127.0.0.1, and kube-apiserver's client certificate is let in."""
    for name, file in bootstrap.files({}, bootstrap.ADDRESS, datetime.now(UTC)).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(file.content)
    user = yaml.safe_load((tmp_path / "webhook.kubeconfig").read_bytes())["users"][0]["user"]
    client_pem = tmp_path / "client.pem"
    client_pem.write_bytes(
        base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"])
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "gateway/client-ca.crt")
    server.load_cert_chain(tmp_path / "gateway/tls.crt", tmp_path / "gateway/tls.key")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    client.load_cert_chain(client_pem)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(down, up, server_hostname="127.0.0.1"), server.wrap_bio(up, down, server_side=True)]
    for side in sides * 2:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    subject = sides[1].getpeercert()["subject"]  # type: ignore[index]
    assert (("commonName", "kube-apiserver-audit"),) in subject


def test_the_static_policy_is_valid_and_keeps_credentials_out() -> None:
    """No request on Secrets or tokens is ever recorded with a body."""
    policy = static_policy()
    assert validate(policy, "") == []
    for resource, sub in (("secrets", ""), ("serviceaccounts", "token"), ("configmaps", "")):
        request = Attributes("alice", (), "create", "/api/v1/x", resource, sub, "", "default", "x")
        assert decide(policy, request).level is Level.METADATA


@pytest.mark.parametrize("kind", ["auditpipelines", "auditsinks"])
def test_changes_of_auditing_itself_are_always_recorded(kind: str) -> None:
    """The first rule, before everything that leaves something out."""
    group = "auditpipeline.dev" if kind == "auditpipelines" else "auditregistration.k8s.io"
    request = Attributes("system:kube-scheduler", ("system:nodes",), "delete", "/x", kind, "", group, "", "security")
    assert decide(static_policy(), request).rule == 0


def test_certificates_last_a_year_and_their_authority_ten() -> None:
    """The leaf of both sides, and the CA."""
    files = written(bootstrap.files({}, bootstrap.ADDRESS, NOW))
    user = yaml.safe_load(files["webhook.kubeconfig"])["users"][0]["user"]
    leaves = [files["gateway/tls.crt"], base64.b64decode(user["client-certificate-data"])]
    assert [certificates.not_after(leaf.decode()) - NOW for leaf in leaves] == [timedelta(days=365)] * 2
    assert certificates.not_after(files["ca.crt"].decode()) - NOW == timedelta(days=3650)


def test_renewed_certificates_work_with_what_was_not_renewed() -> None:
    """The CA stays: kube-apiserver's old certificate is let in until its restart."""
    files = written(bootstrap.files({}, bootstrap.ADDRESS, NOW))
    renewed = written(bootstrap.files(files, bootstrap.ADDRESS, NOW + timedelta(days=300)))
    assert "ca.crt" not in renewed
    assert renewed["gateway/client-ca.crt"] == files["gateway/client-ca.crt"]
    old, new = (yaml.safe_load(each["webhook.kubeconfig"])["clusters"][0]["cluster"] for each in (files, renewed))
    assert old == new


def test_an_authority_that_ended_makes_everything_anew() -> None:
    """After ten years."""
    files = written(bootstrap.files({}, bootstrap.ADDRESS, NOW))
    renewed = bootstrap.files(files, bootstrap.ADDRESS, NOW + timedelta(days=3651))
    assert renewed.keys() == files.keys() - {"policy.yaml"}


def test_kube_apiserver_cuts_before_the_gateway_refuses() -> None:
    """A batch at its limit, and what its list adds, stay below the largest body that the gateway takes."""
    (most,) = (field.default for field in msgspec.structs.fields(Config) if field.name == "max_body")
    batch = int(bootstrap.APISERVER_FLAGS["audit-webhook-truncate-max-batch-size"])
    event = int(bootstrap.APISERVER_FLAGS["audit-webhook-truncate-max-event-size"])
    assert event < batch <= most // 2
    assert bootstrap.APISERVER_FLAGS["audit-webhook-truncate-enabled"] == "true"
