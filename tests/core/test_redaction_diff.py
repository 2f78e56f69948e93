"""Each value that was taken from an event has a path."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from auditpipeline.core.event import decode_event, encode_line
from auditpipeline.core.redaction.diff import GONE, UNREADABLE, Change, Part, changes, parts
from tests.cli.planted import LAST, event, line, secret

MASK, MASK64 = "REDACTED", "UkVEQUNURUQ="


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """The changes between two events."""
    return list(changes(line(before), line(after)))


def paths(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Where they are."""
    return [change.path for change in compared(before, after)]


def test_a_value_has_a_path_and_a_place() -> None:
    """The place is the same for two objects of a kind."""
    before, after = secret(1), secret(1)
    after["requestObject"]["data"]["password"] = MASK64
    after["annotations"] = {"auditpipeline.dev/redacted": "1"}
    (change,) = compared(before, after)
    assert (change.path, change.place) == ("requestObject.data.password", "requestObject.data.*")
    assert change.after == MASK64


def test_json_in_a_string_is_looked_into() -> None:
    """As deep as it goes."""
    before, after = secret(1), secret(1)
    inner = json.dumps({"stringData": {"a": json.dumps([{"b": "x"}, {"b": "y"}])}})
    before["requestObject"]["metadata"]["annotations"][LAST] = inner
    after["requestObject"]["metadata"]["annotations"][LAST] = inner.replace("y", MASK).replace(", ", ",")
    assert paths(before, after) == [f'requestObject.metadata.annotations["{LAST}"].stringData.a[1].b']


def test_arguments_of_a_url_are_named() -> None:
    """Those that are there several times by their number."""
    before = event(1, requestURI="/x?token=s&command=a&command=b&limit=5")
    after = event(1, requestURI=f"/x?token={MASK}&command=a&command={MASK}&limit=5")
    assert paths(before, after) == ["requestURI?token", "requestURI?command[1]"]
    userinfo = (
        event(1, requestURI="/api/v1/nodes/http:me:pw@x/proxy"),
        event(1, requestURI="/api/v1/nodes/http:REDACTED@x"),
    )
    assert paths(*userinfo) == ["requestURI"]


@pytest.mark.parametrize(
    ("before", "after", "path", "gone"),
    [
        ({"a": {"b": 1}}, {"a": {}}, "requestObject.a.b", True),
        ({"a": [{"b": 1}, {"c": 2}]}, {"a": [{"b": 1}, {}]}, "requestObject.a[1].c", True),
        ([{"op": "add", "value": "x"}], [{"op": "add", "value": MASK}], "requestObject[0].value", False),
        ({"a": [1, 2]}, {"a": [1]}, "requestObject.a", False),
        ({"a": {"b": "x"}}, {"a": MASK}, "requestObject.a", False),
        ({"a.b": "x"}, {"a.b": MASK}, 'requestObject["a.b"]', False),
        ({"rows": [{"object": {"data": {"k": "x"}}}]}, {"rows": [{"object": {"data": {"k": MASK}}}]}, None, False),
    ],
)
def test_whatever_redaction_does_is_found(before: Any, after: Any, path: str | None, gone: bool) -> None:
    """Removed keys, other types, lists."""
    (change,) = compared(event(1, requestObject=before), event(1, requestObject=after))
    assert change.path == (path or "requestObject.rows[0].object.data.k")
    assert (change.after is GONE) == gone


def test_a_body_that_is_removed_is_found() -> None:
    """Also one that no parser takes."""
    assert paths(event(1, requestObject={"a": 1}), event(1)) == ["requestObject"]
    deep = line(event(1, requestObject=1)).replace(
        b'"requestObject":1', b'"requestObject":' + b"[" * 5000 + b"]" * 5000
    )
    (change,) = changes(deep, line(event(1)))
    assert (change.path, change.before, change.after) == ("requestObject", UNREADABLE, GONE)


def test_deep_and_wide_events_are_compared() -> None:
    """Without recursion."""
    before: Any = "x"
    after: Any = MASK
    for _ in range(400):
        before, after = {"a": before}, {"a": after}
    (change,) = compared(event(1, requestObject=before), event(1, requestObject=after))
    assert change.path.count(".a") == 400
    many = {str(number): "x" for number in range(10_000)}
    assert len(paths(event(1, requestObject=many), event(1, requestObject=dict.fromkeys(many, MASK)))) == 10_000


@pytest.mark.parametrize("odd", [rb"\ud800", b"\xff\xfe", rb"\\\ud83d"])
def test_an_odd_body_is_compared_as_it_is_mended(odd: bytes) -> None:
    """Bytes that are not UTF-8, and lone surrogates."""
    before = line(event(1, requestObject={"a": "x", "data": {"k": "v"}})).replace(b'"x"', b'"' + odd + b'"')
    after = encode_line({**decode_event(before), "requestObject": msgspec.Raw(b'{"a":"x","data":{"k":"REDACTED"}}')})
    assert "requestObject.data.k" in [change.path for change in changes(before, after)]


def test_what_comes_to_the_same_is_no_change() -> None:
    """Spaces, escapes, and what a line has around its event."""
    data = json.dumps(secret(1), indent=1).replace("alice", "\\u0061lice").encode()
    assert list(changes(data, line(secret(1)))) == []


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("secret", MASK, [Part("secret", MASK)]),
        ('Invalid value: "abc": no', f'Invalid value: "{MASK}": no', [Part("abc", MASK)]),
        (f"a={MASK} b=xyz", f"a={MASK} b={MASK}", [Part("xyz", MASK)]),
        ("--password=1 --token=2", f"--password={MASK} --token={MASK}", [Part("1", MASK), Part("2", MASK)]),
        ("abc", "xyz", [Part("abc", "xyz")]),
        ("one two", f"three {MASK}", [Part("one two", f"three {MASK}")]),
        ("ab", f"a{MASK}b", [Part("", MASK)]),
    ],
)
def test_parts_of_a_text_are_told_apart(before: str, after: str, found: list[Part]) -> None:
    """If they cannot be, the whole text is one."""
    assert parts(before, after) == found
