"""What the tests of the data plane share: events, configurations, a running plane, and a server to deliver to."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from auditpipeline.core import config as contract
from auditpipeline.core import report as reports
from auditpipeline.core.config import Config, FileOutput, Listen, Route, Tls
from auditpipeline.core.event import delivery_key
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.report import Report
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.plane import Plane
from auditpipeline.dataplane.route import Patience
from auditpipeline.dataplane.run import run
from tests.dataplane.pki import Authority

DATA = Path(__file__).parents[1] / "data"
EVERYTHING = Policy(rules=(Rule(level="RequestResponse"),))
QUICK = Patience(answer=1.0, first=0.02, most=0.1, stop=1.0)
_numbers = itertools.count()


def real_events() -> list[dict[str, Any]]:
    """Events of a real kube-apiserver."""
    return [json.loads(line) for line in (DATA / "audit-events.jsonl").read_text().splitlines()]


def event(**fields: Any) -> dict[str, Any]:
    """A small event; each has its own auditID."""
    return {
        "level": "Metadata",
        "auditID": f"id-{next(_numbers)}",
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/default/pods",
        "verb": "list",
        "user": {"username": "alice", "groups": ["system:authenticated"]},
        "objectRef": {"resource": "pods", "namespace": "default", "apiVersion": "v1"},
        **fields,
    }


def event_list(events: Iterable[Any]) -> bytes:
    """The body that kube-apiserver posts."""
    return json.dumps(
        {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": list(events)},
        separators=(",", ":"),
    ).encode()


def ids(events: Iterable[dict[str, Any]]) -> list[str]:
    """Which events these are."""
    return [f"{found['auditID']}/{found['stage']}" for found in events]


def bare(line: dict[str, Any]) -> dict[str, Any]:
    """The event of a line as an item of an EventList has it; tests/dataplane/test_line_form.py has the rest."""
    return {name: value for name, value in line.items() if name not in ("kind", "apiVersion")}


def lines_in(path: Path) -> list[dict[str, Any]]:
    """The events of a file and of what was rotated away, oldest first; each line must be whole, but for
    one at the end that is being written."""
    files = sorted(path.parent.glob(f"{path.name}*"), key=lambda found: (found == path, found.name))
    return [bare(json.loads(line)) for found in files for line in found.read_bytes().split(b"\n")[:-1]]


def keys_in(path: Path) -> list[str]:
    """The delivery keys in a file."""
    return [delivery_key(line) for line in path.read_bytes().splitlines()] if path.exists() else []


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Waits until the condition holds (it may be a coroutine function); its value. Fails with a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


class Setting:
    """One plane's folder: certificates, configuration, spool, and the client that posts to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "pki")
        self.server_tls = self.authority.issue("server", "audit-x.ns.svc")
        self.client_tls = self.authority.issue("client")
        self.file = folder / "out" / "events.jsonl"
        self.spool = folder / "spool.sqlite"
        self.path = folder / "config.json"
        self.log = io.StringIO()

    def config(self, *routes: Route, **fields: Any) -> Config:
        """A configuration; by default with one route to `self.file` that wants everything."""
        listen = Listen("127.0.0.1:0", "127.0.0.1:0", self.server_tls, self.server_tls)
        spool = contract.Spool(str(self.spool), fields.pop("max_bytes", 2**30))
        return Config("receiver", "test", listen, spool, routes or (self.route(),), **fields)

    def route(self, name: str = "archive", output: Any = None, **fields: Any) -> Route:
        """A route that wants everything."""
        policies = fields.pop("policies", (EVERYTHING,))
        return Route(name, policies, output or FileOutput(str(self.file)), **fields)

    def write(self, config: Config) -> str:
        """Puts the configuration in place at once, as kubelet does; its digest."""
        body = contract.encode(config)
        scratch = self.path.with_suffix(".new")
        scratch.write_bytes(body)
        scratch.rename(self.path)
        return contract.digest(body)

    @asynccontextmanager
    async def running(self, config: Config | None = None, patience: Patience = QUICK) -> AsyncIterator[Running]:
        """A plane that runs this configuration (the one that is in place, if None)."""
        if config:
            self.write(config)
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            run(self.path, stop=stop, on_ready=ready.set_result, patience=patience, log=logs.make(self.log))
        )
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        async with aiohttp.ClientSession() as session:
            try:
                yield Running(self, ready.result(), session)
            finally:
                stop.set()
                await asyncio.wait_for(task, 30)

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of that event."""
        found = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]


class Running:
    """A running plane and a client with a certificate."""

    def __init__(self, setting: Setting, plane: Plane, session: aiohttp.ClientSession) -> None:
        self.setting = setting
        self.plane = plane
        self.session = session
        self.context = setting.authority.client(setting.client_tls)

    @property
    def audit(self) -> str:
        """The URL that takes events."""
        return f"https://127.0.0.1:{self.plane.audit_port}/audit"

    async def post(self, events: Iterable[Any] | bytes) -> int:
        """Posts events, or a body as it is; the status."""
        body = events if isinstance(events, bytes) else event_list(events)
        async with self.session.post(self.audit, data=io.BytesIO(body), ssl=self.context) as response:
            await response.read()
            return response.status

    async def get(self, path: str, shown: Tls | None = None) -> tuple[int, bytes]:
        """Asks the ops listener, with a certificate or without."""
        url = f"https://127.0.0.1:{self.plane.ops_port}{path}"
        async with self.session.get(url, ssl=self.setting.authority.client(shown)) as response:
            return response.status, await response.read()

    async def report(self) -> Report:
        """What /status says."""
        status, body = await self.get("/status", self.setting.client_tls)
        assert status == 200
        return reports.decode(body)

    async def metric(self, name: str) -> float | None:
        """The value of one sample, as `name{label="value"}`."""
        _, body = await self.get("/metrics")
        for line in body.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return None

    async def in_force(self, digest: str) -> None:
        """Waits until the configuration of that digest is in force."""

        async def same() -> bool:
            return (await self.report()).config == digest

        await until(same)


class Destination:
    """An HTTP server that events are delivered to; `answer` decides on each request (None: 200)."""

    def __init__(self) -> None:
        self.answer: Callable[[list[dict[str, Any]]], Awaitable[web.Response | None]] | None = None
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.events: list[dict[str, Any]] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/in"

    @asynccontextmanager
    async def listening(self, context: Any = None, port: int = 0) -> AsyncIterator[Destination]:
        """Serves, with TLS if a context is given."""
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/in", self._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        events = _events(body)
        self.requests.append(request)
        self.bodies.append(body)
        answer = await self.answer(events) if self.answer else None
        if answer is None or answer.status == 200:
            self.events += events
        return answer or web.Response()


def _events(body: bytes) -> list[dict[str, Any]]:
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return [bare(json.loads(line)) for line in body.splitlines()]
    if isinstance(found, list):
        return [bare(line) for line in found]
    if "items" not in found:
        return [bare(found)]
    items: list[dict[str, Any]] = found["items"]
    return items
