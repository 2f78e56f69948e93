"""Which routes a gateway of the release before runs, which reports the digest of its head and nothing else. Pure.

Each head that is written has a number, and each route the numbers of the heads in which it became what: so that what a
Pod runs is known from the head that it names, however many heads there were since.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from auditpipeline.control.shards import Written
from auditpipeline.core.config import Route
from auditpipeline.core.packing import route_digest

REMEMBERED = 10_000
"""Heads: more than are written between two looks at a Pod."""


@dataclass
class Heads:
    """`numbers` has those of heads by digest, `routes` what the newest head holds, `became` of each route the numbers
    of the heads in which it changed, with its digest from then on; "" stands for a route that is gone."""

    numbers: dict[str, int] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    became: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    last: int = 0

    def put(self, head: Written) -> None:
        """Take in the newest head."""
        self.last += 1
        before, self.routes = self.routes, dict(head.held.routes)
        for name, route in self.routes.items():
            if before.get(name) != route:
                self.became.setdefault(name, []).append((self.last, route_digest(route)))
        for name in before.keys() - self.routes.keys():
            self.became[name].append((self.last, ""))
        self.numbers.pop(head.digest, None)
        self.numbers[head.digest] = self.last
        if len(self.numbers) > REMEMBERED:
            self.forget()

    def forget(self) -> None:
        """Forget all heads but the newest: no Pod needs them."""
        if len(self.numbers) > 1:
            self.numbers = {digest: number for digest, number in self.numbers.items() if number == self.last}
            self.became = {name: [(self.last, self.became[name][-1][1])] for name in self.routes}

    def holds(self, digest: str, name: str, route: str) -> bool:
        """Whether the head called `digest` has the route `name` of which the digest is `route`."""
        number, became = self.numbers.get(digest), self.became.get(name)
        if number is None or not became:
            return False
        at = bisect_right(became, (number, "\x7f"))
        return at > 0 and became[at - 1][1] == route
