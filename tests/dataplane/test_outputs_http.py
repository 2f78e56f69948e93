"""The http output to real servers: formats, answers, credentials, TLS, proxies. Not what every output does: that is in
test_outputs.py."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.config import Basic, HttpOutput
from auditpipeline.core.destination import Format
from auditpipeline.core.errors import Permanent, Retryable, TooLarge
from auditpipeline.dataplane.outputs.answer import MAX_AFTER, retry_after
from auditpipeline.dataplane.outputs.http import Http
from tests.dataplane.pki import Authority
from tests.dataplane.proxy import Proxy
from tests.dataplane.setting import Destination, Setting, event, real_events, until

LINES = [b'{"a":1}', b'{"a":2}', b'{"a":3}']


@asynccontextmanager
async def opened(config: HttpOutput) -> AsyncIterator[Http]:
    """An output that is closed at the end."""
    output = Http(config)
    try:
        yield output
    finally:
        await output.close()


async def failure(config: HttpOutput, lines: list[bytes] = LINES) -> Exception:
    """What a delivery raises."""
    async with opened(config) as output:
        with pytest.raises((Retryable, Permanent)) as caught:
            await output.deliver(lines)
    return caught.value


def answering(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
    """A server that answers that to everything."""

    async def answer(_: object) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "/elsewhere", **(headers or {})})

    return answer


def secret(folder: Path, name: str, text: str) -> str:
    """A file as a Secret's key is mounted."""
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("form", ["json-lines", "json-array", "event-list"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_each_format_is_json_of_that_shape(destination: Destination, form: Format, compression: Any) -> None:
    """With the right content type, and inflated by the server where it is compressed."""
    async with opened(HttpOutput(destination.url, form, compression=compression)) as output:
        await output.deliver(LINES)
    (request,), (body,) = destination.requests, destination.bodies
    assert request.headers.get("Content-Encoding") == (None if compression == "none" else "gzip")
    if form == "json-lines":
        assert body == b"\n".join(LINES) + b"\n"
        assert request.content_type == "application/x-ndjson"
    else:
        assert request.content_type == "application/json"
        found = json.loads(body)
        assert (found if form == "json-array" else found["items"]) == [{"a": 1}, {"a": 2}, {"a": 3}]
        assert form == "json-array" or (found["kind"], found["apiVersion"]) == ("EventList", "audit.k8s.io/v1")


async def test_the_same_events_have_the_same_idempotency_key(destination: Destination) -> None:
    """So that a server can tell a request that it has had, compressed or not. An AuditSink's Service gets none, as from
    kube-apiserver."""
    for config, lines in (
        (HttpOutput(destination.url), LINES),
        (HttpOutput(destination.url, compression="gzip"), list(LINES)),
        (HttpOutput(destination.url), LINES[:2]),
        (HttpOutput(destination.url, address=f"127.0.0.1:{destination.port}"), LINES),
    ):
        async with opened(config) as output:
            await output.deliver(lines)
    first, again, other, sink = (request.headers.get("Idempotency-Key") for request in destination.requests)
    assert first == again != other
    assert first is not None
    assert len(first) == 34
    assert sink is None


async def test_a_compressed_body_is_a_fraction(tmp_path: Path) -> None:
    """What goes over the wire is gzip of a whole body."""
    taken: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        taken.append(await request.content.read())
        return web.Response()

    app = web.Application(client_max_size=2**26, handler_args={"auto_decompress": False})
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    lines = [json.dumps(found).encode() for found in real_events()]
    async with opened(HttpOutput(f"http://127.0.0.1:{runner.addresses[0][1]}/", compression="gzip")) as output:
        await output.deliver(lines)
    await runner.cleanup()
    (body,) = taken
    plain_size = sum(len(line) + 1 for line in lines)
    assert gzip.decompress(body).splitlines() == lines
    assert len(body) < plain_size / 4


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, None), (201, None), (202, None), (204, None),
        (301, Retryable), (302, Retryable), (303, Retryable), (307, Retryable), (308, Retryable),
        (400, Permanent), (413, TooLarge), (422, Permanent),
        (401, Retryable), (403, Retryable), (404, Retryable), (405, Retryable), (407, Retryable), (408, Retryable),
        (409, Retryable), (425, Retryable), (429, Retryable),
        (500, Retryable), (502, Retryable), (503, Retryable), (504, Retryable), (599, Retryable),
    ],
)  # fmt: skip
async def test_what_each_status_means(destination: Destination, status: int, expected: type[Exception] | None) -> None:
    """Nothing is given up because of what somebody can mend, and no redirect is followed."""
    destination.answer = answering(status, headers={"Retry-After": "7"})
    if expected is None:
        async with opened(HttpOutput(destination.url)) as output:
            await output.deliver(LINES)
    else:
        error = await failure(HttpOutput(destination.url))
        assert type(error) is expected
        assert f"answered {status} " in str(error)
        if status in (408, 425, 429, 500, 502, 503, 504):
            assert isinstance(error, Retryable)
            assert error.after == 7
    assert len(destination.requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 3 ", 3.0),
        ("999999", MAX_AFTER),
        ("9" * 400, MAX_AFTER),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_AFTER),
        ("Fri, 31 Dec 9999 23:59:59 -2359", MAX_AFTER),
    ],
)
def test_retry_after_is_bounded(header: str | None, seconds: float | None) -> None:
    """RFC 9110: a number of seconds or a date; nonsense is nothing."""
    assert retry_after(header) == seconds


@given(st.text())
def test_no_retry_after_is_an_error(header: str) -> None:
    """Whatever a server says."""
    found = retry_after(header)
    assert found is None or 0 <= found <= MAX_AFTER


def test_retry_after_may_be_a_date() -> None:
    """A date in the future is so many seconds from now."""
    date = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)
    found = retry_after(date.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    assert found is not None
    assert 50 < found <= 60


async def test_a_server_that_is_down_or_unknown_is_retryable() -> None:
    """A refused connection, and a name that does not exist."""
    for url in ("http://127.0.0.1:1/", "http://nowhere.invalid/"):
        assert isinstance(await failure(HttpOutput(url)), Retryable)


async def test_a_request_ends_after_its_timeout(destination: Destination) -> None:
    """Connecting, sending and waiting together; the message says how long."""

    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    destination.answer = hang
    error = await failure(HttpOutput(destination.url, timeout=0.2))
    assert isinstance(error, Retryable)
    assert str(error) == f"127.0.0.1:{destination.port}: no answer within 0.2 s"


async def test_static_headers_are_sent(destination: Destination) -> None:
    """In addition to ours, or in place of the User-Agent."""
    headers = (("X-Scope-OrgID", "team a"), ("User-Agent", "theirs"))
    async with opened(HttpOutput(destination.url, headers=headers)) as output:
        await output.deliver(LINES)
    (request,) = destination.requests
    assert (request.headers["X-Scope-OrgID"], request.headers["User-Agent"]) == ("team a", "theirs")
    assert request.headers["Accept-Encoding"] == "identity"


async def test_address_is_dialled_and_the_url_names_the_server(tmp_path: Path) -> None:
    """No DNS: the URL's host is only the TLS name and the Host header; a client certificate and a token are shown."""
    authority = Authority(tmp_path / "pki")
    context = authority.server(authority.issue("server", "audit-x.ns.svc"), required=True)
    token = secret(tmp_path, "token", "first\n")
    async with Destination().listening(context) as server:
        config = HttpOutput(
            "https://audit-x.ns.svc/in",
            address=f"127.0.0.1:{server.port}",
            ca=authority.ca.read_text(),
            client_tls=authority.issue("client"),
            bearer_token_file=token,
        )
        async with opened(config) as output:
            await output.deliver(LINES)
            secret(tmp_path, "token", "second\n")
            await output.deliver(LINES)
        assert [request.headers["Authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]
        assert server.requests[0].host == "audit-x.ns.svc"
        wrong = HttpOutput(config.url.replace("audit-x", "audit-y"), address=config.address, ca=config.ca)
        assert isinstance(await failure(wrong), Retryable)
        assert len(server.requests) == 2


async def test_the_name_in_the_certificate_may_be_another(tmp_path: Path) -> None:
    """`serverName` is what is asked for and verified; the Host header stays the URL's."""
    authority = Authority(tmp_path / "pki")
    asked: list[str | None] = []
    context = authority.server(authority.issue("server", "collector.example"))
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with Destination().listening(context) as server:
        config = HttpOutput(
            f"https://127.0.0.1:{server.port}/in", ca=authority.ca.read_text(), server_name="collector.example"
        )
        async with opened(config) as output:
            await output.deliver(LINES)
        assert server.requests[0].host == f"127.0.0.1:{server.port}"
        other = HttpOutput(config.url, ca=config.ca, server_name="other.example")
        assert "other.example" in str(await failure(other))
    assert asked == ["collector.example", "other.example"]


async def test_a_user_name_and_a_password_are_read_at_each_use(destination: Destination, tmp_path: Path) -> None:
    """RFC 7617."""
    basic = Basic(secret(tmp_path, "username", "Aladdin\n"), secret(tmp_path, "password", "open sesame"))
    async with opened(HttpOutput(destination.url, basic=basic)) as output:
        await output.deliver(LINES)
        secret(tmp_path, "password", "changed:now")
        await output.deliver(LINES)
    sent = [request.headers["Authorization"] for request in destination.requests]
    assert sent == ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Basic QWxhZGRpbjpjaGFuZ2VkOm5vdw=="]


async def test_a_renewed_client_certificate_is_shown_with_the_next_delivery(tmp_path: Path) -> None:
    """cert-manager renews them; the process goes on."""
    authority = Authority(tmp_path / "pki")
    shown: list[Any] = []
    async with Destination().listening(authority.server(authority.issue("server"), required=True)) as server:

        async def look(_: object) -> None:
            transport = server.requests[-1].transport
            assert transport
            shown.append(transport.get_extra_info("peercert")["serialNumber"])

        server.answer = look
        config = HttpOutput(
            f"https://127.0.0.1:{server.port}/in", ca_file=str(authority.ca), client_tls=authority.issue("client")
        )
        async with opened(config) as output:
            await output.deliver(LINES)
            await output.deliver(LINES)
            authority.issue("client")
            await output.deliver(LINES)
        without = HttpOutput(config.url, ca_file=config.ca_file)
        assert isinstance(await failure(without), Retryable)
    assert shown[0] == shown[1] != shown[2]


async def test_a_server_of_another_ca_gets_nothing(tmp_path: Path) -> None:
    """Neither events nor credentials."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    token = secret(tmp_path, "token", "very-secret")
    async with Destination().listening(theirs.server(theirs.issue("server"))) as server:
        url = f"https://127.0.0.1:{server.port}/in"
        for config in (
            HttpOutput(url, ca=ours.ca.read_text(), bearer_token_file=token),
            HttpOutput(url, bearer_token_file=token),
        ):
            assert "certificate verify failed" in str(await failure(config))
        assert server.requests == []


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    """1.2 or newer."""
    authority = Authority(tmp_path / "pki")
    context = authority.server(authority.issue("server"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with Destination().listening(context) as server:
        error = await failure(HttpOutput(f"https://127.0.0.1:{server.port}/in", ca=authority.ca.read_text()))
    assert isinstance(error, Retryable)


async def test_plain_http_goes_through_a_proxy(destination: Destination) -> None:
    """With the absolute URL; the proxy resolves the name."""
    async with Proxy().listening(destination.port) as proxy:
        async with opened(HttpOutput("http://siem.invalid/in", proxy=proxy.url)) as output:
            await output.deliver(LINES)
        assert proxy.asked == ["POST http://siem.invalid/in"]
    assert destination.requests[0].host == "siem.invalid"


async def test_the_environment_names_no_proxy(destination: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where events go is said by the AuditPipeline alone."""
    async with Proxy().listening(destination.port) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with opened(HttpOutput(destination.url)) as output:
            await output.deliver(LINES)
        assert proxy.asked == []


async def test_a_proxy_sees_no_credential_of_a_tls_connection(tmp_path: Path) -> None:
    """CONNECT and nothing else; the token is inside."""
    authority = Authority(tmp_path / "pki")
    token = secret(tmp_path, "token", "very-secret")
    context = authority.server(authority.issue("server", "siem.invalid"))
    async with Destination().listening(context) as server, Proxy().listening(server.port) as proxy:
        config = HttpOutput(
            "https://siem.invalid:8443/in", proxy=proxy.url, bearer_token_file=token, ca=authority.ca.read_text()
        )
        async with opened(config) as output:
            await output.deliver(LINES)
        assert proxy.asked == ["CONNECT siem.invalid:8443"]
        assert b"very-secret" not in b"".join(proxy.heads)
        assert server.requests[0].headers["Authorization"] == "Bearer very-secret"


@pytest.mark.parametrize("status", [b"HTTP/1.1 403 Forbidden", b"HTTP/1.1 407 Login\x1b[2J", b"HTTP/1.1 502 Bad"])
async def test_a_proxy_that_refuses_is_retryable(tmp_path: Path, status: bytes) -> None:
    """Somebody has to mend it; and nothing of its words controls a terminal."""
    async with Proxy().listening(1) as proxy:
        proxy.refuse = status
        error = await failure(HttpOutput("https://siem.invalid/in", proxy=proxy.url))
    assert isinstance(error, Retryable)
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "config",
    [
        HttpOutput("https://127.0.0.1:1/", ca="no PEM"),
        HttpOutput("https://127.0.0.1:1/", ca_file="/nowhere/ca.crt"),
        HttpOutput("https://127.0.0.1:1/", bearer_token_file="/nowhere/token"),
        HttpOutput("https://127.0.0.1:1/", basic=Basic("/nowhere/username", "/nowhere/password")),
    ],
    ids=["ca", "ca file", "token file", "user name"],
)
async def test_what_the_configuration_lacks_is_said_and_awaited(config: HttpOutput) -> None:
    """A Secret that is not there yet comes by itself."""
    error = await failure(config)
    assert isinstance(error, Retryable)
    assert any(word in str(error) for word in ("ca", "token", "user name"))


@pytest.mark.parametrize("content", ["", "\n", "a\nb", "t\u00f6ken", "a\x00b"])
async def test_a_token_that_is_none_is_not_sent_and_not_shown(
    destination: Destination, tmp_path: Path, content: str
) -> None:
    """A line end in it would be another header."""
    error = await failure(HttpOutput(destination.url, bearer_token_file=secret(tmp_path, "token", content)))
    assert "holds no token: it must be one line of ASCII" in str(error)
    assert destination.requests == []


async def test_a_user_name_with_a_colon_is_refused(destination: Destination, tmp_path: Path) -> None:
    """The password would begin in it."""
    basic = Basic(secret(tmp_path, "username", "a:b"), secret(tmp_path, "password", "c"))
    assert "holds a colon" in str(await failure(HttpOutput(destination.url, basic=basic)))


@pytest.mark.parametrize("status", [301, 400, 401, 413, 500])
async def test_an_answer_is_told_by_its_status_alone(destination: Destination, status: int) -> None:
    """Neither its body nor a header is repeated: a URL may have been written to read what stands behind it."""
    headers = {
        "Location": "http://planted/",
        "Server": "planted",
        "WWW-Authenticate": "planted",
        "Retry-After": "planted",
    }
    destination.answer = answering(status, b"planted", headers | {"Set-Cookie": "planted@=planted"})
    assert "planted" not in str(await failure(HttpOutput(destination.url)))


@pytest.mark.parametrize("kind", ["bearer", "basic"])
async def test_neither_status_nor_log_holds_a_secret(setting: Setting, destination: Destination, kind: str) -> None:
    """Of an output that fails, by a server that repeats all that it is sent: the token, and the bodies of events."""
    config = HttpOutput(
        destination.url,
        bearer_token_file=secret(setting.folder, "token", "very-secret") if kind == "bearer" else None,
        basic=Basic(secret(setting.folder, "username", "scribe"), secret(setting.folder, "password", "very-secret"))
        if kind == "basic"
        else None,
    )

    async def echo(events: list[dict[str, Any]]) -> web.Response:
        sent = dict(destination.requests[-1].headers)
        return web.Response(status=401, reason="planted", text=json.dumps({"you": events[0], "sent": sent}))

    destination.answer = echo
    body = {"data": {"password": "aHVudGVyMg"}}
    async with setting.running(setting.config(setting.route(output=config))) as plane:
        assert await plane.post([event(level="Request", requestObject=body)]) == 200

        async def failing() -> str:
            (report,) = (await plane.report()).outputs
            return report.last_error if "answered" in report.last_error else ""

        error = await until(failing)
        sent = destination.requests[0].headers["Authorization"].split(" ")[1]
        metrics = (await plane.get("/metrics"))[1].decode()
    told = f"{error}\n{setting.log.getvalue()}\n{metrics}"
    assert "answered 401 Unauthorized" in told
    assert not [text for text in ("very-secret", sent, "aHVudGVyMg", "planted") if text in told]


async def test_a_compressed_answer_is_not_inflated(destination: Destination) -> None:
    """A few bytes would become gigabytes."""
    destination.answer = answering(500, gzip.compress(bytes(2**24)), {"Content-Encoding": "gzip"})
    assert str(await failure(HttpOutput(destination.url))) == "answered 500 Internal Server Error"
