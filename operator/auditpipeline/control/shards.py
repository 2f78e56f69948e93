"""Which of the gateway's routes lies in which Secret. Pure.

    what the Secrets hold + what is wanted + what the gateways have taken over  -->  what the Secrets are to hold

The head is shard 0; the others are used for what does not fit into it. Promises, whichever of the writes that follow
succeed, in whatever order:

1. a route stays in its shard while it fits there. One that is new goes into the first shard with room;
2. a route that has outgrown its shard is put into another one, and stays where it was, as it was, marked as moving,
   until every gateway has it from the new one. So it is in at least one shard at any time, as long as it is wanted;
3. what is no longer wanted goes, whatever else is refused;
4. what does not fit is refused by itself: a route that is there stays as it was, a new one is left out;
5. no shard gets larger than `Bounds` say, neither as it is stored nor inflated, nor all of them together inflated.

How much room routes take together shows only when they are compressed together. A route is held to need what it needs
alone, which is more; what it really needs is measured if that is too much, and of each shard that is written.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from auditpipeline.core import packing
from auditpipeline.core.config import MAX_CONFIG, Route


class Bounds(NamedTuple):
    """`packed` are the bytes up to which a Secret is filled with new routes, `most` those up to which routes in it may
    grow; `inflated` are bytes before compression of one shard, `together` of all."""

    packed: int = 896 * 2**10
    most: int = packing.SECRET_BYTES
    inflated: int = packing.SHARD_INFLATED
    together: int = MAX_CONFIG - packing.SHARD_INFLATED
    shards: int = packing.SHARDS


class Held(NamedTuple):
    """What a Secret holds: routes by name, and which of them are moving to another one."""

    routes: Mapping[str, Route] = {}
    moving: frozenset[str] = frozenset()


class Written(NamedTuple):
    """What a Secret holds, as it is stored: its `data`, its sizes in bytes, compressed and before that, and the digest
    of the bytes before compression; of the head, how many shards there are beside it."""

    held: Held
    data: Mapping[str, bytes]
    packed: int
    plain: int
    digest: str
    beyond: int = 0


Write = Callable[[int, Held, int], Written]
"""Renders the shard of a number; the last is how many there are beside the head."""


class Plan(NamedTuple):
    """`shards` is what the Secrets are to hold, `least` the same without anything that is new or changed: for a Secret
    that does not take that. `refused` says of routes why they are not as they are wanted. `homes` says where each route
    is, or is to be."""

    shards: Sequence[Written]
    least: Sequence[Held]
    refused: Mapping[str, str]
    homes: Mapping[str, int]


class Cost(NamedTuple):
    """Bytes of a route, compressed alone and before that."""

    packed: int
    plain: int


def cost(route: Route) -> Cost:
    """What a route needs at most."""
    text = msgspec.json.format(msgspec.json.encode(route, order="deterministic"), indent=1)
    return Cost(len(zlib.compress(text, 6)) + 8, len(text) + 2 * text.count(b"\n") + 8)


def plan(
    stored: Sequence[Written],
    wanted: Mapping[str, Route],
    settled: Collection[str],
    closed: Collection[int],
    write: Write,
    bounds: Bounds = Bounds(),  # noqa: B008 - a value
) -> Plan:
    """What the Secrets are to hold. `settled` names moving routes that every gateway has from their new shard;
    `closed` are shards that take nothing new."""
    work = _Work(stored, wanted, write, bounds)
    work.keep(frozenset(settled))
    work.change()
    work.place(frozenset(closed))
    return work.finish()


@dataclass
class _Shard:
    """A shard that is being planned. `packed` and `plain` are what it needs at most."""

    routes: dict[str, Route] = field(default_factory=dict)
    moving: set[str] = field(default_factory=set)
    packed: int = 0
    plain: int = 0

    @property
    def held(self) -> Held:
        """What it would hold."""
        return Held(dict(self.routes), frozenset(self.moving))


class _Work:
    """One planning."""

    def __init__(self, stored: Sequence[Written], wanted: Mapping[str, Route], write: Write, bounds: Bounds) -> None:
        self._stored = stored
        self._wanted = wanted
        self._write = write
        self._bounds = bounds
        self._shards: list[_Shard] = []
        self._least: list[Held] = []
        self._homes: dict[str, int] = {}
        self._homeless: dict[str, int | None] = {}
        self._refused: dict[str, str] = {}
        self._costs: dict[str, Cost] = {}

    def keep(self, settled: frozenset[str]) -> None:
        """The stored routes that are still wanted, each with one home: the first shard that does not call it moving."""
        for name, home in _homes(self._stored).items():
            if name in self._wanted:
                self._homes[name] = home
        for number, written in enumerate(self._stored):
            routes, moving = written.held
            kept = {name: route for name, route in routes.items() if self._stays(number, name, moving, settled)}
            shard = _Shard(kept, {name for name in kept if self._homes[name] != number})
            shard.packed, shard.plain = written.packed, written.plain
            if len(kept) < len(routes):
                self._measure(number, shard)
            self._shards.append(shard)
            self._least.append(shard.held)
        if not self._shards:
            self._open()

    def _open(self) -> None:
        self._shards.append(_Shard(packed=_EMPTY, plain=_EMPTY))
        self._least.append(Held())

    def _stays(self, number: int, name: str, moving: frozenset[str], settled: frozenset[str]) -> bool:
        if name not in self._wanted:
            return False
        home = self._homes[name]
        moved = home != number and name in moving and name not in self._stored[home].held.moving
        return not (moved and name in settled)

    def change(self) -> None:
        """Routes that are wanted otherwise than they are stored: in their shard if they fit there."""
        for number, shard in enumerate(self._shards):
            found = [name for name, route in shard.routes.items() if self._homes[name] == number]
            changed = [name for name in found if shard.routes[name] != self._wanted[name] and self._possible(name)]
            growth = {name: self._cost(name).plain - cost(shard.routes[name]).plain for name in changed}
            fitting = self._together(sorted(changed, key=lambda name: (growth[name], name)), growth)
            count = self._fitting(number, shard, fitting)
            for name in fitting[:count]:
                shard.routes[name] = self._wanted[name]
                self._add(shard, self._cost(name))
            for name in fitting[count:]:
                self._homeless[name] = number

    def _possible(self, name: str) -> bool:
        """Whether the route fits into any shard at all."""
        need = self._cost(name)
        packed, plain = self._bounds.packed - _EMPTY, self._bounds.inflated - _EMPTY
        if need.packed > packed or need.plain > plain:
            size = f"{need.packed} bytes compressed and {need.plain} before that"
            self._refused[name] = f"its policy is too large for the gateway: {size}, of at most {packed} and {plain}"
            return False
        return True

    def _together(self, names: Sequence[str], growth: Mapping[str, int]) -> list[str]:
        """Those of the names whose growth all shards together have room for; the others are refused."""
        left = self._bounds.together - sum(shard.plain for shard in self._shards)
        found = []
        for name in names:
            if growth[name] > max(0, left):
                self._refused[name] = _FULL
            else:
                left -= growth[name]
                found.append(name)
        return found

    def _fitting(self, number: int, shard: _Shard, names: Sequence[str]) -> int:
        """How many of the changed routes, from the first on, fit into their shard."""
        need = [self._cost(name) for name in names]
        packed, plain = shard.packed + sum(one.packed for one in need), shard.plain + sum(one.plain for one in need)
        if packed <= self._bounds.most and plain <= self._bounds.inflated:
            return len(names)
        low, high = 0, len(names) + 1  # the first `low` fit, as many as `high` do not
        step = len(names)
        while high - low > 1:
            if self._fits(number, shard, names[:step]):
                low = step
            else:
                high = step
            step = (low + high) // 2
        return low

    def _fits(self, number: int, shard: _Shard, names: Iterable[str]) -> bool:
        trial = _Shard(shard.routes | {name: self._wanted[name] for name in names}, shard.moving)
        self._measure(number, trial)
        return trial.packed <= self._bounds.most and trial.plain <= self._bounds.inflated

    def place(self, closed: frozenset[int]) -> None:
        """Routes without a shard that they fit into: those that have outgrown theirs, then new ones, by name."""
        new = [name for name in sorted(self._wanted) if name not in self._homes and self._possible(name)]
        for name in [*sorted(self._homeless), *new]:
            number = self._room(name, closed)
            if number is None:
                self._refused[name] = _FULL
                continue
            while number >= len(self._shards):
                self._open()
            if (home := self._homeless.get(name)) is not None:
                self._shards[home].moving.add(name)
            self._shards[number].routes[name] = self._wanted[name]
            self._shards[number].moving.discard(name)
            self._add(self._shards[number], self._cost(name))
            self._homes[name] = number

    def _room(self, name: str, closed: frozenset[int]) -> int | None:
        """The first shard with room for the route."""
        need, bounds = self._cost(name), self._bounds
        if sum(shard.plain for shard in self._shards) + need.plain > bounds.together:
            return None
        for number in range(bounds.shards):
            shard = self._shards[number] if number < len(self._shards) else _Shard(packed=_EMPTY, plain=_EMPTY)
            fits = shard.packed + need.packed <= bounds.packed and shard.plain + need.plain <= bounds.inflated
            if fits and number not in closed and number != self._homeless.get(name):
                return number
        return None

    def finish(self) -> Plan:
        """The plan. A shard that turns out too large is left as it was, but for what goes."""
        given_up: set[int] = set()
        while True:
            shards = [self._render(number, shard.held) for number, shard in enumerate(self._shards)]
            large = [number for number, found in enumerate(shards) if not self._allowed(found)]
            large = [number for number in large if number not in given_up and shards[number].held != self._held(number)]
            if not large:
                return Plan(shards, self._least, self._refused, self._homes)
            given_up.add(large[0])
            self._give_up(large[0])

    def _allowed(self, written: Written) -> bool:
        return written.packed <= self._bounds.most and written.plain <= self._bounds.inflated

    def _give_up(self, number: int) -> None:
        """Nothing is changed in the shard, and nothing added to it: who was to move stays at home."""
        kept = self._least[number]
        for name, route in self._shards[number].routes.items():
            if kept.routes.get(name) != route and self._homes[name] == number:
                self._refused[name] = _FULL
                home = self._homeless.get(name)
                if home is not None:
                    self._homes[name] = home
                    self._shards[home].moving.discard(name)
                elif name not in kept.routes:
                    del self._homes[name]
        self._shards[number] = _Shard(dict(kept.routes), set(kept.moving))

    def _render(self, number: int, held: Held) -> Written:
        """As it is stored, if nothing is different in it; the head says how many shards there are."""
        if number and held == self._held(number):
            return self._stored[number]
        return self._write(number, held, len(self._shards) - 1)

    def _held(self, number: int) -> Held | None:
        return self._stored[number].held if number < len(self._stored) else None

    def _measure(self, number: int, shard: _Shard) -> None:
        written = self._write(number, shard.held, len(self._stored))
        shard.packed, shard.plain = written.packed, written.plain

    def _cost(self, name: str) -> Cost:
        if name not in self._costs:
            self._costs[name] = cost(self._wanted[name])
        return self._costs[name]

    @staticmethod
    def _add(shard: _Shard, need: Cost) -> None:
        shard.packed += need.packed
        shard.plain += need.plain


_EMPTY = 1024
"""Bytes that a shard has without any route, at most; the head's own are as many."""
_FULL = "the gateway's configuration is full: delete AuditSinks, or shorten the rules of their policies"


def _homes(stored: Sequence[Written]) -> dict[str, int]:
    """The shard of each route: the first that does not call it moving, else the first that has it."""
    found: dict[str, int] = {}
    for settled in (True, False):
        for number, written in enumerate(stored):
            for name in written.held.routes:
                if (name not in written.held.moving) is settled:
                    found.setdefault(name, number)
    return found
