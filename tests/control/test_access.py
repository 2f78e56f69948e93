"""What kopf's requests tell of its watches: against a real HTTP server, with a clock of the test's own."""

from __future__ import annotations

import contextlib

import pytest
from aiohttp import ClientError, ClientSession, web

from auditpipeline.control.access import WATCH_TIMEOUT, tracing

PATH = "/apis/auditpipeline.dev/v1alpha1/auditpipelines"
LIST, WATCH = {"limit": "100"}, {"watch": "true", "resourceVersion": "7"}


class Heard:
    """Keeps what it is told; `now` is the time."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.now = 1000.0

    def listed(self) -> None:
        self.said.append("listed")

    def resumed(self, plural: str, version: str) -> None:
        self.said.append(f"resumed {plural} {version}")


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([LIST, LIST | {"continue": "x"}, WATCH], ["listed"]),
        ([LIST, WATCH, WATCH_TIMEOUT, WATCH, WATCH_TIMEOUT, WATCH], ["listed"]),
        ([LIST, WATCH, 100, WATCH], ["listed", "resumed auditpipelines 7"]),
        ([LIST, WATCH, WATCH_TIMEOUT, WATCH, 5, WATCH], ["listed", "resumed auditpipelines 7"]),
        ([LIST, WATCH, 1000, "refused", 5, WATCH], ["listed", "resumed auditpipelines 7"]),
        ([LIST, WATCH, 1000, "failed", 5, WATCH], ["listed", "resumed auditpipelines 7"]),
        ([LIST, WATCH, 10, LIST, WATCH], ["listed", "listed"]),
    ],
    ids=["a new watch", "ended by the server", "broken", "broken later", "refused", "failed", "begun anew"],
)
async def test_a_watch_that_lost_its_connection_is_told(
    requests: list[dict[str, str] | int | str], said: list[str]
) -> None:
    """And no other one: a list of everything follows."""
    heard, status = Heard(), 200

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get(PATH, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with ClientSession(trace_configs=[tracing(heard, lambda: heard.now)]) as session:
            for each in requests:
                if isinstance(each, int):
                    heard.now += each
                    continue
                status = 503 if each == "failed" else 200
                # Nothing listens on port 1.
                where = f"http://127.0.0.1:{1 if each == 'refused' else port}{PATH}"
                with contextlib.suppress(ClientError):
                    (await session.get(where, params=each if isinstance(each, dict) else WATCH)).release()
    finally:
        await runner.cleanup()
    assert heard.said == said
