"""Lines of container runtimes, and lines that are not meant as audit events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.framing import Joiner, Text, foreign_object, foreign_text, may_be_torn, settled

TIME = b"2026-02-12T08:12:45.123456789Z"
KLOG = b"I0212 08:12:45.200000       1 controller.go:1] OpenAPI loaded"


def cri(data: bytes, tag: bytes = b"F", stream: bytes = b"stdout") -> bytes:
    """A line as containerd writes it."""
    return b" ".join([TIME, stream, tag, data])


def docker(log: str, stream: str = "stdout") -> bytes:
    """A line as docker writes it."""
    return json.dumps({"log": log, "stream": stream, "time": TIME.decode()}, separators=(",", ":")).encode()


def joined(*lines: bytes, most: int = 1000) -> list[Text]:
    """What comes of these lines."""
    joiner = Joiner(most)
    return [text for line in lines for text in joiner.add(line)] + list(joiner.rest())


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        ([b'{"kind":"Event"}'], [Text(b'{"kind":"Event"}')]),
        ([cri(b"{}")], [Text(b"{}")]),
        ([b"2026-02-12T08:12:45+01:00 stdout F {}"], [Text(b"{}")]),
        ([cri(b"{}", b"F:x")], [Text(b"{}")]),
        ([cri(b"")], [Text(b"")]),
        ([cri(KLOG, stream=b"stderr")], [Text(KLOG, stderr=True)]),
        ([cri(b"{", b"P"), cri(b'"a"', b"P"), cri(b":1}")], [Text(b'{"a":1}')]),
        (
            [cri(b"{", b"P"), cri(b"E1", b"P", b"stderr"), cri(b"E2", b"F", b"stderr"), cri(b"}")],
            [Text(b"E1E2", stderr=True), Text(b"{}")],
        ),
        ([cri(b"{", b"P")], [Text(b"{", ended=False)]),
        ([docker('{"a":"\\u00e9"}\n')], [Text(b'{"a":"\\u00e9"}')]),
        ([docker('{"a":'), docker("1}\n")], [Text(b'{"a":1}')]),
        ([docker("E\n", "stderr")], [Text(b"E", stderr=True)]),
        ([b'{"log":1}'], [Text(b'{"log":1}')]),
        ([TIME + b" stdout X {}"], [Text(TIME + b" stdout X {}")]),
    ],
)
def test_lines_of_a_runtime_are_joined_by_stream(lines: list[bytes], texts: list[Text]) -> None:
    """Other lines stay as they are."""
    assert joined(*lines) == texts


def test_a_line_that_becomes_too_long_comes_in_parts() -> None:
    """What is held in memory is bounded."""
    texts = joined(*[cri(b"x" * 600, b"P")] * 4, cri(b"y"), most=1000)
    assert [(len(text.data), text.ended) for text in texts] == [(1200, False), (1200, False), (1, True)]


@pytest.mark.parametrize(
    ("lines", "taken"),
    [
        ([b'{"kind":1}', b"{"], 2),
        ([cri(b"{}"), cri(b"{", b"P")], 1),
        ([cri(b"{", b"P"), cri(b"}")], 2),
        ([cri(b"{", b"P"), cri(b"E", b"F", b"stderr")], 0),
        ([cri(b"{}"), cri(b"E", b"P", b"stderr"), cri(b"{}")], 3),
        ([docker("a\n"), docker("b")], 1),
    ],
)
def test_lines_can_be_taken_up_to_where_none_is_open(lines: list[bytes], taken: int) -> None:
    """So that a position never stands within a line."""
    data = b"".join(line + b"\n" for line in lines)
    assert settled(data) == settled(data + lines[-1]) == sum(len(line) + 1 for line in lines[:taken])


@given(st.lists(st.tuples(st.sampled_from([b"stdout", b"stderr"]), st.sampled_from([b"F", b"P"]), st.integers(0, 9))))
def test_taken_in_pieces_the_lines_are_the_same(found: list[tuple[bytes, bytes, int]]) -> None:
    """However the data is cut for reading; on standard output, the one that events are written to."""
    lines = [cri(b"%d" % number, tag, stream) for stream, tag, number in found]
    data, texts = b"".join(line + b"\n" for line in lines), list[Text]()
    at = 0
    for step in range(0, len(data) + 1, 7):
        end = at + settled(data[at:step])
        texts += joined(*data[at:end].split(b"\n")[:-1]) if end > at else []
        at = end
    texts += joined(*data[at:].split(b"\n")[:-1])
    assert [text for text in texts if not text.stderr] == [text for text in joined(*lines) if not text.stderr]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (KLOG, "component"),
        (b"E1127 14:28:05.286000       7 status.go:71] apiserver received an error: x", "component"),
        (b'2020-01-01T00:00:00.000000000Z AUDIT: id="x" stage="RequestReceived" ip="::1"', "legacy"),
        (b"2020-01-01 AUDIT: id=1", None),
        (b"It is a text", None),
    ],
)
def test_text_that_is_not_meant_as_an_event_is_known(line: bytes, kind: str | None) -> None:
    """By its beginning."""
    assert foreign_text(line) == kind


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ({"auditID": 1}, None),
        ({"level": 1, "stage": 1}, None),
        ({"ts": 1, "caller": 1, "msg": 1, "v": 0}, "component"),
        ({"ts": 1, "msg": 1, "auditID": 1}, None),
        ({"level": 1, "msg": 1}, "other"),
    ],
)
def test_an_object_that_is_not_meant_as_an_event_is_known(line: dict[str, int], kind: str | None) -> None:
    """By its fields."""
    assert foreign_object(line) == kind  # type: ignore[arg-type]


@pytest.mark.parametrize("line", [b"{", b'x"}', b'x"auditID":y', b"audit.k8s.io/v1"])
def test_text_that_may_be_torn_is_known(line: bytes) -> None:
    """It is kept, whatever was seen before."""
    assert may_be_torn(line)
    assert not may_be_torn(b"Nov 27 14:28:05 node sshd[1]: session opened")
