"""The fast way through the filter is the plain one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core.event import ENVELOPE, as_item, cut, decode_event, encode_line, head
from auditpipeline.core.known import decode_known
from auditpipeline.core.policy import Attributes, Policy, Rule
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.dataplane.filter import Filter, Wanted
from tests.core import corners
from tests.dataplane.setting import DATA

BODY = {"metadata": {"name": "a", "managedFields": [{"x": 1.50}]}, "big": 1}
STATUSES = [{}, {"responseStatus": {"code": 404}}, {"responseStatus": {"code": 200}}, {"responseStatus": None}]


def event(request: Attributes, level: str, stage: str, more: dict[str, Any]) -> dict[str, Any]:
    """An event as kube-apiserver makes it of such a request."""
    ref = {
        "resource": request.resource,
        "subresource": request.subresource,
        "apiGroup": request.group,
        "namespace": request.namespace,
        "name": request.name,
    }
    return {
        "level": level,
        "auditID": "a",
        "stage": stage,
        "requestURI": request.path,
        "verb": request.verb,
        "user": {"username": request.user, "groups": request.groups} if request.user else {},
        **({"objectRef": ref} if request.resource is not None else {}),
        **{key: value for key, value in more.items() if key == "responseStatus"},
        "requestObject": BODY,
        "responseObject": {"kind": "List", "items": [BODY]},
        **{key: value for key, value in more.items() if key != "responseStatus"},
    }


events = st.builds(
    event,
    corners.requests,
    st.sampled_from(corners.LEVELS[1:]),
    st.sampled_from(["RequestReceived", "ResponseComplete"]),
    st.sampled_from([*STATUSES, {"new": "é"}]),
)
quiet = st.builds(
    lambda policy, codes: msgspec.structs.replace(
        policy, rules=tuple(msgspec.structs.replace(rule, omit_response_codes=codes) for rule in policy.rules)
    ),
    corners.policies(most=4),
    st.sampled_from([(), (404,)]),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.lists(quiet, min_size=1, max_size=2).map(tuple), max_size=3),
    st.lists(events, max_size=6),
    st.sampled_from([(",", ":"), (", ", ": "), (",\n", ":")]),
)
def test_what_is_looked_up_is_what_the_interpreter_says(
    routes: list[tuple[Policy, ...]], sent: list[dict[str, Any]], separators: tuple[str, str]
) -> None:
    """For several routes with several policies each; twice, as the second time goes by what is remembered. In each of
    the forms that a body is decoded to: as kube-apiserver writes it (the first), with spaces, over several lines."""
    filter_ = Filter(Wanted(policies, Redaction(default=False)) for policies in routes)
    whole = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": sent}
    body = json.dumps(whole, separators=separators).encode()
    expected = []
    for each in sent:
        found = decode_event(json.dumps(each, separators=separators).encode())
        captured = head(found)
        if decision := filter_.decide(captured):
            expected.append(encode_line(cut(found, captured.level, decision)))
    for _ in range(2):
        taken = filter_.take(body)
        assert taken.dead == []
        assert taken.lines == expected
        assert taken.filtered == len(sent) - len(expected)


def test_real_bodies_pass_byte_for_byte() -> None:
    """What kube-apiserver posted, split into its events and nothing else."""
    everything = Filter([Wanted((Policy(rules=(Rule(level="RequestResponse"),)),))])
    for path in sorted((DATA / "batches").glob("*.json")):
        body = path.read_bytes()
        assert decode_known(body)
        taken = everything.take(body)
        assert taken.filtered == 0
        assert all(line.startswith(ENVELOPE) for line in taken.lines)
        assert b",".join(map(as_item, taken.lines)) in body


def test_what_cannot_be_read_is_put_aside_in_every_form() -> None:
    """The dead letter is the event as it came, and the others go on."""
    good = event(Attributes("alice", (), "get", "/"), "Metadata", "ResponseComplete", {})
    for bad in (
        good | {"user": 5},
        good | {"level": "Some"},
        good | {"stage": "Never"},
        good | {"extra": 1, "user": 5},
    ):
        whole = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [good, bad, good]}
        body = json.dumps(whole, separators=(",", ":")).encode()
        taken = Filter([Wanted((Policy(rules=(Rule(level="Metadata"),)),))]).take(body)
        assert [json.loads(dead.data) for dead in taken.dead] == [json.loads(json.dumps(bad))]
        assert len(taken.lines) == 2


@pytest.mark.parametrize("policy", [Policy(), Policy((Rule("Metadata"),))])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (",\n", ":")])
def test_canaries_are_found_in_every_form_wanted_or_not(policy: Policy, separators: tuple[str, str]) -> None:
    """As they came; a body that only speaks of one has none."""
    asked = Attributes("operator", ("system:authenticated",), "get", "/auditpipeline-canary/here/1")
    canary = event(asked, "Metadata", "ResponseComplete", {})
    other = event(asked._replace(path="/version?/auditpipeline-canary/here/2"), "Metadata", "ResponseComplete", {})
    whole = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": [other, canary, other]}
    found = Filter([Wanted((policy,))]).take(json.dumps(whole, separators=separators).encode()).canaries
    assert [json.loads(msgspec.json.encode(each)) for each in found] == [json.loads(json.dumps(canary))]
