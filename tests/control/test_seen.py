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
        "ownerReferences": [{"kind": "AuditPipeline", "uid": "p1"}],
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


def test_another_object_of_the_same_name_is_taken_whatever_its_version() -> None:
    """It was deleted and made again."""
    seen = Seen()
    seen.put(KEY, version("10"))
    assert seen.put(KEY, version("9", uid="u2"))


def test_the_deletion_of_a_former_object_leaves_its_successor() -> None:
    """DELETED may come after the answer to the next creation."""
    seen = Seen()
    seen.put(KEY, version("10", uid="u2"))
    assert seen.drop(KEY, "u1") is None
    assert KEY in seen.entries


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
