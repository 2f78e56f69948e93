"""A bearer token in place of a client certificate: one of both is demanded, before the body is read."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.config import Config
from auditpipeline.core.errors import Invalid
from auditpipeline.dataplane.token import Token
from tests.dataplane.pki import Authority
from tests.dataplane.setting import Running, Setting, event, event_list, until

SECRET = "a-token-of-some-length-4711"


@pytest.fixture
def config(setting: Setting) -> Config:
    """A configuration with a token."""
    token = setting.folder / "token"
    token.write_text(f"{SECRET}\n")
    found = setting.config()
    return msgspec.structs.replace(found, listen=msgspec.structs.replace(found.listen, audit_token_file=str(token)))


async def post(plane: Running, context: ssl.SSLContext, **headers: str) -> tuple[int, str | None]:
    """Posts one event; the status, and what the server asks for."""
    body = event_list([event()])
    async with plane.session.post(plane.audit, data=body, headers=headers, ssl=context) as response:
        return response.status, response.headers.get("WWW-Authenticate")


async def test_either_of_both_opens(setting: Setting, config: Config) -> None:
    """Token or certificate; neither, or a wrong token, is 401, and nothing is kept."""
    stranger = setting.authority.client(None)
    async with setting.running(config) as plane:
        assert await post(plane, stranger, Authorization=f"Bearer {SECRET}") == (200, None)
        assert await post(plane, stranger, Authorization=f"bearer  {SECRET} ") == (200, None)
        assert await post(plane, plane.context) == (200, None)
        for wrong in (f"Bearer {SECRET}x", "Bearer ", SECRET, f"Basic {SECRET}", "Bearer \u00e9", ""):
            assert await post(plane, stranger, Authorization=wrong) == (401, "Bearer"), wrong
        assert await post(plane, stranger) == (401, "Bearer")
        assert (await plane.report()).events.received == 3
    assert SECRET not in setting.log.getvalue()


async def test_a_certificate_of_another_authority_is_still_refused(setting: Setting, config: Config) -> None:
    """In the handshake: what is shown is verified."""
    other = Authority(setting.folder / "other").issue("stranger")
    async with setting.running(config) as plane:
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await post(plane, setting.authority.client(other), Authorization=f"Bearer {SECRET}")


async def test_401_comes_before_the_body(setting: Setting, config: Config) -> None:
    """A stranger's gigabyte is not waited for, and its connection is closed."""
    async with setting.running(config) as plane:
        stranger = setting.authority.client(None)
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.plane.audit_port, ssl=stranger)
        writer.write(b"POST /audit HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert b" 401 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await writer.wait_closed()


async def test_a_renewed_token_counts_at_once_and_a_broken_one_never(setting: Setting, config: Config) -> None:
    """The file is followed; while it holds no token, the old one stays."""
    stranger = setting.authority.client(None)
    async with setting.running(config) as plane:
        (setting.folder / "token").write_text("short")
        await until(lambda: setting.log_lines("the token cannot be used"))
        assert (await post(plane, stranger, Authorization=f"Bearer {SECRET}"))[0] == 200
        (setting.folder / "token").write_text(SECRET[::-1])
        await until(lambda: setting.log_lines("the token was renewed"))
        assert (await post(plane, stranger, Authorization=f"Bearer {SECRET}"))[0] == 401
        assert (await post(plane, stranger, Authorization=f"Bearer {SECRET[::-1]}"))[0] == 200
    assert "short" not in setting.log.getvalue().replace("too short", "")


async def test_a_token_and_a_certificate_are_followed_each_by_itself(setting: Setting, config: Config) -> None:
    """A token that leaked is replaced while the certificate cannot be, and the other way round."""
    stranger, certificate = setting.authority.client(None), setting.folder / setting.server_tls.certificate
    good = certificate.read_bytes()
    async with setting.running(config) as plane:
        certificate.write_bytes(b"none")
        await until(lambda: setting.log_lines("the TLS files cannot be used"))
        (setting.folder / "token").write_text(SECRET[::-1])
        await until(lambda: setting.log_lines("the token was renewed"))
        assert (await post(plane, stranger, Authorization=f"Bearer {SECRET}"))[0] == 401
        (setting.folder / "token").write_text("short")
        await until(lambda: setting.log_lines("the token cannot be used"))
        certificate.write_bytes(good + b"\n")
        await until(
            lambda: {line["listener"] for line in setting.log_lines("the certificate was renewed")} == {"audit", "ops"}
        )
        assert (await post(plane, stranger, Authorization=f"Bearer {SECRET[::-1]}"))[0] == 200


@given(st.text(max_size=60) | st.sampled_from([SECRET[:-1], f"{SECRET} {SECRET}", SECRET.upper()]))
def test_nothing_but_the_token_matches(header: str) -> None:
    """Whatever a client sends, and before the file was read nothing at all."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(SECRET)
        file.flush()
        token = Token(file.name)
        assert not token.matches(f"Bearer {SECRET}")
        assert token.refresh()
        assert not token.refresh()
    assert token.matches(f"Bearer {SECRET}")
    assert not token.matches(header)
    assert token.matches(f"Bearer {header}") == (header.strip() == SECRET)


@pytest.mark.parametrize("content", ["", "fifteen-letters", "two lines of it\nare no one token", "\u00e9" * 20])
def test_what_is_no_token_is_said_to_be_none(tmp_path: Path, content: str) -> None:
    """Without repeating it."""
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(Invalid, match="holds no token") as found:
        Token(str(path)).refresh()
    assert not content or content not in str(found.value)
    with pytest.raises(Invalid, match="cannot be read"):
        Token(str(tmp_path / "none")).refresh()


async def test_the_last_part_of_the_path_opens_too(setting: Setting, config: Config) -> None:
    """For kube-apiserver's own dynamic backend, which can show nothing else."""
    stranger, body = setting.authority.client(None), event_list([event()])
    async with setting.running(config) as plane:
        for path, status in ((SECRET, 200), (f"{SECRET}x", 401), ("x", 401)):
            async with plane.session.post(f"{plane.audit}/{path}?timeout=30s", data=body, ssl=stranger) as response:
                assert response.status == status
    assert SECRET not in setting.log.getvalue()


async def test_without_a_token_there_is_no_such_path(setting: Setting) -> None:
    """A certificate alone, at its own path."""
    path = f"/{SECRET}"
    async with (
        setting.running(setting.config()) as plane,
        plane.session.post(f"{plane.audit}{path}", data=b"{}", ssl=plane.context) as response,
    ):
        assert response.status == 404
