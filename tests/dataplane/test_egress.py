"""What outputs may connect to, with real servers, a real resolver and real proxies. Which addresses are refused is in
tests/core/test_egress.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from auditpipeline.core.config import Config, Egress, HttpOutput
from auditpipeline.core.egress import Address
from auditpipeline.core.errors import Retryable
from auditpipeline.core.report import OutputReport
from auditpipeline.dataplane import interfaces
from auditpipeline.dataplane.egress import Guard, Refused
from auditpipeline.dataplane.interfaces import FRESH, Interfaces
from auditpipeline.dataplane.outputs import cares
from auditpipeline.dataplane.outputs.http import Http
from tests.dataplane.dns import Dns
from tests.dataplane.pki import Authority
from tests.dataplane.proxy import Proxy
from tests.dataplane.setting import Destination, Running, Setting, event, until

LINES = [b'{"a":1}']


@dataclass
class Raw:
    """Takes connections, counts them, and says `banner` to each, whatever it asks."""

    banner: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    connections: int = 0
    port: int = 0

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Raw]:
        """Serves at that address; at every one of the machine if that is ""."""
        family = socket.AF_INET if host else socket.AF_INET6
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=not host)
        server = await asyncio.start_server(self._accept, sock=listener)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.read(2**16)
        writer.write(self.banner)
        await writer.drain()
        writer.close()


def guard(*allow: str, api_servers: tuple[str, ...] = ()) -> Guard:
    """A guard with these exemptions."""
    made = Guard()
    made.follow(Egress(allow, api_servers))
    return made


async def post(config: HttpOutput, by: Guard) -> str:
    """Delivers over a connection of its own; what is said if that fails."""
    output = Http(config, by)
    try:
        await output.deliver(LINES)
    except Retryable as error:
        return str(error)
    finally:
        await output.close()
    return ""


@pytest.fixture
async def dns(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dns]:
    """A DNS server of the test's own."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:1")
    async with Dns().listening() as server:
        monkeypatch.setattr(cares, "NAMESERVERS", [f"127.0.0.1:{server.port}"])
        yield server


async def test_a_refused_address_is_not_connected_to(destination: Destination) -> None:
    """And the message says which, and who may allow it."""
    assert await post(HttpOutput(destination.url), guard()) == (
        f"127.0.0.1:{destination.port}: the address 127.0.0.1 is not allowed (a loopback address): "
        "see egress.allow of the chart"
    )
    assert destination.requests == []


@pytest.mark.parametrize(
    "host",
    ["[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "[::1]", "localhost", "127.9.9.9"],  # noqa: S104 - to connect to
)
async def test_no_other_way_to_write_it_helps(host: str) -> None:
    """Each of them connects to a server on loopback where nobody looks."""
    async with Raw().listening("") as server:
        config = HttpOutput(f"http://{host}:{server.port}/")
        assert "is not allowed" in await post(config, guard())
        assert server.connections == 0
        assert await post(config, Guard()) == ""
        assert server.connections == 1


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001"])
async def test_what_only_old_programs_read_as_an_address_leads_nowhere(dns: Dns, host: str) -> None:
    """It is refused as an address, or looked up as a name that does not exist."""
    async with Raw().listening() as server:
        for by in (guard(), Guard()):
            said = await post(HttpOutput(f"http://{host}:{server.port}/"), by)
            assert "neither a name nor an address" in said or "cannot be resolved" in said
        assert server.connections == 0


async def test_the_machines_own_addresses_are_refused() -> None:
    """Read from the kernel: whatever its interfaces are called."""
    own = [found for found in Interfaces().addresses() if found.version == 4]
    assert ip_address("127.0.0.1") in own
    for address in own:
        async with Raw().listening(str(address)) as server:
            config = HttpOutput(f"http://{address}:{server.port}/")
            assert "is not allowed" in await post(config, guard())
            assert server.connections == 0
            assert await post(config, guard(f"{address}:{server.port}")) == ""


def test_the_machines_addresses_are_read_again_when_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may get another one; what cannot be read any more is remembered."""
    now, found = 0.0, [ip_address("192.0.2.1")]
    monkeypatch.setattr(interfaces, "_read", lambda: iter(found))
    reader = Interfaces(lambda: now)
    assert reader.addresses() == {ip_address("192.0.2.1")}
    found = [ip_address("192.0.2.2")]
    assert reader.addresses() == {ip_address("192.0.2.1")}
    now = FRESH
    assert reader.addresses() == {ip_address("192.0.2.2")}

    def broken() -> Iterator[Address]:
        raise OSError("no more sockets")

    monkeypatch.setattr(interfaces, "_read", broken)
    now = 2 * FRESH
    assert reader.addresses() == {ip_address("192.0.2.2")}


async def test_the_api_servers_addresses_are_refused_also_for_services(destination: Destination) -> None:
    """A Service is exempt from the rest: the operator looked its address up."""
    config = HttpOutput(destination.url, address=f"127.0.0.1:{destination.port}")
    assert await post(config, guard()) == ""
    refused = await post(config, guard(api_servers=("127.0.0.1",)))
    assert "the address 127.0.0.1 is not allowed (an address of the API server)" in refused
    assert len(destination.requests) == 1


async def test_an_exemption_is_for_one_port(destination: Destination) -> None:
    """Another server of the same machine stays out of reach."""
    async with Raw().listening() as other:
        allowing = guard(f"127.0.0.1:{destination.port}")
        assert await post(HttpOutput(destination.url), allowing) == ""
        assert "is not allowed" in await post(HttpOutput(f"http://127.0.0.1:{other.port}/"), allowing)
        assert other.connections == 0


async def test_a_name_that_leads_elsewhere_the_next_time_is_refused(dns: Dns) -> None:
    """DNS rebinding: it is the address that is judged, each time that it is dialled."""
    dns.names = {"siem.example": ("127.0.0.2",)}
    async with Raw().listening("127.0.0.2") as good, Raw().listening(port=good.port) as bad:
        config, allowing = HttpOutput(f"http://siem.example.:{good.port}/"), guard("127.0.0.2")
        assert await post(config, allowing) == ""
        dns.names = {"siem.example": ("127.0.0.1",)}
        assert "the address 127.0.0.1 of siem.example. is not allowed" in await post(config, allowing)
        assert (good.connections, bad.connections) == (1, 0)


async def test_each_address_of_a_name_is_judged_by_itself(dns: Dns) -> None:
    """The good one is used, wherever it stands; the bad one is never tried, also if the good one is down."""
    async with Raw().listening("127.0.0.2") as good, Raw().listening(port=good.port) as bad:
        config, allowing = HttpOutput(f"http://siem.example.:{good.port}/"), guard("127.0.0.2", "127.0.0.3")
        for addresses in (("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1"), ("::1", "127.0.0.2")):
            dns.names = {"siem.example": addresses}
            assert await post(config, allowing) == ""
        for addresses in (("127.0.0.1", "127.0.0.3"), ("127.0.0.3", "127.0.0.1"), ("127.0.0.1", "::1")):
            dns.names = {"siem.example": addresses}
            assert "of siem.example. is not allowed" in await post(config, allowing)
        assert (good.connections, bad.connections) == (3, 0)


async def test_a_redirect_leads_nowhere(destination: Destination) -> None:
    """Neither to where the guard would refuse it nor to anything else."""
    async with Raw().listening() as other:

        async def redirect(_: object) -> web.Response:
            return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{other.port}/"})

        destination.answer = redirect
        for allowing in (guard(f"127.0.0.1:{destination.port}"), Guard()):
            assert "answered 307 Temporary Redirect" in await post(HttpOutput(destination.url), allowing)
        assert other.connections == 0


async def test_a_proxy_is_judged_and_so_is_an_address_that_it_is_asked_for(destination: Destination) -> None:
    """A name is looked up by the proxy, which has to look after itself."""
    async with Proxy().listening(destination.port) as proxy:
        allowing = guard(f"127.0.0.1:{proxy.port}")
        for host in ("127.0.0.1", "localhost"):
            config = HttpOutput("http://siem.example/in", proxy=f"http://{host}:{proxy.port}")
            assert "of the proxy is not allowed (a loopback address)" in await post(config, guard())
        for host in (
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "[::ffff:7f00:1]",
            "169.254.169.254",
            "localhost",
        ):
            for scheme in ("http", "https"):
                refused = await post(HttpOutput(f"{scheme}://{host}/in", proxy=proxy.url), allowing)
                assert "is not allowed" in refused, refused
        assert proxy.asked == []
        assert await post(HttpOutput("http://siem.example/in", proxy=proxy.url), allowing) == ""
        assert await post(HttpOutput("http://10.1.2.3/in", proxy=proxy.url), allowing) == ""
        assert proxy.asked == ["POST http://siem.example/in", "POST http://10.1.2.3/in"]


BANNERS = {
    "another protocol": b"SSH-2.0-planted\r\n",
    "a status line": b"planted 200 OK\r\n\r\n",
    "a status": b"HTTP/1.1 planted OK\r\n\r\n",
    "a reason": b"HTTP/1.1 500 planted\r\nContent-Length: 0\r\n\r\n",
    "a header": b"HTTP/1.1 500 No\r\nplanted\r\n\r\n",
    "half a head": b"HTTP/1.1 500 planted\r\nplanted: planted\r\n",
    "a body": b"HTTP/1.1 500 No\r\nContent-Length: 7\r\n\r\nplanted",
    "a chunk": b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nplanted\r\n",
    "a header that is too long": b"HTTP/1.1 500 No\r\nX: " + b"planted" * 2000 + b"\r\n\r\n",
    "a length": b"HTTP/1.1 500 No\r\nContent-Length: planted\r\n\r\n",
    "a cookie": b"HTTP/1.1 500 No\r\nSet-Cookie: planted@=planted\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", BANNERS)
@pytest.mark.parametrize("through", ["directly", "https", "proxy"])
async def test_nothing_that_the_other_side_says_is_repeated(
    name: str, through: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the message nor in a log: whoever writes a URL must not read by it what stands behind it."""
    async with Raw(BANNERS[name]).listening() as server:
        url = f"http://127.0.0.1:{server.port}/"
        config = {
            "directly": HttpOutput(url),
            "https": HttpOutput(url.replace("http:", "https:")),
            "proxy": HttpOutput("https://siem.example/", proxy=url),
        }[through]
        message = await post(config, Guard())
        assert server.connections
    assert message
    assert "planted" not in message
    assert "planted" not in caplog.text


async def test_nothing_of_a_certificate_is_repeated(tmp_path: Path) -> None:
    """What is said is what it lacks, with the name that was asked for."""
    authority = Authority(tmp_path / "planted")
    server = Destination()
    async with server.listening(authority.server(authority.issue("planted", "planted.example"), required=True)):
        url = f"https://127.0.0.1:{server.port}/in"
        trusting = HttpOutput(url, ca=authority.ca.read_text())
        told = [
            await post(config, Guard())
            for config in (HttpOutput(url), msgspec.structs.replace(trusting, server_name="siem.example"), trusting)
        ]
    assert "self-signed certificate in certificate chain" in told[0]
    assert "siem.example" in told[1]
    assert told[2]
    assert "planted" not in "".join(told)


def changed(config: Config, *allow: str) -> Config:
    """The configuration with another guard."""
    return msgspec.structs.replace(config, egress=Egress(allow))


async def state(plane: Running, output: str) -> OutputReport:
    """What is said of an output."""
    (found,) = [each for each in (await plane.report()).outputs if each.name == output]
    return found


async def test_a_refusal_is_a_failure_of_that_output_alone(setting: Setting, destination: Destination) -> None:
    """Its events wait, and arrive when the address is allowed; the connection from then is not used any more when it
    is refused again."""
    config = setting.config(setting.route(), setting.route("siem", HttpOutput(destination.url)))
    async with setting.running(changed(config)) as plane:
        assert await plane.post([event(), event()]) == 200

        async def failing() -> bool:
            found = await state(plane, "siem")
            return found.state == "Failing" and "see egress.allow of the chart" in found.last_error

        async def arrived() -> bool:
            return (await state(plane, "siem")).pending == 0

        await until(failing)
        await until(lambda: len(setting.file.read_bytes().splitlines()) == 2 if setting.file.exists() else False)
        assert (await state(plane, "siem")).pending == 2
        assert (await state(plane, "archive")).state == "Idle"
        assert destination.requests == []

        await plane.in_force(setting.write(changed(config, f"127.0.0.1:{destination.port}")))
        await until(arrived)
        assert len(destination.events) == 2

        await plane.in_force(setting.write(changed(config)))
        assert await plane.post([event()]) == 200
        await until(failing)
        assert len(destination.events) == 2


async def test_without_the_field_everything_is_allowed(setting: Setting, destination: Destination) -> None:
    """So the release before renders it, and `auditpipeline run` does."""
    config = setting.config(setting.route("siem", HttpOutput(destination.url)))
    assert config.egress is None
    async with setting.running(config) as plane:
        assert await plane.post([event()]) == 200
        await until(lambda: len(destination.events) == 1)


def test_a_guard_without_a_rule_refuses_nothing() -> None:
    """And one with a rule does, however often it is told the same."""
    made = Guard()
    made.check("127.0.0.1", 80)
    for _ in range(2):
        made.follow(Egress())
        assert made.changes == 1
        with pytest.raises(Refused, match=r"127\.0\.0\.1 is a loopback address"):
            made.check("127.0.0.1", 80)
    made.check("siem.example", 80)
    made.follow(None)
    made.check("127.0.0.1", 80)
