"""Events are judged by what they say, and cut without touching the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import Raw, cut, decode_event, encode_line, head, narrow
from auditpipeline.core.eventlist import decode_body
from auditpipeline.core.known import decode_known, facts_of_known
from auditpipeline.core.managed import without_managed_fields
from auditpipeline.core.policy import Attributes, Level, Policy, Rule, decide
from tests.core.test_policy import CASES

ROOT = Path(__file__).parents[2]
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


def test_each_stage_of_a_request_is_judged_alike() -> None:
    """kube-apiserver decides once, and completes the objectRef from the body of what is created afterwards."""
    asked: dict[str, set[Attributes]] = {}
    for line in (ROOT / "tests" / "data" / "audit-events.jsonl").read_bytes().splitlines():
        found = head(decode_event(line))
        # Aggregated API servers share an auditID: what they are asked for is another path.
        asked.setdefault(f"{found.audit_id} {found.request.path}", set()).add(found.request)
    assert len(asked) > 1000
    assert [requests for requests in asked.values() if len(requests) > 1] == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/v1/namespaces/default/pods?fieldManager=x", ""),
        ("/api/v1/namespaces/default/pods/web", "web"),
        ("/api/v1/namespaces/default/pods/web/binding", "web"),
        ("", "web"),
    ],
)
def test_what_is_created_has_the_name_in_its_path(path: str, name: str) -> None:
    """A rule with resourceNames decides on it as kube-apiserver did; in an event without a path, by its objectRef."""
    changed = {"verb": "create", "requestURI": path}
    assert head(raw(EVENT | changed)).request.name == name
    known_event = {key: value for key, value in EVENT.items() if key != "somethingNew"}
    body = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [known_event | changed]}
    (known,) = decode_known(json.dumps(body, separators=(",", ":")).encode()) or []
    assert facts_of_known(known)[3][-1] == name


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
        b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1alpha1","items":[]}',
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


def managed(body: bytes) -> bytes:
    return bytes(without_managed_fields(msgspec.Raw(body)))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"metadata":{"name":"a"},"x":1}', None),
        (b'{"a":"managedFields","metadata":{"name":"a"}}', None),
        (b'{"metadata":{"managedFields":[1],"n":1.50},"x": 1E3}', b'{"metadata":{"n":1.50},"x":1E3}'),
        (
            b'{"metadata":{"managedFields":[1]},"spec":{"managedFields" :[2]}}',
            b'{"metadata":{},"spec":{"managedFields" :[2]}}',
        ),
        (
            b'{"metadata":{"managed\\u0046ields":[1]},"big":12345678901234567890123}',
            b'{"metadata":{},"big":12345678901234567890123}',
        ),
        (b'{"items":[{"metadata":{"managedFields":1}},{ "a":1 },7]}', b'{"items":[{"metadata":{}},{ "a":1 },7]}'),
        (b'{"items":[{"items":[{"metadata":{"managedFields":1}}]}]}', None),
        (
            b'{"rows":[{"cells":[1],"object":{"metadata":{"managedFields":1,"a":2}}}]}',
            b'{"rows":[{"cells":[1],"object":{"metadata":{"a":2}}}]}',
        ),
        (b'{"rows":[{"cells":["managedFields"]}],"metadata":null}', None),
        (b'{"metadata":"managedFields"}', None),
        (b'[{"op":"add","path":"/metadata/managedFields"}]', None),
        (b'"managedFields"', None),
    ],
)
def test_only_managed_fields_go(body: bytes, expected: bytes | None) -> None:
    """Every other value keeps its bytes; one line a case, None where nothing changes."""
    assert managed(body) == (body if expected is None else expected)


def test_an_object_that_cannot_be_read_says_so() -> None:
    """Instead of passing on what it may hold."""
    with pytest.raises(Permanent):
        managed(b'{"metadata":{"managedFields":')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "managedFields", "items", "rows", "object", "a"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def cleaned(value: Any, lists: bool = True) -> Any:
    """The same with plain dicts: what the bytes must come to."""
    if not isinstance(value, dict):
        return value
    found = dict(value)
    if isinstance(found.get("metadata"), dict):
        found["metadata"] = {k: v for k, v in found["metadata"].items() if k != "managedFields"}
    if lists and isinstance(found.get("items"), list):
        found["items"] = [cleaned(item, False) for item in found["items"]]
    if lists and isinstance(found.get("rows"), list):
        found["rows"] = [
            {**row, "object": cleaned(row["object"], False)} if isinstance(row, dict) and "object" in row else row
            for row in found["rows"]
        ]
    return found


@settings(max_examples=500, deadline=None)
@given(json_values)
def test_managed_fields_go_from_any_json(value: Any) -> None:
    """Whatever the shape, and whether or not it is an object of Kubernetes."""
    for ascii_ in (True, False):
        body = json.dumps(value, ensure_ascii=ascii_).encode(errors="surrogatepass")
        try:
            body.decode()
        except UnicodeDecodeError:
            continue
        assert json.loads(managed(body)) == cleaned(value)


def test_response_codes_are_left_out_where_a_rule_says_so() -> None:
    """Only by the rule that decides, and only events that have a response."""
    quiet = Policy(
        rules=(Rule(level="Metadata", verbs=("update",), omit_response_codes=(404, 409)), Rule(level="Metadata"))
    )
    assert narrowed(EVENT | {"responseStatus": {"code": 404}}, quiet) is None
    assert narrowed(EVENT | {"responseStatus": {"code": 200}}, quiet)
    assert narrowed(EVENT | {"responseStatus": {}}, quiet)
    assert narrowed(EVENT | {"responseStatus": None}, quiet)
    assert narrowed(EVENT, quiet)
    assert narrowed(EVENT | {"verb": "get", "responseStatus": {"code": 404}}, quiet)
    with pytest.raises(Permanent):
        head(raw(EVENT | {"responseStatus": {"code": "404"}}))


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/healthz?verbose", "/healthz"),
        ("/a%20b%2Fc?x=%41", "/a b/c"),
        ("/%zz", "/%zz"),
        ("/caf%C3%A9", "/café"),
        ("", ""),
    ],
)
def test_a_path_is_judged_without_query_and_escapes(uri: str, path: str) -> None:
    """As the URL's path that kube-apiserver looks at."""
    assert head(raw({**EVENT, "requestURI": uri})).request.path == path
