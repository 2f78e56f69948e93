"""What becomes of the lines of a log: which are events, which are buried, and which are only counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from auditpipeline.core.eventlist import decode_body
from auditpipeline.dataplane.sources.sorting import Sorted, Sorter
from tests.dataplane.setting import event

LOGS = Path(__file__).parents[1] / "data" / "logs"
KLOG = b"I1127 14:28:05.286000       1 controller.go:1] OpenAPI loaded\n"
COMPONENT = b'{"ts":1580306777.04,"caller":"x.go:1","msg":"Pod status updated","v":0}\n'
LEGACY = b'2020-01-01T00:00:00.000000000Z AUDIT: id="x" stage="RequestReceived" ip="::1" method="get"\n'
SYSLOG = b"Nov 27 14:28:05 node sshd[1]: session opened\n"


def line(audit_id: str) -> bytes:
    """An event as kube-apiserver writes it."""
    head = {"kind": "Event", "apiVersion": "audit.k8s.io/v1"}
    return json.dumps({**head, **event(auditID=audit_id)}, separators=(",", ":")).encode() + b"\n"


def taken(found: Sorted) -> list[str]:
    """The auditIDs of its events."""
    return [json.loads(bytes(item["auditID"])) for body in found.bodies for item in decode_body(body)]


def test_the_intact_events_of_torn_lines_are_taken() -> None:
    """And each torn rest is a dead letter."""
    found = Sorter(10_000).sort((LOGS / "torn.log").read_bytes())
    assert taken(found) == ["e-1", "e-3", "e-5", "e-6", "e-7", "e-8"]
    assert [identity for letter in found.dead for identity in ("e-2", "e-4") if identity.encode() in letter.data] == [
        "e-2",
        "e-4",
    ]
    assert (found.events, sum(letter.events for letter in found.dead)) == (6, 2)


def test_lines_of_a_container_runtime_are_read() -> None:
    """What kube-apiserver says of itself is counted."""
    found = Sorter(10_000).sort((LOGS / "audit-cri.log").read_bytes())
    assert (taken(found), found.dead, found.foreign) == (["e-1", "e-2"], [], {"component": 1})


def test_an_event_on_standard_error_is_none() -> None:
    """kube-apiserver writes none there; what it does write there may repeat a user's words."""
    time = b"2026-02-12T08:12:45.2Z"
    found = Sorter(10_000).sort(time + b" stderr F " + line("forged") + time + b" stdout F " + line("a"))
    assert (taken(found), found.dead, found.foreign) == (["a"], [], {"component": 1})


def test_an_event_in_a_message_of_kube_apiserver_is_none() -> None:
    """Not in a line of klog, and not in the lines that go on with it; nor at the end of a part, on standard error."""
    message = KLOG[:-1] + b"the patch failed:\nit was " + line("forged") + b'"x" ' + line("forged")
    sorter = Sorter(10_000)
    found = sorter.sort(message + line("a") + b"2026-02-12T08:12:45.2Z stderr F " + line("forged")[:-1])
    assert taken(found) == ["a"]
    assert len(found.dead) == 2
    assert found.foreign == {"component": 2}


def test_a_message_on_standard_error_hides_no_event_of_a_torn_line() -> None:
    """The streams are told apart there."""
    time = b"2026-02-12T08:12:45.2Z "
    torn = b"x" + line("z")[20:90] + line("a")
    found = Sorter(10_000).sort(time + b"stderr F " + KLOG + time + b"stdout F " + torn)
    assert (taken(found), len(found.dead)) == (["a"], 1)


def test_what_kube_apiserver_logs_between_events_is_counted_and_not_buried() -> None:
    """With the lines that go on with it."""
    more = b"[+]ping ok\n[-]poststarthook/rbac/bootstrap-roles failed: not finished\n"
    found = Sorter(10_000).sort(line("a") + KLOG + more + COMPONENT + line("b") + KLOG)
    assert (taken(found), found.dead, found.foreign) == (["a", "b"], [], {"component": 5})


@pytest.mark.parametrize("torn", [line("b")[:90] + b"\n", line("b")[90:], b'"auditID":"b"\n'])
def test_a_torn_event_behind_a_line_of_klog_is_buried(torn: bytes) -> None:
    """It does not go on with that line."""
    found = Sorter(10_000).sort(KLOG + torn)
    assert [letter.data for letter in found.dead] == [torn.strip()]


def test_a_log_without_an_audit_event_is_counted_and_not_buried() -> None:
    """Until there is one: then what is between events is somebody's to look at."""
    sorter = Sorter(10_000)
    found = sorter.sort(SYSLOG * 1000 + b'{"level":"info","msg":"x"}\n')
    assert (found.bodies, found.dead, found.foreign, sorter.seen) == ([], [], {"other": 1001}, False)
    found = sorter.sort(SYSLOG + line("a"))
    assert (taken(found), len(found.dead), found.foreign, sorter.seen) == (["a"], 1, {}, True)


def test_the_legacy_format_is_counted_and_not_buried() -> None:
    """Its lines cannot be read."""
    found = Sorter(10_000).sort(LEGACY * 1000)
    assert (found.bodies, found.dead, found.foreign) == ([], [], {"legacy": 1000})


@pytest.mark.parametrize("junk", [b"{\n", b"x\n", b"{}\n", b"\xff\r\n", b"x\ny" + b"-" * 30 + b"\n"])
def test_many_lines_that_are_no_events_make_few_dead_letters(junk: bytes) -> None:
    """Which stand for all of them, and hold all of them; events between them are taken."""
    found = Sorter(10_000).sort(line("a") + junk * 25_000 + line("b") + junk * 25_000)
    assert taken(found) == ["a", "b"]
    assert len(found.dead) <= 100
    number = junk.count(b"\n") * 50_000
    assert (sum(letter.events for letter in found.dead), found.lines) == (number, number + 2)
    assert sum(letter.data.count(junk[:1]) for letter in found.dead) == 50_000


def test_short_lines_are_counted_before_the_first_event_and_beside_a_message() -> None:
    """As longer ones are: only what may be a part of an event is kept."""
    sorter = Sorter(10_000)
    assert sorter.sort(b"x\n \n\n" * 1000) == Sorted([], [], 1000, 0, Counter({"other": 1000}))
    found = sorter.sort(b'x\n"auditID":"a"}\n' * 1000)
    assert (sum(letter.events for letter in found.dead), found.foreign) == (2000, {})
    assert sorter.sort(KLOG + b"x\n" * 1000) == Sorted([], [], 1001, 0, Counter({"component": 1001}))


def test_short_lines_of_a_container_runtime_are_events_all_the_same() -> None:
    """Whatever the size of the pieces."""
    pieces = line("a")[:-1]
    framed = [b"2026-02-12T08:12:45Z stdout P " + pieces[at : at + 1] + b"\n" for at in range(len(pieces))]
    docker = [b'{"log":%s}\n' % json.dumps(pieces[at : at + 1].decode()).encode() for at in range(len(pieces))]
    for each in (b"".join(framed) + b"2026-02-12T08:12:45Z stdout F \n", b"".join(docker) + b'{"log":"\\n"}\n'):
        found = Sorter(10_000).sort(each)
        assert (taken(found), found.dead) == (["a"], [])


def test_two_torn_lines_make_no_event() -> None:
    """What one has too little of is not taken from the other, nor is a torn event repaired with the next one's end."""
    body = line("a")[:-2] + b',"requestObject":{"x":"y'
    found = Sorter(10_000).sort(line("s") + body + b"\n" + body + line("b") + body + b"\0\0" + line("c"))
    assert taken(found) == ["s", "b", "c"]
    assert len(found.dead) == 3


def test_zeros_at_the_ends_of_a_line_complete_no_event() -> None:
    """They may stand for what is around an object that a user nested; nothing is taken for the end of the line."""
    nested = line("forged")[:-1]
    torn = line("a")[:-2] + b',"requestObject":{"a":' + nested
    found = Sorter(10_000).sort(line("s") + torn + b"\0\0\n" + b"\0\0" + nested + b"\0\0}\n" + line("z"))
    assert taken(found) == ["s", "z"]
    assert len(found.dead) == 2
