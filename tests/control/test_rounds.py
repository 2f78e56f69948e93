"""One round of one pipeline, by what goes wrong in it: a status is written all the same, and nobody else waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from auditpipeline.control import reconcile as module
from auditpipeline.control import static
from auditpipeline.control.acceptance import _anew
from auditpipeline.control.accepted import recall
from auditpipeline.control.desired_pod import statefulset
from auditpipeline.control.facts import Facts, Heard
from auditpipeline.control.generation import Accepted
from auditpipeline.control.generation import secret as kept
from auditpipeline.control.reconcile import reconcile
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import PIPELINES, SECRETS, STATEFULSETS, Features, Resource
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.control.settings import Settings
from auditpipeline.control.trouble import GRACE
from auditpipeline.control.world import World
from auditpipeline.core.errors import Retryable
from auditpipeline.core.report import Events, Report
from tests.control import bodies
from tests.control.fakes import Answers, world
from tests.control.test_status import COVERED, good, status
from tests.control.test_trouble import START, Clock, Failing, failing, said

KEY = (PIPELINES.plural, "", "security")
DELETED = {"deletionTimestamp": "2026-01-01T12:00:00Z", "finalizers": ["example.com/stays"]}


async def looked_at(kube: Answers, clock: Clock | None = None, **changed: Any) -> World:
    """A controller that knows the pipeline of `kube`, has had one round of it, and asks no Pods."""
    made = await world(kube, clock=clock or Clock(), closed=frozenset({"auditpipeline-system"}), **changed)
    made.seen.put(KEY, entry_of(PIPELINES.plural, kube.objects["auditpipelines", "security"]))
    kube.written.clear()
    await again(made)
    return made


async def again(made: World) -> float | None:
    """Another round."""
    return await reconcile(made, Recorder(made.kube, made.clock, "test"), "security")


async def test_a_pipeline_that_is_being_deleted_is_not_called_ready() -> None:
    """A finalizer of somebody else holds it: nothing of it is maintained any more."""
    body = bodies.pipeline() | {"status": status(good(upstream=COVERED), {})}
    body["metadata"] |= DELETED
    kube = Answers({("auditpipelines", "security"): body})
    made = await looked_at(kube)
    assert said(kube) == [{"status": "False", "reason": "BeingDeleted"}]
    assert made.ready == {"security": False}
    assert not [written for written in kube.written if written.get("kind") not in (None, "Event")]


async def test_a_pipeline_that_is_being_deleted_keeps_nothing_from_being_published() -> None:
    """After a restart of the operator its policy is known as any other's: its sink is there yet."""
    body = bodies.pipeline()
    body["metadata"] |= DELETED
    made = await looked_at(Answers({("auditpipelines", "security"): body}))
    made.upstream.ask_foreign({})
    assert static._complete(made)
    assert made.upstream.wanted()


async def test_a_step_that_runs_in_any_case_may_fail_as_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exception is said, and keeps no status from being written."""
    monkeypatch.setattr(module, "asks", broken)
    body = bodies.pipeline() | {"status": status(good(upstream=COVERED), {})}
    kube = Answers({("auditpipelines", "security"): body})
    made = await world(kube, clock=Clock(), closed=frozenset({"auditpipeline-system"}))
    made.troubles["security"] = START.timestamp() - GRACE
    kube.written.clear()
    with pytest.raises(OverflowError):
        await again(made)
    assert said(kube) == [{"status": "False", "reason": "InternalError"}]
    assert made.ready == {"security": False}


def broken(*_: object) -> None:
    """A fault that nobody foresaw."""
    raise OverflowError


async def test_a_webhook_that_hangs_is_forgiven_for_no_longer_than_one_that_refuses() -> None:
    """The round that waited for it has taken that time already."""
    kube, made, clock = await failing(status(good(upstream=COVERED), {}), Retryable("HTTP 500 failed calling webhook"))
    before = Failing.get

    async def slow(self: Failing, kind: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        if kind is SECRETS and name == "siem":
            clock.at += timedelta(seconds=30)
        return await before(self, kind, name, namespace)

    kube.get = slow.__get__(kube)  # type: ignore[method-assign]
    with pytest.raises(Retryable):
        await again(made)
    assert said(kube) == [{"status": "False", "reason": "Retrying"}]


async def test_a_pipeline_that_is_made_again_inherits_nothing() -> None:
    """Not even if nobody looked while there was none: events of the former one prove nothing of it."""
    body = bodies.pipeline()
    kube = Answers({("auditpipelines", "security"): body})
    made = await looked_at(kube)
    came = Report("receiver", "security", "", Events(received=5), ())
    made.reports["security"] = {"audit-security-0": Heard("u", came)}
    kube.objects["auditpipelines", "security"] = body | {"metadata": body["metadata"] | {"uid": "another"}}
    made.closed = frozenset()
    kube.written.clear()
    await again(made)
    assert "firstEventAt" not in {key for written in kube.written for key in written}


async def test_a_generation_that_is_kept_where_the_pipeline_lived_before_does_not_come_back() -> None:
    """The operator may delete no Secret: both are there after it has moved, and after a restart either may be found."""
    body = bodies.pipeline()

    class Kept(Answers):
        async def get(self, kind: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
            return self.objects.get((namespace or "", name)) or await super().get(kind, name, namespace)

    kube = Kept()
    made = await world(kube)
    for number in range(8):
        generation = Accepted(body["metadata"]["uid"], number, "", body["spec"])
        secret = kept(bodies.parsed(body), f"n{number}", generation, made.authority.seal)
        assert secret is not None
        kube.objects[f"n{number}", secret["metadata"]["name"]] = secret
        made.seen.put(key_of("secrets", secret), entry_of("secrets", secret))
    found = await recall(Round(made, body, Facts(9, made.clock())))
    assert found is not None
    assert found.generation == 7


async def test_an_object_of_the_name_of_a_rehearsal_keeps_nobody_from_another_storage() -> None:
    """A pipeline called security-new has it, and whoever may make one."""
    body = bodies.pipeline("security")
    manifest = statefulset(bodies.parsed(body), "audit", Settings(), Features())
    other = bodies.pipeline("security-new")
    other["metadata"]["uid"] = "another"
    foreign = statefulset(bodies.parsed(other), "audit", Settings(), Features())
    kube = Answers({(STATEFULSETS.plural, "audit-security-new"): foreign})
    made = await world(kube)
    made.seen.put(key_of(STATEFULSETS.plural, foreign), entry_of(STATEFULSETS.plural, foreign))
    assert await _anew(Round(made, body, Facts(3, made.clock())), manifest) is None
