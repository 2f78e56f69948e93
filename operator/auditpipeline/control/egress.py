"""Where the API servers are, which outputs may not connect to: the addresses of their Service and of its endpoints.

They are a part of every configuration, which must not change each time that an API server restarts and leaves the
endpoints for a while. So an address counts until it has not been seen for KEEP seconds, and what a former process knew
is found in its readings of the API servers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from auditpipeline.control.apiservers import NAME as SERVICE
from auditpipeline.control.apiservers import NAMESPACE, Server
from auditpipeline.control.kube import Forbidden, Kube
from auditpipeline.control.loss import Known
from auditpipeline.control.resources import ENDPOINT_SLICES, SERVICES
from auditpipeline.control.settings import Settings
from auditpipeline.core.config import Egress
from auditpipeline.core.egress import literal

KEEP = 24 * 3600.0
MOST = 64


@dataclass
class EgressState:
    """When each address was seen last, in seconds since the epoch."""

    _seen: dict[str, float] = field(default_factory=dict)

    def take(self, addresses: Iterable[str], now: float) -> None:
        """Notes what is there now."""
        self._seen |= {str(found): now for address in addresses if (found := literal(address))}
        latest = sorted(self._seen.items(), key=lambda entry: -entry[1])[:MOST]
        self._seen = {address: at for address, at in latest if now - at < KEEP}

    def recall(self, known: dict[str, Known]) -> None:
        """Notes what a former process knew of the API servers."""
        for name, server in known.items():
            if address := literal(name.removeprefix(Server().name).strip()):
                self._seen.setdefault(str(address), server.at)

    def rendered(self, settings: Settings) -> Egress:
        """What the configurations say."""
        return Egress(settings.egress_allow, tuple(sorted(self._seen)))


async def addresses(kube: Kube) -> list[str]:
    """The addresses of the API servers' Service and of its endpoints, as far as the operator may read them."""
    service = await _optional(kube, SERVICES)
    endpoints = await _optional(kube, ENDPOINT_SLICES)
    spec = service.get("spec") or {}
    found = [*(spec.get("clusterIPs") or [spec.get("clusterIP", "")])]
    for endpoint in endpoints.get("endpoints") or ():
        found += endpoint.get("addresses") or ()
    return found


async def _optional(kube: Kube, kind: Any) -> dict[str, Any]:
    try:
        return await kube.get(kind, SERVICE, NAMESPACE) or {}
    except Forbidden:
        return {}
