"""Promise 5: a body that cannot be read is no retry loop. Ten thousand broken ones, each with a known end."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import aiohttp
from hypothesis import HealthCheck, Phase, given, settings

from auditpipeline.core.errors import Permanent
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.dataplane.body import coding, inflate
from auditpipeline.dataplane.filter import Filter, Taken, Wanted
from auditpipeline.dataplane.store import Dead
from tests.bench.plane_usage import rss
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Setting, event, event_list, lines_in, until
from tests.reliability.driving import drained
from tests.reliability.mutation import mutated, strange_lists

BODIES = 10_000
SOME = Policy(rules=(Rule("None", verbs=("get",)), Rule("Metadata", verbs=("list",)), Rule("RequestResponse")))
Body = tuple[bytes, dict[str, str]]


async def test_ten_thousand_broken_bodies(setting: Setting) -> None:
    """Bytes flipped, cut, doubled and swapped, some within gzip: no crash, no leak, no 5xx, and every event of every
    body is delivered, filtered or a dead letter, or the body was refused with 4xx and nothing of it was kept."""
    setting.write(setting.config(setting.route(policies=(SOME,))))
    bodies = list(mutated(BODIES, seed=3))
    async with serving(setting) as process:
        await process.listening()
        warm = await _post_all(process, setting, mutated(1000, seed=4))
        memory, files = rss(process.pid, "VmRSS"), _open_files(process.pid)
        statuses = warm + await _post_all(process, setting, bodies)
        assert sum(statuses.values()) == BODIES + 1000
        assert set(statuses) <= {200, 415}, statuses
        assert await _post_all(process, setting, [(event_list([event(verb="create")]), {})]) == {200: 1}
        await drained(process, setting)
        await until(lambda: _open_files(process.pid) <= files)
        grown = rss(process.pid, "VmRSS") - memory
        report = await process.report(setting)
        metrics = (await process.ops(setting, "/metrics")).decode()
        assert "Traceback" not in process.log.read_text()
    expected = _expected([*mutated(1000, seed=4), *bodies])
    expected["delivered"] += 1
    received, delivered, dropped = report.events.received, report.events.delivered, report.events.dropped
    filtered = _sample(metrics, "auditpipeline_events_filtered_total")
    # Not each for itself: bodies overtake each other, and what is wrong with an event that is the first of its kind is
    # looked at more closely.
    assert delivered + filtered + dropped == expected.total()
    assert received == delivered
    assert len(lines_in(setting.file)) == delivered
    assert grown < 2**25, f"it grew by {grown} bytes"
    assert min(expected.values()) > 500, f"one kind hardly comes up: {expected}"


@settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
)
@given(strange_lists())
def test_strange_json_is_conserved(body: bytes) -> None:
    """JSON of any shape where an event, a field or a list should be: as many events come out as went in."""
    taken = Filter([Wanted((SOME,))]).take(body)
    assert _ends(taken, body), taken
    for line in taken.lines:
        assert isinstance(json.loads(line), dict)


async def test_strange_json_reaches_its_end(setting: Setting) -> None:
    """The same through a real process: 200, then in the file or in the dead letters."""
    bodies: list[bytes] = []

    @settings(
        max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
    )
    @given(strange_lists())
    def collect(body: bytes) -> None:
        bodies.append(body)

    collect()
    setting.write(setting.config(setting.route(policies=(SOME,))))
    expected = _expected((body, {}) for body in bodies)
    async with serving(setting) as process:
        await process.listening()
        statuses = await _post_all(process, setting, ((body, {}) for body in bodies), connections=1)
        assert statuses == {200: len(bodies)}
        await drained(process, setting)
        report = await process.report(setting)
    assert (report.events.delivered, report.events.dropped) == (expected["delivered"], expected["dead"])


async def _post_all(process: Process, setting: Setting, bodies: Iterable[Body], connections: int = 8) -> Counter[int]:
    """Posts all of them; how often each status came."""
    statuses: Counter[int] = Counter()
    url = f"https://127.0.0.1:{process.ports['audit']}/audit"
    context = setting.authority.client(setting.client_tls)
    rest = iter(bodies)

    async def post(session: aiohttp.ClientSession) -> None:
        for body, headers in rest:
            async with session.post(url, data=body, headers=headers, ssl=context) as response:
                await response.read()
                statuses[response.status] += 1

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(post(session) for _ in range(connections)))
    return statuses


def _expected(bodies: Iterable[Body]) -> Counter[str]:
    """Where the events of these bodies have to end. The filter says which of those that can be read are wanted; that
    none is missing is told by counting the items of the JSON."""
    found: Counter[str] = Counter()
    filter_ = Filter([Wanted((SOME,))])
    for body, headers in bodies:
        if (coded := coding(headers.values())) is None:
            continue  # 415
        try:
            plain = inflate(body, coded, 2**25)
            assert plain is not None
        except Permanent:
            found["dead"] += 1
            continue
        taken = filter_.take(plain)
        assert _ends(taken, plain), plain
        found.update(delivered=len(taken.lines), filtered=taken.filtered, dead=_events_of(taken.dead))
    return found


def _events_of(dead: Iterable[Dead]) -> int:
    return sum(letter.events for letter in dead)


def _ends(taken: Taken, body: bytes) -> bool:
    """Whether every event of the body has one end: each by itself, or the whole body as one dead letter."""
    ends = (len(taken.lines), taken.filtered, _events_of(taken.dead))
    if ends == (0, 0, 1):
        return True
    expected = _events_in(body)
    return sum(ends) == expected if expected is not None else sum(ends) > 0


def _events_in(body: bytes) -> int | None:
    """How many events a body holds by another parser's account; 1 if it is not a list, since it is kept as a whole.
    None if that parser does not take it: then at least one thing came out of it."""
    try:
        found = json.loads(body.decode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    items = found.get("items", []) if isinstance(found, dict) and found.get("kind") == "EventList" else None
    return len(items or []) if isinstance(items, list | None) and found.get("kind") == "EventList" else 1


def _sample(metrics: str, name: str) -> float:
    return next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith(f"{name} "))


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
