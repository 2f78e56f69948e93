"""The guard of every connection that an output makes: each address is judged at the moment when it is dialled.

A name is no safer than the address that it has now: whoever owns it may let it lead to another one a second later. So
nothing is decided when a configuration is read or a name looked up. `Dialler.socket` makes the socket for one address,
and there is no other way to a connection. The decision itself is `core/egress.py`.

    configuration --follow--> Guard (one for all outputs) <--asks-- Dialler (one for each output) <-- connector
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection

from auditpipeline.core.config import Egress
from auditpipeline.core.egress import Address, Rule, literal, refusal, rule, service_refusal
from auditpipeline.dataplane.interfaces import Interfaces

AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]


class Refused(OSError):
    """An address that outputs may not connect to; `what` it is."""

    def __init__(self, address: str, what: str) -> None:
        super().__init__(errno.EACCES, f"{address} is {what}")
        self.address = address
        self.what = what

    def message(self, host: str) -> str:
        """Who may allow it; `host` is what led to the address."""
        where = self.address if host in (self.address, f"[{self.address}]") else f"{self.address} of {host}"
        return f"the address {where} is not allowed ({self.what}): see egress.allow of the chart"


class Guard:
    """What the outputs of a process may connect to: everything, until a configuration says otherwise. `changes` counts
    the changes: connections from before one are not used again."""

    def __init__(self, own: Callable[[], Collection[Address]] | None = None) -> None:
        self.changes = 0
        self._egress: Egress | None = None
        self._rule: Rule | None = None
        self._own = own or Interfaces().addresses

    def follow(self, egress: Egress | None) -> None:
        """Puts this in force, for connections that are made from now on."""
        if egress != self._egress:
            self._egress = egress
            self._rule = rule(egress.allow, egress.api_servers) if egress else None
            self.changes += 1

    def check(self, host: str, port: int, *, service: bool = False) -> None:
        """Refused if `host` is an address that may not be connected to; a name is nothing yet. `service` says that the
        operator looked the address up, as that of a Service."""
        if self._rule is None or (address := literal(host)) is None:
            return
        judged = service_refusal(address, port, self._rule) if service else self._refusal(address, port, self._rule)
        if judged:
            raise Refused(str(address), judged)

    def _refusal(self, address: Address, port: int, by: Rule) -> str:
        return refusal(address, port, by, self._own())


class Dialler:
    """Makes the sockets of one output. `refused` is what was refused since it was last set to None."""

    def __init__(self, guard: Guard, *, service: bool = False) -> None:
        self.refused: Refused | None = None
        self._guard = guard
        self._service = service

    def socket(self, info: AddressInfo) -> socket.socket:
        """A socket for that address, which is connected next; Refused."""
        family, kind, protocol, _, address = info
        try:
            self._guard.check(address[0], address[1], service=self._service)
        except Refused as error:
            self.refused = error
            raise
        return socket.socket(family, kind, protocol)
