"""The bearer token that reads /metrics, as its SHA-256: the data plane gets the digest and never holds the token."""

from __future__ import annotations

import hashlib
import hmac

LEAST = 16
NOBODY = "none"
"""The digest of no token at all: nobody shows it."""
_SCHEME = "bearer "


def is_token(text: str) -> bool:
    """Whether it can be shown in a header, and is not guessed at once."""
    return len(text) >= LEAST and text.isascii() and text.isprintable()


def hashed(token: str) -> str:
    """The digest to compare with, in hexadecimal."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def holds(authorization: str, digest: str) -> bool:
    """Whether this Authorization header has the token of `digest`. Takes the same time whatever is wrong with it."""
    given = authorization[len(_SCHEME) :].strip() if authorization[: len(_SCHEME)].lower() == _SCHEME else ""
    return hmac.compare_digest(hashed(given), digest)
