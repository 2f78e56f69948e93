"""Configuration and certificates change under load: nobody notices but the new ones."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl

import msgspec
import pytest

from auditpipeline.core import config as contract
from auditpipeline.core.config import FileOutput, HttpOutput
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.dataplane import outputs
from tests.dataplane.pki import Authority
from tests.dataplane.setting import Destination, Running, Setting, event, ids, lines_in, until


async def test_routes_change_under_load_without_a_lost_event(setting: Setting, destination: Destination) -> None:
    """Another output comes, goes, and the first one's policy and batch size change, while events keep coming."""
    sent: list[str] = []
    stop = asyncio.Event()

    async def load(plane: Running) -> None:
        while not stop.is_set():
            events = [event() for _ in range(5)]
            assert await plane.post(events) == 200
            sent.extend(ids(events))

    first, extra = setting.route(), setting.route("extra", HttpOutput(destination.url))
    metadata = Policy(rules=(Rule(level="Metadata"),))
    steps = [(first, extra), (msgspec.structs.replace(first, max_events=3), extra), (first,),
             (msgspec.structs.replace(first, policies=(metadata,)), extra)]  # fmt: skip
    async with setting.running(setting.config(first)) as plane:
        task = asyncio.create_task(load(plane))
        for routes in steps:
            await plane.in_force(setting.write(setting.config(*routes)))
        stop.set()
        await task
        await until(lambda: len(lines_in(setting.file)) >= len(sent))
        assert ids(lines_in(setting.file)) == sent
        await until(lambda: destination.events and ids(destination.events)[-1] == sent[-1])


async def test_a_new_route_gets_events_from_now_on(setting: Setting) -> None:
    """What came before it belongs to others."""
    late = setting.folder / "late.jsonl"
    async with setting.running(setting.config()) as plane:
        assert await plane.post([event()]) == 200
        both = setting.config(setting.route(), setting.route("late", FileOutput(str(late))))
        await plane.in_force(setting.write(both))
        found = event()
        assert await plane.post([found]) == 200
        await until(lambda: late.exists() and lines_in(late))
        assert ids(lines_in(late)) == ids([found])


async def test_a_changed_output_goes_on_from_the_cursor(setting: Setting, destination: Destination) -> None:
    """The wrong address is mended: what waited goes to the new one. The unchanged route does not notice."""
    wrong = setting.route("web", HttpOutput("http://127.0.0.1:1/"))
    async with setting.running(setting.config(wrong, setting.route())) as plane:
        events = [event() for _ in range(9)]
        assert await plane.post(events) == 200
        untouched = plane.plane._routes["archive"]
        await plane.in_force(
            setting.write(setting.config(setting.route("web", HttpOutput(destination.url)), setting.route()))
        )
        await until(lambda: len(destination.events) == 9)
        assert plane.plane._routes["archive"] is untouched


async def failing(plane: Running, name: str) -> str:
    """What the route says of its failing, or ""."""
    (report,) = [found for found in (await plane.report()).outputs if found.name == name]
    return report.last_error if report.state == "Failing" else ""


@pytest.mark.parametrize("url", ["https://xn--a/in", "https://a\\b/", "https://\u200b/", "http://a..b/"])
async def test_one_url_that_cannot_be_used_fails_its_own_route_and_no_other(
    setting: Setting, destination: Destination, url: str
) -> None:
    """It comes, is there at the next start, and is mended: what waited for it arrives."""
    config = setting.config(setting.route(), setting.route("bad", HttpOutput(url)))
    first, second = event(), event()
    async with setting.running(setting.config()) as plane:
        await plane.in_force(setting.write(config))
        assert await plane.post([first]) == 200
        assert await until(lambda: failing(plane, "bad"))
        await until(lambda: len(lines_in(setting.file)) == 1)
    async with setting.running() as plane:
        assert await plane.post([second]) == 200
        assert await until(lambda: failing(plane, "bad"))
        await until(lambda: len(lines_in(setting.file)) == 2)
        setting.write(setting.config(setting.route(), setting.route("bad", HttpOutput(destination.url))))
        await until(lambda: len(destination.events) == 2)
    assert ids(destination.events) == ids([first, second])
    assert not setting.log_lines("the route met a fault of its own")


async def test_an_output_that_cannot_be_made_fails_its_own_route(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason is."""

    def broken(*_: object) -> outputs.Output:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "_made", broken)
        async with setting.running(setting.config()) as plane:
            assert await plane.post([event()]) == 200
            assert "RuntimeError" in await until(lambda: failing(plane, "archive"))
    async with setting.running():
        await until(lambda: setting.file.exists() and lines_in(setting.file))


async def test_what_a_removed_output_had_not_got_is_counted(setting: Setting) -> None:
    """It belongs to no output any more; who goes on is not concerned."""
    gone = setting.route("gone", HttpOutput("http://127.0.0.1:1/"))
    async with setting.running(setting.config(gone, setting.route())) as plane:
        assert await plane.post([event() for _ in range(7)]) == 200
        await plane.in_force(setting.write(setting.config(setting.route())))
        assert await plane.metric('auditpipeline_events_dropped_total{output="",reason="removed"}') == 7
        assert (await plane.report()).events.dropped == 7
        assert setting.log_lines("an output is removed, and what waited for it is lost")[0]["events"] == 7


@pytest.mark.parametrize("kind", ["no JSON", "not UTF-8", "unknown level", "another address"])
async def test_a_bad_configuration_is_refused_and_the_old_one_stays(setting: Setting, kind: str) -> None:
    """One log line, configError in the report, events go on; the next good one is taken."""
    config = setting.config()
    listen = msgspec.structs.replace(config.listen, audit="127.0.0.1:1")
    bad = {
        "no JSON": b"{",
        "not UTF-8": contract.encode(config).replace(b'"test"', b'"\xff"'),
        "unknown level": contract.encode(config).replace(b'"RequestResponse"', b'"Everything"'),
        "another address": contract.encode(msgspec.structs.replace(config, listen=listen)),
    }[kind]
    async with setting.running(config) as plane:
        setting.path.write_bytes(bad)

        async def refused() -> bool:
            return (await plane.report()).config_error != ""

        await until(refused)
        assert await plane.metric("auditpipeline_config_valid") == 0
        assert await plane.post([event()]) == 200
        await until(lambda: setting.file.exists() and lines_in(setting.file))
        await plane.in_force(setting.write(setting.config(max_body=2**20)))
        assert (await plane.report()).config_error == ""
    assert len(setting.log_lines("the new configuration is refused, the old one stays in force")) == 1


async def test_a_gzipped_configuration_beside_it_is_found(setting: Setting) -> None:
    """Large configurations come as config.json.gz; the digest is that of the plain bytes."""
    body = contract.encode(setting.config())
    setting.path.with_name("config.json.gz").write_bytes(gzip.compress(body))
    async with setting.running() as plane:
        assert (await plane.report()).config == contract.digest(body)


async def test_a_renewed_certificate_is_used_and_connections_last(setting: Setting) -> None:
    """A keep-alive connection goes on, a new one sees the new certificate, the expiry is told."""
    async with setting.running(setting.config()) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.plane.audit_port, ssl=plane.context)
        assert await posted(reader, writer)
        before = await certificate(plane)
        expiry = (await plane.report()).certificate_not_after
        setting.authority.issue("server", "audit-x.ns.svc", days=60)

        async def renewed() -> bool:
            return await certificate(plane) != before

        await until(renewed)
        assert await posted(reader, writer)
        assert (await plane.report()).certificate_not_after > expiry
        writer.close()
        await writer.wait_closed()


async def test_a_mismatched_pair_never_reaches_the_live_context(setting: Setting) -> None:
    """A new certificate with the old key: handshakes go on with the old pair; one log line for each listener."""
    async with setting.running(setting.config()) as plane:
        before = await certificate(plane)
        other = setting.authority.issue("other")
        shutil.copy(other.certificate, setting.server_tls.certificate)
        await until(lambda: len(setting.log_lines("the TLS files cannot be used")) == 2)
        assert await certificate(plane) == before
        assert await plane.post([event()]) == 200
        shutil.copy(other.key, setting.server_tls.key)

        async def mended() -> bool:
            return await certificate(plane) != before

        await until(mended)
    assert len(setting.log_lines("the TLS files cannot be used")) == 2


async def test_a_second_client_ca_is_let_in(setting: Setting) -> None:
    """While a CA is rotated both are in the file; clients of the new one need no restart."""
    second = Authority(setting.folder / "second")
    newcomer = second.issue("newcomer")
    async with setting.running(setting.config()) as plane:
        setting.authority.ca.write_bytes(setting.authority.ca.read_bytes() + second.ca.read_bytes())
        plane.context = setting.authority.client(newcomer)

        async def let_in() -> bool:
            try:
                return await plane.post([event()]) == 200
            except (OSError, ssl.SSLError):
                return False

        await until(let_in)


async def posted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Posts nothing on an open connection; whether it was answered 200."""
    writer.write(b"POST /audit HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    head = await reader.readuntil(b"\r\n\r\n")
    return b" 200 " in head


async def certificate(plane: Running) -> bytes:
    """What a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", plane.plane.audit_port, ssl=plane.context)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return found
