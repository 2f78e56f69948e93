"""When a certificate expires, out of its bytes. The library that knows all about certificates takes 10 MB of memory,
and a process whose only question is this one has no other use for it.

    Certificate ::= SEQUENCE { tbsCertificate SEQUENCE {
        [0] version OPTIONAL, serialNumber, signature, issuer, validity SEQUENCE { notBefore Time, notAfter Time }, ...

Source: RFC 5280, 4.1. Whether the certificate is a good one is for OpenSSL to say, which loads it right after.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_Part = tuple[int, bytes]


def not_after(pem: bytes) -> float:
    """The end of the first certificate's validity, in seconds since the epoch; ValueError where there is none."""
    found = _PEM.search(pem)
    if not found:
        raise ValueError("no PEM certificate")
    try:
        der = base64.b64decode(found.group(1).translate(None, b"\r\n\t "), validate=True)
    except binascii.Error:
        raise ValueError("no base64") from None
    certificate = _inner(next(_parts(der)))
    fields = [part for part in _parts(_inner(next(_parts(certificate)))) if part[0] != _VERSION]
    if len(fields) < 4:
        raise ValueError("no validity")
    times = list(_parts(_inner(fields[3])))
    if len(times) != 2:
        raise ValueError("no validity")
    return _seconds(times[1])


def _inner(part: _Part) -> bytes:
    tag, content = part
    if tag != _SEQUENCE:
        raise ValueError("not a sequence")
    return content


def _parts(data: bytes) -> Iterator[_Part]:
    """Tag and content of each value in DER; ValueError where one is torn."""
    at = 0
    while at < len(data) or not at:
        header = data[at : at + 2]
        if len(header) < 2:
            raise ValueError("torn")
        tag, length = header
        at += 2
        if length & 0x80:
            more = length & 0x7F
            length = int.from_bytes(data[at : at + more], "big")
            at += more
        if at + length > len(data):
            raise ValueError("torn")
        yield tag, data[at : at + length]
        at += length


def _seconds(part: _Part) -> float:
    """A Time. RFC 5280, 4.1.2.5: in UTC, with seconds; of two digits, years from 50 on are of the last century."""
    tag, content = part
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
