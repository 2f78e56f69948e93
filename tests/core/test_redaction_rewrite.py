"""A log is rewritten event by event, and else byte for byte what it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import decode_event
from auditpipeline.core.redaction import rewrite
from auditpipeline.core.redaction.redactor import Redacted, Redactor
from auditpipeline.core.redaction.rewrite import Rewriter, Taken, Unread
from tests.cli.planted import LAST, WORD, event, is_clean, line, log, secret, token
from tests.cli.running import EVENTS

RUNTIME = b"2026-03-03T14:28:05.286Z stdout "


class Marking:
    """Replaces the secrets of `planted`, whatever they are in."""

    def line(self, data: bytes) -> Redacted:
        """As the redactor's."""
        decode_event(data)
        new, count = data, data.count(WORD.encode())
        new = new.replace(WORD.encode(), b"REDACTED-").replace(b"aHVudGVyMi", b"UkVEQUNURU")
        return Redacted(new, count)


class Found:
    """What a rewriter says of a log, and what it makes of it."""

    def __init__(self, data: bytes, step: int = 2**20) -> None:
        self.taken = list[Taken]()
        self.unread = list[Unread]()
        rewriter = Rewriter(Marking(), self.taken.append, self.unread.append)
        self.data = b"".join(rewriter.rewritten(data[at : at + step] for at in range(0, len(data), step)))
        self.events = rewriter.events

    @property
    def lines(self) -> list[int]:
        """Of the events that lose something."""
        return [each.line for each in self.taken]


def cri(data: bytes, *cuts: int) -> bytes:
    """The line, cut in pieces by a container runtime, with a line of standard error between them."""
    pieces = [data[start:end] for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True)]
    lines = [RUNTIME + b"P " + piece for piece in pieces[:-1]] + [RUNTIME + b"F " + pieces[-1]]
    lines.insert(1, RUNTIME.replace(b"stdout", b"stderr") + b"F a warning")
    return b"".join(each + b"\n" for each in lines)


def docker(data: bytes, *cuts: int) -> bytes:
    """The same, by docker."""
    text = data.decode() + "\n"
    pieces = [text[start:end] for start, end in zip((0, *cuts), (*cuts, len(text)), strict=True)]
    records = [{"log": piece, "stream": "stdout", "time": "2026-03-03T14:28:05Z"} for piece in pieces]
    return b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in records)


def body(*events: dict[str, Any]) -> dict[str, Any]:
    """An EventList."""
    items = [{key: value for key, value in each.items() if key not in ("kind", "apiVersion")} for each in events]
    return {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items}


def test_only_events_that_hold_a_secret_change() -> None:
    """The lines between them are the same bytes, and line numbers are those of the file."""
    found = Found(log(event(1), secret(2)) + b"\n" + log(event(4), token(5)) + line(secret(6)))
    lines = found.data.split(b"\n")
    assert (lines[0], lines[2], lines[3]) == (line(event(1)), b"", line(event(4)))
    assert (found.lines, found.unread, found.events) == ([2, 5, 6], [], 5)
    assert is_clean(found.data)
    assert not found.data.endswith(b"\n")


@pytest.mark.parametrize("frame", [cri, docker])
def test_lines_of_a_runtime_keep_their_headers(frame: Any) -> None:
    """Each piece stays where it was, and so does what is between the pieces; what they hold has no secret."""
    data = frame(line(secret(1)), 100, 250) + frame(line(event(2)), 50, 60)
    found = Found(data)
    assert is_clean(found.data)
    assert (found.lines, found.events) == ([1], 2)
    before, after = data.splitlines(), found.data.splitlines()
    assert len(before) == len(after)
    again = Found(found.data)
    assert (again.taken, again.data) == ([], found.data)
    assert again.events == 2
    changed = [number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    assert changed
    assert all(len(before[number]) == len(after[number]) for number in changed[:-1])
    if frame is cri:
        assert after[1] == before[1] == RUNTIME.replace(b"stdout", b"stderr") + b"F a warning"
        assert [each.line for each in found.unread] == [2, 6]


def test_a_line_of_a_runtime_without_its_end_stays_and_is_reported() -> None:
    """As where the file was cut: half of an event cannot be redacted."""
    data = log(event(1)) + b"".join(cri(line(secret(2)), 100, 350).splitlines(keepends=True)[:-1])
    found = Found(data)
    assert found.data == data
    assert "without its end" in found.unread[-1].reason


@pytest.mark.parametrize("indent", [None, 2])
def test_items_of_a_body_are_replaced_in_their_places(indent: int | None) -> None:
    """On one line, or over several; its other items are the same bytes."""
    data = json.dumps(body(event(1), secret(2), token(3)), indent=indent).encode()
    found = Found(data)
    assert is_clean(found.data)
    assert (found.events, len(found.taken), found.unread) == (3, 2, [])
    assert [item["auditID"] for item in json.loads(found.data)["items"]] == ["id-1", "id-2", "id-3"]
    head = data.rindex(b"{", 0, data.index(b'"auditID": "id-2"'))
    assert found.data[:head] == data[:head]


def test_one_event_over_several_lines_becomes_one_line() -> None:
    """If it holds a secret; else it stays."""
    assert is_clean(Found(json.dumps(secret(1), indent=2).encode()).data)
    data = json.dumps(event(1), indent=2).encode()
    assert Found(data).data == data


def test_an_export_of_cloudwatch_is_rewritten() -> None:
    """The messages in it are lines."""
    records = [{"timestamp": 1, "message": line(each).decode()} for each in (event(1), secret(2))]
    data = json.dumps({"events": records, "nextToken": "f/1"}, indent=4).encode()
    found = Found(data)
    assert is_clean(found.data)
    again = json.loads(found.data)
    assert (again["nextToken"], [each["timestamp"] for each in again["events"]]) == ("f/1", [1, 1])
    assert again["events"][0] == records[0]
    assert Found(found.data).data == found.data


def test_a_log_that_begins_with_a_brace_alone_is_read_as_lines() -> None:
    """It is not a body: the rest of it is a log."""
    found = Found(b"{\n" + log(secret(2)))
    assert is_clean(found.data)
    assert ([each.line for each in found.unread], found.lines) == ([1], [2])


TORN = line(event(9))[:150]


@pytest.mark.parametrize(
    ("before", "behind"),
    [(TORN, b""), (b"\0" * 700, b""), (TORN + b"\0" * 30, b""), (b"", TORN), (b'{"torn":', b""), (b" \r", b" \r")],
)
def test_intact_events_in_a_torn_line_lose_their_secrets(before: bytes, behind: bytes) -> None:
    """The text around them stays byte for byte."""
    found = Found(before + line(secret(1)) + behind + b"\n" + log(event(2)))
    assert is_clean(found.data)
    assert found.data.startswith(before)
    assert found.data.endswith(behind + b"\n" + log(event(2)))
    assert (found.events, found.lines) == (2, [1])
    assert len(found.unread) == (1 if (before + behind).strip(b"\0\r ") else 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"I0303 14:28:05.286000       1 controller.go:1] password=x", "own log"),
        (b'{"ts":1.5,"msg":"password"}', "own log"),
        (b'{"password":"x"}', "not an audit event"),
        (b'2020-01-01T00:00:00.0Z AUDIT: id="1" stage="x"', "legacy"),
        (b"[1]", "cannot be read"),
        (b"\xff\xfe password", "cannot be read"),
        (line(secret(1))[:-40], "cannot be read"),
        (RUNTIME.replace(b"stdout", b"stderr") + b"F " + line(secret(1)), "own log"),
    ],
)
def test_what_is_not_an_event_stays_and_is_reported(text: bytes, reason: str) -> None:
    """With its line."""
    data = log(event(1)) + text + b"\n" + log(event(3))
    found = Found(data)
    assert (found.data, found.events) == (data, 2)
    ((number, said),) = found.unread
    assert number == 2
    assert reason in said
    assert WORD not in said


def test_a_line_that_is_too_long_passes_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported once; the lines around it are read. A hole before a line is not reported."""
    monkeypatch.setattr(rewrite, "MOST", 5000)
    data = log(secret(1)) + b"\0" * 100_000 + log(secret(2)) + b"x" * 100_000 + b"\n" + log(secret(4))
    found = Found(data, 1000)
    assert is_clean(found.data)
    assert len(found.data) > 200_000
    assert (found.lines, [each.line for each in found.unread]) == ([1, 2, 4], [3])


def test_pieces_of_a_runtime_that_are_too_many_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held without a bound."""
    monkeypatch.setattr(rewrite, "MOST", 5000)
    data = (RUNTIME + b"P " + b"x" * 900 + b"\n") * 100 + RUNTIME + b"F y\n" + log(secret(1))
    found = Found(data, 1000)
    assert found.data.startswith(data[:90_000])
    assert (is_clean(found.data), found.events) == (True, 1)
    assert found.unread


@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.sampled_from([b"\n", b"\0", b"\r\n", line(event(1)), log(event(2)), cri(line(event(3)), 9, 99), TORN]),
            st.sampled_from(
                [docker(line(event(4)), 10), json.dumps(body(event(5))).encode(), RUNTIME + b"P x\n", b"{"]
            ),
        ),
        max_size=12,
    ),
    step=st.integers(1, 300),
)
@settings(max_examples=200, deadline=None)
def test_a_log_without_a_secret_stays_byte_for_byte(parts: list[bytes], step: int) -> None:
    """Whatever is in it, and in whatever blocks it is read."""
    data = b"".join(parts)
    found = Found(data, step)
    assert found.data == data
    assert found.taken == []


def test_spaces_and_escapes_are_no_secret() -> None:
    """An event that was written by another program stays as it is, if nothing is taken from it."""
    said: dict[str, Any] = {"containers": [{"args": ["-v"], "env": [{"name": "A", "value": "1"}], "\u00fc": 1.50}]}
    said |= {"metadata": {"annotations": {LAST: json.dumps(said)}}}
    data = json.dumps(event(1, requestObject=said, responseStatus={"message": "ok"})).encode()
    assert Redactor().line(data) != (data, 0)
    taken = list[Taken]()
    assert b"".join(Rewriter(Redactor(), taken.append, print).rewritten([data])) == data
    assert taken == []
    twice = data.replace(b'"args"', b'"args": ["--password=x"], "args"')
    assert b"--password" not in b"".join(Rewriter(Redactor(), taken.append, print).rewritten([twice]))
    assert len(taken) == 1


def test_events_of_a_real_log_that_lose_nothing_stay_byte_for_byte() -> None:
    """Of a real kube-apiserver, written again with spaces and escapes."""
    data = EVENTS.read_bytes()
    taken, unread = list[Taken](), list[Unread]()
    after = b"".join(Rewriter(Redactor(), taken.append, unread.append).rewritten([data])).splitlines()
    lost = {each.line for each in taken if each.values}
    assert (len(lost), unread) == (len(taken), [])
    assert len(lost) < 10
    pairs = enumerate(zip(data.splitlines(), after, strict=True), 1)
    assert {number for number, (old, new) in pairs if old != new} == lost


def test_a_body_that_no_parser_takes_is_removed() -> None:
    """An annotation of the event says so."""
    deep = line(event(1, requestObject=1)).replace(
        b'"requestObject":1', b'"requestObject":' + b"[" * 5000 + b"]" * 5000
    )
    taken = list[Taken]()
    data = b"".join(Rewriter(Redactor(), taken.append, print).rewritten([deep + b"\n", log(event(2))]))
    assert [json.loads(each).get("annotations") for each in data.splitlines()] == [
        {"auditpipeline.dev/truncated": "requestObject"},
        None,
    ]
    assert [(each.line, each.values) for each in taken] == [(1, 1)]


def test_a_redactor_that_cannot_read_an_event_leaves_it() -> None:
    """Its reason is reported."""

    class Refusing:
        def line(self, _: bytes) -> Redacted:
            raise Permanent("the event cannot be read: odd")

    unread = list[Unread]()
    data = log(secret(1)) + json.dumps(body(secret(2))).encode()
    blocks: Iterator[bytes] = iter([data])
    assert b"".join(Rewriter(Refusing(), lambda _: None, unread.append).rewritten(blocks)) == data
    assert [each.line for each in unread] == [1, 2]
