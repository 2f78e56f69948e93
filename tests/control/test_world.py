"""Having the cluster hold a manifest."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from auditpipeline.control import desired, names
from auditpipeline.control.kube import Conflict, NoDryRun
from auditpipeline.control.ownership import ABSENT
from auditpipeline.control.resources import Resource
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.control.settings import Settings
from auditpipeline.control.world import ADOPT_RETRY, ensure
from auditpipeline.core.errors import Invalid, Retryable
from tests.control import bodies
from tests.control.fakes import Answers, now, world

ACCOUNT = desired.account(bodies.parsed(), "audit")
SERVICE = desired.service(bodies.parsed(), "audit", Settings())
KEY = ("serviceaccounts", "audit", "audit-security")


async def test_what_is_deleted_before_the_answer_to_its_creation_is_read_is_no_error() -> None:
    """A watch may be faster than the answer; the next round makes it again."""

    class Deleting(Answers):
        async def apply(self, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
            made.seen.drop(KEY, "u1", "8")
            return body | {"metadata": body["metadata"] | {"uid": "u1", "resourceVersion": "7"}}

    made = await world(Deleting())
    assert (await ensure(made, ACCOUNT)).uid == "u1"
    assert KEY not in made.seen.entries


class Stored(Answers):
    """The Service as somebody else's process applied it; every apply is kept. A dry run answers `answer`."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        meta = SERVICE["metadata"] | {"uid": "u1", "resourceVersion": "7"}
        self.body: dict[str, Any] = SERVICE | {"metadata": meta}
        super().__init__({("services", "audit-security"): self.body})
        self.answer = answer

    async def rehearse(self, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
        assert body["metadata"]["uid"] == "u1"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.body | self.answer

    async def apply(self, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
        if body["metadata"].get("resourceVersion") == ABSENT:
            raise Conflict("it is there")
        return await super().apply(kind, body)


@pytest.mark.parametrize(
    ("answer", "applies"),
    [({}, 0), ({"spec": {}}, 1), (NoDryRun("", "a webhook does not support dry run"), 1)],
    ids=["nothing would change", "something would", "nobody knows"],
)
@pytest.mark.parametrize("watched", [True, False])
async def test_what_another_process_applied_is_adopted_if_nothing_would_change(
    answer: dict[str, Any] | Exception, applies: int, *, watched: bool
) -> None:
    """Whether a watch has shown it, or it has to be read first."""
    kube = Stored(answer)
    made = await world(kube)
    kube.written.clear()
    if watched:
        made.seen.put(key_of("services", kube.body), entry_of("services", kube.body))
    for _ in range(2):
        await ensure(made, SERVICE)
    assert [body["metadata"]["uid"] for body in kube.written] == ["u1"] * applies


async def test_what_nobody_can_say_of_after_a_restart_is_left_as_it_is_and_asked_again_later() -> None:
    """An admission webhook that is down says nothing of what is there; nor is it asked for each object in turn."""
    kube, woken = Stored(Retryable("HTTP 500 failed calling webhook")), []
    at = now()
    made = await world(kube, clock=lambda: at, wake=lambda key, seconds: woken.append((key, seconds)))
    made.seen.put(key_of("services", kube.body), entry_of("services", kube.body))
    kube.written.clear()
    assert (await ensure(made, SERVICE)).uid == "u1"
    kube.answer = AssertionError("it is not asked again at once")
    await ensure(made, SERVICE)
    assert kube.written == []
    assert woken == [("pipeline/security", ADOPT_RETRY)] * 2
    at += timedelta(seconds=ADOPT_RETRY)
    kube.answer = {"spec": {}}
    await ensure(made, SERVICE)
    assert [body["metadata"]["uid"] for body in kube.written] == ["u1"]


async def test_what_the_operator_needs_for_itself_is_not_taken_for_written() -> None:
    """A route may leave one of the gateway's Secrets only when another one surely has it."""
    meta = {"name": "x", "namespace": "audit", "labels": names.gateway_labels()}
    manifest = desired.secret(meta, {"a": b"b"})
    kube = Stored(Retryable("HTTP 500 failed calling webhook"))
    made = await world(kube)
    there = manifest | {"metadata": meta | {"uid": "u1", "resourceVersion": "7"}}
    made.seen.put(key_of("secrets", there), entry_of("secrets", there))
    with pytest.raises(Retryable):
        await ensure(made, manifest)


async def test_an_object_that_changes_again_and_again_is_tried_later() -> None:
    """Whoever makes and deletes it keeps nobody from other work."""

    class Flickering(Answers):
        async def apply(self, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
            raise Conflict("it is there")

    made = await world(Flickering())
    with pytest.raises(Conflict, match="again and again"):
        await ensure(made, SERVICE)


class Fought(Answers):
    """Whatever is applied comes back with a field of somebody else's; what takes it away is kept."""

    async def apply(self, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
        owned = [
            {"manager": names.MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:type": {}}}},
            {"manager": "somebody", "operation": "Update", "fieldsV1": {"f:spec": {"f:externalIPs": {}}}},
        ]
        meta = body["metadata"] | {"managedFields": owned, "resourceVersion": "7"}
        return body | {"metadata": meta, "spec": body["spec"] | {"externalIPs": ["192.0.2.7"]}}

    async def patch(
        self, kind: Resource, name: str, body: dict[str, Any], namespace: str | None = None
    ) -> dict[str, Any] | None:
        await self.create(kind, body)
        return SERVICE | {"metadata": SERVICE["metadata"] | {"resourceVersion": "8"}}


async def test_additions_are_removed_from_what_was_looked_at_and_nothing_else() -> None:
    """By its version: who wrote meanwhile is looked at first."""
    kube = Fought()
    made = await world(kube)
    kube.written.clear()
    entry = await ensure(made, SERVICE)
    assert kube.written == [{"metadata": {"resourceVersion": "7"}, "spec": {"externalIPs": None}}]
    assert entry.version == "8"
    assert await ensure(made, SERVICE) is entry
    assert len(kube.written) == 1


async def test_who_adds_again_and_again_is_given_way_for_longer_each_time() -> None:
    """Three times at once, then after one second, two, four; what is left alone is looked at again in each round."""
    kube, start = Fought(), now()
    made = await world(kube)
    kube.written.clear()
    removed = []
    for second in range(16):
        made.clock = lambda second=second: start + timedelta(seconds=second)  # type: ignore[misc]
        for _ in range(5):
            made.seen.entries.clear()  # drifted
            await ensure(made, SERVICE)
        removed.append(len(kube.written))
    assert removed == [3, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7]
    made.clock = lambda: start + timedelta(hours=1)
    for _ in range(2):
        await ensure(made, SERVICE)
    assert len(kube.written) == 8  # and then nothing is left to do
    assert made.fights.left(key_of("services", SERVICE), (start + timedelta(hours=1)).timestamp()) == 0.0


async def test_what_cannot_be_removed_stays_and_is_no_reason_to_stop() -> None:
    """The API server refuses it; the object holds what it should."""
    kube = Fought()
    made = await world(kube)
    kube.refusal = Invalid("", "immutable")
    entry = await ensure(made, SERVICE)
    assert await ensure(made, SERVICE) is entry


async def test_a_webhook_of_one_namespace_leaves_the_objects_of_others_to_be_asked_for() -> None:
    """It has no say in them, and they may have to be changed."""

    class Down(Stored):
        async def rehearse(self, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
            if body["metadata"]["namespace"] == "other":
                raise Retryable("HTTP 500 failed calling webhook")
            return {**body, "spec": {"changed": True}}

    kube = Down({})
    made = await world(kube)
    elsewhere = {**SERVICE, "metadata": {**SERVICE["metadata"], "namespace": "other"}}
    for manifest in (elsewhere, SERVICE):
        there = {**manifest, "metadata": {**manifest["metadata"], "uid": "u1", "resourceVersion": "7"}}
        made.seen.put(key_of("services", there), entry_of("services", there))
    kube.written.clear()
    for manifest in (elsewhere, SERVICE):
        await ensure(made, manifest)
    assert [body["metadata"]["namespace"] for body in kube.written] == [SERVICE["metadata"]["namespace"]]


async def test_what_somebody_changes_while_nobody_can_say_is_not_passed_over() -> None:
    """Ready may not stay True for it as long as the webhook is down."""
    kube = Stored(Retryable("HTTP 500 failed calling webhook"))
    made = await world(kube)
    made.seen.put(key_of("services", kube.body), entry_of("services", kube.body))
    await ensure(made, SERVICE)
    changed = {**kube.body, "metadata": {**kube.body["metadata"], "resourceVersion": "8"}, "spec": {"selector": {}}}
    made.seen.put(key_of("services", changed), entry_of("services", changed))
    with pytest.raises(Retryable, match="was changed"):
        await ensure(made, SERVICE)
    kube.answer = {"spec": {}}
    made.unasked.clear()
    await ensure(made, SERVICE)
    assert made.unsure == {}
