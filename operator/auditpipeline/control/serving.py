"""What the operator's own listener serves with: TLS from its first moment on, and never a key on a disk.

    self-signed, in memory  --the authority's Secret is there-->  a leaf of the authority  --two thirds of its life,
                                                                   or another authority-->  a new leaf

Each replica issues a leaf of its own, whether it leads or not: a scraper that trusts the authority trusts them all. A
new leaf goes into the live context; connections that are open keep what they have.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from auditpipeline.control import certificates, names
from auditpipeline.control.authority import pair_of
from auditpipeline.control.certificates import Pair
from auditpipeline.control.kube import Kube
from auditpipeline.control.probe import key_file
from auditpipeline.control.resources import SECRETS
from auditpipeline.core.bearer import NOBODY, hashed, is_token
from auditpipeline.core.errors import AuditPipelineError

log = structlog.get_logger()

LONGEST_TOKEN = 4096
SOON = 2.0


class Serving:
    """The certificate of one operator process; `context` is what its listener uses."""

    def __init__(self, kube: Kube, namespace: str, clock: Callable[[], datetime]) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.issued = False
        self._kube, self._namespace, self._clock = kube, namespace, clock
        self._hosts = names.operator_hosts(namespace)
        self._leaf = self._use(certificates.authority(clock()))

    async def keep(self, interval: float) -> None:
        """Look at the authority every `interval` seconds, for ever; sooner until there is one."""
        while True:
            try:
                await self.refresh()
            except AuditPipelineError as error:
                log.debug("the listener keeps its certificate", reason=str(error))
            await asyncio.sleep(interval if self.issued else min(SOON, interval))

    async def refresh(self) -> bool:
        """Serve with a leaf of the authority that is there now; True if it is a new one."""
        ca, now = pair_of(await self._kube.get(SECRETS, names.CA_SECRET, self._namespace) or {}), self._clock()
        if ca is None or not certificates.is_authority(ca, now):
            return False
        self.issued = True
        if not certificates.needs_renewal(self._leaf, now, self._hosts, ca.certificate):
            return False
        self._leaf = self._use(ca)
        return True

    def _use(self, ca: Pair) -> Pair:
        leaf = certificates.leaf(ca, names.OPERATOR, self._hosts, self._clock())
        with key_file((leaf.certificate + leaf.key).encode()) as path:
            self.context.load_cert_chain(path)
        return leaf


def metrics_token(file: Path | None) -> str:
    """The digest of the token that reads /metrics: "" if everybody may, NOBODY if the file holds no token."""
    if file is None:
        return ""
    try:
        with file.open("rb") as opened:
            token = opened.read(LONGEST_TOKEN + 1).decode().strip()
    except (OSError, UnicodeDecodeError):
        return NOBODY
    return hashed(token) if is_token(token) and len(token) <= LONGEST_TOKEN else NOBODY
