"""Where routes lie: no route is in no shard, none moves without need, and nothing grows without bounds."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.control import shards
from auditpipeline.control.desired import secret
from auditpipeline.control.desired_gateway import gateway_config, read, written
from auditpipeline.control.shards import Bounds, Held, Plan, Written
from auditpipeline.core.config import HttpOutput, Route
from auditpipeline.core.policy import Policy, Rule

HEAD = gateway_config((), 2**30)
SMALL = Bounds(packed=6000, most=6500, inflated=40_000, together=120_000, shards=6)
NAMES = [f"sink-{number}" for number in range(12)]


def made(name: str, size: int, seed: int = 0) -> Route:
    """A route of about `size` bytes, which hardly compress."""
    letters = random.Random(f"{name}/{seed}")
    users = tuple("".join(letters.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=50)) for _ in range(size // 50))
    policy = Policy(rules=(Rule(level="Metadata", users=users),))
    return Route(name, (policy,), HttpOutput(f"https://{name}.example/{seed}", format="event-list"), uid=f"uid {name}")


def write(number: int, held: Held, beyond: int) -> Written:
    """As the operator writes it."""
    return written(HEAD, number, held, beyond)


def planned(
    stored: Sequence[Written],
    wanted: Mapping[str, Route],
    settled: Sequence[str] = (),
    closed: Sequence[int] = (),
    bounds: Bounds = SMALL,
) -> Plan:
    """A planning with small bounds."""
    return shards.plan(stored, wanted, settled, closed, write, bounds)


def routes(*made_: Route) -> dict[str, Route]:
    """Routes by name."""
    return {route.name: route for route in made_}


def where(stored: Sequence[Written], name: str) -> list[int]:
    """The shards that have a route."""
    return [number for number, found in enumerate(stored) if name in found.held.routes]


def settled_of(stored: Sequence[Written]) -> list[str]:
    """What moves, and has arrived."""
    return [name for found in stored for name in found.held.moving]


def test_what_fits_into_the_head_is_in_the_head() -> None:
    """In the form of the release before."""
    found = planned([], routes(*(made(name, 300) for name in NAMES[:5])))
    assert len(found.shards) == 1
    assert list(found.shards[0].data) == ["config.json"]
    assert b"shards" not in found.shards[0].data["config.json"]
    assert b"moving" not in found.shards[0].data["config.json"]


def test_no_routes_at_all_are_a_head_without_routes() -> None:
    """The gateway waits for its configuration."""
    (head,) = planned([], {}).shards
    assert head.held == Held()
    assert head.data["config.json"]


def test_what_does_not_fit_goes_on_in_further_shards_and_the_head_says_how_many() -> None:
    """First fit: a small one fills what larger ones left."""
    wanted = routes(*(made(name, 4000) for name in ("a", "b", "c")), made("d", 200))
    found = planned([], wanted)
    assert [sorted(shard.held.routes) for shard in found.shards] == [["a", "d"], ["b"], ["c"]]
    assert found.shards[0].beyond == 2
    assert b'"shards": 2' in found.shards[0].data["config.json"]
    assert [list(shard.data) for shard in found.shards[1:]] == [["routes-1.json.gz"], ["routes-2.json.gz"]]


def test_the_places_are_read_back_from_the_secrets() -> None:
    """By an operator that starts: nothing moves."""
    wanted = routes(*(made(name, 3000) for name in NAMES[:6]))
    found = planned([], wanted)
    again = []
    for number, shard in enumerate(found.shards):
        known = read(number, secret({}, dict(shard.data)))
        assert known
        again.append(known)
    assert again == list(found.shards)
    assert planned(again, wanted) == found._replace(least=[shard.held for shard in again])


def test_a_route_stays_where_it_is_though_there_is_room_before_it() -> None:
    """The room is for new ones."""
    wanted = routes(*(made(name, 4000) for name in ("a", "b", "c")))
    stored = planned([], wanted).shards
    del wanted["a"]
    found = planned(stored, wanted)
    assert found.homes == {"b": 1, "c": 2}
    assert planned(found.shards, wanted | routes(made("d", 4000))).homes == {"b": 1, "c": 2, "d": 0}


def test_a_route_that_outgrows_its_shard_moves_in_two_steps() -> None:
    """It stays as it was until every gateway has the new one, and goes only then."""
    before, after = made("b", 500), made("b", 5500, 1)
    stored = planned([], routes(made("a", 4000), before)).shards
    first = planned(stored, routes(made("a", 4000), after))
    assert first.homes == {"a": 0, "b": 1}
    assert first.shards[0].held == Held(routes(made("a", 4000), before), frozenset({"b"}))
    assert first.shards[1].held == Held(routes(after))
    waiting = planned(first.shards, routes(made("a", 4000), after))
    assert [shard.held for shard in waiting.shards] == [shard.held for shard in first.shards]
    last = planned(first.shards, routes(made("a", 4000), after), settled=["b"])
    assert [sorted(shard.held.routes) for shard in last.shards] == [["a"], ["b"]]
    assert last.shards[0].held.moving == frozenset()


def test_only_what_grew_moves() -> None:
    """The smallest growth first stays."""
    stored = planned([], routes(made("a", 1000), made("b", 1000), made("c", 1000))).shards
    found = planned(stored, routes(made("a", 5500, 1), made("b", 2500, 1), made("c", 1000)))
    assert found.homes == {"a": 1, "b": 0, "c": 0}


@pytest.mark.parametrize("full", [False, True], ids=["alone", "in the midst of full shards"])
def test_a_route_that_is_too_large_is_refused_by_itself(full: bool) -> None:
    """A new one is left out; one that is there stays as it was; all others come and change."""
    small = routes(*(made(f"n{number}", 4000) for number in range(6 if full else 1)))
    stored = planned([], small | routes(made("kept", 300))).shards
    changed = {name: made(name, 4000, 1) for name in small}
    found = planned(stored, changed | routes(made("kept", 30_000, 1), made("new", 30_000)))
    assert set(found.refused) == {"kept", "new"}
    assert "too large for the gateway" in found.refused["new"]
    assert found.shards[found.homes["kept"]].held.routes["kept"] == made("kept", 300)
    assert all(found.shards[found.homes[name]].held.routes[name] == changed[name] for name in small)
    assert "new" not in found.homes


def test_where_all_shards_are_full_a_new_route_is_refused_and_what_is_deleted_goes() -> None:
    """The next planning has room again."""
    wanted = routes(*(made(f"n{number}", 5500) for number in range(6)))
    stored = planned([], wanted).shards
    late = routes(made("late", 5500))
    found = planned(stored, wanted | late)
    assert list(found.refused) == ["late"]
    assert "is full" in found.refused["late"]
    assert [shard.held for shard in found.shards] == [shard.held for shard in stored]
    del wanted["n3"]
    assert planned(stored, wanted | late).homes["late"] == 3


def test_all_shards_together_inflate_to_no_more_than_a_bound() -> None:
    """However well it compresses."""
    users = tuple(f"user-{number % 7}" for number in range(1500))
    wide = [
        Route(name, (Policy(rules=(Rule(level="Metadata", users=users),)),), made(name, 50).output) for name in NAMES
    ]
    found = planned([], routes(*wide))
    assert found.refused
    assert sum(shard.plain for shard in found.shards) <= SMALL.together
    assert max(shard.plain for shard in found.shards) <= SMALL.inflated


def test_a_shard_that_cannot_be_written_takes_nothing_new() -> None:
    """And keeps what it has."""
    stored = planned([], routes(made("a", 300))).shards
    found = planned(stored, routes(made("a", 300), made("b", 300)), closed=[0])
    assert found.homes == {"a": 0, "b": 1}


def test_a_move_that_did_not_get_further_is_taken_back() -> None:
    """The route is marked, and nowhere else: its new shard was never written."""
    stored = planned([], routes(made("a", 4000), made("b", 500))).shards
    first = planned(stored, routes(made("a", 4000), made("b", 5500, 1)))
    half = [first.shards[0]]
    assert half[0].held.moving == {"b"}
    back = planned(half, routes(made("a", 4000), made("b", 500)))
    assert back.homes == {"a": 0, "b": 0}
    assert back.shards[0].held.moving == frozenset()
    on = planned(half, routes(made("a", 4000), made("b", 5500, 1)))
    assert on.homes == {"a": 0, "b": 1}


def test_of_a_route_in_two_shards_the_later_one_goes_when_the_gateways_have_the_first() -> None:
    """As after a write of which nobody knew that it had succeeded."""
    twice = made("a", 500)
    stored = [write(0, Held(routes(twice)), 1), write(1, Held(routes(twice)), 1)]
    first = planned(stored, routes(twice), settled=["a"])
    assert [shard.held.moving for shard in first.shards] == [frozenset(), {"a"}]
    assert where(planned(first.shards, routes(twice)).shards, "a") == [0, 1]
    assert where(planned(first.shards, routes(twice), settled=["a"]).shards, "a") == [0]


def test_a_head_of_the_release_before_that_is_nearly_full_loses_nothing() -> None:
    """It was filled further than this release fills a shard."""
    old = [write(0, Held(routes(*(made(f"n{number}", 3000) for number in range(6)))), 0)]
    assert old[0].packed > SMALL.most
    wanted = dict(old[0].held.routes)
    same = planned(old, wanted)
    assert same.shards[0].held == old[0].held
    more = planned(old, wanted | routes(made("new", 300)))
    assert (more.homes["new"], more.shards[0].held) == (1, old[0].held)
    del wanted["n0"]
    assert "n0" not in planned(old, wanted).shards[0].held.routes


def test_the_real_bounds_hold_three_policies_of_which_two_fill_a_secret() -> None:
    """Each of them in a shard of its own, and a small one beside them."""
    wanted = routes(*(made(f"n{number}", 645_000) for number in range(3)), made("small", 500))
    found = shards.plan([], wanted, (), (), write)
    assert (found.refused, len(found.homes)) == ({}, 4)
    assert all(shard.packed <= Bounds().packed for shard in found.shards)


SIZES = st.sampled_from([0, 0, 300, 1500, 3000, 5000, 9000])
STEP = st.tuples(st.lists(SIZES, min_size=len(NAMES), max_size=len(NAMES)), st.randoms(use_true_random=False))


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=6))
def test_no_route_is_in_no_shard_between_two_writes(steps: list[tuple[list[int], random.Random]]) -> None:
    """Whatever is wanted, whichever writes fail, in whatever order, and however slow gateways take over."""
    stored: list[Written] = []
    for number, (sizes, chance) in enumerate(steps):
        seed = chance.randrange(2)
        wanted = routes(*(made(name, size, seed) for name, size in zip(NAMES, sizes, strict=True) if size))
        moving = settled_of(stored)
        settled = [name for name in moving if chance.random() < 0.5]
        found = planned(stored, wanted, settled, [5] if chance.random() < 0.2 else [])
        check(stored, found, wanted, settled)
        order = list(range(len(found.shards)))
        chance.shuffle(order)
        while len(stored) < len(found.shards):
            stored.append(write(len(stored), Held(), 0))
        there = {name for shard in stored for name in shard.held.routes} & wanted.keys()
        for shard in order:
            kind = chance.random()
            if kind < 0.7 or number == len(steps) - 1:
                stored[shard] = found.shards[shard]
            elif kind < 0.8:
                stored[shard] = write(shard, found.least[shard], len(stored) - 1)
            now = {name for held in stored for name in held.held.routes}
            assert there <= now
    assert all(name in wanted for held in stored for name in held.held.routes)
    again = planned(stored, wanted)
    assert [shard.held for shard in planned(again.shards, wanted).shards] == [shard.held for shard in again.shards]


def check(stored: Sequence[Written], found: Plan, wanted: Mapping[str, Route], settled: Sequence[str]) -> None:
    """What holds of each plan."""
    for number, shard in enumerate(found.shards):
        before = stored[number].held if number < len(stored) else Held()
        same = before.routes.items() >= shard.held.routes.items()
        assert same or (shard.packed <= SMALL.most and shard.plain <= SMALL.inflated)
        assert shard.held.routes.keys() <= wanted.keys()
        assert shard.held.moving <= shard.held.routes.keys()
    assert sum(shard.plain for shard in found.shards) <= SMALL.together + SMALL.inflated
    for name, home in found.homes.items():
        held = found.shards[home].held
        assert name in held.routes
        assert name not in held.moving
        assert held.routes[name] == wanted[name] or name in found.refused
        former = [number for number in where(stored, name) if name not in stored[number].held.moving]
        fits = (
            former
            and home not in former
            and found.shards[home].held.routes[name] == stored[former[0]].held.routes[name]
        )
        assert not fits, "an unchanged route moved"
    assert all(name in found.homes or name in found.refused for name in wanted)


def test_the_order_of_sinks_does_not_matter() -> None:
    """Lists come in any order."""
    made_ = [made(name, 2500) for name in NAMES[:5]]
    first = planned([], routes(*made_))
    for order in itertools.islice(itertools.permutations(made_), 0, 120, 17):
        assert planned([], routes(*order)) == first
