"""An event that an output finds too large arrives without its bodies; one that is redacted arrives without a secret."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from auditpipeline.core.config import HttpOutput
from auditpipeline.core.mend import ANNOTATION
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.truncate import truncated
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane import outputs
from auditpipeline.dataplane.route import Route
from auditpipeline.dataplane.store import Cursor
from tests.dataplane.setting import EVERYTHING, QUICK, Destination, Setting, event, until
from tests.dataplane.test_spool import opened

BODIES = {"requestObject": {"data": "x" * 5000}, "responseObject": {"data": "y" * 5000}}


def too_large(most: int) -> Any:
    """A server that takes at most so many bytes a request."""

    async def answer(events: list[dict[str, Any]]) -> web.Response | None:
        return web.Response(status=413) if len(json.dumps(events)) > most else None

    return answer


async def test_an_event_that_is_too_large_arrives_without_its_bodies(
    setting: Setting, destination: Destination
) -> None:
    """Only that one is cut, and says what was; nothing becomes a dead letter."""
    destination.answer = too_large(5000)
    large = event(level="RequestResponse", annotations={"a": "b"}, **BODIES)
    others = [event(), event(level="Request", requestObject={"small": True})]
    async with setting.running(setting.config(setting.route(output=HttpOutput(destination.url)))) as plane:
        assert await plane.post([others[0], large, others[1]]) == 200
        await until(lambda: len(destination.events) == 3)
        got = {found["auditID"]: found for found in destination.events}
        assert [got[found["auditID"]] for found in others] == others
        cut = got[large["auditID"]]
        assert cut["annotations"] == {"a": "b", ANNOTATION: "requestObject,responseObject"}
        assert {**cut, **BODIES, "annotations": {"a": "b"}} == large

        async def counted() -> bool:
            report = await plane.report()
            return (report.events.delivered, report.events.dropped, report.dead_letters) == (3, 0, 0)

        await until(counted)
        assert await plane.metric('auditpipeline_events_truncated_total{output="archive"}') == 1


async def test_one_that_is_refused_even_then_is_a_dead_letter_as_it_came(
    setting: Setting, destination: Destination
) -> None:
    """Its bodies are kept with it."""
    destination.answer = too_large(2000)
    large = event(level="RequestResponse", userAgent="z" * 3000, **BODIES)
    async with setting.running(setting.config(setting.route(output=HttpOutput(destination.url)))) as plane:
        assert await plane.post([event(), large]) == 200

        async def buried() -> bool:
            return (await plane.report()).dead_letters == 1

        await until(buried)
        assert await plane.metric('auditpipeline_events_truncated_total{output="archive"}') == 0
        assert len(destination.events) == 1


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"requestObject": {}}, "requestObject"),
        ({"responseObject": {}, "annotations": None}, "responseObject"),
        ({"requestObject": 1, "responseObject": 2, "annotations": {"x": "y"}}, "requestObject,responseObject"),
        ({"requestObject": 1, "annotations": {}}, "requestObject"),
    ],
)
def test_what_was_cut_is_annotated(fields: dict[str, Any], value: str) -> None:
    """Beside the annotations that are there."""
    found = truncated(json.dumps(event(**fields)).encode())
    assert found is not None
    annotations = json.loads(found)["annotations"]
    assert annotations == {**(fields.get("annotations") or {}), ANNOTATION: value}
    assert not {"requestObject", "responseObject"} & json.loads(found).keys()


@pytest.mark.parametrize("line", [json.dumps(event()).encode(), b"17", b"{"])
def test_what_has_no_bodies_or_cannot_be_read_is_not_cut(line: bytes) -> None:
    """There is nothing to gain."""
    assert truncated(line) is None


@pytest.mark.parametrize(("redaction", "value"), [(None, "UkVEQUNURUQ="), (Redaction(default=False), "aHVudGVyMg==")])
async def test_what_was_stored_whole_is_redacted_when_it_is_delivered(
    setting: Setting, destination: Destination, redaction: Redaction | None, value: str
) -> None:
    """As the release before stored it, or for a route that opted out. What cannot be read becomes a dead letter."""
    config = replace(setting.route(output=HttpOutput(destination.url), policies=(EVERYTHING,)), redaction=redaction)
    spool = await opened(setting.spool, outputs=("archive",))
    route = Route(config, spool, outputs.make(config.output), logs.make(io.StringIO()), QUICK)
    route.start(Cursor(0, 0, 0.0))
    secret = event(level="Request", objectRef={"resource": "secrets"}, requestObject={"data": {"a": "aHVudGVyMg=="}})
    lines = [json.dumps(each).encode() for each in (secret, event())]
    await spool.append([lines[0], lines[0][:-9], lines[1]])
    await until(lambda: len(destination.events) == 2)
    assert [each.get("requestObject") for each in destination.events] == [{"data": {"a": value}}, None]

    async def buried() -> bool:
        return (await spool.figures()).lost == [("archive", "refused", 1)]

    await until(buried)
    await route.stop()
    await spool.close()
