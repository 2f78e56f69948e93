"""How a canary is told from other events."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from auditpipeline.core.canary import Sighting, path_of, sighting, with_canary
from auditpipeline.core.event import decode_event
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


def seen(found: dict[str, Any], user: str) -> Sighting | None:
    return sighting(decode_event(json.dumps(found).encode()), user)


@pytest.mark.parametrize("user", [OPERATOR, ""])
def test_a_canary_tells_when_its_api_server_received_it(user: str) -> None:
    """The operator's, or anybody's."""
    assert seen(event(), user) == Sighting("abc", "17", 1767225601.5)


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
    assert seen(event(**changed), OPERATOR) is None


@pytest.mark.parametrize("name", [b'"\xff"', b"[" * 1000 + b"]" * 1000], ids=["utf8", "depth"])
def test_what_cannot_be_read_throughout_is_none(name: bytes) -> None:
    """An error here would be answered with 500, and the body come again and again."""
    raw = decode_event(json.dumps(event(user={"username": "x"})).encode())
    assert sighting(raw | {"user": msgspec.Raw(b'{"username":%b}' % name)}, "") is None


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
