"""Credentials of an http output, from files that are read again at each use: a changed Secret needs no new start."""

from __future__ import annotations

import base64
from pathlib import Path

from auditpipeline.core.config import HttpOutput
from auditpipeline.core.errors import Invalid

Stamp = tuple[tuple[int, int, int] | None, ...]


def credentials(config: HttpOutput) -> list[str]:
    """The Authorization header, and then everything that must not be repeated; nothing if there is no credential.
    Invalid if a file lacks it. Blocks."""
    if config.bearer_token_file:
        token = _secret(config.bearer_token_file, "token")
        return [f"Bearer {token}", token]
    if config.basic:
        name, password = (
            _secret(config.basic.username_file, "user name"),
            _secret(config.basic.password_file, "password"),
        )
        if ":" in name:
            raise Invalid(config.basic.username_file, "holds a colon, which no user name may (RFC 7617)")
        encoded = base64.b64encode(f"{name}:{password}".encode()).decode()
        return [f"Basic {encoded}", encoded, password]
    return []


def needs_files(config: HttpOutput) -> bool:
    """Whether a delivery reads any file."""
    return bool(config.bearer_token_file or config.basic or config.ca_file or config.client_tls)


def stamp(config: HttpOutput) -> Stamp:
    """What changes when a file of the TLS context does. Blocks."""
    tls = config.client_tls
    paths = [path for path in (config.ca_file, *((tls.certificate, tls.key) if tls else ())) if path]
    return tuple(_stamp(path) for path in paths)


def _secret(path: str, what: str) -> str:
    """The one line that a file holds."""
    try:
        found = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(path, f"the {what} cannot be read: {type(error).__name__}") from error
    if not found or not found.isascii() or not found.isprintable():
        raise Invalid(path, f"holds no {what}: it must be one line of ASCII")
    return found


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does; None if it is not there."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
