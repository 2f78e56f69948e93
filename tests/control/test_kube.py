"""Answers of an API server, and what they tell the controller to do next."""

from __future__ import annotations

import json
from typing import Any

import pytest
from yarl import URL

from auditpipeline.control.discovery import discover
from auditpipeline.control.kube import Conflict, Forbidden, NotFound, translate
from auditpipeline.control.resources import SECRETS, SERVICES, STATEFULSETS
from auditpipeline.core.errors import Invalid, Permanent, Retryable
from tests.control.fakes import Answers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (422, Invalid),
        (429, Retryable),
        (401, Retryable),
        (500, Retryable),
        (503, Retryable),
    ],
)
def test_an_answer_says_whether_trying_again_helps(status: int, kind: type[Exception]) -> None:
    """One line a status."""
    error = translate(status, b"", "get", SECRETS, "audit")
    assert isinstance(error, kind)
    assert isinstance(error, Retryable) is (kind not in (Invalid, Forbidden))


def test_a_refusal_names_the_permission_and_the_namespace() -> None:
    """That is what somebody has to grant."""
    error = translate(403, json.dumps({"message": "no"}).encode(), "apply", STATEFULSETS, "audit")
    assert isinstance(error, Permanent)
    assert str(error) == "the operator may not apply statefulsets.apps in namespace audit: no"


def test_a_server_that_says_how_long_to_wait_is_heard() -> None:
    """details.retryAfterSeconds of a Status."""
    error = translate(429, b'{"message":"slow down","details":{"retryAfterSeconds":7}}', "list", SECRETS, None)
    assert isinstance(error, Retryable)
    assert error.after == 7


@pytest.mark.parametrize("body", [None, b"", b"<html>", b"[]", b"\xff"])
def test_an_answer_that_is_no_status_is_no_trouble(body: bytes | None) -> None:
    """Proxies answer in HTML."""
    assert isinstance(translate(502, body, "get", SECRETS, None), Retryable)


@pytest.mark.parametrize("name", ["../secrets/auditpipeline-ca", "a?b", "a#b", "a%2Fb", "a b", "\n"])
def test_a_strange_name_stays_one_segment_of_the_path(name: str) -> None:
    """As the client sends it: no name leads to another kind of object."""
    path = URL(f"https://host{SERVICES.path(name, 'audit')}").raw_path
    assert path.startswith("/api/v1/namespaces/audit/services/")
    assert path.count("/") == 6


@pytest.mark.parametrize(("name", "namespace"), [(".", "audit"), ("..", "audit"), ("a", ".."), ("a", ".")])
def test_no_object_is_called_like_a_folder(name: str, namespace: str) -> None:
    """The client would clean it away, and the answer would be that of another path."""
    with pytest.raises(Invalid, match="no name of an object"):
        SERVICES.path(name, namespace)


def cluster(minor: str, *versions: str, crd: dict[str, Any] | None = None) -> Answers:
    """The discovery documents of a cluster that serves `versions`."""
    groups = {"groups": [{"versions": [{"groupVersion": version} for version in versions]}]}
    objects = {("customresourcedefinitions", "auditsinks.auditregistration.k8s.io"): crd} if crd else {}
    return Answers(objects, {"/version": {"major": "1", "minor": minor}, "/apis": groups})


def crd(**fields: Any) -> dict[str, Any]:
    """Our CRD, with `fields` in spec.policy."""
    policy = {"properties": fields}
    schema = {"properties": {"spec": {"properties": {"policy": policy}}}}
    return {"spec": {"versions": [{"name": "v1alpha1", "schema": {"openAPIV3Schema": schema}}]}}


SINK = "auditregistration.k8s.io/v1alpha1"


async def test_audit_sinks_of_1_18_are_kube_apiservers_own() -> None:
    """It serves them, and there is no CRD of that name; older kinds are used, newer fields are left out."""
    found = await discover(cluster("18+", SINK, "policy/v1beta1", "events.k8s.io/v1beta1"))
    assert (found.sinks, found.sink_rules, found.claim_retention, found.seccomp) == ("builtin", False, False, False)
    assert (found.budgets.api_version, found.events.api_version) == ("policy/v1beta1", "events.k8s.io/v1beta1")


async def test_audit_sinks_of_our_crd_have_rules() -> None:
    """As long as its schema does."""
    now = ("policy/v1", "events.k8s.io/v1")
    found = await discover(cluster("37", SINK, *now, crd=crd(level={}, rules={})))
    assert (found.sinks, found.sink_rules, found.claim_retention) == ("crd", True, True)
    assert not (await discover(cluster("37", SINK, *now, crd=crd(level={})))).sink_rules


async def test_a_cluster_may_have_no_audit_sinks() -> None:
    """The operator starts all the same."""
    assert (await discover(cluster("37", "policy/v1"))).sinks == "absent"
