"""A listener with its TLS context: opens when its files can be used, and follows them."""

from __future__ import annotations

import time
from collections.abc import Callable

from auditpipeline.core.errors import Invalid
from auditpipeline.dataplane.gate import Closing
from auditpipeline.dataplane.listener import Listener
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.tls import ServerTls
from auditpipeline.dataplane.token import Token

WARN_SECONDS = 60.0
_OF_NOTE: frozenset[Closing] = frozenset(
    {"handshake_displaced", "unknown_displaced", "known_displaced", "answer_unread", "accept_failed"}
)


class Door:
    """One listener, called `name` in the log. `refresh` opens it, `listener.stop` shuts it."""

    def __init__(self, name: str, listener: Listener, tls: ServerTls, log: Log, token: Token | None = None) -> None:
        self.listener = listener
        self.tls = tls
        self._token = token
        self._name = name
        self._log = log
        self._complaints: dict[str, str] = {}
        self._warned: dict[Closing, int] = {}
        self._warned_at = 0.0

    async def refresh(self, address: str) -> None:
        """Loads what changed, opens the door if it was shut for want of files, and tidies up behind it.
        AuditPipelineError if the port is taken."""
        self.listener.tidy()
        self._warn()
        renewed = self._look("the TLS files cannot be used", self.tls.refresh)
        another = self._look("the token cannot be used", self._token.refresh) if self._token else False
        if self.listener.port:
            self._tell(renewed, another)
        elif None not in (renewed, another):
            await self.listener.start(address, self.tls.context)
            self._log.info("listening", listener=self._name, address=address, port=self.listener.port)

    def _look(self, event: str, refresh: Callable[[], bool]) -> bool | None:
        """Whether there is something new; None, and one log line for each reason, if it cannot be used. Neither file
        keeps the other from being followed."""
        try:
            found = refresh()
        except Invalid as error:
            if str(error) != self._complaints.get(event):
                self._complaints[event] = str(error)
                self._log.error(event, listener=self._name, error=str(error))
            return None
        self._complaints.pop(event, None)
        return found

    def _tell(self, renewed: bool | None, another: bool | None) -> None:
        if renewed:
            self._log.info("the certificate was renewed", listener=self._name)
        if another:
            self._log.info("the token was renewed", listener=self._name)

    def _warn(self) -> None:
        """Says which peers were closed, at most once a minute."""
        now = time.monotonic()
        if now < self._warned_at + WARN_SECONDS and self._warned_at:
            return
        closed = {reason: n for reason, n in self.listener.counts().closed.items() if reason in _OF_NOTE}
        fresh = {reason: n - self._warned.get(reason, 0) for reason, n in closed.items()}
        if any(fresh.values()):
            self._warned, self._warned_at = closed, now
            self._log.warning("connections were closed or refused", listener=self._name, **fresh)
