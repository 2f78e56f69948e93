"""How a canary is told from other events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from auditpipeline.core.canary import Sighting, path_of, sightings, with_canary
from auditpipeline.core.policy import Attributes, Level, Policy, Rule, decide

OPERATOR = "system:serviceaccount:auditpipeline-system:auditpipeline-operator"


def event(**changed: Any) -> dict[str, Any]:
    made = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": "1",
        "stage": "ResponseComplete",
        "requestURI": "/auditpipeline-canary/abc/17",
        "verb": "get",
        "user": {"username": OPERATOR, "groups": ["system:authenticated"]},
        "requestReceivedTimestamp": "2026-01-01T00:00:01.500000Z",
    }
    return made | changed


def body(*events: dict[str, Any]) -> bytes:
    return json.dumps({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": events}).encode()


def test_a_canary_is_seen_among_other_events() -> None:
    """With the time at which the API server received it."""
    other = event(requestURI="/api/v1/pods", requestObject={"data": "/auditpipeline-canary/abc/18"})
    assert list(sightings(body(other, event()), OPERATOR)) == [Sighting("abc", "17", 1767225601.5)]
    assert list(sightings(body(event()), "")) == [Sighting("abc", "17", 1767225601.5)]


@pytest.mark.parametrize(
    "changed",
    [
        {"user": {"username": "mallory"}},
        {"user": {}},
        {"stage": "RequestReceived"},
        {"requestURI": "/auditpipeline-canary/abc"},
        {"requestURI": "/auditpipeline-canary/abc/1/2"},
        {"requestURI": "/x/auditpipeline-canary/abc/1"},
        {"requestURI": f"/auditpipeline-canary/abc/{'1' * 65}"},
        {"requestURI": 7},
        {"requestReceivedTimestamp": "yesterday"},
        {"requestReceivedTimestamp": None},
        {"requestReceivedTimestamp": "0001-01-01T00:00:00"},
    ],
)
def test_what_only_looks_like_one_is_none(changed: dict[str, Any]) -> None:
    """Another user's, another stage's, or one that cannot be read."""
    assert list(sightings(body(event(**changed)), OPERATOR)) == []
    assert list(sightings(body(event(**changed)) + b"}", OPERATOR)) == []


@pytest.mark.parametrize("name", [b'"\xff"', b"[" * 100_000], ids=["utf8", "depth"])
def test_a_body_that_is_no_json_throughout_has_none(name: bytes) -> None:
    """An error here would be answered with 500, and the body come again and again."""
    sent = body(event(user={"username": "x"})).replace(b'"x"', name)
    assert list(sightings(sent, "")) == []


@pytest.mark.parametrize("omitted", [(), ("RequestReceived", "ResponseStarted", "ResponseComplete")])
def test_a_sink_lets_the_operators_canaries_through_and_decides_as_before(omitted: tuple[str, ...]) -> None:
    """Whatever its policy leaves out."""
    policy = Policy((Rule("None", verbs=("get",)), Rule("Request")), omitted)
    passing = with_canary(policy, OPERATOR)
    ours = Attributes(OPERATOR, (), "get", path_of("abc", "1"))
    decision = decide(passing, ours)
    assert decision.level is Level.METADATA
    assert "ResponseComplete" not in decision.omit_stages
    for request in (ours._replace(user="mallory"), ours._replace(path="/x"), ours._replace(verb="create", path="/x")):
        before, after = decide(policy, request), decide(passing, request)
        assert (after.level, after.omit_stages) == (before.level, before.omit_stages)
