"""Webhooks on loopback that take audit events over TLS, well or badly: what AuditSinks of other people point at.

All of them live in one thread with an event loop. A webhook keeps of each event only its auditID and stage, and the
name of the object: what was answered with 200 counts as taken, as it does for the gateway.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from aiohttp import web

from tests.dataplane.pki import Authority

Mood = Literal["good", "hanging", "refusing", "slow"]
SLOW = 0.5
"""Seconds that a slow webhook takes for each batch; a good one takes some hundredths."""
Key = tuple[str, str]


class _Reference(msgspec.Struct):
    name: str = ""


class _Event(msgspec.Struct, rename={"audit_id": "auditID", "reference": "objectRef"}):
    audit_id: str
    stage: str
    reference: _Reference | None = None


class _List(msgspec.Struct):
    items: list[_Event]


class Webhook:
    """One webhook; `mood` is how it behaves now. If `kept` is a list, the bodies that it takes are put there."""

    def __init__(self, mood: Mood = "good") -> None:
        self.taken: set[Key] = set()
        self.names: set[str] = set()
        self.kept: list[bytes] | None = None
        self.batches = self.requests = 0
        self.port = 0
        self._mood: Mood = mood
        self._changed = asyncio.Event()

    @property
    def mood(self) -> Mood:
        """How it behaves."""
        return self._mood

    async def behave(self, mood: Mood) -> None:
        """Behave otherwise from now on; what hangs goes on."""
        self._mood = mood
        self._changed.set()
        self._changed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        """Take a batch, or not."""
        self.requests += 1
        body = await request.read()
        while self._mood == "hanging":
            await self._changed.wait()
        if self._mood == "refusing":
            return web.Response(status=500)
        if self._mood == "slow":
            await asyncio.sleep(SLOW)
        if self.kept is not None:
            self.kept.append(body)
        events = msgspec.json.decode(body, type=_List).items
        self.taken |= {(event.audit_id, event.stage) for event in events}
        self.names |= {event.reference.name for event in events if event.reference}
        self.batches += 1
        return web.Response()


class Webhooks:
    """A context manager that serves any number of webhooks."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self._context = self.authority.server(self.authority.issue("webhook"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="webhooks", daemon=True)
        self._runners: list[web.AppRunner] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def serve(self, mood: Mood = "good") -> Webhook:
        """One more webhook, on a port of its own."""
        made: Webhook = self.do(self._serve(mood))
        return made

    def behave(self, webhook: Webhook, mood: Mood) -> None:
        """Have a webhook behave otherwise."""
        self.do(webhook.behave(mood))

    def client(self, webhook: Webhook) -> dict[str, str]:
        """`clientConfig` of an AuditSink that points at the webhook."""
        bundle = base64.b64encode(self.authority.ca.read_bytes()).decode()
        return {"url": f"https://127.0.0.1:{webhook.port}/audit", "caBundle": bundle}

    async def _serve(self, mood: Mood) -> Webhook:
        webhook = Webhook(mood)
        app = web.Application(client_max_size=32 * 2**20)
        app.router.add_post("/audit", webhook.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._context).start()
        webhook.port = runner.addresses[0][1]
        self._runners.append(runner)
        return webhook

    async def _end(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        await asyncio.sleep(0.25)  # TLS connections close in the background


def sink(name: str, client: Mapping[str, Any], level: str = "RequestResponse", **webhook: Any) -> dict[str, Any]:
    """An AuditSink as of 1.18, for every stage."""
    stages = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]
    return {
        "apiVersion": "auditregistration.k8s.io/v1alpha1",
        "kind": "AuditSink",
        "metadata": {"name": name},
        "spec": {"policy": {"level": level, "stages": stages}, "webhook": {"clientConfig": client, **webhook}},
    }


@contextmanager
def background(work: Any) -> Iterator[threading.Event]:
    """Run `work(stop)` in a thread meanwhile; what it raises is raised in the end."""
    stop, raised = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            work(stop)
        except BaseException as error:  # handed over to whoever started it
            raised.append(error)

    thread = threading.Thread(target=run, name="background")
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()
    if raised:
        raise raised[0]
