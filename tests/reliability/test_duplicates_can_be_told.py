"""Promise 6: duplicates can be told. What comes again has the delivery key of the first time."""

from __future__ import annotations

import json
import signal
from collections import Counter
from typing import Any

from aiohttp import web

from auditpipeline.core.config import HttpOutput
from tests.dataplane.process import serving
from tests.dataplane.setting import Destination, Setting, event, ids, keys_in, until
from tests.reliability.driving import Sender, drained


async def test_what_comes_again_has_the_same_key(setting: Setting, sender: Sender, destination: Destination) -> None:
    """An output that keeps what it gets and then fails gets it again, over a kill, byte for byte: the keys of all that
    arrived are as many as there were events."""
    kept = setting.folder / "kept.jsonl"
    calls = 0

    async def keep_and_fail(events: list[dict[str, Any]]) -> web.Response | None:
        nonlocal calls
        calls += 1
        with kept.open("ab") as file:
            file.write(destination.bodies[-1])
        return web.Response(status=500) if calls in (1, 3) else None

    destination.answer = keep_and_fail
    async with destination.listening():
        setting.write(setting.config(setting.route("siem", HttpOutput(destination.url))))
        async with serving(setting) as process:
            await process.listening()
            async with sender.sending(lambda: process.ports["audit"]):
                await sender.reaches(2000)
                await until(lambda: calls > 1)
            await process.end(signal.SIGKILL)
        async with serving(setting) as process:
            await process.listening()
            await drained(process, setting)
    keys = Counter(keys_in(kept))
    acknowledged = {id_ for body in sender.acknowledged for id_ in body}
    assert max(keys.values()) > 1
    assert len(keys) == len({key.rpartition("/")[0] for key in keys})
    assert acknowledged <= {key.rpartition("/")[0] for key in keys}


async def test_two_events_of_one_auditid_are_no_duplicates(setting: Setting) -> None:
    """Aggregated API servers write an event of their own under the auditID of the request."""
    first = event(auditID="shared")
    second = event(auditID="shared", userAgent="kube-aggregator")
    async with setting.running(setting.config()) as plane:
        assert await plane.post([first, second]) == 200
        await until(lambda: setting.file.exists() and len(keys_in(setting.file)) == 2)
        assert len(set(keys_in(setting.file))) == 2
        assert len(set(ids(map(json.loads, setting.file.read_text().splitlines())))) == 1
