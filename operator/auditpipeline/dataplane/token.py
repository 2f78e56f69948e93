"""A bearer token that opens the audit listener to who holds no client certificate: one line in a file, followed."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from auditpipeline.core.errors import Invalid

LEAST = 16
_SCHEME = "bearer "


class Token:
    """The token in the file at `path`; nothing matches before the first `refresh`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._hash: bytes | None = None

    def refresh(self) -> bool:
        """Reads the file; whether the token is another one. Invalid, and the old one stays, where there is none."""
        try:
            token = Path(self._path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(self._path, f"the token cannot be read: {type(error).__name__}") from error
        if len(token) < LEAST or not token.isascii() or not token.isprintable():
            raise Invalid(self._path, f"holds no token: one line of at least {LEAST} characters of ASCII is needed")
        before, self._hash = self._hash, _hashed(token)
        return before != self._hash

    def matches(self, authorization: str) -> bool:
        """Whether this Authorization header holds the token. Takes the same time whatever is wrong with it."""
        given = authorization[len(_SCHEME) :].strip() if authorization[: len(_SCHEME)].lower() == _SCHEME else ""
        return self._hash is not None and hmac.compare_digest(_hashed(given), self._hash)


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
