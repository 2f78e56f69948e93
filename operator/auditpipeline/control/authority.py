"""The operator's certificate authority and the leaves that it has issued, kept in Secrets.

Promises: an authority is created once and never overwritten: whoever comes second uses the first one's. One that is
deleted by hand while the operator runs comes back as it was. A leaf that is good is kept over restarts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from auditpipeline.control import certificates, desired, names
from auditpipeline.control.certificates import Pair
from auditpipeline.control.kube import Conflict, Kube
from auditpipeline.control.ownership import managed, taken
from auditpipeline.control.resources import SECRETS
from auditpipeline.core.errors import Permanent

CLIENT_NAME = "auditpipeline-operator"


class Authority:
    """Issues leaves; `ensure` has to succeed once before anything else is asked."""

    def __init__(self, kube: Kube, namespace: str, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._clock = clock
        self._ca: Pair | None = None
        self._leaves: dict[tuple[str, str], Pair] = {}

    @property
    def ca(self) -> Pair:
        """The authority; Permanent before `ensure`."""
        if self._ca is None:
            raise Permanent("the certificate authority is not loaded yet")
        return self._ca

    @property
    def bundle(self) -> str:
        """The certificates that verify every leaf."""
        return self.ca.certificate

    async def ensure(self) -> bool:
        """Load the authority, or make it; True if it is another one than before. NameTaken if its Secret is somebody
        else's."""
        former = self._ca
        stored = await self._kube.get(SECRETS, names.CA_SECRET, self._namespace)
        if stored is None:
            stored = await self._create(former or certificates.authority(self._clock()))
        if not managed(stored["metadata"]):
            raise taken(desired.secret(self._meta(names.CA_SECRET), {}))
        found = pair_of(stored)
        if found is None or not certificates.is_authority(found, self._clock()):
            where = f"{self._namespace}/{names.CA_SECRET}"
            raise Permanent(f"Secret {where} holds no usable authority: delete it, and a new one is made")
        self._ca = found
        return former is not None and former != found

    async def client(self) -> Pair:
        """The operator's own client certificate, to be kept in `client_secret`."""
        return await self.leaf(self._namespace, names.CLIENT_SECRET, CLIENT_NAME, ())

    def client_secret(self, pair: Pair) -> desired.Manifest:
        """The Secret that keeps the operator's client certificate."""
        return desired.tls_secret(self._meta(names.CLIENT_SECRET), desired.Certified(pair, self.bundle))

    async def leaf(
        self, namespace: str, secret: str, common_name: str, hosts: Sequence[str], *, client: bool = False
    ) -> Pair:
        """The certificate that Secret `secret` should hold: what it holds already while that is good, else a new one.

        The caller writes it there.
        """
        key, now = (namespace, secret), self._clock()
        pair = self._leaves.get(key) or pair_of(await self._kube.get(SECRETS, secret, namespace) or {})
        if pair is None or certificates.needs_renewal(pair, now, hosts, self.bundle):
            pair = certificates.leaf(self.ca, common_name, hosts, now, client=client)
        self._leaves[key] = pair
        return pair

    def token(self, uid: str) -> str:
        """The token of the pipeline with this UID: nobody can tell it who has not the authority's key."""
        return hmac.new(self.ca.key.encode(), f"sink {uid}".encode(), hashlib.sha256).hexdigest()

    def seal(self, content: bytes) -> str:
        """The proof that this operator wrote `content`: nobody can make it who has not the authority's key."""
        return hmac.new(self.ca.key.encode(), b"generation " + content, hashlib.sha256).hexdigest()

    def forget(self, name: str) -> None:
        """Drop the leaf of a pipeline that is gone."""
        for key in [key for key in self._leaves if key[1] == names.tls_secret(name)]:
            del self._leaves[key]

    async def _create(self, pair: Pair) -> dict[str, Any]:
        data = {"tls.crt": pair.certificate.encode(), "tls.key": pair.key.encode()}
        manifest = desired.secret(self._meta(names.CA_SECRET), data, "kubernetes.io/tls")
        try:
            return await self._kube.create(SECRETS, manifest)
        except Conflict:
            return await self._kube.get(SECRETS, names.CA_SECRET, self._namespace) or manifest

    def _meta(self, name: str) -> dict[str, Any]:
        return {"name": name, "namespace": self._namespace, "labels": {names.MANAGED_BY: names.MANAGER}}


def pair_of(secret: Mapping[str, Any]) -> Pair | None:
    """The certificate and key in a Secret of type kubernetes.io/tls, or None."""
    data = secret.get("data") or {}
    try:
        text = {key: base64.b64decode(data[key]).decode() for key in ("tls.crt", "tls.key")}
    except (KeyError, binascii.Error, UnicodeDecodeError):
        return None
    return Pair(text["tls.crt"], text["tls.key"])
