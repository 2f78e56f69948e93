"""What becomes of a value that is taken from an event, and what looking for values may cost.

    "hunter2"      "REDACTED"         or, with a key, "REDACTED-" and 32 hexadecimal digits: HMAC-SHA-256 to 128 bits
    "aHVudGVyMg==" "UkVEQUNURUQ="     in base64, either of these in base64: a hash is that of the value inside
    12345          0                  true, false and null stay

What was taken before stays as it is, and is not counted again; a hash becomes a mask if that is what is asked for.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re

from auditpipeline.core.redaction.model import HASH, HASHED, MASK, MASK_BASE64, Method

_HASHED = re.compile(HASHED)
_HASH_BASE64 = base64.b64encode(HASH.encode()).decode()
_DEEPEST, _NESTED = 64, 4
_MOST_HASHES = 10_000
_BYTES, _CHARACTERS = 2**25, 2**15


class Taker:
    """Takes values from one event of `size` bytes, and counts them. With `twice`, what it looks at may have a key
    twice, as somebody may have written it by hand; kube-apiserver's own encoder writes nothing twice."""

    __slots__ = ("_bytes", "_characters", "_key", "_levels", "_nested", "twice", "values")

    def __init__(self, size: int, method: Method = "mask", key: bytes | None = None) -> None:
        self.values = 0
        self.twice = False
        self._key = key if method == "hash" else None
        self._bytes, self._characters = _BYTES + 2 * size, [_CHARACTERS + size // 16]
        self._levels = self._nested = 0

    def another(self, size: int) -> Taker:
        """One that takes in the same way, and counts for itself; the two together look at no more text."""
        other = Taker(size, "hash" if self._key else "mask", self._key)
        other._characters = self._characters
        return other

    def take(self, value: str) -> str:
        """What stands for a text."""
        if value == MASK:
            return value
        if _HASHED.fullmatch(value):
            return value if self._key else MASK
        self.values += 1
        return self._hash(value.encode("utf-8", "surrogatepass")) if self._hashes else MASK

    def take_base64(self, value: str) -> str:
        """What stands for a text that should be base64."""
        if value == MASK_BASE64:
            return value
        if not self._key and not value.startswith(_HASH_BASE64):
            self.values += 1
            return MASK_BASE64
        inner = _decoded(value)
        if inner.startswith(HASH.encode()) and _HASHED.fullmatch(inner.decode(errors="replace")):
            return value if self._key else MASK_BASE64
        self.values += 1
        return base64.b64encode(self._hash(inner).encode()).decode() if self._hashes else MASK_BASE64

    @property
    def _hashes(self) -> bool:
        """Very many hashes would be several times as long as what they stand for."""
        return self._key is not None and self.values <= _MOST_HASHES

    def look(self, characters: int) -> bool:
        """Whether a text of so many, which may hold a credential, may be looked into; if not, it goes whole."""
        self._characters[0] -= characters
        return self._characters[0] >= 0

    def enter(self, size: int) -> bool:
        """Whether one level more, of so many bytes, may be looked into: `leave` if so. If not, it goes whole."""
        self._bytes -= size
        if self._levels >= _DEEPEST or self._bytes < 0:
            return False
        self._levels += 1
        return True

    def leave(self) -> None:
        """Ends what `enter` began."""
        self._levels -= 1

    def unwrap(self) -> bool:
        """Whether JSON in a text may be looked into: `wrap` if so."""
        if self._nested >= _NESTED:
            return False
        self._nested += 1
        return True

    def wrap(self) -> None:
        """Ends what `unwrap` began."""
        self._nested -= 1

    def _hash(self, value: bytes) -> str:
        return HASH + hmac.digest(self._key or b"", value, "sha256")[:16].hex()


def _decoded(value: str) -> bytes:
    """Returns what is in the base64; the text itself if it is none."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return value.encode("utf-8", "surrogatepass")
