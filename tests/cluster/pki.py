"""Keys, certificates and kubeconfigs of one test cluster.

Promises: one `Authority` signs everything of one cluster; every key is written with mode 0600; a kubeconfig holds its
credentials inline, so that the file alone is enough, wherever it is copied or mounted. Elliptic curve keys throughout:
a whole cluster's PKI takes some ten milliseconds.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=365)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""What may sign: our own authorities have elliptic curve keys, kubeadm's have RSA ones."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority that keeps what it issues in `folder`."""

    def __init__(self, folder: Path, signer: tuple[bytes, bytes] | None = None) -> None:
        """Make a new authority, or take the certificate and key of an existing one as PEM."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        certificate, self._key = _loaded(*signer) if signer else _self_signed("auditpipeline-test-ca")
        self._name = certificate.subject
        self.pair = _write(folder / "ca", certificate, self._key)

    @property
    def certificate(self) -> Path:
        """The CA certificate, which clients trust."""
        return self.pair.certificate

    def serving(self, name: str, hosts: Iterable[str], user: str = "", groups: Sequence[str] = ()) -> Pair:
        """Issue a serving certificate for host names and IP addresses.

        It is good as a client certificate too, since kubelet and kube-apiserver may use one for both.
        """
        return self._issue(name, _name(user or name, groups), [_general_name(host) for host in hosts])

    def client(self, name: str, user: str, groups: Sequence[str] = ()) -> Pair:
        """Issue a client certificate: Kubernetes reads the user from CN and the groups from O."""
        return self._issue(name, _name(user, groups), [])

    def kubeconfig(self, path: Path, server: str, pair: Pair) -> Path:
        """Write a kubeconfig that reaches `server` with `pair` and trusts this authority."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, **_inline(ca=self.certificate)}}],
            "users": [{"name": path.stem, "user": _inline(certificate=pair.certificate, key=pair.key)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": path.stem}}],
            "current-context": "test",
        }
        _private(path, yaml.safe_dump(document, sort_keys=False).encode())
        return path

    def _issue(self, name: str, subject: x509.Name, hosts: Sequence[x509.GeneralName]) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(subject, self._name, key.public_key())
        if hosts:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        builder = builder.add_extension(_usage(ca=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return _write(self._folder / name, builder.sign(self._key, hashes.SHA256()), key)


def service_account_key(path: Path) -> Path:
    """Write the private key that signs service-account tokens; kube-apiserver derives the public one from it."""
    key = ec.generate_private_key(ec.SECP256R1())
    _private(path, _pem(key))
    return path


def _self_signed(name: str) -> tuple[x509.Certificate, Key]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name, ()), _name(name, ()), key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    return builder.sign(key, hashes.SHA256()), key


def _loaded(certificate: bytes, key: bytes) -> tuple[x509.Certificate, Key]:
    private = serialization.load_pem_private_key(key, password=None)
    assert isinstance(private, Key)
    return x509.load_pem_x509_certificate(certificate), private


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=False,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str, organizations: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _inline(*, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> dict[str, str]:
    files = {"certificate-authority-data": ca, "client-certificate-data": certificate, "client-key-data": key}
    return {field: base64.b64encode(path.read_bytes()).decode() for field, path in files.items() if path}


def _write(stem: Path, certificate: x509.Certificate, key: Key) -> Pair:
    pair = Pair(stem.with_name(f"{stem.name}.crt"), stem.with_name(f"{stem.name}.key"))
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _private(pair.key, _pem(key))
    return pair


def _pem(key: Key) -> bytes:
    # kube-apiserver finds the public half in an "EC PRIVATE KEY" block, not in a PKCS #8 one.
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
