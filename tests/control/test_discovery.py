"""What a cluster can do, by what its API server answers: nothing is taken for missing that may only be on its way."""

from __future__ import annotations

from typing import Any

import pytest

from auditpipeline.control.discovery import discover
from auditpipeline.control.kube import NotFound
from auditpipeline.core.errors import Retryable
from tests.control.fakes import Answers


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
NOW = ("policy/v1", "events.k8s.io/v1")


async def test_audit_sinks_of_1_18_are_kube_apiservers_own() -> None:
    """It serves them, and there is no CRD of that name; older kinds are used, newer fields are left out."""
    found = await discover(cluster("18+", SINK, "policy/v1beta1", "events.k8s.io/v1beta1"))
    assert (found.sinks, found.sink_rules, found.claim_retention, found.seccomp) == ("builtin", False, False, False)
    assert (found.budgets.api_version, found.events.api_version) == ("policy/v1beta1", "events.k8s.io/v1beta1")


async def test_audit_sinks_of_our_crd_have_rules() -> None:
    """As long as its schema does."""
    found = await discover(cluster("37", SINK, *NOW, crd=crd(level={}, rules={})))
    assert (found.sinks, found.sink_rules, found.claim_retention) == ("crd", True, True)
    assert not (await discover(cluster("37", SINK, *NOW, crd=crd(level={})))).sink_rules


async def test_a_cluster_may_have_no_audit_sinks() -> None:
    """The operator starts all the same."""
    assert (await discover(cluster("37", *NOW))).sinks == "absent"


@pytest.mark.parametrize(
    ("what", "minor", "served", "crd_"),
    [
        ("a CRD whose kind is not served", "37", NOW, crd(rules={})),
        ("a kind whose CRD is not there", "37", (SINK, *NOW), None),
        ("v1beta1 alone, in a release that has v1", "37", (SINK, "policy/v1beta1", "events.k8s.io/v1"), crd(rules={})),
        ("a group that every release has", "37", (SINK, "policy/v1"), crd(rules={})),
        ("nothing at all", "37", (), None),
        ("nothing at all, in 1.18", "18", (), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_discovery_that_is_not_complete_is_tried_again(
    what: str, minor: str, served: tuple[str, ...], crd_: dict[str, Any] | None
) -> None:
    """An API server that is starting serves some of what it will serve."""
    with pytest.raises(Retryable, match="discovery"):
        await discover(cluster(minor, *served, crd=crd_))


async def test_that_something_is_missing_is_believed_of_an_api_server_that_is_ready() -> None:
    """Of one that is not, everything may be missing; that nothing is, needs no asking."""
    unready = Retryable("get //readyz: HTTP 500")
    for kube in (cluster("37", *NOW), cluster("37", SINK, *NOW, crd=crd(level={}))):
        kube.refused["/readyz"] = unready
        with pytest.raises(Retryable, match="readyz"):
            await discover(kube)
    kube = cluster("37", SINK, *NOW, crd=crd(rules={}))
    kube.refused["/readyz"] = unready
    assert (await discover(kube)).sinks == "crd"


async def test_an_api_server_that_does_not_know_whether_it_is_ready_is_an_old_one() -> None:
    """/readyz came with 1.16."""
    kube = cluster("15", SINK, "policy/v1beta1", "events.k8s.io/v1beta1")
    kube.refused["/readyz"] = NotFound("get //readyz: not found")
    assert (await discover(kube)).sinks == "builtin"


async def test_two_looks_that_differ_are_none() -> None:
    """Another API server behind the same address, or one that has just learned of the CRD."""

    class Learning(Answers):
        async def plain(self, path: str, server: str = "") -> bytes:
            learned = cluster("37", SINK, *NOW, crd=crd(rules={}))
            self.objects, self.paths = learned.objects, learned.paths
            return b"ok"

    kube = Learning(paths=cluster("37", *NOW).paths)
    with pytest.raises(Retryable, match="changing"):
        await discover(kube)
    assert (await discover(kube)).sinks == "crd"


async def test_a_crd_whose_names_are_taken_is_no_audit_sink() -> None:
    """It is never served; the operator starts all the same."""
    taken = crd(rules={}) | {"status": {"conditions": [{"type": "NamesAccepted", "status": "False"}]}}
    assert (await discover(cluster("37", *NOW, crd=taken))).sinks == "absent"
