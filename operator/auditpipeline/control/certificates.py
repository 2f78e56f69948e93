"""Certificates: one authority of the operator, and the leaves that it signs. Pure but for randomness in keys.

Promises: ECDSA P-256 throughout; the names of a leaf are exactly those asked for; a leaf is good for its own purpose
alone; everything is backdated by five minutes, for clocks that are behind; `needs_renewal` is true from two thirds of a
leaf's life on, and at once when its names or its authority changed or it cannot be read. A private key is only in
`Pair.key` and never in a message. Profiles: RFC 5280, with the key identifiers that strict verifiers want.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from auditpipeline.core.errors import Invalid

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=90)
BACKDATE = timedelta(minutes=5)
CA_NAME = "auditpipeline"


@dataclass(frozen=True)
class Pair:
    """A certificate (or a chain) and its private key, as PEM text."""

    certificate: str
    key: str = field(repr=False)


def authority(now: datetime) -> Pair:
    """A new self-signed authority, good for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME)])
    builder = (
        _builder(name, name, key.public_key(), now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def leaf(
    ca: Pair,
    common_name: str,
    hosts: Sequence[str],
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
    *,
    client: bool = False,
) -> Pair:
    """A new key with a certificate for it, signed by `ca`, for exactly `hosts` (DNS names, IP addresses).

    With hosts it is good as a server; without, or with `client`, as a client: a receiver's certificate opens no other
    receiver. Invalid where `ca` cannot sign.
    """
    issuer, signer = load(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if hosts else []
    if client or not hosts:
        purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    builder = (
        _builder(subject, issuer.subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if hosts:
        names = [_general_name(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def load(pair: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The certificate and key of a pair; Invalid where they cannot be read or do not belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
        key = serialization.load_pem_private_key(pair.key.encode(), password=None)
    except (ValueError, TypeError):
        raise Invalid("", "no PEM certificate with an unencrypted private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid("", "the private key is no elliptic curve key")
    if certificate.public_key() != key.public_key():
        raise Invalid("", "the private key does not belong to the certificate")
    return certificate, key


def is_authority(pair: Pair, now: datetime) -> bool:
    """Whether `pair` can sign leaves now."""
    try:
        certificate, _ = load(pair)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (Invalid, x509.ExtensionNotFound):
        return False
    return constraints.ca and certificate.not_valid_after_utc > now


def needs_renewal(pair: Pair, now: datetime, hosts: Sequence[str], ca: str) -> bool:
    """Whether a leaf has to be made again: past two thirds of its life, other names, another authority, unreadable."""
    try:
        certificate, _ = load(pair)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
    except Exception:
        # A leaf that cannot be read or verified, for whatever reason, is made again.
        return True
    return set(names(certificate)) != set(hosts) or now >= renew_at(certificate)


def renew_at(certificate: x509.Certificate) -> datetime:
    """When two thirds of the certificate's life are over."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def not_after(pem: str) -> datetime:
    """When the (first) certificate in `pem` ends."""
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc


def names(certificate: x509.Certificate) -> list[str]:
    """The DNS names and IP addresses that a certificate is good for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return [*extension.value.get_values_for_type(x509.DNSName), *map(str, addresses)]


def is_bundle(pem: str) -> bool:
    """Whether `pem` holds at least one certificate and nothing unreadable."""
    try:
        return bool(x509.load_pem_x509_certificates(pem.encode()))
    except ValueError:
        return False


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
