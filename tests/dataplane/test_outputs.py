"""Every output keeps the contract of docs/outputs.md, on a real pipe, a real disk and real servers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from auditpipeline.core.config import Basic, FileOutput, HttpOutput
from auditpipeline.core.destination import Format
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.outputs import Output, make
from auditpipeline.dataplane.outputs.stdout import Stdout
from tests.dataplane.output_contract import FEW, OutputContract, Subject
from tests.dataplane.pki import Authority
from tests.dataplane.proxy import Proxy
from tests.dataplane.setting import Destination, until

_SIZE = 2**20


class Pipe(Subject):
    """Standard output: a pipe that somebody reads, or that nobody does, or whose reader is gone."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()
        self._prepare()
        self.taken = b""

    def make(self) -> Output:
        """To the writing end."""
        return Stdout(self._writing)

    def arrived(self) -> list[bytes]:
        """What is in the pipe, without the blank lines that `hang` fills it with."""
        self._drain()
        return [line for line in self.taken.split(b"\n") if line]

    def fail(self) -> None:
        """The reader ends."""
        self._drain()
        os.close(self.reading)
        self.reading = -1

    def hang(self) -> None:
        """The reader sleeps, with the pipe full."""
        os.set_blocking(self._writing, False)
        try:
            while True:
                os.write(self._writing, b"\n" * 4096)
        except BlockingIOError:
            os.set_blocking(self._writing, True)

    def mend(self) -> None:
        """Another reader, or the old one wakes up."""
        if self.reading < 0:
            self.reading, writing = os.pipe()
            os.dup2(writing, self._writing)
            os.close(writing)
            self._prepare()
        self._drain()

    def end(self) -> None:
        """Nobody needs it any more."""
        os.close(self._writing)
        if self.reading >= 0:
            os.close(self.reading)

    def _prepare(self) -> None:
        os.set_blocking(self.reading, False)
        fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, _SIZE)

    def _drain(self) -> None:
        try:
            while self.reading >= 0 and (piece := os.read(self.reading, _SIZE)):
                self.taken += piece
        except BlockingIOError:
            return


class Disk(Subject):
    """A folder that is away at times, on a disk whose fsync may not come back."""

    def __init__(self, folder: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder / "audit"
        self._path = self._folder / "events.jsonl"
        self._config = config
        self._goes = threading.Event()
        self._goes.set()
        sync = os.fsync

        def fsync(number: int) -> None:
            self._goes.wait()
            sync(number)

        monkeypatch.setattr(os, "fsync", fsync)

    def make(self) -> Output:
        """To a file in the folder."""
        return make(FileOutput(str(self._path), **self._config))

    def arrived(self) -> list[bytes]:
        """What the files hold: first those that were rotated."""
        files = sorted(self._folder.glob("*"), key=lambda found: (found == self._path, found.name))
        return [line for found in files for line in found.read_bytes().split(b"\n") if line]

    def fail(self) -> None:
        """Something else stands in the folder's place."""
        if self._folder.exists():
            self._folder.rename(self._folder.with_name("away"))
        self._folder.write_text("no folder\n")

    def hang(self) -> None:
        """The disk takes data, and is never done with it."""
        self._goes.clear()

    def mend(self) -> None:
        """The folder is back, the disk works."""
        self._goes.set()
        if self._folder.is_file():
            self._folder.unlink()
            self._folder.with_name("away").rename(self._folder)


class Server(Subject):
    """An HTTP server that may answer 503, or never."""

    def __init__(self, destination: Destination, config: HttpOutput, secrets: tuple[str, ...] = ()) -> None:
        self._destination = destination
        self._config = config
        self.secrets = secrets
        self._goes = asyncio.Event()

    def make(self) -> Output:
        """To the server."""
        return make(self._config)

    def arrived(self) -> list[bytes]:
        """What it answered 200 to."""
        return [msgspec.json.encode(event) for event in self._destination.events]

    def fail(self) -> None:
        """It repeats what it was sent, which some do."""

        async def answer(events: list[dict[str, Any]]) -> web.Response:
            said = {"events": events, "headers": dict(self._destination.requests[-1].headers)}
            return web.Response(status=503, reason="not\tnow", body=msgspec.json.encode(said))

        self._destination.answer = answer

    def hang(self) -> None:
        """It reads and does not answer; who was there then gets 503 later."""
        goes = self._goes = asyncio.Event()

        async def answer(_: object) -> web.Response:
            await goes.wait()
            return web.Response(status=503)

        self._destination.answer = answer

    def mend(self) -> None:
        """It answers 200."""
        self._goes.set()
        self._destination.answer = None


class TestStdout(OutputContract):
    """`stdout`."""

    @pytest.fixture
    async def subject(self) -> AsyncIterator[Subject]:
        """A pipe."""
        pipe = Pipe()
        yield pipe
        pipe.end()


class TestFile(OutputContract):
    """`file`, as it is by default, and where it rotates with nearly every delivery."""

    @pytest.fixture(params=[{}, {"max_bytes": 20, "keep": 1000, "max_age": 60.0}], ids=["default", "rotating"])
    def subject(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
        """A folder."""
        return Disk(tmp_path, request.param, monkeypatch)


class TestHttp(OutputContract):
    """`http`, in each format."""

    @pytest.fixture(params=["json-lines", "json-array", "event-list"])
    async def subject(self, request: pytest.FixtureRequest, destination: Destination) -> Subject:
        """A server."""
        form: Format = request.param
        return Server(destination, HttpOutput(destination.url, form))


class TestHttpBehindEverything(OutputContract):
    """`http` over TLS, through a proxy, compressed, with each way to authenticate."""

    @pytest.fixture(params=["bearer", "basic", "certificate"])
    async def subject(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
        """A server with TLS, reached by its name through a proxy alone."""
        authority = Authority(tmp_path / "pki")
        ways: dict[str, dict[str, Any]] = {
            "bearer": {"bearer_token_file": str(written(tmp_path / "token", "a-very-secret-token"))},
            "basic": {
                "basic": Basic(
                    str(written(tmp_path / "username", "scribe")),
                    str(written(tmp_path / "password", "correct horse")),
                )
            },
            "certificate": {"client_tls": authority.issue("client")},
        }
        secrets = ("a-very-secret-token", "correct horse", "c2NyaWJlOmNvcnJlY3QgaG9yc2U=", "BEGIN PRIVATE KEY")
        context = authority.server(authority.issue("server", "siem.invalid"), required=request.param == "certificate")
        async with Destination().listening(context) as server, Proxy().listening(server.port) as proxy:
            config = HttpOutput(
                "https://siem.invalid/in",
                proxy=proxy.url,
                compression="gzip",
                ca=authority.ca.read_text(),
                headers=(("X-Scope-OrgID", "audit"),),
                **ways[request.param],
            )
            yield Server(server, config, secrets)
            assert set(proxy.asked) <= {"CONNECT siem.invalid:443"}


def written(path: Path, text: str) -> Path:
    """A file that holds the text and a line end, as editors leave it."""
    path.write_text(f"{text}\n")
    return path


async def test_a_line_that_failed_half_way_is_ended_before_the_next() -> None:
    """A pipe gives nothing back: a reader that goes and comes again finds a torn line, and then whole ones."""
    pipe = Pipe()
    output = pipe.make()
    big = b'{"a":"%s"}' % (b"x" * 4 * _SIZE)
    task = asyncio.create_task(output.deliver([big]))
    await asyncio.to_thread(select.select, [pipe.reading], [], [])
    torn = os.read(pipe.reading, 10)
    os.close(pipe.reading)
    pipe.reading = -1
    with pytest.raises(Retryable):
        await task
    pipe.mend()
    await output.deliver(FEW)
    await output.close()
    assert big.startswith(torn)
    assert pipe.arrived() == FEW
    assert pipe.taken.startswith(b"\n")
    pipe.end()


async def test_outputs_of_one_descriptor_write_in_turn() -> None:
    """More than a pipe holds, so that the kernel takes each delivery in many pieces: every line is whole."""
    pipe = Pipe()
    outputs = [pipe.make() for _ in range(4)]
    batches = [[b'{"o":%d,"n":%d,"p":"%s"}' % (of, number, b"x" * 20_000) for number in range(60)] for of in range(4)]
    tasks = [asyncio.create_task(output.deliver(lines)) for output, lines in zip(outputs, batches, strict=True)]
    await until(lambda: pipe.arrived() and all(task.done() for task in tasks))
    await asyncio.gather(*tasks)
    found = pipe.arrived()
    assert sorted(found) == sorted(line for lines in batches for line in lines)
    for output in outputs:
        await output.close()
    pipe.end()


async def test_a_line_torn_by_one_output_is_ended_by_the_next_one() -> None:
    """Of the same descriptor, whichever it is, and also when the one before is closed."""
    pipe = Pipe()
    first, second = pipe.make(), pipe.make()
    big = b'{"a":"%s"}' % (b"x" * 4 * _SIZE)
    task = asyncio.create_task(first.deliver([big]))
    await asyncio.to_thread(select.select, [pipe.reading], [], [])
    os.close(pipe.reading)
    pipe.reading = -1
    with pytest.raises(Retryable):
        await task
    await first.close()
    pipe.mend()
    await second.deliver(FEW)
    await second.close()
    assert pipe.arrived() == FEW
    assert pipe.taken.startswith(b"\n")
    pipe.end()


async def test_a_reader_that_sleeps_holds_those_outputs_alone(tmp_path: Path) -> None:
    """Two that write there wait, another pipe and a file do not; all of it arrives in the end."""
    sleeping, other = Pipe(), Pipe()
    sleeping.hang()
    stuck = [sleeping.make(), sleeping.make()]
    tasks = [asyncio.create_task(output.deliver(FEW)) for output in stuck]
    free = [other.make(), make(FileOutput(str(tmp_path / "events.jsonl")))]
    for output in free:
        await output.deliver(FEW)
    assert other.arrived() == FEW
    assert not any(task.done() for task in tasks)
    await until(lambda: sleeping.arrived() and all(task.done() for task in tasks))
    assert sleeping.arrived() == FEW * 2
    for output in (*stuck, *free):
        await output.close()
    sleeping.end()
    other.end()
