"""Host names of outputs, looked up at a real DNS server that answers, fails, hangs or does not know the name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from auditpipeline.core.config import HttpOutput
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.outputs import cares
from auditpipeline.dataplane.outputs.cares import Unknown
from auditpipeline.dataplane.outputs.http import Http
from auditpipeline.dataplane.outputs.resolver import KEEP, MOST, Known, Resolver, lease
from auditpipeline.dataplane.outputs.search import Search, candidates, parse
from tests.dataplane.dns import AAAA, NXDOMAIN, SERVFAIL, Answer, Dns
from tests.dataplane.pki import Authority
from tests.dataplane.proxy import Proxy
from tests.dataplane.setting import Destination, until

POD = "search team.example corp.example example\noptions ndots:5\n"


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def dns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dns]:
    """A DNS server, and a search list as Pods have it."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:1")
    (tmp_path / "resolv.conf").write_text(POD)
    monkeypatch.setattr(cares, "RESOLV_CONF", tmp_path / "resolv.conf")
    async with Dns().listening() as server:
        monkeypatch.setattr(cares, "NAMESERVERS", [f"127.0.0.1:{server.port}"])
        yield server


@pytest.fixture
def clock() -> Clock:
    """It stands still."""
    return Clock()


@pytest.fixture
async def resolver(dns: Dns, clock: Clock) -> AsyncIterator[Resolver]:
    """A resolver that asks the server."""
    assert dns.port
    found = Resolver(Known(clock))
    yield found
    await found.close()


async def found(resolver: Resolver, host: str) -> list[str]:
    """The addresses of a host."""
    return [one["host"] for one in await resolver.resolve(host, 443)]


async def test_a_name_has_all_its_addresses(dns: Dns, resolver: Resolver) -> None:
    """Of both families, as the connector wants them."""
    dns.names = {"siem.example": ("127.0.0.1", "127.0.0.2", "::1")}
    results = await resolver.resolve("SIEM.example.", 443)
    assert {(one["host"], one["family"]) for one in results} == {
        ("127.0.0.1", socket.AF_INET),
        ("127.0.0.2", socket.AF_INET),
        ("::1", socket.AF_INET6),
    }
    assert {(one["hostname"], one["port"]) for one in results} == {("SIEM.example.", 443)}
    assert [one["host"] for one in await resolver.resolve("siem.example.", 1, socket.AF_INET6)] == ["::1"]


@pytest.mark.parametrize(
    ("host", "names", "addresses"),
    [
        ("siem", {"siem.corp.example": ("127.0.0.7",)}, ["127.0.0.7"]),
        ("siem.svc", {"siem.svc.team.example": ("127.0.0.7",), "siem.svc": ("127.0.0.8",)}, ["127.0.0.7"]),
        ("siem.svc.", {"siem.svc.team.example": ("127.0.0.7",), "siem.svc": ("127.0.0.8",)}, ["127.0.0.8"]),
        ("hec.splunk.com", {"hec.splunk.com": ("127.0.0.8",)}, ["127.0.0.8"]),
        ("a.b.c.d.e.f", {"a.b.c.d.e.f": ("127.0.0.8",), "a.b.c.d.e.f.team.example": ()}, ["127.0.0.8"]),
        ("hec.splunk.com", {"hec.splunk.com.corp.example": SERVFAIL, "hec.splunk.com": ("127.0.0.8",)}, ["127.0.0.8"]),
        ("siem", {"siem.team.example": SERVFAIL, "siem.example": ("127.0.0.7",)}, ["127.0.0.7"]),
        ("siem", {"siem.team.example": (), "siem.example": ("127.0.0.7",)}, ["127.0.0.7"]),
    ],
    ids=["search", "search first", "last dot", "as it is", "many dots", "a domain fails", "the first fails", "no data"],
)
async def test_the_search_list_is_used_as_the_c_library_does(
    dns: Dns, resolver: Resolver, host: str, names: dict[str, Answer], addresses: list[str]
) -> None:
    """A Pod has three domains and ndots:5; a search domain whose server fails hides none of the others."""
    dns.names = names
    assert await found(resolver, host) == addresses


async def test_the_hosts_file_and_localhost_need_no_server(dns: Dns, resolver: Resolver) -> None:
    """What getaddrinfo finds there is found."""
    for name in ("localhost", *_names_in_hosts()):
        expected = {str(info[4][0]) for info in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)}
        assert expected <= set(await found(resolver, name))
    assert dns.asked == []


def _names_in_hosts() -> list[str]:
    lines = [line.partition("#")[0].split() for line in Path("/etc/hosts").read_text().splitlines()]
    return [line[1] for line in lines if len(line) > 1 and line[0].startswith("127.")]


async def test_a_host_without_ipv6_asks_for_none(
    dns: Dns, resolver: Resolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AI_ADDRCONFIG: with a search list, half of all questions."""
    dns.names = {"siem.example": ("127.0.0.1", "::1")}
    interfaces = tmp_path / "if_inet6"
    interfaces.write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    monkeypatch.setattr(cares, "_IF_INET6", interfaces)
    assert await found(resolver, "siem.example.") == ["127.0.0.1"]
    assert AAAA not in {kind for _, kind in dns.asked}


async def test_a_search_list_that_changes_is_read(dns: Dns, resolver: Resolver) -> None:
    """With the next lookup."""
    dns.names = {"siem.example": ("127.0.0.1",), "siem.new.example": ("127.0.0.2",)}
    assert await found(resolver, "siem") == ["127.0.0.1"]
    cares.RESOLV_CONF.write_text("search new.example example\n")
    assert await found(resolver, "siem") == ["127.0.0.2"]


async def test_a_name_that_does_not_exist_is_an_answer(dns: Dns, resolver: Resolver) -> None:
    """The addresses before are not used any more, also when the server fails later."""
    dns.names = {"siem.example": ("127.0.0.1",)}
    assert await found(resolver, "siem.example.") == ["127.0.0.1"]
    dns.names = {}
    with pytest.raises(Unknown, match="cannot be resolved"):
        await found(resolver, "siem.example.")
    dns.names = {"siem.example": SERVFAIL}
    with pytest.raises(OSError, match="cannot be resolved now"):
        await found(resolver, "siem.example.")


@pytest.mark.parametrize("failure", [SERVFAIL, 5, None], ids=["fails", "refuses", "hangs"])
async def test_the_last_addresses_are_used_for_an_hour_while_the_resolver_fails(
    dns: Dns, resolver: Resolver, clock: Clock, failure: Answer
) -> None:
    """Counted from when they were last confirmed, and not from a failure."""
    dns.names = {"siem.example": ("127.0.0.1",)}
    assert await found(resolver, "siem.example.") == ["127.0.0.1"]
    dns.names = {"siem.example": failure}
    for passed in (KEEP / 2, KEEP / 2 - 1):
        clock.now += passed
        assert await found(resolver, "siem.example.") == ["127.0.0.1"]
    clock.now += 1
    with pytest.raises(OSError, match="cannot be resolved now"):
        await found(resolver, "siem.example.")


async def test_what_is_learned_late_is_learned(dns: Dns, resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lookup goes on while the addresses before are in use."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:2 attempts:10")
    dns.names = {"siem.example": ("127.0.0.1",)}
    assert await found(resolver, "siem.example.") == ["127.0.0.1"]
    dns.names = {"siem.example": None}
    assert await found(resolver, "siem.example.") == ["127.0.0.1"]
    dns.names = {"siem.example": ("127.0.0.2",)}

    async def learned() -> bool:
        return await found(resolver, "siem.example.") == ["127.0.0.2"]

    await until(learned)


async def test_a_name_is_looked_up_once_for_all_who_wait(dns: Dns, resolver: Resolver) -> None:
    """A route that tries again and again adds nothing."""
    dns.names = {"siem.example": None}
    waiting = [asyncio.create_task(found(resolver, "siem.example.")) for _ in range(50)]
    await until(lambda: len(dns.asked) >= 1)
    for task in waiting[1:]:
        task.cancel()
    with pytest.raises(OSError, match="cannot be resolved now"):
        await waiting[0]
    assert len(dns.asked) <= 4
    assert (await asyncio.gather(*waiting[1:], return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_answers_are_kept_for_their_ttl(dns: Dns, resolver: Resolver) -> None:
    """No question for each new connection."""
    dns.ttl, dns.names = 600, {"siem.example": ("127.0.0.1",)}
    for _ in range(5):
        assert await found(resolver, "siem.example.") == ["127.0.0.1"]
    assert len(dns.asked) <= 2


def test_what_is_remembered_is_bounded(clock: Clock) -> None:
    """Those that were confirmed longest ago go."""
    known = Known(clock)
    for number in range(MOST + 10):
        known.put((str(number), 0), [("127.0.0.1", 2)])
    assert [known.get((str(number), 0)) is None for number in (9, 10, MOST + 9)] == [True, False, False]


async def test_the_last_output_closes_the_resolver_of_all(dns: Dns, destination: Destination) -> None:
    """One for the process; the thread of c-ares ends with it, and so does what was asked."""
    dns.names = {"a.example": ("127.0.0.1",), "b.example": None}
    tasks = asyncio.all_tasks()
    await until(lambda: _channels() == 0)  # those of former tests end by themselves
    outputs = [Http(HttpOutput(f"http://{name}.example.:{destination.port}/in")) for name in ("a", "b")]
    await outputs[0].deliver([b"{}"])
    hanging = asyncio.create_task(outputs[1].deliver([b"{}"]))
    await until(lambda: ("b.example", 1) in dns.asked)
    assert _channels() == 1
    shared = lease()
    assert shared.users == 3
    await shared.release()
    await outputs[0].close()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    await outputs[1].close()
    assert shared.users == 0
    await until(lambda: asyncio.all_tasks() <= tasks and _channels() == 0)
    again = lease()
    assert again is not shared
    await again.release()


def _channels() -> int:
    """How many channels of c-ares are open: each watches its configuration."""
    numbers = list(Path("/proc/self/fd").iterdir())
    return sum("inotify" in str(number.readlink()) for number in numbers if number.is_symlink())


async def test_an_output_and_its_proxy_are_found_by_name(dns: Dns, tmp_path: Path) -> None:
    """The certificate is checked against the name as it is written, and not against what the search list made of it."""
    dns.names = {"siem.team.example": ("127.0.0.1",), "proxy.corp.example": ("127.0.0.1",)}
    authority = Authority(tmp_path / "pki")
    context = authority.server(authority.issue("server", "siem"))
    async with Destination().listening(context) as server, Proxy().listening(server.port) as proxy:
        url = f"https://siem:{server.port}/in"
        for through in (None, f"http://proxy:{proxy.port}"):
            output = Http(HttpOutput(url, ca=authority.ca.read_text(), proxy=through))
            await output.deliver([b"{}"])
            await output.close()
        assert proxy.asked == [f"CONNECT siem:{server.port}"]
        assert len(server.requests) == 2


async def test_a_name_that_is_not_found_is_said(dns: Dns) -> None:
    """In the words of whoever has to mend it."""
    dns.names = {"down.example": SERVFAIL}
    for host, words in (("nowhere.example", "cannot be resolved: "), ("down.example", "cannot be resolved now: ")):
        output = Http(HttpOutput(f"https://{host}/in"))
        with pytest.raises(Retryable, match=words):
            await output.deliver([b"{}"])
        await output.close()
    assert NXDOMAIN not in dns.names.values()


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("", {}, Search((), 1)),
        ("search a.example  b.example.\n", {}, Search(("a.example", "b.example"), 1)),
        ("search a\ndomain b\noptions ndots:5 edns0\n", {}, Search(("b",), 5)),
        ("options ndots:99\noptions ndots:x\n# search c\n; search d\n", {}, Search((), 15)),
        ("search a\noptions ndots:2\n", {"LOCALDOMAIN": "c d", "RES_OPTIONS": "ndots:3"}, Search(("c", "d"), 3)),
    ],
)
def test_resolv_conf_is_read_as_resolv_conf_5_says(text: str, environment: dict[str, str], expected: Search) -> None:
    """The last line counts; the environment is stronger."""
    assert parse(text, environment) == expected


def test_names_are_tried_in_the_order_of_their_dots() -> None:
    """As it is last, unless it has enough of them."""
    search = Search(("x", "y"), 2)
    assert candidates("a", search) == ["a.x.", "a.y.", "a."]
    assert candidates("a.b.c", search) == ["a.b.c.", "a.b.c.x.", "a.b.c.y."]
    assert candidates("a.", search) == ["a."]
