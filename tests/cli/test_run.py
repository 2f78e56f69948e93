"""`auditpipeline run`: real processes, real files, real TLS."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from auditpipeline.cli import main as command_line
from auditpipeline.core.spec import parse_pipeline
from tests.cli.running import EVENTS, Bench, archive, call, end, identity, pipeline, wanted
from tests.dataplane.setting import Destination, until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "manifests" / "examples" / "standalone.yaml"


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    """A server that takes what is delivered."""
    async with Destination().listening() as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A folder; nothing runs yet."""
    return Bench(tmp_path)


async def test_the_example_delivers_every_event_that_its_policy_wants(bench: Bench) -> None:
    """`run`, then `replay`: nothing else, and nothing twice."""
    shutil.copy(EXAMPLE, bench.file)
    expected = wanted(parse_pipeline(yaml.safe_load(EXAMPLE.read_text())).spec.policy.effective)
    assert len(expected) > 1000
    async with bench.running() as process:
        code, out, _ = await bench.replay()
        assert (code, out.split(" in ")[0]) == (0, "acknowledged: 3,159 events")
        await until(lambda: len(set(bench.delivered("events"))) >= len(expected))
        assert await end(process) == 0
    found = bench.delivered("events")
    assert set(found) == expected
    assert len(found) == len(expected)


async def test_an_output_that_is_down_for_a_while_gets_everything_afterwards(
    bench: Bench, destination: Destination
) -> None:
    """Also over a restart in between."""
    port = destination.port
    bench.write(pipeline({"name": "siem", "http": {"url": f"http://127.0.0.1:{port}/in"}}, archive()))
    expected = set(map(identity, map(json.loads, EVENTS.read_text().splitlines())))

    async def refuse(_: Any) -> Any:
        return web.Response(status=503)

    destination.answer = refuse
    async with bench.running() as process:
        assert (await bench.replay())[0] == 0
        await until(lambda: set(bench.delivered()) == expected)
        await until(lambda: destination.requests)
        assert await end(process) == 0
    assert destination.events == []
    async with bench.running():
        destination.answer = None
        await until(lambda: {identity(event) for event in destination.events} == expected, 60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_exit_code_0(bench: Bench, number: int) -> None:
    """And the spool says that it was closed."""
    bench.write(pipeline(archive()))
    async with bench.running() as process:
        assert await end(process, number) == 0
    _, out, _ = await call("spool", "ls", str(bench.spool), "--output", "json")
    assert json.loads(out)["clean"] is True


async def test_certificates_are_private_and_are_used_again(bench: Bench) -> None:
    """The kubeconfig of the first start is good for the second one; copies are kept where they are asked for."""
    bench.write(pipeline(archive()))
    copy = bench.folder / "copies" / "audit.kubeconfig"
    async with bench.running("--write-kubeconfig", str(copy)) as process:
        first = {name: (bench.data / name).read_bytes() for name in ("ca.crt", "tls/tls.crt", "client.crt")}
        assert copy.read_bytes() == bench.kubeconfig.read_bytes()
        await end(process)
    assert stat.S_IMODE(bench.data.stat().st_mode) == 0o700
    private = ["ca.key", "tls/tls.key", "client.key", "webhook.kubeconfig", "config.json", "spool.sqlite"]
    assert {stat.S_IMODE((bench.data / name).stat().st_mode) for name in private} == {0o600}
    async with bench.running("--write-kubeconfig", str(copy)):
        assert {name: (bench.data / name).read_bytes() for name in first} == first
        code, _, _ = await call("replay", str(EVENTS), "--kubeconfig", str(copy))
        assert code == 0


async def test_conditions_decide_without_a_cluster_too(bench: Bench) -> None:
    """And one that does not compile is refused with its field."""
    condition = {"name": "no-reads", "expression": "!(event.verb in ['get', 'list', 'watch'])"}
    bench.write(pipeline(archive(), matchConditions=[condition]))
    recorded = [json.loads(line) for line in EVENTS.read_text().splitlines()]
    expected = {identity(event) for event in recorded if event["verb"] not in ("get", "list", "watch")}
    assert 10 < len(expected) < len(recorded)
    async with bench.running() as process:
        assert (await bench.replay())[0] == 0
        await until(lambda: len(set(bench.delivered())) >= len(expected))
        assert await end(process) == 0
    assert set(bench.delivered()) == expected
    bench.write(pipeline(archive(), matchConditions=[{**condition, "expression": "event.vrb == 'get'"}]))
    code, _, err = await call(*bench.arguments())
    assert code == 2
    assert "spec.matchConditions[0].expression: at character 1: undefined field 'vrb' of event: is verb meant?" in err


async def test_a_changed_pipeline_is_followed_and_a_broken_one_refused(bench: Bench) -> None:
    """The old one stays in force meanwhile."""
    bench.write(pipeline(archive()))
    async with bench.running():
        bench.write("spec: [")
        await until(lambda: bench.lines("the changed pipeline is refused, the old one stays in force"))
        bench.write(pipeline({"name": "archive", "file": {"path": "/etc/passwd"}}))
        refused = "the changed pipeline is refused, the old one stays in force"
        await until(lambda: len(bench.lines(refused)) == 2)
        assert f"{bench.file}:" in bench.lines(refused)[1]["error"]
        assert "spec.outputs[0].file.path" in bench.lines(refused)[1]["error"]
        assert (await bench.replay())[0] == 0
        await until(lambda: len(bench.delivered()) == 3159)
        bench.write(pipeline(archive(), archive("second")))
        await until(lambda: bench.lines("the configuration is in force"))
        assert (await bench.replay())[0] == 0
        await until(lambda: len(bench.delivered("second")) == 3159)


SECRET_EVENT = {
    "kind": "Event",
    "apiVersion": "audit.k8s.io/v1",
    "level": "Request",
    "auditID": "11111111-2222-3333-4444-555555555555",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/namespaces/default/secrets",
    "verb": "create",
    "user": {"username": "alice"},
    "objectRef": {"resource": "secrets", "namespace": "default", "name": "a", "apiVersion": "v1"},
    "responseStatus": {"code": 201},
    "requestObject": {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"key": "aHVudGVyMg=="}},
    "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
    "stageTimestamp": "2026-01-01T00:00:00.000000Z",
}


async def test_secrets_are_hashed_with_a_key_of_its_own_and_whole_for_who_opts_out(bench: Bench) -> None:
    """The key is made at the first start, is private and stays; a change of the pipeline is followed."""
    policy = {"rules": [{"level": "Request"}]}
    one, key = bench.folder / "one.jsonl", bench.data / "redaction.key"
    one.write_text(json.dumps(SECRET_EVENT) + "\n")
    bench.write(pipeline(archive(), policy=policy, redaction={"method": "hash"}))
    async with bench.running():
        assert (stat.S_IMODE(key.stat().st_mode), len(key.read_bytes())) == (0o600, 32)
        assert (await bench.replay(log=one))[0] == 0
        await until(bench.delivered)
        assert "aHVudGVyMg==" not in bench.output().read_text()
        assert "UkVEQUNURUQt" in bench.output().read_text()  # a hash, and not the mask, in base64
        first = key.read_bytes()
        bench.write(pipeline(archive(), archive("whole"), policy=policy, redaction={"default": False}))
        await until(lambda: bench.lines("the configuration is in force"))
        assert (await bench.replay(log=one))[0] == 0
        await until(lambda: bench.delivered("whole"))
        assert "aHVudGVyMg==" in bench.output("whole").read_text()
        assert key.read_bytes() == first
    assert first.hex() not in bench.log.read_text()


async def test_what_means_nothing_here_is_named_once(bench: Bench) -> None:
    """By its fields."""
    document = pipeline(archive(), throttle={"qps": 1}, webhook={"replicas": 3, "nodeSelector": {"a": "b"}})
    bench.write(document)
    async with bench.running():
        (line,) = bench.lines("fields that mean nothing without Kubernetes are ignored")
        assert line["fields"] == "spec.throttle, spec.webhook.replicas, spec.webhook.nodeSelector"
        document["spec"]["outputs"].append(archive("second"))
        bench.write(document)
        await until(lambda: bench.lines("the configuration is in force"))
        assert len(bench.lines(line["event"])) == 1


async def test_a_pipeline_that_expires_ends_the_process_with_exit_code_0(bench: Bench) -> None:
    """The time counts from the start."""
    bench.write(pipeline(archive(), expireAfter="1s"))
    async with bench.running() as process:
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert bench.lines("spec.expireAfter is over: stopping")


async def test_while_it_is_suspended_events_are_acknowledged_and_not_recorded(bench: Bench) -> None:
    """What was stored before is delivered."""
    document = pipeline(archive(), suspend=True)
    bench.write(document)
    async with bench.running():
        assert (await bench.replay())[0] == 0
        document["spec"]["suspend"] = False
        bench.write(document)
        await until(lambda: bench.lines("the configuration is in force"))
        one = bench.folder / "one.jsonl"
        one.write_bytes(EVENTS.read_bytes().splitlines()[0] + b"\n")
        assert (await bench.replay(log=one))[0] == 0
        await until(bench.delivered)
        assert len(bench.delivered()) == 1


async def test_secrets_are_files(bench: Bench, destination: Destination) -> None:
    """In the layout of mounted Secrets."""
    secrets = bench.folder / "secrets"
    (secrets / "siem").mkdir(parents=True)
    (secrets / "siem" / "ca.crt").write_text("no certificate")
    https = {
        "url": f"https://127.0.0.1:{destination.port}/in",
        "bearerTokenSecretRef": {"name": "siem", "key": "token"},
    }
    bench.write(pipeline(archive(), {"name": "siem", "http": https}))
    code, _, err = await call(*bench.arguments())
    assert (code, err.count("\n")) == (2, 1)
    assert "--secrets-dir: is needed: the outputs read siem/token" in err
    code, _, err = await call(*bench.arguments("--secrets-dir", str(secrets)))
    assert (code, err.count("\n")) == (2, 1)
    assert f"{secrets} has no readable siem/token" in err
    (secrets / "siem" / "token").write_text("s3cret")
    async with bench.running("--secrets-dir", str(secrets)):
        assert "s3cret" not in bench.log.read_text()
        assert str(secrets / "siem" / "token") in (bench.data / "config.json").read_text()


async def test_an_audit_log_is_read_over_kill_9_and_rotation(bench: Bench) -> None:
    """Every event arrives; what comes twice was between the last stored position and the kill."""
    bench.write(pipeline(archive()))
    lines = EVENTS.read_bytes().splitlines(keepends=True)
    expected = set(map(identity, map(json.loads, lines)))
    log = bench.folder / "kube" / "audit.log"
    log.parent.mkdir()
    log.touch()
    for number in range(5):
        async with bench.running("--audit-log", str(log)) as process:
            for start in range(number * 500, min((number + 1) * 500, 2500), 100):
                with log.open("ab") as file:
                    file.write(b"".join(lines[start : start + 100])[:-5])
                    file.flush()
                    file.write(b"".join(lines[start : start + 100])[-5:])
                if start % 300 == 0:
                    log.rename(log.with_name(f"audit-2026-11-24T01-56-{start // 100:02d}.123.log"))
            await until(lambda seen=number: len(set(bench.delivered())) > seen * 400)  # type: ignore[misc]
            process.kill()
            await process.wait()
    with log.open("ab") as file:
        file.write(b"".join(lines[2500:]) + b'no event\n"neither"\n')
    async with bench.running("--audit-log", str(log)) as process:
        await until(lambda: set(bench.delivered()) >= expected)
        await until(lambda: bench.lines("lines of the audit log are not events: see the dead letters"))
        assert await end(process) == 0
    assert set(bench.delivered()) == expected
    _, out, _ = await call("spool", "ls", str(bench.spool), "--output", "json")
    assert sum(each["letters"] for each in json.loads(out)["deadLetters"]) == 2


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Runs the command in this process; for what ends before anything starts."""
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("document", "arguments", "message"),
    [
        ("kind: Policy", [], "no AuditPipeline of auditpipeline.dev/v1alpha1 in it"),
        ("a: [", [], "this is not valid YAML"),
        (pipeline(), [], "pipeline.yaml:"),
        (pipeline(archive()), ["--listen", "9443"], "--listen: '9443' is not HOST:PORT"),
        (pipeline(archive()), ["--listen-ops", "localhost:x"], "--listen-ops"),
        (pipeline(archive()), ["--root", "/proc/none"], "output archive: /proc/none/var/log/audit/archive.jsonl"),
        (pipeline(archive()), ["--data-dir", "/proc/none"], "/proc/none"),
        (pipeline(archive()), ["--write-kubeconfig", "pipeline.yaml"], "was not written by auditpipeline"),
        (pipeline(archive()), ["--data-dir", "other"], "--data-dir:"),
        (pipeline(archive(), redaction={"method": "hash"}), ["--redaction-key", "none"], "none cannot be read"),
        (pipeline(archive(), redaction={"method": "hash"}), ["--redaction-key", "other/file"], "file has 0 bytes"),
        (pipeline(archive(), redaction={"rules": [{"paths": ["**"]}]}), [], "spec.redaction.rules[0].paths[0]"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    document: Any,
    arguments: list[str],
    message: str,
) -> None:
    """Before anything listens."""
    monkeypatch.chdir(bench.folder)
    (bench.folder / "other").mkdir()
    (bench.folder / "other" / "file").touch()
    bench.write(document)
    code, err = run(bench.arguments(*arguments), capsys)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err


def test_two_pipelines_in_a_file_are_one_too_many(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Other objects are passed over."""
    bench.write(yaml.safe_dump_all([pipeline(archive()), {"kind": "Secret"}, pipeline(archive("b"))]))
    assert "2 AuditPipelines" in run(bench.arguments(), capsys)[1]


async def test_a_port_that_is_taken_is_one_line_and_exit_code_2(bench: Bench) -> None:
    """With the address."""
    bench.write(pipeline(archive()))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = await call(*bench.arguments("--listen", address))
    assert code == 2
    assert err.splitlines()[-1] == f"auditpipeline: cannot listen on {address}: the port is taken"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_a_user_who_may_not_write_the_outputs_file_is_told(bench: Bench) -> None:
    """In one line that says what to do."""
    bench.write(pipeline(archive()))
    (bench.root / "var" / "log").mkdir(parents=True)
    bench.folder.chmod(0o777)
    for folder in (bench.folder.parent, bench.folder.parent.parent):
        folder.chmod(0o755)
    # The interpreter's own folder may be closed to that user: everything is imported before.
    code = (
        "import os, sys, uvloop, auditpipeline.dataplane.run\n"
        "from auditpipeline.cli import logs, main, run, run_folder, run_pipeline, serve\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); main.main(sys.argv[1:])"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *bench.arguments(), stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert err.decode().count("\n") == 1
    assert "output archive:" in err.decode()
    assert "--root" in err.decode()
