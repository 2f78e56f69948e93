"""The key that redaction makes hashes with: a file beside the configuration, read when that comes into force."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from auditpipeline.core.config import Config
from auditpipeline.core.redaction.model import KEY_BYTES, MOST_KEY_BYTES


class HashKey(NamedTuple):
    """The key, or None, and why there is none although a route has hashes."""

    key: bytes | None = None
    error: str = ""


def read_key(config: Config) -> HashKey:
    """The key for this configuration. Without one, redaction masks: nothing is ever left whole for want of a key."""
    if not any(route.taken.hashes for route in config.routes):
        return HashKey()
    if config.redaction_key_file is None:
        return HashKey(error="no key of hashes is configured")
    try:
        with Path(config.redaction_key_file).open("rb") as file:
            key = file.read(MOST_KEY_BYTES)
    except OSError as error:
        return HashKey(error=f"{config.redaction_key_file}: cannot be read: {error.strerror}")
    if len(key) < KEY_BYTES:
        return HashKey(error=f"{config.redaction_key_file}: has fewer than {KEY_BYTES} bytes")
    return HashKey(key)
