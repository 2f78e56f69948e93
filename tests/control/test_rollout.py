"""Whose receivers an upgrade of the operator restarts, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from auditpipeline.control import names, turns
from auditpipeline.control.facts import Workload
from auditpipeline.control.resources import PIPELINES, STATEFULSETS, Features
from auditpipeline.control.rollout import PATIENCE, STUCK, Rollout, is_due, is_whole, release, shape
from auditpipeline.control.seen import entry_of
from auditpipeline.control.settings import Settings
from tests.control.bodies import parsed, pipeline, rich
from tests.control.fakes import Answers, world

OLD, NEW = "old", "new"
WHOLE = Workload(2, 2, 2, True, OLD)


def fleet(count: int) -> dict[str, Workload]:
    """So many pipelines whose Pods are all Ready and of the former release."""
    return {f"p{number:02}": WHOLE for number in range(count)}


def restarting(known: dict[str, Workload], name: str) -> None:
    """Its StatefulSet is applied, and a Pod is missing."""
    known[name] = known[name]._replace(release=NEW, updated=0, observed=False)


@pytest.mark.parametrize(("count", "at_once"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (100, 10)])
def test_a_tenth_is_restarted_at_a_time_and_one_at_least(count: int, at_once: int) -> None:
    """Whoever asks first; the others wait, however often they ask."""
    rollout, known = Rollout(), fleet(count)
    for _ in range(3):
        assert sum(rollout.admits(name, known, NEW, 0) for name in known) == at_once
    assert len(rollout.waiting) == count - at_once


def test_the_next_one_follows_when_all_pods_are_new_and_ready() -> None:
    """Not when the first of them is, nor before the controller has looked."""
    rollout, known = Rollout(), fleet(3)
    assert rollout.admits("p00", known, NEW, 0)
    for there in (
        WHOLE,
        WHOLE._replace(release=NEW, observed=False),
        WHOLE._replace(release=NEW, updated=1, ready=1),
        WHOLE._replace(release=NEW, updated=1),
        WHOLE._replace(release=NEW, ready=1),
    ):
        known["p00"] = there
        assert not rollout.admits("p01", known, NEW, 1)
        assert rollout.upcoming(known, 1) == []
    known["p00"] = WHOLE._replace(release=NEW)
    rollout.settle(known, NEW, 2)
    assert rollout.upcoming(known, 2) == ["p01"]
    assert rollout.admits("p01", known, NEW, 2)


def test_a_restart_that_does_not_end_gives_its_place_up_after_a_while() -> None:
    """And comes again after all others."""
    rollout, known = Rollout(), fleet(3)
    assert rollout.admits("p00", known, NEW, 0)
    restarting(known, "p00")
    assert not rollout.admits("p01", known, NEW, STUCK - 1)
    assert rollout.admits("p01", known, NEW, STUCK)
    assert not rollout.admits("p02", known, NEW, STUCK)
    known["p01"] = WHOLE._replace(release=NEW)
    assert rollout.admits("p02", known, NEW, STUCK + 1)
    known["p00"] = known["p02"] = WHOLE._replace(release=NEW)
    rollout.settle(known, NEW, STUCK + 2)
    assert (rollout.rolling, rollout.stuck, rollout.waiting) == ({}, set(), {})


def test_one_whose_change_is_refused_holds_its_place_no_longer() -> None:
    """A webhook refuses its StatefulSet: it stays of the former release, and asks again and again."""
    rollout, known = Rollout(), fleet(3)
    assert rollout.admits("p00", known, NEW, 0)
    assert rollout.admits("p00", known, NEW, STUCK - 1)
    assert not rollout.admits("p01", known, NEW, STUCK - 1)
    assert not rollout.admits("p00", known, NEW, STUCK)
    assert rollout.upcoming(known, STUCK) == ["p01"]


def test_pipelines_with_missing_pods_come_last() -> None:
    """A restart may take their last Pod away. They come as soon as nobody else waits."""
    rollout, known = Rollout(), fleet(3)
    known["p00"] = WHOLE._replace(ready=1)
    assert not rollout.admits("p00", known, NEW, 0)
    assert rollout.admits("p01", known, NEW, 1)
    assert not rollout.admits("p02", known, NEW, 1)
    known["p01"] = WHOLE._replace(release=NEW)
    assert not rollout.admits("p00", known, NEW, PATIENCE + 1)
    assert rollout.admits("p02", known, NEW, PATIENCE + 2)
    known["p02"] = WHOLE._replace(release=NEW)
    assert rollout.admits("p00", known, NEW, PATIENCE + 3)


def test_the_next_process_goes_on_where_one_ended() -> None:
    """What is being restarted is seen; a pipeline that was broken before the upgrade is none of it."""
    known = fleet(4)
    restarting(known, "p00")
    known["p03"] = WHOLE._replace(ready=0)
    rollout = Rollout()
    assert not any(rollout.admits(name, known, NEW, 0) for name in ("p01", "p02", "p03"))
    assert rollout.rolling.keys() == {"p00"}


def test_pods_that_are_missing_again_and_again_keep_nobody_from_an_upgrade() -> None:
    """A pipeline that is upgraded already, and one that is new and never gets its Pods: their users' trouble."""
    rollout, known = Rollout(), fleet(3)
    known["p00"] = WHOLE._replace(release=NEW)
    rollout.settle(known, NEW, 0)
    restarting(known, "p00")
    known["new"] = WHOLE._replace(release=NEW, ready=0)
    assert rollout.admits("p01", known, NEW, 1)


def test_a_pipeline_that_is_deleted_gives_its_place_up() -> None:
    """Or its turn."""
    rollout, known = Rollout(), fleet(3)
    assert rollout.admits("p00", known, NEW, 0)
    assert not rollout.admits("p01", known, NEW, 0)
    del known["p00"], known["p01"]
    assert rollout.admits("p02", known, NEW, 1)
    assert rollout.waiting == {}


def test_what_the_operator_brings_in_has_a_name() -> None:
    """The image, how it is pulled, and what this cluster offers; not the rest of the settings."""
    settings, features = Settings(image="a:1"), Features()
    own = release(settings, features)
    for changed in ({"image": "a:2"}, {"image_pull_policy": "Always"}, {"image_pull_secrets": ("s",)}):
        assert release(replace(settings, **changed), features) != own
    assert release(settings, replace(features, seccomp=False)) != own
    assert release(settings, replace(features, claim_retention=False)) != own
    assert release(replace(settings, resync=1.0, identity="b"), features) == own


def test_what_a_user_brings_in_has_another() -> None:
    """All that reaches the Pods, and nothing else: a policy is read by the running process."""
    body = pipeline()
    own = shape(parsed(body))
    same = [
        pipeline(policy={"rules": [{"level": "Request"}]}),
        pipeline(throttle={"qps": 3}),
        pipeline(suspend=True),
        pipeline(webhook={"storage": {"ephemeral": True}, "spool": {"maxAge": "1h"}, "replicas": 2}),
    ]
    others = [
        pipeline(webhook={"storage": {"ephemeral": True}, "replicas": 1}),
        pipeline(webhook={"storage": {"ephemeral": True}, "nodeSelector": {"a": "b"}}),
        pipeline(webhook={}),
        pipeline(outputs=[{"name": "archive", "file": {"path": "/var/log/other/events.jsonl"}}]),
        rich(),
    ]
    assert {shape(parsed(each)) for each in same} == {own}
    assert own not in {shape(parsed(each)) for each in others}


def test_only_what_differs_by_the_operator_alone_waits() -> None:
    """Not what its user changed, or what somebody scaled."""
    wanted = parsed(pipeline())
    there = Workload(2, 2, 2, True, OLD, shape(wanted))
    assert is_due(there, wanted, NEW)
    assert is_due(there._replace(release=""), wanted, NEW)
    assert not is_due(there._replace(release="", shape=""), wanted, NEW)
    assert not is_due(there._replace(release=NEW), wanted, NEW)
    assert not is_due(there._replace(shape="other"), wanted, NEW)
    assert not is_due(there._replace(wanted=0), wanted, NEW)
    assert is_whole(there)


async def test_a_statefulset_with_a_pipelines_label_is_not_yet_its_own() -> None:
    """Whoever may make one in a namespace of receivers could count for any pipeline."""
    body = pipeline("shop")
    made = await world(Answers())
    made.seen.put((PIPELINES.plural, "", "shop"), entry_of(PIPELINES.plural, body))
    owned = [names.owner(parsed(body))]
    for name, references in (("audit-shop", owned), ("audit-shop-2", owned), ("other", [])):
        meta = {"name": name, "namespace": "audit", "labels": names.labels("shop"), "ownerReferences": references}
        sets = {"metadata": meta, "spec": {"replicas": len(name)}}
        made.seen.put((STATEFULSETS.plural, "audit", name), entry_of(STATEFULSETS.plural, sets))
    found = turns._fleet(made)
    assert {name: there.wanted for name, there in found.items()} == {"shop": len("audit-shop")}
