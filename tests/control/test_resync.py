"""What a list of the world brings in, while watches tell of the same world."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.gateway_state import Standing
from auditpipeline.control.generation import Accepted
from auditpipeline.control.health import Heartbeat
from auditpipeline.control.operator import Watcher
from auditpipeline.control.published import SinkStatus
from auditpipeline.control.resources import PIPELINES, SECRETS, SERVICES, SINKS, STATEFULSETS, Resource
from auditpipeline.control.resync import observed, relist
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.control.world import AUTHORITY_KEY, GATEWAY_KEY, RESYNC_KEY, World
from tests.control.bodies import pipeline
from tests.control.fakes import Answers, world
from tests.control.test_seen import KEY, SERVICE

OWN = "auditpipeline-system"


class Listing(Answers):
    """Lists of one kind: bodies, and what happens between two pages."""

    told: list[dict[str, Any] | Callable[[], None]]
    hang = False

    async def list(
        self, kind: Resource, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Any]:
        for page in self.told if kind is SERVICES else ():
            if callable(page):
                page()
                if self.hang:
                    await asyncio.Event().wait()
            else:
                yield page


def body(version: str, uid: str = "u1") -> dict[str, Any]:
    """The Service at some resourceVersion."""
    meta = SERVICE["metadata"] | {"uid": uid, "resourceVersion": version, "namespace": OWN}
    return SERVICE | {"metadata": meta}


KEY_HERE = (KEY[0], OWN, KEY[2])


def tell(made: World, kind: str | None, version: str, uid: str = "u1") -> None:
    """A watch tells of the Service."""
    observed(made, KEY_HERE, kind, entry_of("services", body(version, uid)))


@pytest.mark.parametrize("deleted", ["8", "not a number"])
@pytest.mark.parametrize("known", [True, False])
async def test_what_was_deleted_during_a_list_does_not_come_back(deleted: str, known: bool) -> None:
    """DELETED is told between the list's snapshot and the page that holds the object."""
    kube = Listing()
    made = await world(kube)
    if known:
        tell(made, None, "5")
    kube.told = [lambda: tell(made, "DELETED", deleted), body("5")]
    await relist(made)
    assert KEY_HERE not in made.seen.entries


async def test_what_was_made_again_during_a_list_stays() -> None:
    """Nothing of the page, which is older, takes its place."""
    kube = Listing()
    made = await world(kube)

    def again() -> None:
        tell(made, "DELETED", "8")
        tell(made, "ADDED", "9", "u2")

    kube.told = [again, body("5")]
    await relist(made)
    assert made.seen.entries[KEY_HERE].uid == "u2"


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "woken"),
    [
        (SECRETS, OWN, names.CA_SECRET, AUTHORITY_KEY),
        (SECRETS, OWN, names.GATEWAY_CONFIG_SECRET, GATEWAY_KEY),
        (SINKS, "", "foreign", GATEWAY_KEY),
    ],
)
async def test_what_went_unseen_wakes_whom_it_concerns(kind: Resource, namespace: str, name: str, woken: str) -> None:
    """No watch tells of it: the list does, of what is no pipeline's too."""
    kube, keys = Listing(), set[str]()
    made = await world(kube, wake=lambda key, _: keys.add(key))
    kube.told = []
    gone = {"metadata": {"name": name, "namespace": namespace}, "spec": {}}
    made.seen.put(key_of(kind.plural, gone), entry_of(kind.plural, gone))
    made.gateway.dirty = False
    await relist(made)
    assert woken in keys
    assert made.gateway.dirty is (kind is SINKS)


async def test_a_list_replaces_what_was_known_before_it() -> None:
    """Its object is older than what is known, whatever that means: the list was asked for later."""
    kube = Listing()
    made = await world(kube)
    tell(made, None, "50", "u2")
    kube.told = [body("5")]
    await relist(made)
    assert made.seen.entries[KEY_HERE].uid == "u1"


async def test_versions_that_go_back_begin_another_history() -> None:
    """Everything is looked at again, and the sinks' statuses are read anew, before one of them is written."""
    kube, keys = Listing(), set[str]()
    made = await world(kube, wake=lambda key, _: keys.add(key))
    tell(made, None, "50")
    made.gateway.stand({"a": Standing(("u", "f"), 1, SinkStatus(), version="49")})
    made.gateway.dirty = False
    made.accepted["a"] = Accepted("u", 3, "inputs", {})
    kube.version, kube.told = "50", [body("50")]
    await relist(made)
    assert (made.seen.history, RESYNC_KEY in keys, made.gateway.dirty) == (0, False, False)
    kube.version, kube.told = "20", [body("7")]
    await relist(made)
    assert (made.seen.history, RESYNC_KEY in keys, made.gateway.dirty) == (1, True, True)
    assert (made.gateway.standing, made.accepted) == ({}, {})
    tell(made, "MODIFIED", "21", "u3")
    assert made.seen.entries[KEY_HERE].uid == "u3"


async def test_what_watches_of_another_history_tell_is_left_aside() -> None:
    """They are stopped, and some events are on their way yet: they are newer than all that is to come."""
    made = await world(Listing(), wake=lambda key, _: None)
    former = Watcher(made)
    made.seen.rewind("20")
    former.observe(KEY_HERE, "MODIFIED", entry_of("services", body("50")))
    former.resumed("services", "50")
    assert (made.seen.entries, made.seen.heard) == ({}, {})
    Watcher(made).observe(KEY_HERE, "ADDED", entry_of("services", body("21")))
    assert made.seen.entries[KEY_HERE].version == "21"


async def test_each_page_is_progress_and_a_hang_is_none() -> None:
    """A heart that beats with it lives through a resync of any length, and not through one that hangs."""
    kube, now = Listing(), 0.0
    made = await world(kube)
    heartbeat = Heartbeat(10, lambda: now)
    beaten, hangs = list[bool](), asyncio.Event()

    def later() -> None:
        nonlocal now
        now += 9
        beaten.append(heartbeat.healthy)

    kube.told = [page for number in range(20) for page in (body(str(number + 1)), later)]
    await relist(made, heartbeat.beat)
    assert beaten == [True] * 20
    kube.told = [body("30"), hangs.set, body("31")]
    task = asyncio.create_task(relist(made, heartbeat.beat))
    kube.hang = True
    await hangs.wait()
    now += 11
    assert not heartbeat.healthy
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Three(Answers):
    """Three pipelines; the Pod of the second one is not ready."""

    async def list(
        self, kind: Resource, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Any]:
        for number, name in enumerate(("a", "b", "c")):
            meta = {"name": name, "uid": f"{kind.plural}-{name}", "resourceVersion": str(number + 1)}
            if kind is PIPELINES:
                yield pipeline(name) | {"metadata": meta}
            if kind is STATEFULSETS and namespace == OWN:
                place = {"name": f"audit-{name}", "namespace": OWN, "labels": {names.PIPELINE: name}}
                ready = {"replicas": 1, "readyReplicas": int(name != "b")}
                yield {"metadata": meta | place, "spec": {"replicas": 1}, "status": ready}


async def test_what_takes_no_events_is_looked_at_first() -> None:
    """Its status may be wrong, and many others may have to be looked at."""
    assert await relist(await world(Three())) == ["b", "a", "c"]
