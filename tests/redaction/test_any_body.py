"""Whatever stands where a secret may: the event comes out, once, readable, and a second pass changes nothing."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditpipeline.core.event import decode_event
from auditpipeline.core.redaction.model import DEFAULT, Redaction
from auditpipeline.core.redaction.redactor import Redactor
from auditpipeline.dataplane.filter import Filter, Wanted
from tests.redaction.bodies import listed
from tests.redaction.marks import Mint, marks_in
from tests.redaction.test_planted import EVERYTHING, KEY
from tests.reliability.go_bodies import VALUES

WORDS = st.sampled_from(
    (
        "secrets",
        "pods",
        "deployments",
        "tokenreviews",
        "serviceaccounts/token",
        "pods/exec",
        "configmaps",
        "widgets.example.com",
    )
)
KEYS = st.sampled_from(
    (
        "data",
        "stringData",
        "metadata",
        "annotations",
        "env",
        "args",
        "command",
        "name",
        "value",
        "items",
        "rows",
        "object",
        "kubectl.kubernetes.io/last-applied-configuration",
        "path",
        "op",
        "spec",
        "status",
        "token",
        "x",
        "\ud7ff",
        "",
    )
)
TEXTS = st.text(max_size=30) | st.sampled_from(
    (
        "DB_PASSWORD",
        "--password",
        "--token=",
        "mysql",
        "-p",
        "/data/x",
        "/",
        "{}",
        '{"env":',
        "$(A)",
        "Invalid value: ",
        '"',
        "\\",
    )
)
SHAPED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4) | inner.map(json.dumps),
    max_leaves=20,
)
BODIES = SHAPED.map(lambda value: json.dumps(value).encode()) | VALUES


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """An event with anything in it."""
    called = draw(WORDS)
    name, _, group = called.partition(".")
    resource, _, subresource = name.partition("/")
    ref = {"resource": resource, "apiGroup": group, "subresource": subresource}
    fields: dict[str, Any] = {
        "level": "RequestResponse",
        "auditID": "a",
        "stage": "ResponseComplete",
        "requestURI": draw(
            st.text(max_size=40) | st.sampled_from(("/x?command=%ff&;=", "//a:b@c?token", "/%3Ftoken=%"))
        ),
        "verb": "patch",
        "user": {},
        "objectRef": ref,
    }
    made = json.dumps(fields).encode()[:-1]
    if draw(st.booleans()):
        status = {"message": draw(TEXTS), "details": draw(SHAPED), "status": draw(TEXTS)}
        made += b',"responseStatus":' + json.dumps(status).encode()
    if draw(st.booleans()):
        noted = draw(st.text(max_size=20) | SHAPED.map(json.dumps))
        made += b',"annotations":' + json.dumps({"patch.webhook.admission.k8s.io/round_0_index_0": noted}).encode()
    for field in ("requestObject", "responseObject"):
        if draw(st.booleans()):
            made += b',"%s":' % field.encode() + draw(BODIES)
    return made + b"}"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events(), min_size=1, max_size=4))
def test_every_event_comes_out_and_is_stable(items: list[bytes]) -> None:
    """In a body; masked and hashed."""
    for redaction in (DEFAULT, Redaction(method="hash")):
        lines = list(Filter([Wanted(EVERYTHING, redaction)], KEY).take(listed(items)).lines)
        assert len(lines) == len(items)
        for line in lines:
            decode_event(line)
            json.loads(line)
            assert Redactor(redaction, KEY).line(line) == (line, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SHAPED, st.integers(0, 10**6), st.sampled_from(("requestObject", "responseObject")))
def test_a_secret_goes_whatever_stands_beside_it(beside: Any, seed: int, field: str) -> None:
    """In the data of a Secret and in a variable, beside anything."""
    mint = Mint(seed)
    bodies = {
        "secrets": {"metadata": beside, "data": {"a": beside, "b": mint.text()}, "c": [beside]},
        "pods": {
            "a": beside,
            "spec": {"containers": [beside, {"env": [beside, {"name": "A_TOKEN", "value": mint.text()}]}]},
        },
    }
    for resource, body in bodies.items():
        event = {
            "level": "RequestResponse",
            "auditID": "a",
            "stage": "ResponseComplete",
            "verb": "patch",
            "user": {},
            "objectRef": {"resource": resource},
            field: body,
        }
        (line,) = Filter([Wanted(EVERYTHING)]).take(listed([json.dumps(event).encode()])).lines
        assert marks_in(line) == frozenset()


def test_equal_values_have_equal_hashes_and_others_have_not() -> None:
    """Whether a value is written as base64 or not; with another key they are others."""
    body = {"data": {"a": "aHVudGVyMg==", "b": "aHVudGVyMw=="}, "stringData": {"a": "hunter2", "b": "hunter3"}}
    found = list[dict[str, dict[str, str]]]()
    for key in (KEY, KEY[::-1]):
        event = {"level": "Request", "auditID": "a", "stage": "ResponseComplete", "verb": "patch", "user": {}}
        line = json.dumps({**event, "objectRef": {"resource": "secrets"}, "requestObject": body}).encode()
        found.append(json.loads(Redactor(Redaction(method="hash"), key).line(line).line)["requestObject"])
    first, second = found
    assert _decoded(first["data"]) == first["stringData"]
    assert len({*first["stringData"].values(), *second["stringData"].values()}) == 4


def _decoded(data: dict[str, str]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in data.items()}
