"""Leader election by a Lease: at most one operator works, the others wait. Rules: client-go's leaderelection.go.

    acquire --> hold ----(renewed every RETRY seconds)----> release (on a clean stop: the next one need not wait)
                  |
                  +--> lost: not renewed for DEADLINE seconds, or somebody else holds it. All work has to end.

Times are measured by this process from the moment at which it saw the Lease change, so that clocks need not agree.
A Lease under its own name is its own, also if a former process took it: no two that run may have the same name.

While an admission webhook that does not answer keeps everybody from writing the Lease, whoever it names goes on, so
that somebody says what is broken meanwhile. Nobody can take it then; if somebody can after all, the next look, RETRY
seconds later at most, shows another name in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from auditpipeline.control import names
from auditpipeline.control.kube import Conflict, Forbidden, Kube, Unadmitted
from auditpipeline.control.resources import LEASES
from auditpipeline.core.errors import Permanent, Retryable

log = structlog.get_logger()

DURATION, DEADLINE, RETRY = 6.0, 4.0, 1.0
"""Seconds, less than client-go's: a standby takes over from a leader that died before anything that broke with it has
been called Ready for ten. Losing a Lease is cheap: the process stands for election again."""


class LeadershipLost(Permanent):
    """Somebody else may be leading: nothing more may be written by this process."""


@dataclass(frozen=True)
class Times:
    """Seconds; `duration` is how long a leader may be silent, `deadline` after which it gives up itself."""

    duration: float = DURATION
    deadline: float = DEADLINE
    retry: float = RETRY


class Lease:
    """One candidate's view of the Lease `auditpipeline-operator`."""

    def __init__(
        self, kube: Kube, namespace: str, identity: str, clock: Callable[[], datetime], times: Times | None = None
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._times = times or Times()
        self._seen: dict[str, Any] | None = None
        self._seen_at = 0.0
        self._held = False

    async def acquire(self) -> None:
        """Return as the leader."""
        while not await self._attempt():  # noqa: ASYNC110 - the Lease is another process's
            await asyncio.sleep(self._times.retry)
        self._held = True
        log.info("leading", identity=self._identity)

    async def hold(self) -> None:
        """Renew for ever; LeadershipLost when that failed for too long."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(self._times.retry)
            try:
                async with asyncio.timeout(max(0.01, renewed + self._times.deadline - loop.time())):
                    if await self._attempt():
                        renewed = loop.time()
                    elif not self._mine():
                        raise LeadershipLost("another operator holds the lease")
            except TimeoutError:
                pass
            if loop.time() - renewed >= self._times.deadline:
                raise LeadershipLost(f"the lease was not renewed for {self._times.deadline:.0f} s")

    async def release(self) -> None:
        """Let the next one have it at once; silently nothing where it is not ours or cannot be written."""
        if not self._held or self._seen is None or not self._mine():
            return
        self._held = False
        body = self._seen | {"spec": self._seen["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}}
        try:
            await self._kube.replace(LEASES, body)
        except (Retryable, Permanent) as error:
            log.warning("lease not released", error=str(error))

    async def _attempt(self) -> bool:
        try:
            current = await self._kube.get(LEASES, names.LEASE, self._namespace)
            if current is None:
                self._see(await self._kube.create(LEASES, self._body(None)))
                return True
            self._see(current)
            if not self._mine() and not self._expired():
                return False
            self._see(await self._kube.replace(LEASES, self._body(current)))
        except Conflict:
            return False
        except Unadmitted as error:
            log.warning("lease not renewed", error=str(error))
            return self._mine()
        except (Retryable, Forbidden) as error:
            # An API server that has just started knows no roles for a moment; for good, the deadline tells.
            log.warning("lease not renewed", error=str(error))
            return False
        return True

    def _see(self, lease: dict[str, Any]) -> None:
        """The whole Lease is compared: after a restore of etcd a resource version may come a second time."""
        if self._seen != lease:
            self._seen, self._seen_at = lease, asyncio.get_running_loop().time()

    def _mine(self) -> bool:
        return bool(self._seen) and self._spec().get("holderIdentity") == self._identity

    def _expired(self) -> bool:
        if not self._spec().get("holderIdentity"):
            return True
        duration = float(self._spec().get("leaseDurationSeconds", DURATION))
        return asyncio.get_running_loop().time() - self._seen_at > duration

    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = (self._seen or {}).get("spec", {})
        return spec

    def _body(self, current: dict[str, Any] | None) -> dict[str, Any]:
        now = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict((current or {}).get("spec", {}))
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = spec.get("leaseTransitions", 0) + (1 if current else 0)
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, int(self._times.duration)),
            "renewTime": now,
        }
        meta = current["metadata"] if current else {"name": names.LEASE, "namespace": self._namespace}
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": meta, "spec": spec}
