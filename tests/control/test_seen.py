"""What is seen of objects: which differences count, and which order is right."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from auditpipeline.control.facts import Problem, Workload
from auditpipeline.control.seen import Entry, Seen, entry_of, fingerprint, pod_facts

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "audit-a",
        "namespace": "audit",
        "uid": "u1",
        "resourceVersion": "5",
        "generation": 1,
        "managedFields": [{}],
        "labels": {"auditpipeline.dev/pipeline": "a"},
        "ownerReferences": [{"apiVersion": "auditpipeline.dev/v1alpha1", "kind": "AuditPipeline", "uid": "p1"}],
    },
    "spec": {"clusterIP": "10.0.0.1"},
    "status": {},
}
KEY = ("services", "audit", "audit-a")


@pytest.mark.parametrize(
    ("path", "value", "counts"),
    [
        (("metadata", "resourceVersion"), "6", False),
        (("metadata", "managedFields"), [], False),
        (("metadata", "generation"), 2, False),
        (("status",), {"loadBalancer": {}}, False),
        (("metadata", "labels"), {}, True),
        (("metadata", "annotations"), {"a": "b"}, True),
        (("metadata", "ownerReferences"), [], True),
        (("spec", "selector"), {"a": "b"}, True),
        (("data",), {"a": "b"}, True),
    ],
    ids=str,
)
def test_a_fingerprint_changes_with_what_somebody_can_write(path: tuple[str, ...], value: Any, counts: bool) -> None:
    """And with nothing else, so that a resync finds nothing to do."""
    changed = copy.deepcopy(SERVICE)
    node = changed
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert (fingerprint(changed) != fingerprint(SERVICE)) is counts


@pytest.mark.parametrize(
    ("plural", "meta", "counts"),
    [
        ("services", {"annotations": {"a": "b"}}, False),
        ("auditsinks", {"annotations": {"a": "b"}}, False),
        ("auditsinks", {"annotations": {"auditpipeline.dev/redaction": "none"}}, True),
        ("services", {"labels": SERVICE["metadata"]["labels"] | {"team": "a"}}, False),
        ("services", {"labels": {"auditpipeline.dev/pipeline": "b"}}, True),
        ("services", {"labels": {}}, True),
        ("auditpipelines", {"annotations": {"a": "b"}}, True),
        ("auditpipelines", {"labels": {"team": "a"}}, True),
    ],
)
def test_labels_and_annotations_of_others_are_no_drift_of_a_child(
    plural: str, meta: dict[str, Any], counts: bool
) -> None:
    """They are left to whoever writes them; those of an AuditPipeline are its user's. What an AuditSink says of
    redaction decides what it gets."""
    before = SERVICE["metadata"] | {"annotations": {}}
    entries = [entry_of(plural, SERVICE | {"metadata": before | change}) for change in ({}, meta)]
    assert (entries[0].fingerprint != entries[1].fingerprint) is counts


def test_an_entry_knows_its_pipeline_owner_and_address() -> None:
    """All that pruning and the gateway need."""
    entry = entry_of("services", SERVICE)
    assert (entry.pipeline, entry.owner, entry.facts, entry.deleting) == ("a", "p1", "10.0.0.1", False)


def version(number: str, uid: str = "u1") -> Entry:
    """The Service at some resourceVersion."""
    return entry_of("services", SERVICE)._replace(version=number, uid=uid, fingerprint=number)


def test_an_event_older_than_our_own_write_is_left_aside() -> None:
    """Watches lag behind answers; nothing must be written twice for that."""
    seen = Seen()
    seen.put(KEY, version("10"))
    assert not seen.put(KEY, version("9"))
    assert seen.entries[KEY].version == "10"


def test_another_object_of_the_same_name_is_taken_where_it_is_newer() -> None:
    """It was deleted and made again; versions grow over that, and where they are no numbers, what comes last counts."""
    seen = Seen()
    seen.put(KEY, version("10"))
    assert seen.put(KEY, version("11", uid="u2"))
    assert seen.put(KEY, version("x", uid="u3"))


def test_an_older_object_of_the_same_name_does_not_come_back() -> None:
    """A page of a list that was begun before it was deleted and made again."""
    seen = Seen()
    seen.put(KEY, version("5", uid="old"))
    seen.drop(KEY, "old", "8")
    seen.put(KEY, version("9", uid="new"))
    assert not seen.put(KEY, version("5", uid="old"))
    assert seen.entries[KEY].uid == "new"


@pytest.mark.parametrize("told", ["8", ""])
def test_what_was_deleted_does_not_come_back_by_what_was_said_before(told: str) -> None:
    """Whether a watch told of it, or we deleted it ourselves; not known before, or known. What is newer comes."""
    for known in (True, False):
        seen = Seen()
        if known:
            seen.put(KEY, version("5"))
        seen.drop(KEY, "u1", told)
        if told or known:
            assert not seen.put(KEY, version("5"))
        assert seen.put(KEY, version("9", uid="u2"))


@pytest.mark.parametrize(("deleted", "uid"), [("", "u1"), ("9", "u1"), ("9", "u2")])
def test_the_deletion_of_a_former_object_leaves_its_successor(deleted: str, uid: str) -> None:
    """DELETED may come after the answer to the next creation, or to our putting back a label."""
    seen = Seen()
    seen.put(KEY, version("10", uid="u2"))
    assert seen.drop(KEY, uid, deleted) is None
    assert KEY in seen.entries


def test_a_deletion_newer_than_all_that_is_known_is_one() -> None:
    """Its creation was missed."""
    seen = Seen()
    seen.put(KEY, version("5", uid="u1"))
    assert seen.drop(KEY, "u2", "9") is not None
    assert KEY not in seen.entries


def test_deletions_are_remembered_for_a_while_only() -> None:
    """The oldest are forgotten."""
    seen = Seen()
    for number in range(5000):
        seen.drop(("services", "audit", f"audit-{number}"), "u", "8")
    assert len(seen.buried) == 4096
    assert ("services", "audit", "audit-4999") in seen.buried


def test_a_list_removes_what_it_does_not_hold_but_nothing_newer_than_itself() -> None:
    """An object made while the list was read is not in it."""
    seen = Seen()
    seen.put(KEY, version("1"))
    since = seen.clock
    newer = ("services", "audit", "audit-b")
    seen.put(newer, version("2"))
    assert len(seen.keep_only("services", "audit", [], since)) == 1
    assert list(seen.entries) == [newer]


def test_what_belongs_to_a_pipeline_follows_its_label() -> None:
    """A child whose label is taken away is nobody's, and one that is deleted is gone."""
    seen = Seen()
    seen.put(KEY, version("1"))
    assert list(seen.of("a")) == [KEY]
    seen.put(KEY, version("2")._replace(pipeline=""))
    assert seen.of("a") == {}
    seen.put(KEY, version("3"))
    seen.drop(KEY)
    assert (seen.of("a"), seen.members) == ({}, {})


def test_a_statefulset_is_observed_when_its_controller_has_caught_up() -> None:
    """Ready Pods of a former spec do not count as this one's."""
    body = {"metadata": {"name": "a", "generation": 2}, "spec": {"replicas": 2}, "status": {"readyReplicas": 2}}
    assert entry_of("statefulsets", body).facts == Workload(2, 2, 0, False)


def test_a_pod_without_a_node_says_why() -> None:
    """The scheduler's words come through."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    body = {"metadata": {"name": "a-0"}, "status": {"phase": "Pending", "conditions": [condition]}}
    assert pod_facts(body).problem == Problem("Unschedulable", "Pod a-0 has no node: 0/1 nodes")


def test_a_container_that_is_being_made_is_no_problem() -> None:
    """One whose image is missing is."""
    waiting: dict[str, Any] = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    body = {"metadata": {"name": "a-0"}, "status": {"containerStatuses": [waiting]}}
    assert pod_facts(body).problem is None
    waiting["state"]["waiting"] = {"reason": "ErrImageNeverPull", "message": "no image"}
    assert pod_facts(body).problem == Problem("ErrImageNeverPull", "Pod a-0 does not start: no image")
