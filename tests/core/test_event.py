"""Events are judged by what they say, and cut without touching the rest."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import Raw, cut, decode_body, encode_line, head, narrow
from auditpipeline.core.policy import Level, Policy, Rule, decide
from tests.core.test_policy import CASES

OBJECT = {"metadata": {"name": "web", "managedFields": [{"manager": "kubectl"}]}, "spec": {"x": 1.50}}
EVENT = {
    "level": "RequestResponse",
    "auditID": "a-1",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/namespaces/default/pods/web?watch=1",
    "verb": "update",
    "user": {"username": "alice", "groups": ["team"]},
    "objectRef": {"resource": "pods", "namespace": "default", "name": "web", "apiVersion": "v1"},
    "requestObject": OBJECT,
    "responseObject": {"kind": "List", "items": [OBJECT]},
    "somethingNew": {"kept": [1, 2.0, "ü"]},
}


def raw(event: dict[str, Any]) -> Raw:
    return msgspec.json.decode(json.dumps(event), type=Raw)


def policy(level: str, **fields: Any) -> Policy:
    return Policy(rules=(Rule(level=level),), **fields)


def narrowed(event: dict[str, Any], *policies: Policy) -> dict[str, Any] | None:
    captured = head(raw(event))
    decision = narrow(captured, policies)
    return json.loads(encode_line(cut(raw(event), captured.level, decision))) if decision else None


@pytest.mark.parametrize(
    "case", [case for case in CASES.get("policy_cases", []) if "event" in case], ids=lambda case: case["id"]
)
def test_an_event_is_judged_as_its_request_was(case: dict[str, Any]) -> None:
    """The cases of Kubernetes again, from the event's side."""
    fields = {k: v for k, v in case["policy"].items() if k not in ("apiVersion", "kind")}
    decision = decide(msgspec.convert(fields, Policy), head(raw(case["event"])).request)
    assert decision.level.title == case["expect"]["level"]


@pytest.mark.parametrize(
    ("level", "bodies"),
    [("Metadata", set()), ("Request", {"requestObject"}), ("RequestResponse", {"requestObject", "responseObject"})],
)
def test_a_level_has_the_bodies_that_it_may_have(level: str, bodies: set[str]) -> None:
    """Everything else stays, unknown fields included, and the level is told."""
    left = narrowed(EVENT, policy(level))
    assert left is not None
    assert {"requestObject", "responseObject"} & left.keys() == bodies
    assert left["level"] == level
    assert left["somethingNew"] == EVENT["somethingNew"]


def test_what_is_not_cut_is_byte_for_byte() -> None:
    """Numbers keep their spelling: 1.50 does not become 1.5."""
    body = b'{"level":"Request","auditID":"a","stage":"Panic","requestObject":{"a" :1.50,"e":1E3}}'
    (event,) = decode_body(b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[' + body + b"]}")
    assert b'{"a" :1.50,"e":1E3}' in encode_line(
        cut(event, Level.REQUEST, decide(policy("Request"), head(event).request))
    )


def test_a_policy_never_raises_a_level() -> None:
    """A receiver can only take away: what was captured at Metadata stays Metadata."""
    left = narrowed(EVENT | {"level": "Metadata"}, policy("RequestResponse"))
    assert left is not None
    assert left["level"] == "Metadata"


def test_the_narrowest_policy_decides() -> None:
    """An output's policy narrows its pipeline's, whichever comes first."""
    for pair in ((policy("Request"), policy("Metadata")), (policy("Metadata"), policy("Request"))):
        left = narrowed(EVENT, *pair)
        assert left is not None
        assert left["level"] == "Metadata"


def test_an_omitted_stage_and_level_none_leave_nothing() -> None:
    """Both ways of leaving an event out."""
    assert narrowed(EVENT, policy("None")) is None
    assert narrowed(EVENT, policy("Metadata", omit_stages=("ResponseComplete",))) is None
    assert narrowed(EVENT, Policy()) is None


def test_managed_fields_go_from_objects_and_lists() -> None:
    """omitManagedFields reaches the items of a list too, and nothing but managedFields goes."""
    left = narrowed(EVENT, policy("RequestResponse", omit_managed_fields=True))
    assert left is not None
    clean = {"metadata": {"name": "web"}, "spec": {"x": 1.5}}
    assert left["requestObject"] == clean
    assert left["responseObject"] == {"kind": "List", "items": [clean]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b"{}",
        b'{"kind":"Pod","apiVersion":"v1"}',
        b"\xff\xfe",
        b'{"kind":"EventList",',
        b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1beta1","items":[]}',
        b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[1]}',
        b'{"items":' + b"[" * 100_000,
    ],
)
def test_a_body_that_cannot_be_read_says_so(body: bytes) -> None:
    """Permanent, so that it goes to the dead letters instead of round and round."""
    with pytest.raises(Permanent):
        decode_body(body)


def test_a_single_event_is_a_body_too() -> None:
    """kube-apiserver posts lists; other senders may post one."""
    assert len(decode_body(json.dumps(EVENT | {"kind": "Event", "apiVersion": "audit.k8s.io/v1"}).encode())) == 1


@pytest.mark.parametrize(
    "change",
    [{"level": "Nonsense"}, {"level": None}, {"stage": "Sometime"}, {"user": 3}, {"objectRef": []}, {"verb": {}}],
)
def test_one_event_that_cannot_be_judged_says_so(change: dict[str, Any]) -> None:
    """It alone is set aside; its neighbours are not."""
    with pytest.raises(Permanent):
        head(raw(EVENT | change))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(body: bytes) -> None:
    """No other error than Permanent comes out."""
    try:
        for event in decode_body(body):
            head(event)
    except Permanent:
        pass
