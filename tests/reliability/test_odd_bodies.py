"""Promise: the unit of failure is one event. What one person writes into an object hides nothing of anybody else's."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings

from auditpipeline.core import split
from auditpipeline.core.config import HttpOutput
from auditpipeline.core.eventlist import HEAD, encode_body
from auditpipeline.core.mend import ANNOTATION
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.dataplane.filter import Filter, Wanted, narrow_line
from tests.bench.plane_usage import rss
from tests.dataplane.process import serving
from tests.dataplane.setting import DATA, Destination, Setting, event, lines_in, until
from tests.oracle.oracle import Oracle
from tests.reliability import go_bodies

NEIGHBOURS = 400
CORPUS = DATA / "odd-bodies"
EVERYTHING = Policy(rules=(Rule("RequestResponse"),))
METADATA = Policy(rules=(Rule("Metadata"),))
ODD = {
    "a lone surrogate": rb'"\ud800"',
    "a lone surrogate in a key": rb'{"\udfff":1}',
    "bytes that are not UTF-8": b'{"a":"\xff\xfe\xed\xa0\x80"}',
    "nested maps": b'{"a":' * 981 + b"1" + b"}" * 981,
    "nested arrays": b"[" * 10_000 + b"]" * 10_000,
    "nested close to the limit of the stack": b"[" * 975 + b"]" * 975,
    "brackets and quotes in strings": rb'"]}],\"}]{[\\"',
}
WHO = ("level", "verb", "user", "requestURI", "objectRef", "auditID", "stage")


def item(each: dict[str, Any], body: bytes | None = None) -> bytes:
    """The event as kube-apiserver spells it, with that request object."""
    plain = json.dumps(each, separators=(",", ":")).encode()
    return plain if body is None else plain[:-1] + b',"requestObject":' + body + b"}"


def batch(odd: dict[str, Any], body: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """The neighbours, and a body in whose middle the odd event stands."""
    neighbours = [event() for _ in range(NEIGHBOURS)]
    items = [item(each) for each in neighbours]
    items.insert(NEIGHBOURS // 2, item(odd, body))
    return neighbours, encode_body(items)


@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
async def test_an_odd_event_hides_nobody_and_is_not_hidden(
    setting: Setting, destination: Destination, body: bytes
) -> None:
    """All 400 neighbours arrive at an output that wants everything and at one that wants metadata; so does the odd
    event, with who did what. Nothing is buried."""
    odd = event(level="Request", verb="patch", user={"username": "mallory"})
    neighbours, sent = batch(odd, body)
    async with destination.listening():
        metadata = setting.route("file", policies=(METADATA,))
        everything = setting.route("http", HttpOutput(destination.url), policies=(EVERYTHING,))
        async with setting.running(setting.config(metadata, everything)) as plane:
            assert await plane.post(sent) == 200
            await until(lambda: len(destination.events) > NEIGHBOURS)
            await until(lambda: setting.file.exists() and len(lines_in(setting.file)) > NEIGHBOURS)
            report = await plane.report()
    assert (report.events.dropped, report.dead_letters) == (0, 0)
    for found in (destination.events, lines_in(setting.file)):
        assert [each for each in found if each["auditID"] != odd["auditID"]] == neighbours
        (arrived,) = [each for each in found if each["auditID"] == odd["auditID"]]
        assert {name: arrived[name] for name in WHO} == odd | {"level": arrived["level"]}
    there = next(each for each in destination.events if each["auditID"] == odd["auditID"])
    assert ("requestObject" in there) != (ANNOTATION in there.get("annotations", {}))


@pytest.mark.parametrize("element", [b"1", b"{}", b"[1]", b'{"a":1}', b'"x,y"'])
async def test_a_body_of_junk_is_one_dead_letter_with_a_count(setting: Setting, element: bytes) -> None:
    """A kilobyte of gzip, a megabyte when it is inflated. Each element is counted, and its memory is bounded."""
    number = 2**20 // (len(element) + 1)
    setting.write(setting.config())
    async with serving(setting) as process:
        await process.listening()
        before = rss(process.pid, "VmHWM")
        url, context = f"https://127.0.0.1:{process.ports['audit']}/audit", setting.authority.client(setting.client_tls)
        async with aiohttp.ClientSession() as session:
            body = gzip.compress(encode_body([element] * number))
            async with session.post(url, data=body, headers={"Content-Encoding": "gzip"}, ssl=context) as response:
                assert response.status == 200
        report = await process.report(setting)
        grown = rss(process.pid, "VmHWM") - before
    assert report.events.dropped == number
    assert report.dead_letters == 1, report
    assert grown < 64 * 2**20, f"{grown} bytes for a body of a megabyte"


SLOW = {
    "junk": encode_body([b'{"a":[[1]]}'] * 1_000_000),
    "events of no level": encode_body([item(event(level="Some"))] * 19_000),
    "events that are not UTF-8": encode_body([item(event(level="Request"), b'"\xff' + b"a" * 400 + b'"')] * 9_000),
    "many fields": HEAD + b"{" + b",".join(b'"%d":1' % number for number in range(900_000)) + b"}]}",
}


@pytest.mark.parametrize("body", SLOW.values(), ids=SLOW.keys())
async def test_a_slow_body_holds_up_nobody(setting: Setting, body: bytes) -> None:
    """While megabytes of it are taken apart, others are taken and answered."""
    async with setting.running(setting.config()) as plane:
        slow = asyncio.create_task(plane.post(body))
        answered = 0
        while not slow.done():
            assert await plane.post([event()]) == 200
            answered += 1
        assert await slow == 200
        assert answered > 5, answered


@pytest.mark.parametrize("body", SLOW.values(), ids=SLOW.keys())
async def test_what_is_slow_is_done_in_a_thread(setting: Setting, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken apart, or mended, on the event loop."""
    threads, real = set[str](), split.members

    def noted(text: bytes, start: int) -> Iterator[split.Member]:
        threads.add(threading.current_thread().name)
        return real(text, start)

    monkeypatch.setattr(split, "members", noted)
    async with setting.running(setting.config(setting.route(policies=(EVERYTHING,)))) as plane:
        assert await plane.post(body) == 200
    assert threads == {"body-reader"}


@pytest.mark.parametrize("first", [b"1", rb'"\ud800"'])
async def test_no_number_of_levels_makes_the_sender_try_again(setting: Setting, first: bytes) -> None:
    """Not even with line ends, which a line may not have: what is taken at one place is not refused at the next, where
    the stack is deeper."""
    sent = [[event(level="Request"), event(level="Request", user={"username": "mallory"})] for _ in range(850, 1000, 2)]
    async with setting.running(setting.config(setting.route(policies=(EVERYTHING,)))) as plane:
        for (other, odd), levels in zip(sent, range(850, 1000, 2), strict=True):
            deep = b"[\n" + b"[" * levels + b"]" * levels + b"]"
            assert await plane.post(encode_body([item(other, first), item(odd, deep)])) == 200
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) >= 2 * len(sent))
        assert (await plane.report()).events.dropped == 0
    arrived = {each["auditID"]: each for each in lines_in(setting.file)}
    for each in (each for both in sent for each in both):
        assert {name: arrived[each["auditID"]][name] for name in WHO} == each


@pytest.mark.parametrize("policy", [METADATA, Policy((Rule("RequestResponse", omit_managed_fields=True),))])
def test_a_route_gets_an_event_of_any_number_of_levels(policy: Policy) -> None:
    """A line that was stored where the stack is less deep is narrowed all the same."""

    def deeper(frames: int, line: bytes) -> bytes | None:
        return deeper(frames - 1, line) if frames else narrow_line(line, (policy,), None)

    for levels in range(850, 1000):
        body = b'{"metadata":{"managedFields":' + b"[" * levels + b"]" * levels + b"}}"
        odd = event(level="Request")
        for line in Filter([Wanted((EVERYTHING,))]).take(encode_body([item(odd, body)])).lines:
            for frames in range(5):
                found = deeper(frames, line)
                assert found
                assert json.loads(found)["auditID"] == odd["auditID"]


@pytest.mark.parametrize("known", [True, False])
async def test_bodies_that_a_level_does_not_have_are_cut_and_counted(setting: Setting, known: bool) -> None:
    """Whoever captured them did not want them; the event is kept."""
    fields: dict[str, Any] = {} if known else {"unknown": 1}
    sent = [
        event(level="Metadata", requestObject={"a": 1}, responseObject={"b": 2}, **fields),
        event(level="Request", requestObject={"a": 1}, responseObject={"b": 2}, **fields),
        event(level="RequestResponse", requestObject={"a": 1}, responseObject={"b": 2}, **fields),
    ]
    async with setting.running(setting.config()) as plane:
        assert await plane.post(encode_body([item(each) for each in sent])) == 200
        await until(lambda: setting.file.exists() and len(lines_in(setting.file)) == 3)
        assert await plane.metric("auditpipeline_events_excess_total") == 2
    bodies = [{"requestObject", "responseObject"} & found.keys() for found in lines_in(setting.file)]
    assert bodies == [set(), {"requestObject"}, {"requestObject", "responseObject"}]


async def test_what_is_buried_is_logged_seldom(setting: Setting) -> None:
    """Whoever sends junk must not fill the log."""
    async with setting.running(setting.config()) as plane:
        for _ in range(20):
            assert await plane.post(b"junk") == 200
        assert (await plane.report()).events.dropped == 20
    (line,) = setting.log_lines("events cannot be read: see the dead letters")
    assert (line["events"], "cannot be read" in line["reason"]) == (1, True)


def conserved(body: bytes, items: list[dict[str, Any]]) -> None:
    """Each event of the body comes out once, and nothing else."""
    taken = Filter([Wanted((EVERYTHING,))]).take(body)
    assert taken.filtered == 0
    out = [json.loads(line) for line in taken.lines]
    assert len(out) + sum(letter.events for letter in taken.dead) == len(items)
    assert sorted(each["auditID"] for each in out) == sorted(each["auditID"] for each in items)
    for each in out:
        sent = next(found for found in items if found["auditID"] == each["auditID"])
        assert {name: each[name] for name in WHO} == {name: sent[name] for name in WHO}


def fuzz(seconds: float) -> None:
    """Tries bodies for so long; what fails is shrunk, and then belongs into `CORPUS`."""
    end = time.monotonic() + seconds

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(go_bodies.bodies())
    def a_few(drawn: tuple[list[dict[str, Any]], bytes]) -> None:
        items, body = drawn
        conserved(body, items)

    while time.monotonic() < end:
        a_few()


def test_no_body_that_go_passes_on_hides_an_event() -> None:
    """A minute of them: JSON as Go's encoder validates it, which is less than most parsers ask for."""
    fuzz(seconds=60.0)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_body_that_go_passes_on_hides_an_event_for_an_hour() -> None:
    """The same for longer."""
    fuzz(seconds=3600.0)


def test_go_does_pass_these_bodies_on() -> None:
    """Otherwise nothing would be proven by them."""

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(go_bodies.bodies())
    def each(drawn: tuple[list[dict[str, Any]], bytes]) -> None:
        assert oracle.valid(drawn[1])

    with Oracle.running() as oracle:
        each()
        assert all(oracle.valid(path.read_bytes()) for path in CORPUS.glob("*.json"))
        assert not oracle.valid(b'{"a":' * 10_001 + b"1" + b"}" * 10_001)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_what_once_was_hidden_is_not(path: Path) -> None:
    """Bodies that some release lost events of; the events in them have auditIDs of their own."""
    body = path.read_bytes()
    taken = Filter([Wanted((EVERYTHING,))]).take(body)
    expected = {found.decode() for found in re.findall(rb'"auditID":"([^"]+)"', body)}
    assert {json.loads(line)["auditID"] for line in taken.lines} == expected
    assert not taken.dead
