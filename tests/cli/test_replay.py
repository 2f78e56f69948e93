"""`auditpipeline replay`: what is sent, to whom, how often, and what is told of it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import lzma
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from auditpipeline.cli import main as command_line
from auditpipeline.cli.kubeconfig import load
from auditpipeline.cli.replay_send import Batch, Sender, batches
from auditpipeline.core.errors import Invalid
from auditpipeline.core.eventlog import events
from tests.cli.running import EVENTS, call
from tests.dataplane.pki import Authority
from tests.dataplane.setting import DATA, Destination


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    """A server that takes what is sent."""
    async with Destination().listening() as server:
        yield server


def kubeconfig(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    """A kubeconfig as people write it for kube-apiserver."""
    path = folder / "audit.kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "audit", "cluster": cluster}],
        "users": [{"name": "kube-apiserver", "user": user}],
        "contexts": [{"name": "audit", "context": {"cluster": "audit", "user": "kube-apiserver"}}],
        "current-context": "audit",
    }
    path.write_text(yaml.safe_dump(document))
    return path


async def send(destination: Destination, folder: Path, log: Path, *more: str) -> tuple[int, str, str]:
    """Replays to the destination, over HTTP."""
    target = kubeconfig(folder, {"server": destination.url}, {"token": "s3cret"})
    return await call("replay", str(log), "--kubeconfig", str(target), "--initial-backoff", "0.01", *more)


async def test_events_are_sent_in_batches_as_kube_apiserver_sends_them(
    destination: Destination, tmp_path: Path
) -> None:
    """400 a request, one connection, Content-Length, the query and no kind in an item."""
    code, out, err = await send(destination, tmp_path, EVENTS)
    assert (code, err) == (0, "")
    assert out.startswith("acknowledged: 3,159 events in 8 requests")
    recorded = [json.loads(line) for line in EVENTS.read_text().splitlines()]
    assert destination.events == [
        {key: value for key, value in event.items() if key not in ("kind", "apiVersion")} for event in recorded
    ]
    real = json.loads((DATA / "batches" / "00004.json").read_bytes())
    for request, body in zip(destination.requests, destination.bodies, strict=True):
        assert request.headers["Authorization"] == "Bearer s3cret"
        assert request.headers["Content-Length"] == str(len(body))
        assert request.query_string == "timeout=30s"
        found = json.loads(body)
        assert {key: found[key] for key in found if key != "items"} == {
            key: real[key] for key in real if key != "items"
        }
        assert len(found["items"]) <= 400


@pytest.mark.parametrize("kind", ["gz", "bodies", "one body", "stdin"])
async def test_logs_of_every_kind_are_read(destination: Destination, tmp_path: Path, kind: str) -> None:
    """Lines of Events or EventLists, packed or not, from a file or from standard input."""
    body = (DATA / "batches" / "00004.json").read_bytes()
    items = json.loads(body)["items"]
    log = tmp_path / "audit.log"
    if kind == "gz":
        log = tmp_path / "audit.log.gz"
        log.write_bytes(gzip.compress(b"".join(json.dumps(item).encode() + b"\n" for item in items)))
    else:
        log.write_bytes(body if kind != "one body" else json.dumps(json.loads(body), indent=1).encode())
    target = str(kubeconfig(tmp_path, {"server": destination.url}, {}))
    if kind == "stdin":
        process = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m auditpipeline.cli.main replay - --kubeconfig {target} < {log}"
        )
        assert await process.wait() == 0
    else:
        assert (await call("replay", str(log), "--kubeconfig", target))[0] == 0
    assert destination.events == items


async def test_a_refused_batch_is_tried_five_times_and_told(destination: Destination, tmp_path: Path) -> None:
    """The others go on; the exit code says that not everything was acknowledged."""
    second = json.loads(EVENTS.read_text().splitlines()[1000])["auditID"]
    tries = 0

    async def answer(found: list[dict[str, Any]]) -> web.Response | None:
        nonlocal tries
        if any(event["auditID"] == second for event in found):
            tries += 1
            return web.Response(status=500, text="no")
        return None

    destination.answer = answer
    code, out, err = await send(destination, tmp_path, EVENTS, "--batch", "1000")
    refused = [line for line in out.splitlines() if line.startswith("refused")]
    assert code == 1
    assert "refused:      1,000 events in 1 requests: 500 Internal Server Error no" in refused
    assert tries == 5
    assert "lines 1001 to 2000: given up after 5 tries" in err
    code, out, _ = await send(destination, tmp_path, EVENTS, "--batch", "1000", "--output", "json")
    found = json.loads(out)
    assert (code, found["acknowledged"], found["refused"], found["complete"]) == (1, 2159, 1000, True)
    assert found["refusals"][0]["firstLine"] == 1001


async def test_retry_after_is_obeyed_within_a_try(destination: Destination, tmp_path: Path) -> None:
    """429 and 503 with the header are no failed try."""
    answers = iter([429, 503, 429])

    async def answer(_: list[dict[str, Any]]) -> web.Response | None:
        status = next(answers, 200)
        return None if status == 200 else web.Response(status=status, headers={"Retry-After": "0"})

    destination.answer = answer
    code, out, err = await send(destination, tmp_path, EVENTS, "--output", "json")
    assert (code, err, json.loads(out)["triesAgain"]) == (0, "", 0)
    assert len(destination.bodies) == 8 + 3


async def test_broken_lines_are_told_and_not_sent(destination: Destination, tmp_path: Path) -> None:
    """With line and column; the exit code is 1."""
    log = tmp_path / "audit.log"
    log.write_bytes(EVENTS.read_bytes().splitlines(keepends=True)[0] + b'{"kind": nothing}\n')
    code, out, err = await send(destination, tmp_path, log)
    assert code == 1
    assert "acknowledged: 1 events" in out
    assert "broken:       1 line not sent" in out
    assert f"{log}:2:" in err


async def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    """After the tries; nothing was acknowledged."""
    log = tmp_path / "audit.log"
    log.write_bytes(EVENTS.read_bytes().splitlines(keepends=True)[0])
    target = kubeconfig(tmp_path, {"server": "http://127.0.0.1:1/audit"}, {})
    code, out, err = await call("replay", str(log), "--kubeconfig", str(target), "--initial-backoff", "0.01")
    assert code == 1
    assert "acknowledged: 0 events" in out
    assert "trying again" in err


def encoded(path: Path) -> str:
    """The file as a kubeconfig has it inline."""
    return base64.b64encode(path.read_bytes()).decode()


@pytest.mark.parametrize("inline", [True, False])
async def test_the_kubeconfig_says_whom_to_trust_and_what_to_show(tmp_path: Path, inline: bool) -> None:
    """Inline or as files beside it; the TLS name is another than the address."""
    authority = Authority(tmp_path / "pki")
    server, _ = authority.issue("server", "audit-x.ns.svc"), authority.issue("client")
    if inline:
        data = {name: encoded(authority.folder / name) for name in ("ca.crt", "client.crt", "client.key")}
        trust = {"certificate-authority-data": data["ca.crt"]}
        shown = {"client-certificate-data": data["client.crt"], "client-key-data": data["client.key"]}
    else:
        trust = {"certificate-authority": "pki/ca.crt"}
        shown = {"client-certificate": "pki/client.crt", "client-key": "pki/client.key"}
    log = tmp_path / "audit.log"
    log.write_bytes(EVENTS.read_bytes().splitlines(keepends=True)[0])
    async with Destination().listening(authority.server(server, required=True)) as destination:
        where = {"server": f"https://127.0.0.1:{destination.port}/in", "tls-server-name": "audit-x.ns.svc"}
        target = kubeconfig(tmp_path, {**where, **trust}, shown)
        options = ("--kubeconfig", str(target), "--initial-backoff", "0.01")
        assert (await call("replay", str(log), *options))[0] == 0
        kubeconfig(tmp_path, {**where, **trust, "tls-server-name": "another.svc"}, shown)
        code, _, err = await call("replay", str(log), *options)
        assert code == 1
        assert "another.svc" in err
        kubeconfig(tmp_path, {**where, **trust}, {})
        assert (await call("replay", str(log), *options))[0] == 1
    assert len(destination.events) == 1


@pytest.mark.parametrize(
    ("cluster", "user", "message"),
    [
        ({}, {}, "cluster.server is no URL"),
        ({"server": "ftp://a"}, {}, "cluster.server is no URL"),
        ({"server": "https://a", "certificate-authority-data": "%"}, {}, "certificate-authority-data is no base64"),
        (
            {"server": "https://a", "certificate-authority-data": "eA=="},
            {},
            "a certificate or key in it cannot be used",
        ),
        ({"server": "https://a"}, {"exec": {"command": "x"}}, "user.exec is not supported"),
        ({"server": ["https://a"]}, {}, "server must be text"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_told(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], message: str
) -> None:
    """With the reason, and without what is in it."""
    with pytest.raises(Invalid, match=message):
        load(kubeconfig(tmp_path, cluster, user))


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"a: [", b"\xff", b"contexts: {}", b"current-context: x\ncontexts: [1]"]
)
def test_a_file_that_is_no_kubeconfig_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    """And exit code 2."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        command_line.main(["replay", str(EVENTS), "--kubeconfig", str(path)])
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.count("\n") == 1
    assert "no kubeconfig that can be used" in err


def test_a_batch_is_bounded_in_events_and_bytes() -> None:
    """10 MiB, as kube-apiserver's truncation has it; a single larger event goes alone."""
    lines = EVENTS.read_bytes().splitlines()
    big = json.dumps({"auditID": "big", "pad": "x" * 6 * 2**20}).encode()
    found = list(batches(events([*lines[:5], big, big, *lines[5:6]], lambda _: None), 4))
    assert [batch.events for batch in found] == [4, 2, 2]
    assert [(batch.first, batch.last) for batch in found] == [(1, 4), (5, 6), (7, 8)]


async def test_the_rate_is_events_a_second(destination: Destination, tmp_path: Path) -> None:
    """By the loop's clock: the last of three batches of 10 goes out 20 events' time after the first."""
    target = load(kubeconfig(tmp_path, {"server": destination.url}, {}))
    sender = Sender(target, 0.01, lambda _: None)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await sender.send([Batch(b"{}", 10, 1, 10)] * 3, rate=100)
    assert loop.time() - started >= 0.2
    assert sender.events == 30


@pytest.mark.parametrize(
    ("name", "expected", "broken"),
    [
        ("torn.log", ["e-1", "e-3", "e-5", "e-6", "e-7", "e-8"], 2),
        ("audit-cri.log", ["e-1", "e-2"], 0),
        ("audit-cloudwatch.json", ["e-1", "e-2"], 0),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
async def test_logs_are_read_as_people_have_them(
    destination: Destination, tmp_path: Path, name: str, expected: list[str], broken: int, packed: bool
) -> None:
    """Torn lines, lines of a container runtime, an export; packed or not."""
    log = DATA / "logs" / name
    if packed:
        log = tmp_path / "log.xz"
        log.write_bytes(lzma.compress((DATA / "logs" / name).read_bytes()))
    code, out, _ = await send(destination, tmp_path, log, "--output", "json")
    assert [event["auditID"] for event in destination.events] == expected
    assert (code, json.loads(out)["brokenLines"]) == (1 if broken else 0, broken)
