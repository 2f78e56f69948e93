"""Bodies item by item: each event arrives, and what is none is told once, with a number."""

from __future__ import annotations

import json
from typing import Any

import pytest

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import Raw, encode_item
from auditpipeline.core.eventlist import HEAD, MOST_ALONE, Body, decode_body, encode_body, read_body

EVENT: dict[str, Any] = {"level": "Metadata", "auditID": "1", "verb": "get", "user": {"username": "alice"}}
ITEM = json.dumps(EVENT, separators=(",", ":")).encode()


def plain(events: list[Raw]) -> list[dict[str, Any]]:
    """The events as Python has them."""
    return [json.loads(encode_item(event)) for event in events]


def told(body: Body) -> list[int]:
    """For how many events each thing stands that cannot be read."""
    return [each.events for each in body.unreadable]


@pytest.mark.parametrize(
    ("body", "events", "unreadable"),
    [
        (encode_body([ITEM] * 3), 3, []),
        (encode_body([]), 0, []),
        (encode_body([ITEM, b"17", ITEM]), 2, [1]),
        (encode_body([ITEM, b"{broken}", ITEM, b"{x}"]), 2, [1, 1]),
        (encode_body([ITEM] + [b"1", b"{}", b'"a,b"', b"null"] * 100_000 + [ITEM]), 2, [400_000]),
        (encode_body([b"[1]"] * 50_000 + [ITEM]), 0, [50_001]),
        (encode_body([b"{x}"] * (MOST_ALONE + 50) + [ITEM] * 100), 100, [*([1] * MOST_ALONE), 50]),
        (encode_body([ITEM, ITEM])[:-5], 1, [1]),
        (encode_body([ITEM, ITEM])[:-2], 2, []),
        (encode_body([ITEM]) * 2, 2, []),
        (encode_body([ITEM]) + b"\n" + encode_body([ITEM]) + b"x", 2, [1]),
        (b'{"items":[' + ITEM + b'],"kind":"EventList","apiVersion":"audit.k8s.io/v1"}', 1, []),
        (HEAD + ITEM + b"] x}", 1, [1]),
        (HEAD.replace(b'"items"', b'"tems"') + ITEM, 0, [1]),
        (HEAD.replace(b'"metadata":{}', b'"metadata":{{}') + ITEM + b"]}]}", 0, [1]),
        (HEAD.replace(b":[", b":5}"), 0, [1]),
        (b"{}" * 100_000, 0, [1]),
        (b'{"kind":"Event","apiVersion":"audit.k8s.io/v1",' + ITEM[1:], 1, []),
        (b'{"kind":"PodList","apiVersion":"v1","items":[]}', 0, [1]),
        (b'{"item\\u0073":[' + ITEM + b'],"kind":"EventList","api\\u0056ersion":"audit.k8s.io/v1"}', 1, []),
        (HEAD + ITEM + b'],"items":[' + ITEM + b"," + ITEM + b"]}", 2, []),
        (HEAD + ITEM + b'],"items":null}', 0, []),
        (HEAD.replace(b"{", b"{" + b'"":1,' * 1000, 1) + ITEM + b"]}", 0, [1]),
        (encode_body([b'{"":1,' * 20 + b"x" + b"}" * 20] * 200 + [ITEM]), 1, [*([1] * MOST_ALONE), 100]),
        (encode_body([b"{" + b'"":1,' * 1000 + ITEM[1:], ITEM]), 1, [1]),
        (b"", 0, [1]),
        (b"[" * 100_000, 0, [1]),
    ],
)  # fmt: skip
def test_each_event_arrives_and_the_rest_is_told(body: bytes, events: int, unreadable: list[int]) -> None:
    """With a number for as many as can be counted."""
    found = read_body(body)
    assert plain(found.events) == [EVENT] * events
    assert told(found) == unreadable
    assert sum(len(each.data) for each in found.unreadable) <= 2 * len(body) + 1


def test_a_body_that_is_refused_as_a_whole_is_read_all_the_same() -> None:
    """The quick decoder gives up; item by item nothing is lost."""
    odd = ITEM.replace(b"}}", b'},"requestObject":"\\ud800"}')
    with pytest.raises(Permanent):
        decode_body(encode_body([ITEM, odd, ITEM]))
    found = read_body(encode_body([ITEM, odd, ITEM]))
    assert plain(found.events) == [EVENT, EVENT | {"requestObject": "�"}, EVENT]
    assert not found.unreadable


@pytest.mark.parametrize("read", [decode_body, lambda body: read_body(body).events])
def test_v1beta1_becomes_v1(read: Any) -> None:
    """Its two fields that v1 does not have are gone, and nothing else (k8s.io/api/audit/v1beta1 of 1.23)."""
    beta = {"metadata": {"creationTimestamp": "x"}, "timestamp": "y", **EVENT}
    head = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1beta1"}
    single = {"kind": "Event", "apiVersion": "audit.k8s.io/v1beta1", **beta}
    assert plain(read(json.dumps({**head, "items": [beta, single]}).encode())) == [EVENT, EVENT]
    assert plain(read(json.dumps(single).encode())) == [EVENT]
    assert plain(read(json.dumps({**head, "apiVersion": "audit.k8s.io/v1", "items": [beta]}).encode())) == [beta]
