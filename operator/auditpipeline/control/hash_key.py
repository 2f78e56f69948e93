"""The key of hashes (core.redaction): one for a cluster, in a Secret of the operator's namespace.

Promises: the key is made when it is first needed, and never overwritten. Whoever comes second, be it another operator,
uses the first one's; so does an operator that finds a Secret which somebody else made, as long as it is good. The key
is copied into Secrets alone: `version` names it for everything else.

The data plane reads a key when the configuration that names its file comes into force. So each key has a file name of
its own: another key is another configuration.

Without a key, values are masked: that takes more than a hash does, and keeps nothing from being recorded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from auditpipeline.control import desired, names
from auditpipeline.control.kube import Conflict, Forbidden, Kube, Refused
from auditpipeline.control.resources import SECRETS
from auditpipeline.core.errors import Invalid
from auditpipeline.core.redaction.model import KEY_BYTES, MOST_KEY_BYTES

KEY_RETRY = 10.0
"""Seconds until a key that cannot be used is looked at again: nobody watches a Secret that somebody else made."""


@dataclass(frozen=True)
class HashKey:
    """`value` is empty if there is no key; then `problem` says why, unless none was asked for. `version` changes with
    the key, and tells nothing of it."""

    value: bytes = field(default=b"", repr=False)
    version: str = ""
    problem: str = ""

    @property
    def file(self) -> str | None:
        """Where the data plane finds the key; None without one."""
        return f"{names.CONFIG_FOLDER}/{self._name}" if self.value else None

    @property
    def data(self) -> dict[str, bytes]:
        """What the key adds to the Secret of a configuration."""
        return {self._name: self.value} if self.value else {}

    @property
    def _name(self) -> str:
        return f"redaction-{hashlib.blake2b(self.version.encode(), digest_size=4).hexdigest()}.key"


NO_KEY = HashKey()


async def hash_key(kube: Kube, namespace: str) -> HashKey:
    """The key in the operator's namespace, which is made if there is none. Retryable if the API server does not
    answer."""
    try:
        stored = await kube.get(SECRETS, names.REDACTION_SECRET, namespace) or await _made(kube, namespace)
    except (Forbidden, Refused, Invalid) as error:
        where = f"{namespace}/{names.REDACTION_SECRET}"
        return HashKey(problem=f"Secret {where} with the key of hashes can be neither read nor made: {error}")
    return key_of(stored)


def key_of(secret: Mapping[str, Any]) -> HashKey:
    """The key that a Secret holds, or why it holds none."""
    meta = secret["metadata"]
    try:
        value = base64.b64decode((secret.get("data") or {}).get(names.REDACTION_SECRET_KEY, ""), validate=True)
    except binascii.Error:
        value = b""
    if KEY_BYTES <= len(value) <= MOST_KEY_BYTES:
        return HashKey(value, f"{meta.get('uid', '')}/{meta.get('resourceVersion', '')}")
    where = f"key {names.REDACTION_SECRET_KEY} of Secret {meta.get('namespace', '')}/{meta['name']}"
    advice = "put random bytes there, or delete the Secret, and the operator makes one"
    return HashKey(problem=f"{where} has {len(value)} bytes, and {KEY_BYTES} to {MOST_KEY_BYTES} are needed: {advice}")


async def _made(kube: Kube, namespace: str) -> Mapping[str, Any]:
    """The Secret with a new key; that of whoever was faster."""
    labels = {names.MANAGED_BY: names.MANAGER}
    meta = {"name": names.REDACTION_SECRET, "namespace": namespace, "labels": labels}
    manifest = desired.secret(meta, {names.REDACTION_SECRET_KEY: secrets.token_bytes(KEY_BYTES)})
    try:
        return await kube.create(SECRETS, manifest)
    except Conflict:
        return await kube.get(SECRETS, names.REDACTION_SECRET, namespace) or {"metadata": meta}
