"""Whose an object is that has the name of one of ours."""

from __future__ import annotations

from typing import Any

import pytest

from auditpipeline.control import desired, names
from auditpipeline.control.ownership import Whose, owner, taken, whose
from tests.control import bodies

PIPELINE = bodies.parsed()
OURS = names.owner(PIPELINE)
CHILD = desired.account(PIPELINE, "audit")
OWN = desired.secret({"name": "auditpipeline-client", "namespace": "audit", "labels": names.gateway_labels()}, {})
SET = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "x", "uid": "s", "controller": True}


def found(*owners: dict[str, Any], labels: dict[str, str] | None = None) -> dict[str, Any]:
    """An object with these owners."""
    return {"metadata": {"name": "x", "ownerReferences": list(owners), "labels": labels or {}}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (found(OURS), Whose.OURS),
        (found({**OURS, "controller": False}), Whose.OURS),
        (found({**OURS, "uid": "before"}), Whose.FORMER),
        (found({**OURS, "uid": "before", "name": "other"}), Whose.FOREIGN),
        (found({**OURS, "apiVersion": "example.org/v1"}), Whose.FOREIGN),
        (found({**OURS, "kind": "Other"}), Whose.FOREIGN),
        (found({**OURS, "controller": False}, SET), Whose.FOREIGN),
        (found(labels=names.labels("security")), Whose.FOREIGN),
        ({"metadata": {"name": "x"}}, Whose.FOREIGN),
    ],
    ids=["uid", "not controlling", "made again", "of another", "group", "kind", "controlled", "labels alone", "bare"],
)
def test_a_child_belongs_to_the_uid_that_its_owner_reference_names(body: dict[str, Any], expected: Whose) -> None:
    """Labels are no proof: anybody can write them."""
    assert whose(CHILD, body) is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (found(labels={names.MANAGED_BY: names.MANAGER}), Whose.OURS),
        (found({**SET, "controller": False}, labels={names.MANAGED_BY: names.MANAGER}), Whose.OURS),
        (found(SET, labels={names.MANAGED_BY: names.MANAGER}), Whose.FOREIGN),
        (found(labels={names.MANAGED_BY: "Helm"}), Whose.FOREIGN),
        ({"metadata": {"name": "x", "labels": None, "ownerReferences": None}}, Whose.FOREIGN),
    ],
)
def test_an_object_of_the_operators_own_has_its_label_and_no_controller(body: dict[str, Any], expected: Whose) -> None:
    """These have no owner."""
    assert whose(OWN, body) is expected


def test_a_reference_without_a_group_is_nobodys() -> None:
    """As some tools write them."""
    assert owner({"ownerReferences": [{"kind": "AuditPipeline", "uid": "x"}]}) is None


def test_the_error_names_the_object_and_says_what_to_do() -> None:
    """For a namespaced child, the AuditSink, and an object of the operator's own."""
    said = str(taken(CHILD))
    assert said.startswith("ServiceAccount audit/audit-security exists")
    assert "delete or rename that object, or give the pipeline another name" in said
    sink = {"kind": "AuditSink", "metadata": {"name": "audit-security", "ownerReferences": [OURS]}}
    assert str(taken(sink)).startswith("AuditSink audit-security exists")
    assert "app.kubernetes.io/managed-by=auditpipeline" in str(taken(OWN))
