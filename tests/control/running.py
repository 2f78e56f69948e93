"""An operator in this process against a real API server, and Pods played by the test: no kubelet is needed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

from auditpipeline.control import access, names
from auditpipeline.control.authority import pair_of
from auditpipeline.control.kube import Client
from auditpipeline.control.operator import run
from auditpipeline.control.resources import NODES, PIPELINES, PODS, SECRETS, STATEFULSETS
from auditpipeline.control.settings import Settings
from auditpipeline.core import report
from auditpipeline.core.report import Report
from tests.cluster.controlplane import ControlPlane
from tests.control.bodies import Body

WRITES = ("apply", "create", "update", "patch", "delete", "post", "put")


async def eventually(what: str, check: Callable[[], Awaitable[Any]], within: float = 30.0) -> Any:
    """The first true value of `check`, within so many seconds."""
    last: Any = None
    try:
        async with asyncio.timeout(within):
            while not (last := await check()):  # noqa: ASYNC110 - the state is in another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {within:.0f} s; last seen: {last}") from None
    return last


@dataclass
class Operator:
    """A running operator; `ended` is its task."""

    settings: Settings
    ended: asyncio.Task[None]
    stopping: asyncio.Event

    async def stop(self) -> None:
        """A clean stop."""
        self.stopping.set()
        await self.ended

    async def kill(self) -> None:
        """An end in the middle of whatever it does."""
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)

    async def get(self, path: str) -> str:
        """What its own listener answers; empty while it does not."""
        with contextlib.suppress(OSError):
            # Nobody verifies it here: tests/control/test_serving.py does.
            url = f"https://{self.settings.listen}{path}"
            async with ClientSession() as session, session.get(url, ssl=False) as answer:
                return await answer.text()
        return ""

    async def requests(self, *verbs: str) -> dict[str, int]:
        """Requests to the API by verb and resource, but those for the Lease."""
        found = {}
        for line in (await self.get("/metrics")).splitlines():
            if line.startswith("auditpipeline_api_requests_total{") and 'resource="leases"' not in line:
                labels, _, value = line.partition("{")[2].partition("} ")
                if not verbs or any(f'verb="{verb}"' in labels for verb in verbs):
                    found[labels] = int(float(value))
        return found

    async def writes_during(self, looks: int) -> dict[str, int]:
        """What is written until the sinks' statuses have been looked at so many times more."""
        before, looked = await self.requests(*WRITES), await self._looks()

        async def done() -> bool:
            return await self._looks() >= looked + looks

        await eventually(f"{looks} more looks", done)
        after = await self.requests(*WRITES)
        return {what: count for what, count in after.items() if count != before.get(what)}

    async def _looks(self) -> float:
        lines = (await self.get("/metrics")).splitlines()
        found = [line for line in lines if line.startswith('auditpipeline_reconciles_total{kind="sinks"}')]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    async def leading(self) -> bool:
        """Whether it holds the Lease."""
        return await self.get("/readyz") == "leading"


@contextlib.asynccontextmanager
async def operator(kubeconfig: Path, namespace: str, **changed: Any) -> AsyncIterator[Operator]:
    """An operator that is stopped in the end; `changed` are Settings."""
    values: dict[str, Any] = {
        "namespace": namespace,
        "listen": f"127.0.0.1:{free_port()}",
        "resync": 600.0,
        "status_interval": 0.2,
        "identity": f"test-{free_port()}",
        "leader_elect": False,
    }
    settings, stopping = Settings(**(values | changed)), asyncio.Event()
    task = asyncio.create_task(run(settings, stopping, kubeconfig), name="operator")
    made = Operator(settings, task, stopping)
    try:
        yield made
    finally:
        stopping.set()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def client(cluster: ControlPlane) -> AsyncIterator[Client]:
    """The administrator's client."""
    made = Client(await access.configuration(cluster.kubeconfig))
    try:
        yield made
    finally:
        await made.close()


async def condition(kube: Client, name: str, kind: str) -> Body:
    """A condition of a pipeline, or an empty one."""
    body = await kube.get(PIPELINES, name) or {}
    found = [entry for entry in body.get("status", {}).get("conditions", ()) if entry["type"] == kind]
    return found[0] if found else {}


async def until(kube: Client, name: str, kind: str, status: str, reason: str = "", within: float = 30.0) -> Body:
    """Wait until a condition says so."""

    async def check() -> Body | None:
        last.clear()
        last.update(await condition(kube, name, kind))
        return last if last.get("status") == status and reason in ("", last["reason"]) else None

    last: Body = {}
    try:
        found: Body = await eventually(f"{kind}={status} {reason}", check, within)
    except AssertionError as error:
        raise AssertionError(f"{error}; it says {last}") from None
    return found


@dataclass
class Played:
    """A Pod's ops listener; what `report` holds is what it answers, with the digest of `config` where that is ""."""

    report: Report
    runner: web.AppRunner


@contextlib.asynccontextmanager
async def pod(
    kube: Client, namespace: str, name: str, secret: str, port: int, report_: Report
) -> AsyncIterator[Played]:
    """Play a Pod that exists: it is Running, Ready, and answers /status with the certificate in `secret`."""
    stored = await kube.get(SECRETS, secret, namespace)
    address = await _address(port)
    runner = await _listen(stored or {}, address, port, lambda: played.report)
    played = Played(report_, runner)
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    await kube.patch_status(PODS, name, status, namespace)
    try:
        yield played
    finally:
        await runner.cleanup()


async def gateway_pod(kube: Client, namespace: str, name: str = "gateway", node: str | None = None) -> None:
    """Make the Pod that the DaemonSet of an installation would make."""
    place = {"nodeName": node, "tolerations": [{"operator": "Exists"}]} if node else {}
    await kube.create(
        PODS,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {names.APP: names.GATEWAY}},
            "spec": {"containers": [{"name": "gateway", "image": "none"}], **place},
        },
    )


async def silent_pod(kube: Client, namespace: str, name: str) -> None:
    """Have a Pod run where nobody answers."""
    address = await _address(names.GATEWAY_OPS_PORT)
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    await kube.patch_status(PODS, name, status, namespace)


async def node(kube: Client, name: str, *, ready: bool) -> None:
    """Make a node, or change it."""
    if await kube.get(NODES, name) is None:
        await kube.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    said = {"type": "Ready", "status": "True" if ready else "Unknown", "reason": "Test", "message": ""}
    await kube.patch_status(NODES, name, {"conditions": [said]})


async def receivers(kube: Client, namespace: str, pipeline: str) -> list[Body]:
    """The Pods that the StatefulSet made."""
    return [body async for body in kube.list(PODS, namespace, f"{names.PIPELINE}={pipeline}")]


async def statefulset(kube: Client, namespace: str, pipeline: str) -> Body | None:
    """The StatefulSet of a pipeline."""
    return await kube.get(STATEFULSETS, names.child(pipeline), namespace)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _address(port: int) -> str:
    """An address of this machine whose `port` is free."""
    for last in range(2, 250):
        address = f"127.77.0.{last}"
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            return address
    raise AssertionError(f"port {port} is taken everywhere")


async def _listen(secret: Body, address: str, port: int, answer: Callable[[], Report]) -> web.AppRunner:
    async def status(_: web.Request) -> web.Response:
        return web.Response(body=report.encode(answer()))

    app = web.Application()
    app.router.add_get("/status", status)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port, ssl_context=_server_context(secret)).start()
    return runner


def _server_context(secret: Body) -> ssl.SSLContext:
    pair = pair_of(secret)
    assert pair is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The leaf's own issuer is not needed here: that the operator shows a certificate at all is checked.
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write((pair.certificate + pair.key).encode())
        file.flush()
        context.load_cert_chain(file.name)
    return context
