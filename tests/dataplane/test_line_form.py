"""What every line begins with: kind and apiVersion, as in kube-apiserver's own log, so that other tools read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from auditpipeline.core.config import HttpOutput
from auditpipeline.core.destination import Format
from auditpipeline.core.event import BETA, ENVELOPE
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.dataplane.outputs.http import encode
from tests.dataplane.setting import EVERYTHING, Destination, Setting, event, event_list, until
from tests.oracle.oracle import Oracle

METADATA = Policy(rules=(Rule("Metadata"),))


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """Kubernetes' own decoder."""
    with Oracle.running() as found:
        yield found


def sent(**fields: Any) -> list[dict[str, Any]]:
    """Events in every form: as kube-apiserver has them, with an unknown field, as lines of a log, of v1beta1."""
    envelope = {"kind": "Event", "apiVersion": "audit.k8s.io/v1"}
    return [
        event(level="Request", requestObject={"a": 1}, **fields),
        event(level="Request", requestObject={"a": 1}, unknown=1, **fields),
        {**envelope, **event(**fields)},
        {**event(**fields), **envelope},
        {**envelope, **event(metadata={}, timestamp="2026-01-02T03:04:05Z", **fields), "apiVersion": BETA},
    ]


@pytest.mark.parametrize("policy", [EVERYTHING, METADATA])
async def test_lines_of_every_output_are_read_by_kubernetes_own_decoder(
    setting: Setting, destination: Destination, oracle: Oracle, policy: Policy
) -> None:
    """From a file and by HTTP as lines; each event once."""
    routes = (
        setting.route("file", policies=(policy,)),
        setting.route("http", HttpOutput(destination.url, format="json-lines"), policies=(policy,)),
    )
    events = sent()
    async with setting.running(setting.config(*routes)) as plane:
        for each in events:
            assert await plane.post([each]) == 200
        assert await plane.post(events[:2]) == 200
        wanted = [each["auditID"] for each in [*events, *events[:2]]]
        await until(lambda: setting.file.exists() and setting.file.read_bytes().count(b"\n") == len(wanted))
        await until(lambda: b"".join(destination.bodies).count(b"\n") == len(wanted))
    for log in (setting.file.read_bytes(), b"".join(destination.bodies)):
        assert all(line.startswith(ENVELOPE) for line in log.splitlines())
        assert oracle.read(log) == wanted
        assert b'"timestamp"' not in log
    # The decoder does refuse what has no kind: this is what it got before.
    with pytest.raises(AssertionError, match="Kind"):
        oracle.read(json.dumps(event()).encode())


@pytest.mark.parametrize("form", get_args(Format))
def test_items_of_a_list_have_neither(form: str) -> None:
    """As kube-apiserver posts them; in every other format each event says what it is."""
    lines = [ENVELOPE + b'"auditID":"1"}', ENVELOPE + b'"auditID":"2","requestObject":{"x":1}}']
    body, _ = encode(lines, form)
    assert body.count(ENVELOPE) == (0 if form == "event-list" else 2)
    if form == "event-list":
        assert [item["auditID"] for item in json.loads(body)["items"]] == ["1", "2"]


async def test_a_v1beta1_list_is_delivered_as_v1(setting: Setting, oracle: Oracle) -> None:
    """--audit-webhook-version=audit.k8s.io/v1beta1: its items do not say so themselves."""
    events = [event(metadata={"name": "x"}, timestamp="2026-01-02T03:04:05Z") for _ in range(3)]
    async with setting.running(setting.config()) as plane:
        assert await plane.post(event_list(events).replace(b"audit.k8s.io/v1", b"audit.k8s.io/v1beta1")) == 200
        await until(lambda: setting.file.exists() and setting.file.read_bytes().count(b"\n") == 3)
    assert oracle.read(setting.file.read_bytes()) == [each["auditID"] for each in events]
    assert not {"metadata", "timestamp"} & json.loads(setting.file.read_bytes().splitlines()[0]).keys()


async def test_rows_of_a_release_with_other_lines_are_made_anew(setting: Setting) -> None:
    """The release before stored lines without a kind, under a digest of the policies alone."""
    line = json.dumps(event(), separators=(",", ":")).encode()
    async with setting.running(setting.config()) as running:
        await running.plane.intake.spool.append([line], "0bb423ea10308dcb")
        await until(lambda: setting.file.exists() and setting.file.read_bytes().endswith(b"\n"))
    assert setting.file.read_bytes() == ENVELOPE + line[1:] + b"\n"
