"""A listener with its TLS context: opens when its files can be used, and follows them."""

from __future__ import annotations

from auditpipeline.core.errors import Invalid
from auditpipeline.dataplane.log import Log
from auditpipeline.dataplane.server import Listener
from auditpipeline.dataplane.tls import ServerTls
from auditpipeline.dataplane.token import Token


class Door:
    """One listener, called `name` in the log. `refresh` opens it, `listener.stop` shuts it."""

    def __init__(self, name: str, listener: Listener, tls: ServerTls, log: Log, token: Token | None = None) -> None:
        self.listener = listener
        self.tls = tls
        self._token = token
        self._name = name
        self._log = log
        self._complaint = ""

    async def refresh(self, address: str) -> None:
        """Loads what changed, and opens the door where it was shut for want of files. AuditPipelineError where the port
        is taken."""
        try:
            event = "the TLS files cannot be used"
            changed = self.tls.refresh()
            event = "the token cannot be used"
            if self._token and self._token.refresh() and self.listener.port:
                self._log.info("the token was renewed", listener=self._name)
        except Invalid as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._log.error(event, listener=self._name, error=self._complaint)
            return
        self._complaint = ""
        if not self.listener.port:
            await self.listener.start(address, self.tls.context)
            self._log.info("listening", listener=self._name, address=address, port=self.listener.port)
        elif changed:
            self._log.info("the certificate was renewed", listener=self._name)
