"""Structs are given for what kube-apiserver writes, and only where nothing gets lost by them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from auditpipeline.core.event import as_item, encode_plain
from auditpipeline.core.known import Known, decode_known

FIELDS = list(Known.__struct_encode_fields__)
EVENT: dict[str, Any] = {
    "level": "RequestResponse",
    "auditID": "1",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/pods?limit=1\u0026x=<",
    "verb": "list",
    "user": {"username": "alice", "extra": {"new": ["1"]}},
    "objectRef": {"resource": "pods", "uid": "2", "new": 1.50},
    "requestObject": {"a": 100, "b": [1.0, -0]},
    "annotations": {"a": "\u00e9"},
}


def body(*events: dict[str, Any] | str, **fields: Any) -> bytes:
    """An EventList of these, without spaces."""
    items = [each if isinstance(each, str) else json.dumps(each, separators=(",", ":")) for each in events]
    head = json.dumps({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, **fields})
    return (head[:-1].replace(": ", ":").replace(", ", ",") + f',"items":[{",".join(items)}]}}\n').encode()


def test_the_fields_are_those_of_the_api_in_its_order() -> None:
    """k8s.io/apiserver/pkg/apis/audit/v1/types.go; lines have a kind besides."""
    assert [
        "apiVersion",
        *("level", "auditID", "stage", "requestURI", "verb", "user", "impersonatedUser", "sourceIPs", "userAgent"),
        *("objectRef", "responseStatus", "requestObject", "responseObject"),
        *("requestReceivedTimestamp", "stageTimestamp", "annotations"),
    ] == FIELDS


def test_every_value_keeps_its_bytes() -> None:
    """Spelling of numbers and escapes, and fields that are unknown further down."""
    spelt = json.dumps(EVENT, separators=(",", ":")).replace("100", "1e400").replace("1.5}", "1.50}")
    found = decode_known(body(spelt, spelt))
    assert found
    assert [as_item(encode_plain(event)) for event in found] == [spelt.encode()] * 2
    assert b"1e400" in encode_plain(found[0])
    assert decode_known(body(EVENT))


@pytest.mark.parametrize(
    "sent",
    [
        body(EVENT | {"new": 1}),
        body(EVENT, EVENT | {"new": 1}),
        body({"verb": "get", **{key: value for key, value in EVENT.items() if key != "verb"}}),
        body({key: value for key, value in EVENT.items() if key != "verb"}),
        body({"kind": "Event", **EVENT}),
        body(EVENT | {"level": 1}),
        body(EVENT | {"level": None}),
        body(json.dumps(EVENT)),
        body(json.dumps(EVENT, separators=(",", ":")).replace('"list"', '"\\u006cist"')),
        body(EVENT).replace(b'{"resource"', b'{\n"resource"'),
        body(EVENT).replace(b"\\u00e9", b"\xff"),
        body(EVENT, kind="Event"),
        body(EVENT, apiVersion="audit.k8s.io/v1beta1"),
        body(),
        body(EVENT)[:-3],
        b"",
        b"[" * 100_000,
    ],
    ids=lambda sent: sent[60:90].decode(errors="replace"),
)
def test_everything_else_goes_the_general_way(sent: bytes) -> None:
    """Unknown fields, another order, missing or wrong fields, other spellings, spaces, line ends, bytes, kinds."""
    assert decode_known(sent) is None


def test_an_order_that_changes_within_a_list_costs_no_value() -> None:
    """The first event has kube-apiserver's order; the second one gets it."""
    found = decode_known(body(EVENT, dict(reversed(EVENT.items()))))
    assert found
    assert encode_plain(found[1]) == encode_plain(found[0])
