"""A token bucket: `burst` batches at once, then `qps` a second. As the throttle of an AuditSink (client-go's
flowcontrol)."""

from __future__ import annotations

import asyncio

from auditpipeline.core.config import Throttle


class Bucket:
    """Full at the start; without a throttle it never runs dry."""

    def __init__(self, throttle: Throttle | None) -> None:
        self._throttle = throttle
        self._tokens = float(throttle.burst) if throttle else 0.0
        self._at = asyncio.get_running_loop().time()

    async def take(self) -> None:
        """Returns when one more batch may go."""
        if self._throttle is None:
            return
        now = asyncio.get_running_loop().time()
        self._tokens = min(self._throttle.burst, self._tokens + (now - self._at) * self._throttle.qps) - 1
        self._at = now
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._throttle.qps)
