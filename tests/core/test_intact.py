"""Intact events in torn lines: each is found, and nobody can put one there that kube-apiserver did not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.intact import find, is_joined

DATA = Path(__file__).parents[1] / "data"


def written(audit_id: str, **fields: Any) -> bytes:
    """An event as kube-apiserver writes it, without its line feed."""
    event = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Request",
        "auditID": audit_id,
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/default/pods/p",
        "verb": "patch",
        "user": {"username": "alice", "groups": ["system:authenticated"]},
        **fields,
        "requestReceivedTimestamp": "2026-03-03T14:28:05.286000Z",
        "stageTimestamp": "2026-03-03T14:28:05.386000Z",
    }
    return json.dumps(event, separators=(",", ":")).encode()


A, B, C = written("a"), written("b"), written("c")
FORGED = written("forged", user={"username": "mallory"})
NESTED = written("a", requestObject={"spec": [json.loads(FORGED), json.loads(FORGED)], "x": json.loads(FORGED)})
QUOTED = written("a", requestObject={"metadata": {"annotations": {"x": FORGED.decode()}}})


def ids(events: list[bytes]) -> list[str]:
    """Which events these are."""
    return [json.loads(event)["auditID"] for event in events]


@pytest.mark.parametrize(
    ("line", "events", "rests"),
    [
        (A + B, ["a", "b"], []),
        (A + B + C, ["a", "b", "c"], []),
        (A[:150] + B, ["b"], [A[:150]]),
        (A[:150] + b"\0" * 4096 + B, ["b"], [A[:150]]),
        (b"\0" * 300 + B, ["b"], []),
        (b"\0" * 300 + B + C, ["b", "c"], []),
        (A + B[:150], ["a"], [B[:150]]),
        (A[:150] + B[:200] + C, ["c"], [A[:150], B[:200]]),
        (A[:150] + B + C[:90], ["b"], [A[:150], C[:90]]),
        (A + b"\0" * 10 + B[:30] + b"\0" + C, ["a", "c"], [B[:30]]),
        (A[:150], [], [A[:150]]),
        (A[150:], [], [A[150:]]),
        (A[150:] + B, ["b"], [A[150:]]),
        (b"\0" * 20, [], []),
        (b"x", [], [b"x"]),
    ],
)
def test_the_intact_events_of_a_line_are_found(line: bytes, events: list[str], rests: list[bytes]) -> None:
    """Wherever it is torn; the torn rest is told apart, and zeros are nothing."""
    found = find(line)
    assert ids(found.events) == events
    assert found.rests == rests


def test_a_line_torn_at_any_byte_costs_no_other_event() -> None:
    """Also right behind a colon, a comma or a bracket, where a nested object could stand."""
    for cut in range(1, len(A)):
        found = find(A[:cut] + B)
        assert (ids(found.events), found.rests) == (["b"], [A[:cut]])


@pytest.mark.parametrize("holder", [NESTED, QUOTED])
@pytest.mark.parametrize("ended", [True, False])
def test_what_a_request_holds_is_never_an_event(holder: bytes, ended: bool) -> None:
    """Whether the event around it is torn at its end, at its beginning, or at both, and whatever follows it."""
    for cut in range(1, len(holder)):
        assert "forged" not in ids(find(holder[:cut] + B, ended).events)
        assert "forged" not in ids(find(holder[cut:], ended).events)
        assert "forged" not in ids(find(holder[:cut] + b"\0" * 9 + holder[cut + 9 :], ended).events)
    for cut in range(1, len(holder), 7):
        assert ids(find(holder[:cut] + B).events) == ["b"]
        assert ids(find(holder[cut:] + B).events) == ["b"]


def test_a_look_alike_at_the_end_of_a_torn_line_is_missed_and_not_taken() -> None:
    """An event that is torn exactly behind what a request holds, and that the next event follows."""
    torn = NESTED[: NESTED.index(FORGED) + len(FORGED)]
    found = find(torn + B)
    assert ids(found.events) == ["b"]
    assert found.rests == [torn]
    assert find(torn, ended=False).events == []


@pytest.mark.parametrize("field", ["level", "auditID", "stage", "requestURI", "verb", "user"])
def test_an_event_has_all_that_every_event_has(field: str) -> None:
    """Otherwise it is torn text."""
    event = json.loads(B)
    del event[field]
    line = json.dumps(event, separators=(",", ":")).encode()
    assert find(A[:100] + line).events == []


def test_many_look_alikes_hide_nobody_elses_event() -> None:
    """More than are tried; the next one begins where nothing can be nested."""
    many = written("a", requestObject={"spec": [json.loads(FORGED)] * 2000})
    for torn in (many[:-1], many[:-400], many[: many.rindex(FORGED)]):
        assert ids(find(torn + B).events) == ["b"]


@pytest.mark.parametrize("text", [b"\0x" * 50_000, (A[:100] + b"\0") * 20_000, A[:100] * 20_000, b'{"kind":' * 200_000])
def test_a_line_makes_few_rests(text: bytes) -> None:
    """Whatever it holds; all of it is kept."""
    found = find(text)
    assert found.events == []
    assert len(found.rests) <= 16
    assert sum(map(len, found.rests)) >= len(text.replace(b"\0", b""))


def test_an_event_is_no_joined_line_whatever_it_holds() -> None:
    """So it is never searched."""
    assert not any(map(is_joined, (A, NESTED, QUOTED)))
    assert all(map(is_joined, (A + B, A[:150] + B, b"\0" + A)))


def test_a_log_of_a_node_that_crashed_has_six_intact_events() -> None:
    """As people reported it."""
    lines = (DATA / "logs" / "torn.log").read_bytes().split(b"\n")
    assert ids([event for line in lines for event in find(line).events]) == ["e-1", "e-3", "e-5", "e-6", "e-7", "e-8"]


@given(st.lists(st.one_of(st.sampled_from([A, B, C, b"\0\0", b"{", b'"', NESTED]), st.binary(max_size=20)), max_size=6))
def test_nothing_of_a_line_is_lost(parts: list[bytes]) -> None:
    """What is not an event is in the rests, but for zeros and space."""
    line = b"".join(parts)
    found = find(line)
    if found.rests != [line]:
        assert sum(map(len, found.events + found.rests)) >= len(line) - sum(map(line.count, b"\0\r\t "))
    assert all(event in line for event in found.events)


@pytest.mark.parametrize("behind", [b"\0", b"\0\0\r", b"\0 \t"])
def test_an_object_that_is_torn_before_zeros_and_a_line_feed_is_no_event(behind: bytes) -> None:
    """The zeros may stand for the rest of its parent: it does not end at the line feed."""
    torn = NESTED[: NESTED.index(FORGED) + len(FORGED)]
    assert find(torn + behind).events == []
    assert find(b"\0" + FORGED + behind).events == []
    assert find(b"\0" + A).events == [A]
