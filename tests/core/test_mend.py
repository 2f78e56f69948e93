"""An odd event is mended, and what it says stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import decode_event, encode_line
from auditpipeline.core.mend import ANNOTATION, MAX_DEPTH, MAX_FIELDS, annotated, mended

EVENT = b'{"level":"Request","user":{"username":"mallory"},"requestObject":%s,"annotations":{"a":"b"},"verb":"patch"}'


def read(body: bytes) -> dict[str, Any]:
    """The event with that body, mended."""
    event: dict[str, Any] = json.loads(encode_line(mended(EVENT % body)))
    assert (event["user"], event["verb"], event["level"]) == ({"username": "mallory"}, "patch", "Request")
    return event


@pytest.mark.parametrize(
    ("body", "is_read_as"),
    [
        (rb'"\ud800"', "�"),
        (rb'"\uDFFF x \uD83D\uDE00 \\ud800 \\\udc00"', "� x \U0001f600 \\ud800 \\�"),
        (rb'"\ud83d\ud83d\ude00"', "�\U0001f600"),
        (b'{"\xff":"a\xc3","\xed\xa0\x80":[]}', {"�": "a�", "���": []}),
        (rb'{"\ud800\"":1.50}', {'�"': 1.5}),
    ],
)
def test_text_that_is_not_unicode_becomes_a_replacement_character(body: bytes, is_read_as: Any) -> None:
    """As Go reads it; everything else keeps its bytes."""
    event = read(body)
    assert event["requestObject"] == is_read_as
    assert event["annotations"] == {"a": "b"}


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 981, 5000, 10_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_body_that_is_too_deep_is_removed_and_named(levels: int, opening: bytes, closing: bytes) -> None:
    """The rest of the event stays, other annotations too."""
    event = read(opening * levels + b"1" + closing * levels)
    assert "requestObject" not in event
    assert event["annotations"] == {"a": "b", ANNOTATION: "requestObject"}


def test_a_body_of_just_the_depth_stays() -> None:
    """It is no matter how deep the stack of the caller is."""
    deepest = b"[" * MAX_DEPTH + rb'"\ud800"' + b"]" * MAX_DEPTH

    def deep(frames: int) -> dict[str, Any]:
        return deep(frames - 1) if frames else json.loads(encode_line(decode_event(EVENT % deepest)))

    for frames in (0, 100, 300):
        found = deep(frames)
        assert "requestObject" in found
        assert ANNOTATION not in found["annotations"]


@pytest.mark.parametrize("body", [b"nope", b"'x'", b"01", b'"a\nb"', b"[1 2]", b"[}", rb'"\x"', b""])
def test_a_body_that_is_not_json_is_removed_and_named(body: bytes) -> None:
    """Nobody but a broken sender sends one; who did what is known all the same."""
    assert read(body)["annotations"][ANNOTATION] == "requestObject"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"17",
        b"{",
        b'{"a":1',
        b'{"a":1}x',
        b"{nope}",
        b'{"a":"b"',
        b'{"user":nope}',
        b'{"user":' + b"[" * 600 + b"]" * 600 + b"}",
    ],
)
def test_what_cannot_be_mended_says_so(data: bytes) -> None:
    """A user that cannot be read must not become nobody."""
    with pytest.raises(Permanent, match="cannot be read"):
        mended(data)


@given(st.dictionaries(st.text(max_size=3), st.recursive(st.integers() | st.text(), st.lists, max_leaves=9)))
def test_a_sound_event_is_left_as_it_is(event: dict[str, Any]) -> None:
    """Each value byte for byte."""
    data = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    assert {name: bytes(value) for name, value in mended(data).items()} == {
        name: bytes(value) for name, value in decode_event(data).items()
    }


@pytest.mark.parametrize(
    ("bodies", "is_left"),
    [((b"nope", b"1"), 1), ((b"1", b"nope"), None), ((b"nope", b"01"), None), ((b"1", b"2"), 2)],
)
def test_of_two_bodies_the_last_one_counts(bodies: tuple[bytes, bytes], is_left: int | None) -> None:
    """As in every parser; an annotation says only what is so."""
    event = read(b',"requestObject":'.join(bodies))
    assert event.get("requestObject") == is_left
    assert (ANNOTATION in event["annotations"]) == (is_left is None)


def test_an_event_of_very_many_fields_is_refused_before_they_are_kept() -> None:
    """Each would take a hundred bytes and more."""
    assert len(mended(b"{" + b",".join(b'"%d":1' % number for number in range(MAX_FIELDS)) + b"}")) == MAX_FIELDS
    with pytest.raises(Permanent, match="more than 1000 fields"):
        mended(b"{" + b'"":1,' * MAX_FIELDS + b'"a":1}')


@pytest.mark.parametrize(
    ("before", "named"),
    [
        (b'"requestObject"', "requestObject,responseObject"),
        (b'"responseObject"', "responseObject"),
        (b'"x"', "responseObject"),
        (b"5", "responseObject"),
    ],
)
def test_bodies_that_were_lost_before_stay_named(before: bytes, named: str) -> None:
    """One was too deep at the intake, the other too large for a destination."""
    event = decode_event(EVENT.replace(b'"a":"b"', b'"%s":%s' % (ANNOTATION.encode(), before)) % b"1")
    assert json.loads(encode_line(annotated(event, ["responseObject"])))["annotations"] == {ANNOTATION: named}
