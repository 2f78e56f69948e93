"""Promise: 10,000 secrets go into a running system, none is on a disk, in an output, a log, a status or a metric, and
every event is there."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from auditpipeline.core.config import Config, FileOutput, HttpOutput, Route, Spool, StdoutOutput
from auditpipeline.core.destination import FileCompression
from auditpipeline.core.redaction.model import HASH, KEY_BYTES, Redaction
from auditpipeline.dataplane import inspect
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import EVERYTHING, Destination, Setting, until
from tests.redaction import everywhere
from tests.redaction.bodies import FORMS
from tests.redaction.marks import marks_in
from tests.redaction.plant import Planted, several

SECRETS = 10_000
BATCH = 40
UNREADABLE = 60
FILES: tuple[FileCompression, ...] = ("none", "gzip", "zstd")
_AUDIT_ID = re.compile(rb'"auditID":\s*"([^"]+)"')
NOWHERE = "http://127.0.0.1:1/in"


def bodies(events: list[Planted]) -> Iterator[bytes]:
    """Requests of some events each, in all forms of a body."""
    forms = itertools.cycle(FORMS.values())
    for start in range(0, len(events), BATCH):
        yield next(forms)([each.item for each in events[start : start + BATCH]])


def unreadable(events: list[Planted]) -> Iterator[bytes]:
    """Bodies with secrets of which no event can be made: torn, of another kind, and with an item that is damaged."""
    for number, each in enumerate(events[:UNREADABLE]):
        head = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":['
        match number % 4:
            case 0:
                yield b'{"kind":"Pod","apiVersion":"v1","items":[' + each.item + b"]}"
            case 1:
                yield head[:-1] + each.item
            case 2:
                yield head + each.item.replace(b'"level":', b'"level":5,"le":', 1) + b"]}"
            case _:
                yield b"\xff\xfe" + each.item


@dataclass
class Ledger:
    """Where which of the `planted` secrets were found; how many places were looked at, and how many bytes."""

    planted: frozenset[int]
    leaks: dict[str, set[int]] = field(default_factory=dict)
    places: int = 0
    size: int = 0

    def look(self, name: str, data: bytes) -> None:
        """Looks for secrets of any spelling."""
        self.places, self.size = self.places + 1, self.size + len(data)
        if found := marks_in(data) & self.planted:
            self.leaks[name] = found


def by_kind(ledger: Ledger, events: list[Planted]) -> dict[str, list[str]]:
    """The kinds of the secrets that were found, each with some places."""
    kinds, found = {number: each.kind for each in events for number in each.secrets}, dict[str, set[str]]()
    for place, numbers in ledger.leaks.items():
        for number in numbers:
            found.setdefault(kinds[number], set()).add(place)
    return {kind: sorted(there)[:3] for kind, there in found.items()}


def gateway(setting: Setting, receiver: Setting, port: int) -> Config:
    """A gateway with two sinks: the receiver's, and one that nobody serves."""
    output = HttpOutput(
        f"https://127.0.0.1:{port}/audit",
        "event-list",
        ca=receiver.authority.ca.read_text(),
        client_tls=receiver.client_tls,
    )
    routes = (Route("pipeline", (EVERYTHING,), output), Route("dead", (EVERYTHING,), HttpOutput(NOWHERE, "event-list")))
    spool = Spool(str(setting.spool), 2**28, isolate=True)
    return msgspec.structs.replace(setting.config(*routes), plane="gateway", spool=spool)


def pipeline(setting: Setting, url: str) -> Config:
    """A receiver with an output of every kind: files that rotate and are packed, a server, a pipe, one that gets
    hashes instead of masks, and a dead one."""
    files = {
        name: FileOutput(str(setting.folder / name / "events.jsonl"), 2**20, 1000, compression=name) for name in FILES
    }
    routes = [Route(name, (EVERYTHING,), output) for name, output in files.items()]
    routes += [
        Route("http", (EVERYTHING,), HttpOutput(url, compression="gzip")),
        Route("pipe", (EVERYTHING,), StdoutOutput()),
    ]
    hashed = FileOutput(str(setting.folder / "hashed" / "events.jsonl"), 2**20, 1000)
    routes += [Route("hashed", (EVERYTHING,), hashed, redaction=Redaction(method="hash"))]
    routes += [Route("dead", (EVERYTHING,), HttpOutput(NOWHERE))]
    key = setting.folder / "key"
    key.write_bytes(os.urandom(KEY_BYTES))
    spool = Spool(str(setting.spool), 2**28)
    return msgspec.structs.replace(setting.config(*routes), spool=spool, redaction_key_file=str(key))


async def picky(events: list[dict[str, object]]) -> web.Response | None:
    """A server that refuses some events for ever: they become dead letters of its output."""
    refused = any(str(each["auditID"]).endswith("00") for each in events)
    return web.Response(status=400, text="refused") if refused else None


async def post(process: Process, setting: Setting, sent: list[bytes]) -> None:
    """Posts them, a few at a time; each is acknowledged."""
    context = setting.authority.client(setting.client_tls)
    queue = iter(sent)
    url = f"https://127.0.0.1:{process.ports['audit']}/audit"

    async def go(session: aiohttp.ClientSession) -> None:
        for body in queue:
            async with session.post(url, data=body, ssl=context) as response:
                assert response.status == 200, await response.text()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(go(session) for _ in range(4)))


async def delivered(process: Process, setting: Setting) -> None:
    """Waits until nothing but what is dead has anything left."""

    async def rest() -> bool:
        outputs = (await process.report(setting)).outputs
        return all(output.pending == 0 for output in outputs if output.name != "dead")

    await until(rest, 120)


def ids(data: bytes) -> set[str]:
    """The auditIDs of lines."""
    return {json.loads(line)["auditID"] for line in data.splitlines()}


def lines_of(folder: Path) -> bytes:
    """All lines that an output wrote there, unpacked."""
    found = list[bytes]()
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if path.suffix in (".gz", ".zst"):
            ((_, data),) = everywhere.frames(data)
        found.append(data)
    return b"".join(found)


@dataclass
class System:
    """A gateway and the receiver behind it, in processes of their own, and the server that the receiver delivers to."""

    front: Setting
    back: Setting
    gate: Process
    receiver: Process
    server: Destination

    async def sends(self, events: list[Planted]) -> None:
        """Posts all to the gateway, some to the receiver itself as well, and to both what cannot be read."""
        await post(self.gate, self.front, [*bodies(events), *unreadable(events)])
        await post(self.receiver, self.back, [*bodies(events[: len(events) // 5]), *unreadable(events)])
        await delivered(self.gate, self.front)
        await delivered(self.receiver, self.back)

    async def searched(self, folder: Path, planted_: frozenset[int]) -> Ledger:
        """Looks everywhere, while both run."""
        ledger = Ledger(planted_)
        for name, process, setting in (("gateway", self.gate, self.front), ("receiver", self.receiver, self.back)):
            for path in ("/status", "/metrics"):
                ledger.look(f"{path} of the {name}", await process.ops(setting, path))
        for search in (everywhere.files, everywhere.spools, everywhere.tables):  # the same bytes, in three readings
            for name, data in search(folder):
                ledger.look(name, data)
        for number, (request, body) in enumerate(zip(self.server.requests, self.server.bodies, strict=True)):
            ledger.look(f"request {number}", body + repr(dict(request.headers)).encode())
        return ledger


@asynccontextmanager
async def running(folder: Path, server: Destination) -> AsyncIterator[System]:
    """The system, below that folder."""
    front, back = Setting(folder / "gateway"), Setting(folder / "receiver")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server.listening())
        back.write(pipeline(back, server.url))
        (back.folder / "stdout").mkdir()
        pipe = stack.enter_context((back.folder / "stdout" / "events.jsonl").open("wb"))
        receiver = await stack.enter_async_context(serving(back, stdout=pipe.fileno()))
        await receiver.listening()
        front.write(gateway(front, back, receiver.ports["audit"]))
        gate = await stack.enter_async_context(serving(front))
        await gate.listening()
        yield System(front, back, gate, receiver, server)


async def test_no_secret_is_anywhere_and_every_event_is_there(tmp_path: Path) -> None:
    """Dead outputs keep all rows in both spools, a server that refuses some events makes dead letters of them, files
    rotate and are packed, and bodies that cannot be read come in between."""
    events, server = list(several(SECRETS)), Destination()
    server.answer = picky
    async with running(tmp_path, server) as system:
        await system.sends(events)
        ledger = await system.searched(tmp_path, frozenset[int]().union(*(each.secrets for each in events)))
        assert by_kind(ledger, events) == {}
        kept = {"gateway": inspect.summary(system.front.spool), "receiver": inspect.summary(system.back.spool)}
    expected = {_AUDIT_ID.findall(each.item)[0].decode() for each in events}
    masked, hashed = (lines_of(tmp_path / "receiver" / name) for name in ("none", "hashed"))
    hashes = re.compile(HASH.encode() + b"[0-9a-f]{32}")
    assert hashes.search(hashed)
    assert not hashes.search(masked)
    for name in (*FILES, "stdout", "hashed"):
        assert expected <= ids(lines_of(tmp_path / "receiver" / name)), name
    assert len(list((tmp_path / "receiver" / "zstd").iterdir())) > 3
    assert all(spool.events >= len(events) for spool in kept.values())
    assert all(spool.dead for spool in kept.values())
