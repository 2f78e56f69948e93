"""The fast way through the filter is the plain one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core.event import cut, decode_event, encode_line, head
from auditpipeline.core.policy import Attributes, Policy, Rule
from auditpipeline.dataplane.filter import Filter
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
        "requestObject": BODY,
        "responseObject": {"kind": "List", "items": [BODY]},
        **more,
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
@given(st.lists(st.lists(quiet, min_size=1, max_size=2).map(tuple), max_size=3), st.lists(events, max_size=6))
def test_what_is_looked_up_is_what_the_interpreter_says(
    routes: list[tuple[Policy, ...]], sent: list[dict[str, Any]]
) -> None:
    """For several routes with several policies each; twice, as the second time goes by what is remembered."""
    filter_ = Filter(routes)
    body = json.dumps({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": sent}).encode()
    expected = []
    for each in sent:
        found = decode_event(json.dumps(each).encode())
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
    everything = Filter([(Policy(rules=(Rule(level="RequestResponse"),)),)])
    for path in sorted((DATA / "batches").glob("*.json")):
        body = path.read_bytes()
        taken = everything.take(body)
        assert taken.filtered == 0
        assert b",".join(taken.lines) in body
