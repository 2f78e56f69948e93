"""Which routes a gateway of the release before runs, which reports the digest of its head and nothing else. Pure.

Each head that is written has a number, and each route the number of the head in which it became what it is. A Pod that
runs a head has all routes that are no younger, however many heads there were since.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from auditpipeline.control.shards import Written
from auditpipeline.core.config import Route
from auditpipeline.core.packing import route_digest

REMEMBERED = 10_000
"""Heads: more than are written between two looks at a Pod."""


@dataclass
class Heads:
    """`numbers` has those of heads by digest, `routes` what the newest head holds, `since` the number of the head in
    which a route became that."""

    numbers: dict[str, int] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    last: int = 0

    def put(self, head: Written) -> None:
        """Take in the newest head."""
        self.last += 1
        before, self.routes = self.routes, dict(head.held.routes)
        self.since = {
            name: self.since[name] if before.get(name) == route else self.last for name, route in self.routes.items()
        }
        self.numbers.pop(head.digest, None)
        self.numbers[head.digest] = self.last
        while len(self.numbers) > REMEMBERED:
            del self.numbers[next(iter(self.numbers))]

    def forget(self) -> None:
        """Forget all heads but the newest: no Pod needs them."""
        if len(self.numbers) > 1:
            newest = next(reversed(self.numbers))
            self.numbers = {newest: self.numbers[newest]}

    def holds(self, digest: str, name: str, route: str) -> bool:
        """Whether the head called `digest` has the route `name` of which the digest is `route`."""
        found, number = self.routes.get(name), self.numbers.get(digest)
        return found is not None and number is not None and number >= self.since[name] and route_digest(found) == route
