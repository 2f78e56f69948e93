"""Certificates: exact names, a life of their own, and renewal before it ends."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from auditpipeline.control import certificates
from auditpipeline.control.certificates import Pair, authority, leaf, needs_renewal
from auditpipeline.core.errors import Invalid

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTS = ("audit-security.audit.svc", "audit-security.audit")


@pytest.fixture(scope="module")
def ca() -> Pair:
    """An authority made at NOW."""
    return authority(NOW)


def test_a_leaf_is_good_for_exactly_the_hosts_asked_for(ca: Pair) -> None:
    """Not one name more: a receiver cannot pose as another one."""
    certificate, _ = certificates.load(leaf(ca, "audit-security", HOSTS, NOW))
    assert certificates.names(certificate) == list(HOSTS)


@pytest.mark.parametrize(
    ("hosts", "client", "purposes"),
    [
        (HOSTS, False, {ExtendedKeyUsageOID.SERVER_AUTH}),
        ((), False, {ExtendedKeyUsageOID.CLIENT_AUTH}),
        (HOSTS, True, {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}),
    ],
)
def test_a_leaf_is_good_for_its_own_purpose_alone(
    ca: Pair, hosts: tuple[str, ...], client: bool, purposes: set[x509.ObjectIdentifier]
) -> None:
    """What a receiver serves with does not let its holder in anywhere."""
    certificate, _ = certificates.load(leaf(ca, "audit-security", hosts, NOW, client=client))
    assert set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == purposes


def test_everything_is_backdated_for_clocks_that_are_behind(ca: Pair) -> None:
    """A node whose clock is four minutes behind believes a new certificate."""
    for pair in (ca, leaf(ca, "x", HOSTS, NOW)):
        assert certificates.load(pair)[0].not_valid_before_utc == NOW - timedelta(minutes=5)


def test_openssl_verifies_a_leaf_strictly(ca: Pair) -> None:
    """Python 3.13's default, VERIFY_X509_STRICT, wants the key identifiers."""
    made = authority(datetime.now(UTC))
    context = ssl.create_default_context(cadata=made.certificate)
    assert context.cert_store_stats()["x509_ca"] == 1
    certificate, _ = certificates.load(leaf(made, "x", HOSTS, datetime.now(UTC)))
    issuer, _ = certificates.load(made)
    certificate.verify_directly_issued_by(issuer)
    for kind in (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier, x509.KeyUsage):
        assert certificate.extensions.get_extension_for_class(kind)


@pytest.mark.parametrize(("days", "due"), [(0, False), (59, False), (60, True), (89, True), (91, True)], ids=str)
def test_a_leaf_is_renewed_from_two_thirds_of_its_life_on(ca: Pair, days: int, due: bool) -> None:
    """Ninety days of life leave thirty to renew in."""
    made = leaf(ca, "x", HOSTS, NOW)
    assert needs_renewal(made, NOW + timedelta(days=days), HOSTS, ca.certificate) is due


def test_other_names_need_another_leaf(ca: Pair) -> None:
    """A name that went is as much a reason as one that came."""
    made = leaf(ca, "x", HOSTS, NOW)
    assert needs_renewal(made, NOW, HOSTS[:1], ca.certificate)
    assert needs_renewal(made, NOW, (*HOSTS, "more"), ca.certificate)


def test_another_authority_needs_another_leaf(ca: Pair) -> None:
    """Also where the other authority has the same name."""
    assert needs_renewal(leaf(authority(NOW), "x", HOSTS, NOW), NOW, HOSTS, ca.certificate)


@pytest.mark.parametrize("broken", [Pair("", ""), Pair("nonsense", "nonsense")])
def test_a_leaf_that_cannot_be_read_is_made_again(ca: Pair, broken: Pair) -> None:
    """A Secret may be edited by anybody."""
    assert needs_renewal(broken, NOW, HOSTS, ca.certificate)


def test_a_key_of_another_certificate_is_refused(ca: Pair) -> None:
    """A mismatched pair on a live listener would break every handshake."""
    other = leaf(ca, "x", HOSTS, NOW)
    with pytest.raises(Invalid, match="does not belong"):
        certificates.load(Pair(ca.certificate, other.key))


def test_an_authority_is_told_from_a_leaf(ca: Pair) -> None:
    """And an expired one is none."""
    assert certificates.is_authority(ca, NOW)
    assert not certificates.is_authority(leaf(ca, "x", HOSTS, NOW), NOW)
    assert not certificates.is_authority(ca, NOW + timedelta(days=3651))


def test_a_private_key_is_never_shown(ca: Pair) -> None:
    """Neither in a log line nor in a traceback."""
    assert "PRIVATE" not in repr(ca)
