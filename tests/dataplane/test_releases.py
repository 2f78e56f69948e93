"""This release and the one before read each other's configurations, reports and digests: what an operator of the one
renders, a data plane of the other runs, and reports by the digest that is expected. Both run as processes.

The spool has its own tests (test_rollback.py), the operators theirs (tests/control/test_reconcile_releases.py)."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from auditpipeline.control import names, rendering
from auditpipeline.control.conditions import conditions_evaluated
from auditpipeline.control.facts import Facts, PodReport
from auditpipeline.control.gateway import reconcile_gateway
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import entry_of
from auditpipeline.core import config
from auditpipeline.core import report as reports
from auditpipeline.core.report import Report
from tests import previous
from tests.control import bodies, fakes
from tests.dataplane.process import Process
from tests.dataplane.setting import Setting, event, event_list, until

THIS, FORMER = "this release", "the release before"
FILE = "/var/log/audit/events.jsonl"
HIDDEN = {"level": "None", "users": ["hidden"]}
RULES = [HIDDEN, {"level": "Metadata", "verbs": ["list"]}, {"level": "Request"}]


def many(count: int) -> list[dict[str, Any]]:
    """Rules that match nothing that the test does."""
    return [{"level": "Metadata", "users": [f"user-{number}"], "verbs": ["watch"]} for number in range(count)]


def pipeline(rules: int = 0, outputs: int = 1) -> bodies.Body:
    """A pipeline with an output that hides one user, with so many further rules, and with further outputs."""
    archive = {"name": "archive", "file": {"path": FILE}, "policy": {"rules": RULES}}
    further = [{"name": f"o{number}", "stdout": {}, "policy": {"rules": many(rules)}} for number in range(1, outputs)]
    return bodies.pipeline("a", policy={"rules": [*many(rules), {"level": "Request"}]}, outputs=[archive, *further])


PIPELINES = {"small": pipeline(), "large": pipeline(220, 16)}
"""The second is nearly as large as a Secret of the release before could hold."""
RENDER = """
import base64, json, sys
from auditpipeline.control import desired, names
from auditpipeline.control.certificates import Pair
from auditpipeline.control.resources import Features
from auditpipeline.control.settings import Settings
from auditpipeline.core import config
from auditpipeline.core.spec import parse_pipeline
pipeline = parse_pipeline(json.load(sys.stdin))
body = config.encode(desired.receiver_config(pipeline))
made = desired.children(pipeline, body, desired.Certified(Pair("c", "k"), "b"), Settings(), Features())
data = next(each["data"] for each in made if each["metadata"]["name"] == names.config_secret("a"))
print(json.dumps({"data": data, "digest": config.digest(body)}))
"""
RENDER_GATEWAY = """
import base64, json, sys
from auditpipeline.control.desired_gateway import gateway_config, packed, route
from auditpipeline.core import config
from auditpipeline.core.spec import parse_sink
body = config.encode(gateway_config([route(parse_sink(each), None) for each in json.load(sys.stdin)], 2**30))
data = {key: base64.b64encode(value).decode() for key, value in packed(body).items()}
print(json.dumps({"data": data, "digest": config.digest(body)}))
"""
READ_REPORT = """
import json, sys
from auditpipeline.core import report
found = report.decode(sys.stdin.buffer.read())
events = found.events
print(json.dumps([found.plane, found.config, found.config_error, events.received, [o.name for o in found.outputs]]))
"""


async def rendered(release: str, body: bodies.Body) -> tuple[dict[str, bytes], str]:
    """The content of the Secret of a pipeline's receivers, and the digest that its operator expects."""
    if release == FORMER:
        return decoded(previous.ask(RENDER, body))
    this = Round(await fakes.world(fakes.Answers()), body, Facts(1, fakes.now()))
    this.take(bodies.parsed(body))
    made = await rendering.rendered(this)
    data = next(each["data"] for each in made.children if each["metadata"]["name"] == names.config_secret("a"))
    return decoded({"data": data, "digest": config.digest(made.body)})


def decoded(made: dict[str, Any]) -> tuple[dict[str, bytes], str]:
    """As a Secret's volume has it."""
    return {key: base64.b64decode(value) for key, value in made["data"].items()}, made["digest"]


class Pod:
    """A folder with what a Pod of a data plane mounts."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.setting = Setting(folder / "setting")
        self.root = folder / "root"
        tls = self.setting.authority.issue("pod", "localhost")
        for name, ca in (("tls", "ca.crt"), ("bootstrap", "client-ca.crt")):
            target = self.root / "etc/auditpipeline" / name
            target.mkdir(parents=True)
            for source, key in ((tls.certificate, "tls.crt"), (tls.key, "tls.key"), (self.setting.authority.ca, ca)):
                shutil.copy(source, target / key)
        mounted = self.root / names.CONFIG_FOLDER.lstrip("/")
        mounted.mkdir(parents=True)
        for key, content in files.items():
            (mounted / key).write_bytes(content)
        (self.root / names.DATA_FOLDER.lstrip("/")).mkdir(parents=True)
        self.file = self.root / FILE.lstrip("/")
        self.file.parent.mkdir(parents=True)

    @asynccontextmanager
    async def serving(self, release: str) -> AsyncIterator[Process]:
        """Its data plane."""
        listen = ["--listen-audit", "127.0.0.1:0", "--listen-ops", "127.0.0.1:0"]
        path = f"{self.root}{names.CONFIG_FOLDER}/config.json"
        command = ["-m", "auditpipeline.cli.main", "serve", "--config", path, "--root", str(self.root), *listen]
        log = self.root / "log"
        with log.open("wb") as errors:
            made = await asyncio.create_subprocess_exec(
                sys.executable, *command, stderr=errors, env=previous.environment() if release == FORMER else None
            )
        process = Process(made, log)
        try:
            await process.listening()
            yield process
        finally:
            await process.end(signal.SIGKILL)

    async def post(self, process: Process, body: bytes) -> int:
        """Post events as the gateway does; the status."""
        context = self.setting.authority.client(self.setting.client_tls)
        url = f"https://127.0.0.1:{process.ports['audit']}/audit"
        headers = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, ssl=context, headers=headers) as response,
        ):
            return response.status

    async def reported(self, process: Process, reader: str) -> list[Any]:
        """What an operator of that release reads at /status: plane, digest, error, events, outputs."""
        said = await process.ops(self.setting, "/status")
        if reader == FORMER:
            found: list[Any] = json.loads(previous.run(READ_REPORT, stdin=said))
            return found
        report = reports.decode(said)
        return [report.plane, report.config, report.config_error, report.events.received, outputs(report)]


def outputs(report: Report) -> list[str]:
    """The names of its outputs."""
    return [output.name for output in report.outputs]


@pytest.mark.parametrize("case", PIPELINES)
@pytest.mark.parametrize(("operator", "receiver"), [(THIS, FORMER), (FORMER, THIS)], ids=["upgrade", "rollback"])
async def test_a_receiver_of_one_release_beside_an_operator_of_the_other(
    tmp_path: Path, operator: str, receiver: str, case: str
) -> None:
    """It runs the configuration, decides by its policies, and reports the digest that the operator waits for."""
    body = PIPELINES[case]
    files, digest = await rendered(operator, body)
    pod = Pod(tmp_path, files)
    wanted = [event(verb="list"), event(verb="create", requestObject={"a": 1}), event(user={"username": "hidden"})]
    async with pod.serving(receiver) as process:
        assert await pod.post(process, event_list(wanted)) == 200
        await until(lambda: pod.file.exists() and pod.file.read_bytes().count(b"\n") >= 2)
        said = await pod.reported(process, operator)
    lines = [json.loads(line) for line in pod.file.read_text().splitlines()]
    assert [(line["verb"], line["level"]) for line in lines] == [("list", "Metadata"), ("create", "Metadata")]
    assert said[:3] == ["receiver", digest, ""]
    assert said[4] == [output["name"] for output in body["spec"]["outputs"]]


async def test_a_receiver_of_the_release_before_records_everything_that_a_condition_would_not(tmp_path: Path) -> None:
    """It does not know conditions; the status says that they are not asked, and is not Ready."""
    body = pipeline()
    body["spec"]["matchConditions"] = [{"name": "none", "expression": "false"}]
    files, digest = await rendered(THIS, body)
    pod = Pod(tmp_path, files)
    async with pod.serving(FORMER) as process:
        assert await pod.post(process, event_list([event(verb="list")])) == 200
        await until(lambda: pod.file.exists() and pod.file.read_bytes().count(b"\n"))
        said = await process.report(pod.setting)
    assert (said.config, said.config_error, said.conditions) == (digest, "", None)
    assert conditions_evaluated([PodReport("a", said)]).reason == "ConditionsIgnored"


SINKS = [bodies.sink(f"s{number}", url="https://siem.example/audit") for number in range(3)]


async def test_a_gateway_of_the_release_before_beside_this_operator(tmp_path: Path) -> None:
    """Each sink is registered, by what that gateway says of itself."""
    sinks = {("auditsinks", each["metadata"]["name"]): each for each in SINKS}
    kube = fakes.Answers(sinks)
    world = await fakes.world(kube)
    await reconcile_gateway(world, Recorder(kube, fakes.now, "test"))
    secrets = [each for each in kube.written if each["metadata"]["name"].startswith(names.GATEWAY_CONFIG_SECRET)]
    data = {key: value for secret in secrets for key, value in secret["data"].items()}
    pod = Pod(tmp_path, decoded({"data": data, "digest": ""})[0])
    async with pod.serving(FORMER) as process:
        said = await process.report(pod.setting)
    assert (said.plane, said.config_error, sorted(outputs(said))) == ("gateway", "", ["s0", "s1", "s2"])
    world.gateway.listen([PodReport("gateway", said)], {"gateway": "u"})
    for each in SINKS:
        verdict = world.gateway.registration(each["metadata"]["name"], entry_of("auditsinks", each).identity)
        assert verdict is not None
        assert verdict.status == "True", verdict


async def test_a_gateway_of_this_release_beside_the_operator_of_the_one_before(tmp_path: Path) -> None:
    """It reports the digest that the operator waits for."""
    files, digest = decoded(previous.ask(RENDER_GATEWAY, SINKS))
    pod = Pod(tmp_path, files)
    async with pod.serving(THIS) as process:
        said = await pod.reported(process, FORMER)
    assert said[:3] == ["gateway", digest, ""]
    assert sorted(said[4]) == ["s0", "s1", "s2"]
