"""The outputs by themselves: files on a real disk, HTTP to real servers."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from auditpipeline.core.config import FileOutput, HttpOutput
from auditpipeline.core.errors import Permanent, Retryable
from auditpipeline.core.spec import Format
from auditpipeline.dataplane.outputs.file import File
from auditpipeline.dataplane.outputs.http import MAX_AFTER, Http, retry_after
from auditpipeline.dataplane.outputs.stdout import Stdout
from tests.dataplane.pki import Authority
from tests.dataplane.setting import Destination, lines_in

LINES = [b'{"a":1}', b'{"a":2}', b'{"a":3}']


@pytest.fixture
async def output(tmp_path: Path) -> AsyncIterator[File]:
    """A file that rotates at 100 bytes and keeps two."""
    found = File(FileOutput(str(tmp_path / "deep" / "er" / "events.jsonl"), max_bytes=100, keep=2))
    yield found
    await found.close()


async def test_a_file_is_made_with_its_folder_for_its_owner_only(output: File, tmp_path: Path) -> None:
    """Audit events are nobody else's business."""
    await output.deliver(LINES)
    path = tmp_path / "deep" / "er" / "events.jsonl"
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_rotates_by_renaming_and_keeps_so_many(output: File, tmp_path: Path) -> None:
    """The newest of the old ones is .1; what is older than `keep` goes; one delivery stays in one file."""
    for number in range(8):
        await output.deliver([b'{"a":%d,"p":"%s"}' % (number, b"x" * 40)])
    folder = tmp_path / "deep" / "er"
    assert sorted(found.name for found in folder.iterdir()) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    assert [found["a"] for found in lines_in(folder / "events.jsonl")] == [5, 6, 7] or [
        found["a"] for found in lines_in(folder / "events.jsonl")
    ] == list(range(8))[-6:]
    assert all(found.stat().st_size <= 116 for found in folder.iterdir())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":0}\n{"tor', b'{"a":0}\n'),
        (b'{"torn', b""),
        (b'{"a":0}\n' + b'{"' + b"x" * 200_000, b'{"a":0}\n'),
        (b'{"a":0}\n', b'{"a":0}\n'),
        (b"", b""),
    ],
    ids=["torn", "only a torn line", "torn and long", "whole", "empty"],
)
async def test_a_torn_last_line_is_cut_off(tmp_path: Path, before: bytes, after: bytes) -> None:
    """Its event was never acknowledged by the output, so it comes again, whole."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(before)
    output = File(FileOutput(str(path)))
    await output.deliver(LINES[:1])
    await output.close()
    assert path.read_bytes() == after + LINES[0] + b"\n"


async def test_a_file_that_somebody_moved_away_is_made_anew(output: File, tmp_path: Path) -> None:
    """logrotate and people do that."""
    path = tmp_path / "deep" / "er" / "events.jsonl"
    await output.deliver(LINES[:1])
    path.rename(tmp_path / "moved")
    await output.deliver(LINES[1:2])
    assert path.read_bytes() == LINES[1] + b"\n"


async def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    """A folder in its place: Retryable, with the path in the message."""
    path = tmp_path / "events.jsonl"
    path.mkdir()
    output = File(FileOutput(str(path)))
    with pytest.raises(Retryable, match=r"events\.jsonl"):
        await output.deliver(LINES)
    path.rmdir()
    await output.deliver(LINES)
    await output.close()
    assert len(lines_in(path)) == 3


async def test_a_full_disk_leaves_no_half_line() -> None:
    """/dev/full stands for the disk: writing fails, and later works again."""
    output = File(FileOutput("/dev/full"))
    with pytest.raises(Retryable):
        await output.deliver(LINES)
    await output.close()


async def test_stdout_writes_lines_and_a_reader_that_sleeps_blocks_nobody() -> None:
    """The pipe fills, the event loop goes on, and every line comes when it is read."""
    reading, writing = os.pipe()
    output = Stdout(writing)
    big = [b'{"a":"%s"}' % (b"x" * 1000)] * 1000
    task = asyncio.create_task(output.deliver(big))
    await asyncio.sleep(0)
    assert not task.done()
    data = await asyncio.to_thread(_drain, reading, sum(len(line) + 1 for line in big))
    await task
    await output.close()
    assert data.splitlines() == big
    os.close(reading)
    os.close(writing)


def _drain(number: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(number, 2**16)
    return data


@pytest.mark.parametrize("form", ["json-lines", "json-array", "event-list"])
async def test_http_posts_each_format(destination: Destination, form: Format) -> None:
    """What arrives is JSON of that shape, with the right content type and no proxy in between."""
    output = Http(HttpOutput(destination.url, form))
    await output.deliver(LINES)
    await output.close()
    (request,), (body,) = destination.requests, destination.bodies
    if form == "json-lines":
        assert body == b"\n".join(LINES) + b"\n"
        assert request.content_type == "application/x-ndjson"
    else:
        assert request.content_type == "application/json"
        found = json.loads(body)
        assert (found if form == "json-array" else found["items"]) == [{"a": 1}, {"a": 2}, {"a": 3}]
        assert form == "json-array" or (found["kind"], found["apiVersion"]) == ("EventList", "audit.k8s.io/v1")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, None), (201, None), (202, None), (204, None),
        (301, Retryable), (307, Retryable),
        (400, Permanent), (413, Permanent), (422, Permanent),
        (401, Retryable), (403, Retryable), (404, Retryable), (405, Retryable), (408, Retryable), (409, Retryable),
        (425, Retryable), (429, Retryable), (500, Retryable), (502, Retryable), (503, Retryable), (504, Retryable),
    ],
)  # fmt: skip
async def test_what_each_status_means(destination: Destination, status: int, expected: type[Exception] | None) -> None:
    """Nothing is given up because of what somebody can mend."""

    async def answer(_: object) -> web.Response:
        return web.Response(status=status, headers={"Location": "/elsewhere", "Retry-After": "7"})

    destination.answer = answer
    output = Http(HttpOutput(destination.url))
    if expected is None:
        await output.deliver(LINES)
    else:
        with pytest.raises(expected, match=str(status)) as caught:
            await output.deliver(LINES)
        if status in (429, 503):
            assert isinstance(caught.value, Retryable)
            assert caught.value.after == 7
    await output.close()
    assert len(destination.requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("999999", MAX_AFTER),
        ("soon", None),
        ("-1", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_bounded(header: str | None, seconds: float | None) -> None:
    """RFC 9110: a number of seconds or a date; nonsense is nothing."""
    assert retry_after(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    """A date in the future is so many seconds from now."""
    date = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)
    found = retry_after(date.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    assert found is not None
    assert 50 < found <= 60


async def test_a_server_that_is_down_or_unknown_is_retryable() -> None:
    """A refused connection, and a name that does not exist."""
    for url in ("http://127.0.0.1:1/", "http://nowhere.invalid/"):
        output = Http(HttpOutput(url))
        with pytest.raises(Retryable):
            await output.deliver(LINES)
        await output.close()


async def test_address_is_dialled_and_the_url_names_the_server(tmp_path: Path) -> None:
    """No DNS: the URL's host is only the TLS name and the Host header; a client certificate and a token are shown."""
    authority = Authority(tmp_path / "pki")
    context = authority.server(authority.issue("server", "audit-x.ns.svc"), required=True)
    token = tmp_path / "token"
    token.write_text("first\n")
    async with Destination().listening(context) as server:
        config = HttpOutput(
            "https://audit-x.ns.svc/in",
            address=f"127.0.0.1:{server.port}",
            ca=authority.ca.read_text(),
            client_tls=authority.issue("client"),
            bearer_token_file=str(token),
        )
        output = Http(config)
        await output.deliver(LINES)
        token.write_text("second\n")
        await output.deliver(LINES)
        await output.close()
        assert [request.headers["Authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]
        assert server.requests[0].host == "audit-x.ns.svc"

        wrong = Http(HttpOutput(config.url.replace("audit-x", "audit-y"), address=config.address, ca=config.ca))
        with pytest.raises(Retryable):
            await wrong.deliver(LINES)
        await wrong.close()
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "config",
    [
        HttpOutput("https://127.0.0.1:1/", ca="no PEM"),
        HttpOutput("https://127.0.0.1:1/", ca_file="/nowhere/ca.crt"),
        HttpOutput("https://127.0.0.1:1/", bearer_token_file="/nowhere/token"),
    ],
    ids=["ca", "ca file", "token file"],
)
async def test_what_the_configuration_lacks_is_said_and_awaited(config: HttpOutput) -> None:
    """A Secret that is not there yet comes by itself."""
    output = Http(config)
    with pytest.raises(Retryable, match=r"ca|token"):
        await output.deliver(LINES)
    await output.close()
