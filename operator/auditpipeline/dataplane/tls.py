"""TLS contexts from PEM files, and their renewal while connections last.

A renewed certificate goes into the live context of a listener: connections that are open keep what they have, new
handshakes use the new one. A pair that does not fit would break every later handshake of a live context, so that each
pair is tried in a scratch context first, and the very bytes that were tried are what is loaded (files may change in
between; OpenSSL reads paths only, hence the memory file).

A CA is only ever added to a live context: one that was taken away is trusted until the process starts again.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auditpipeline.core.config import Tls
from auditpipeline.core.errors import Invalid
from auditpipeline.dataplane.expiry import not_after

Pems = tuple[bytes, bytes, bytes | None]


def read_pems(files: Tls) -> Pems:
    """The bytes of certificate, key and CA; Invalid where one cannot be read."""
    try:
        ca = Path(files.client_ca).read_bytes() if files.client_ca else None
        return Path(files.certificate).read_bytes(), Path(files.key).read_bytes(), ca
    except OSError as error:
        raise Invalid(str(error.filename), f"cannot be read: {error.strerror}") from error


class ServerTls:
    """The live context of one listener. `required`: without a client certificate there is no handshake; else one is
    verified where it is shown."""

    def __init__(self, files: Tls, required: bool) -> None:
        self.files = files
        self._required = required
        self._loaded: Pems | None = None
        self.context = self._empty()
        self.not_after = 0.0

    def refresh(self) -> bool:
        """Loads what the files hold now; whether that is new. Invalid, and the live context untouched, where it is
        bad."""
        pems = read_pems(self.files)
        if pems == self._loaded:
            return False
        expiry = _expiry(pems[0], self.files.certificate)
        _load(self._empty(), pems, self.files)
        _load(self.context, pems, self.files)
        self._loaded, self.not_after = pems, expiry
        return True

    def _empty(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._required:
            context.verify_mode = ssl.CERT_REQUIRED
        elif self.files.client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def client_context(ca: str | None, ca_file: str | None, files: Tls | None) -> ssl.SSLContext:
    """A context that verifies servers by PEM text and/or file (by the system's CAs where there is neither) and shows
    the certificate in `files`; Invalid where one of them cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if ca is None and ca_file is None:
            context.load_default_certs()
        for text in (ca, Path(ca_file).read_text() if ca_file else None):
            if text is not None:
                context.load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:
        raise Invalid(ca_file or "ca", f"the CA cannot be used: {error}") from error
    if files:
        certificate, key, _ = read_pems(files)
        _load(context, (certificate, key, None), files)
    return context


def _load(context: ssl.SSLContext, pems: Pems, files: Tls) -> None:
    certificate, key, ca = pems
    try:
        with memory_file(key + b"\n" + certificate) as path:
            # A password callback, since OpenSSL asks the terminal otherwise.
            context.load_cert_chain(path, password=lambda: "")
    except (OSError, ValueError) as error:
        raise Invalid(files.certificate, f"certificate and key {files.key} cannot be used: {_reason(error)}") from error
    if ca is not None:
        try:
            context.load_verify_locations(cadata=ca.decode("ascii"))
        except (OSError, ValueError) as error:
            raise Invalid(str(files.client_ca), f"the CA cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__


@contextmanager
def memory_file(data: bytes) -> Iterator[str]:
    """A path to `data` that is never on a disk, for what takes paths only."""
    number = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(number, data)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _expiry(certificate: bytes, path: str) -> float:
    try:
        return not_after(certificate)
    except ValueError as error:
        raise Invalid(path, "is no PEM certificate") from error
