"""When a certificate expires, held against the library that knows all about certificates."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.dataplane.expiry import not_after

KEY = ec.generate_private_key(ec.SECP256R1())
START = datetime(1951, 1, 1, tzinfo=UTC)


def certificate(end: datetime, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY, names: int = 1) -> bytes:
    """A certificate, as PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)] * names)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(START).not_valid_after(end)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@given(st.integers(1, 250_000_000_000), st.integers(0, 5))
def test_it_is_what_the_library_says(seconds: int, names: int) -> None:
    """In both forms in which a certificate may say a time, and however long what stands before it is."""
    pem = certificate(START + timedelta(seconds=seconds), names=names)
    assert not_after(pem) == x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def test_the_first_of_a_chain_counts() -> None:
    """Whatever stands around it, and whatever kind of key it has."""
    ends = [datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC) + timedelta(days=days) for days in (0, 1)]
    leaf = certificate(ends[0], rsa.generate_private_key(65537, 2048))
    chain = b"issued for tests\n" + leaf.replace(b"\n", b"\r\n") + certificate(ends[1])
    assert not_after(chain) == ends[0].timestamp()


@given(st.integers(0, 300), st.binary(min_size=1, max_size=4))
def test_what_is_none_is_a_value_error(at: int, noise: bytes) -> None:
    """Never another exception: a mutated certificate either has an end, or is none."""
    der = bytearray(
        x509.load_pem_x509_certificate(certificate(START + timedelta(seconds=1))).public_bytes(
            serialization.Encoding.DER
        )
    )
    der[at : at + len(noise)] = noise
    try:
        assert isinstance(not_after(_pem(bytes(der))), float)
    except ValueError:
        return


@pytest.mark.parametrize("data", [b"", b"0", b"0\x80", b"0\x84", b"0\x03\x02\x01", b"\x02\x01\x01", b"0\x02\x30\x00"])
def test_torn_values_are_value_errors(data: bytes) -> None:
    """Down to nothing at all."""
    for pem in (_pem(data), data, b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----"):
        with pytest.raises(ValueError, match=r"."):
            not_after(pem)


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
