"""What a user who may write AuditPipelines and AuditSinks, and nothing else, does not get by that.

Mallory tries to reach the network of the control plane, other people's Secrets and other people's objects. Dora may
besides use URLs in AuditSinks, and tries the same by these. Each attempt is refused; the table that is printed says by
whom and with what answer:

    pytest -s -m controlplane tests/e2e/test_boundaries.py
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.cluster.deployment import RECEIVERS
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import Failed
from tests.dataplane.dns import Dns
from tests.e2e.traffic import pipeline, touch
from tests.e2e.webhooks import Webhooks, sink

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
GOOD = "127.0.0.2"
KINDS = "auditpipelines.auditpipeline.dev,auditsinks.auditregistration.k8s.io"
ANSWER = re.compile(r"(?s).*(denied request: |Error from server \(\w+\): )")
OWN_CA = "auditpipeline-ca"
METADATA = {"rules": [{"level": "Metadata"}]}
PLANTED = "planted-by-the-victim"


@dataclass
class Table:
    """What was tried, who refused it, and what was answered."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, who: str, answer: str) -> None:
        """One attempt."""
        self.rows.append((what, who, " ".join(answer.split())))

    def show(self) -> None:
        """Prints all of them."""
        widths = [max(len(row[column]) for row in self.rows) for column in (0, 1)]
        print()
        for what, who, answer in self.rows:
            print(f"{what:{widths[0]}}  {who:{widths[1]}}  {answer}")


@dataclass
class Servers:
    """On loopback: a victim that nobody may reach, and a server that `egress.allow` names, which redirects to it."""

    victim: int = 0
    good: int = 0
    reached: int = 0
    taken: list[str] = field(default_factory=list)
    _runner: web.AppRunner | None = None
    _victims: list[asyncio.Server] = field(default_factory=list)

    async def start(self) -> None:
        """The victim listens at 127.0.0.1, on a port of its own and on that of the other one."""
        self._victims = [await asyncio.start_server(self._victim, "127.0.0.1", 0)]
        self.victim = self._victims[0].sockets[0].getsockname()[1]
        app = web.Application(client_max_size=2**25)
        app.router.add_post("/{what}", self._good)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, GOOD, 0).start()
        self.good = self._runner.addresses[0][1]
        self._victims.append(await asyncio.start_server(self._victim, "127.0.0.1", self.good))

    async def stop(self) -> None:
        """Nobody is asking any more."""
        for server in self._victims:
            server.close()
        if self._runner:
            await self._runner.cleanup()

    async def _victim(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached += 1
        writer.write(f"HTTP/1.1 500 {PLANTED}\r\nContent-Length: {len(PLANTED)}\r\n\r\n{PLANTED}".encode())
        writer.close()

    async def _good(self, request: web.Request) -> web.Response:
        await request.read()
        self.taken.append(request.path)
        redirect = request.path == "/redirect"
        answer = web.Response(status=307 if redirect else 200)
        if redirect:
            answer.headers["Location"] = f"http://127.0.0.1:{self.victim}/"
        # A connection that stays would never be dialled again.
        answer.force_close()
        return answer


@dataclass
class Attack:
    """The deployment, the servers, and what is tried as whom."""

    on: LocalDeployment
    servers: Servers
    dns: Dns
    table: Table = field(default_factory=Table)

    def refused(self, person: str, what: str, *command: str, by: str, obj: Any = None) -> str:
        """The answer to a command of kubectl, which must not succeed."""
        files, text = (("-f", "-"), json.dumps(obj)) if obj else ((), None)
        try:
            self.on.cluster.kubectl(*command, *files, input=text, kubeconfig=self.on.cluster.user_kubeconfig(person))
        except Failed as error:
            answer = str(error)
        else:
            raise AssertionError(f"{person} was not refused: {what}")
        self.table.add(f"{person}: {what}", by, ANSWER.sub("", answer))
        return answer

    def create(self, person: str, obj: dict[str, Any]) -> None:
        """Somebody makes an object."""
        kubeconfig = self.on.cluster.user_kubeconfig(person)
        self.on.cluster.kubectl("create", "-f", "-", input=json.dumps(obj), kubeconfig=kubeconfig)

    def errors(self, name: str) -> dict[str, str]:
        """`lastError` of each output of a pipeline."""
        outputs = self.on.get("auditpipeline", name).get("status", {}).get("outputs", ())
        return {output["name"]: output.get("lastError", "") for output in outputs}

    def sink_error(self, name: str) -> str:
        """`lastError` of an AuditSink."""
        found: str = self.on.get("auditsink", name).get("status", {}).get("lastError", "")
        return found


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """auditpipeline as it is installed, with one port of one address in `egress.allow`."""
    servers, dns = Servers(), Dns()
    with Webhooks(tmp_path_factory.mktemp("webhooks")) as thread, pytest.MonkeyPatch.context() as patch:
        thread.do(servers.start())
        listening = dns.listening()
        thread.do(entered(listening))
        patch.setenv("TEST_NAMESERVER", f"127.0.0.1:{dns.port}")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE / "nameserver"), os.getenv("PYTHONPATH")])))
        arguments = ("--resync", "5", "--status-interval", "1", "--canary-interval", "1")
        deployment = LocalDeployment(tmp_path_factory.mktemp("local"), operator_args=arguments)
        deployment.egress_allow = (f"{GOOD}:{servers.good}",)
        with deployment as on:
            made = Attack(on, servers, dns)
            _people(made)
            yield made
            made.table.show()
        thread.do(left(listening))
        thread.do(servers.stop())


async def entered(context: AbstractAsyncContextManager[Any]) -> None:
    """The beginning of `async with`, for another thread."""
    await context.__aenter__()


async def left(context: AbstractAsyncContextManager[Any]) -> None:
    """And its end."""
    await context.__aexit__(None, None, None)


def _people(attack: Attack) -> None:
    on = attack.on
    on.kubectl("create", "clusterrole", "writer", f"--resource={KINDS}", "--verb=get,list,create,update,patch,delete")
    for person, role in (("mallory", "writer"), ("dora", "writer"), ("dora", "auditpipeline-sink-urls")):
        on.kubectl("create", "clusterrolebinding", f"{person}-{role}", f"--clusterrole={role}", f"--user={person}")

    def may(person: str, client: dict[str, Any]) -> bool:
        try:
            kubeconfig = on.cluster.user_kubeconfig(person)
            text = json.dumps(sink("probe", client, "Metadata"))
            on.cluster.kubectl("create", "--dry-run=server", "-f", "-", input=text, kubeconfig=kubeconfig)
        except Failed:
            return False
        return True

    on.wait_for("dora's rights", lambda: may("dora", {"url": "https://siem.example/"}))
    on.wait_for("mallory's rights", lambda: may("mallory", SERVICE))
    on.wait_for("the admission policy", lambda: not may("mallory", {"url": "https://siem.example/"}))


SERVICE: dict[str, Any] = {"service": {"namespace": "default", "name": "hook"}}


def http(name: str, url: str, **more: Any) -> dict[str, Any]:
    """An output of a pipeline."""
    return {"name": name, "http": {"url": url, **more}}


def test_no_output_of_a_pipeline_reaches_the_control_plane(attack: Attack) -> None:
    """By no spelling, no redirect, no proxy and no name that changes; and what the victim says stays with it."""
    servers, dns = attack.servers, attack.dns
    api = urlsplit(attack.on.cluster.url).netloc
    dns.names["rebinding.example"] = (GOOD,)
    dns.names["inside.example"] = ("127.0.0.1",)
    good, victim = f"http://{GOOD}:{servers.good}", f"http://127.0.0.1:{servers.victim}"
    outputs = [
        http("literal", f"{victim}/"),
        http("mapped", f"http://[::ffff:127.0.0.1]:{servers.victim}/"),
        http("unspecified", f"http://0.0.0.0:{servers.victim}/"),
        http("localhost", f"http://localhost:{servers.victim}/"),
        http("name", f"http://inside.example.:{servers.victim}/"),
        http("other-port", f"http://{GOOD}:{servers.victim}/"),
        http("metadata", "http://169.254.169.254/latest/meta-data/"),
        http("api-server", f"https://{api}/api"),
        http("api-service", "https://127.96.0.1/api"),
        http("redirect", f"{good}/redirect"),
        http("rebinding", f"http://rebinding.example.:{servers.good}/take"),
        http("proxy", "http://siem.example/", proxy=victim),
        http("through-proxy", f"{victim}/", proxy=good),
    ]
    everything = {"level": "Metadata", "userGroups": ["system:masters"]}
    attack.create("mallory", pipeline("inside", everything, outputs=outputs))
    attack.on.wait_for("the pipeline's Pods", partial(_takes_events, attack, "inside"), 120)
    expected = {output["name"]: "is not allowed" for output in outputs} | {"redirect": "answered 307"}

    def all_refused() -> bool:
        touch(attack.on)
        found = attack.errors("inside")
        return all(words in found.get(name, "") for name, words in expected.items() if name != "rebinding")

    attack.on.wait_for("every refusal", all_refused, 120)
    attack.on.wait_for("what the name led to", lambda: "/take" in servers.taken)
    assert attack.errors("inside")["rebinding"] == ""
    dns.names["rebinding.example"] = ("127.0.0.1",)
    attack.on.wait_for("the refusal", lambda: bool(touch(attack.on) and attack.errors("inside")["rebinding"]), 120)
    found = attack.errors("inside")
    for name, words in expected.items():
        attack.table.add(f"mallory: output {name}", "receiver", found[name])
        assert words in found[name]
    assert servers.reached == 0
    assert PLANTED not in json.dumps(attack.on.get("auditpipeline", "inside"))


def _takes_events(attack: Attack, name: str) -> bool:
    return attack.on.condition(name, "WebhookAvailable").get("status") == "True"


def test_no_sink_reaches_the_control_plane(attack: Attack) -> None:
    """The gateway is in the network of the control plane; dora's right to use URLs does not lead there."""
    servers, dns = attack.servers, attack.dns
    dns.names["sink.example"] = (GOOD,)
    urls = {
        "literal": f"http://127.0.0.1:{servers.victim}/",
        "mapped": f"http://[::ffff:7f00:1]:{servers.victim}/",
        "redirect": f"http://{GOOD}:{servers.good}/redirect",
        "rebinding": f"http://sink.example.:{servers.good}/sink",
    }
    for name, url in urls.items():
        attack.create("dora", sink(f"dora-{name}", {"url": url}, "Metadata"))
    # The Service of the API servers is there for everybody to name.
    api = {"service": {"namespace": "default", "name": "kubernetes", "path": "/api"}}
    attack.create("mallory", sink("mallory-api", api, "Metadata"))
    expected = {f"dora-{name}": "is not allowed" for name in urls} | {"dora-redirect": "answered 307"}
    expected["mallory-api"] = "an address of the API server"

    def refused(names: set[str]) -> bool:
        touch(attack.on)
        return all(expected[name] in attack.sink_error(name) for name in names)

    attack.on.wait_for("every refusal", lambda: refused(set(expected) - {"dora-rebinding"}), 120)
    attack.on.wait_for("what the name led to", lambda: "/sink" in servers.taken)
    dns.names["sink.example"] = ("127.0.0.1",)
    attack.on.wait_for("the refusal", lambda: refused({"dora-rebinding"}), 120)
    for name in expected:
        attack.table.add(f"{name.partition('-')[0]}: AuditSink {name}", "gateway", attack.sink_error(name))
    assert servers.reached == 0
    assert PLANTED not in attack.on.kubectl("get", "auditsinks", "-o", "json")
    attack.on.kubectl("delete", "auditsinks", *expected)


URL: dict[str, Any] = {"url": "http://127.0.0.1:2379/"}
OWNER = {"apiVersion": "auditpipeline.dev/v1alpha1", "kind": "AuditPipeline", "name": "x", "uid": "1"}


def test_no_url_comes_into_a_sink_without_the_right(attack: Attack) -> None:
    """By no verb, and whatever the object is called, labelled or owned by."""
    attack.create("dora", sink("dora-good", {"url": "https://siem.example/"}, "Metadata"))
    attack.create("mallory", sink("mallory-own", SERVICE, "Metadata"))
    bare = sink("mallory-url", URL, "Metadata")
    policy = "admission policy"
    objects = {
        "AuditSink with a URL": bare,
        "... generateName": bare | {"metadata": {"generateName": "audit-"}},
        "... labels of the operator": bare
        | {"metadata": {"name": "audit-x", "labels": {"app.kubernetes.io/managed-by": "auditpipeline"}}},
        "... annotations": bare | {"metadata": {"name": "x", "annotations": {"auditpipeline.dev/config": "x"}}},
        "... owned by a pipeline": bare | {"metadata": {"name": "audit-x", "ownerReferences": [OWNER]}},
    }
    for what, obj in objects.items():
        assert "auditsinks/url" in attack.refused("mallory", what, "create", by=policy, obj=obj)
    assert "auditsinks/url" in attack.refused("mallory", "... apply", "apply", "--server-side", by=policy, obj=bare)
    to_url = json.dumps({"spec": {"webhook": {"clientConfig": {**URL, "service": None}}}})
    qps = json.dumps({"spec": {"webhook": {"throttle": {"qps": 1, "burst": 1}}}})
    body = json.dumps({"spec": {"policy": {"level": "Metadata", "stages": ["Panic"]}}})
    for what, name, patch in (
        ("update of her own sink to a URL", "mallory-own", to_url),
        ("update that keeps a URL of dora's", "dora-good", qps),
        ("update of what dora's URL gets", "dora-good", body),
        ("update of dora's URL", "dora-good", json.dumps({"spec": {"webhook": {"clientConfig": URL}}})),
    ):
        command = ("patch", "auditsink", name, "--type=merge", "-p", patch)
        assert "auditsinks/url" in attack.refused("mallory", what, *command, by=policy)
    status = ("patch", "auditsink", "mallory-own", "--type=merge", "--subresource=status", "-p", to_url)
    assert "auditsinks/status" in attack.refused("mallory", "update through the status", *status, by="RBAC")
    attack.on.kubectl("delete", "auditsinks", "dora-good", "mallory-own")


def test_no_secret_and_no_body_without_the_right_to_read_them(attack: Attack) -> None:
    """Neither one that is named, in whatever namespace and field, nor those that pass through the API."""
    policy = "admission policy"
    siem = "https://siem.example/"
    outputs = {
        "the operator's CA as a token": http("a", siem, bearerTokenSecretRef={"name": OWN_CA, "key": "tls.key"}),
        "somebody's Secret as a password": http("a", siem, basicAuthSecretRef={"name": "theirs"}),
        "somebody's Secret as a certificate": http("a", siem, clientCertificateSecretRef={"name": "theirs"}),
        "somebody's Secret as a CA": http("a", siem, caSecretRef={"name": "theirs", "key": "ca.crt"}),
    }
    for what, output in outputs.items():
        obj = pipeline("thief", outputs=[output])
        obj["spec"]["policy"] = METADATA
        answer = attack.refused("mallory", what, "create", by=policy, obj=obj)
        assert "refers to a Secret" in answer or "Secret of auditpipeline itself" in answer
    elsewhere = pipeline("thief", outputs=[outputs["somebody's Secret as a password"]], targetNamespace="kube-system")
    assert "kube-system" in attack.refused("mallory", "... in kube-system", "create", by=policy, obj=elsewhere)
    bodies = pipeline("thief", {"level": "Request"})
    assert "record bodies" in attack.refused("mallory", "bodies in a pipeline", "create", by=policy, obj=bodies)
    generated = bodies | {"metadata": {"generateName": "thief-"}}
    assert "record bodies" in attack.refused("mallory", "... generateName", "create", by=policy, obj=generated)
    owned = sink("audit-x", SERVICE, "Request") | {"metadata": {"name": "audit-x", "ownerReferences": [OWNER]}}
    assert "record bodies" in attack.refused("mallory", "bodies in a pipeline's sink", "create", by=policy, obj=owned)
    theirs = pipeline("theirs", {"level": "Request"}, suspend=True)
    attack.on.apply(theirs)
    mine = json.dumps({"spec": {"outputs": [http("mine", "https://mallory.example/")]}})
    for what, patch in (
        ("update of where others' bodies go", mine),
        ("update of others' pipeline that keeps the bodies", json.dumps({"spec": {"suspend": False}})),
    ):
        command = ("patch", "auditpipeline", "theirs", "--type=merge", "-p", patch)
        assert "record bodies" in attack.refused("mallory", what, *command, by=policy)
    status = ("patch", "auditpipeline", "theirs", "--type=merge", "--subresource=status", "-p", mine)
    assert "auditpipelines/status" in attack.refused("mallory", "update through the status", *status, by="RBAC")
    attack.on.kubectl("delete", "auditpipeline", "theirs")


PARTS = ("metadata", "spec", "data", "secrets")
NAMESPACED = {"namespace": RECEIVERS}
FOREIGN: dict[str, dict[str, Any]] = {
    "Secret": {"metadata": NAMESPACED, "stringData": {"password": "theirs"}},
    "Service": {
        "metadata": NAMESPACED,
        "spec": {"selector": {"app": "theirs"}, "ports": [{"name": "web", "port": 80}]},
    },
    "ServiceAccount": {"metadata": NAMESPACED},
    "AuditSink": sink("theirs", SERVICE, "Metadata"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_no_object_of_others_is_taken_over_by_its_name(attack: Attack, kind: str) -> None:
    """A pipeline that is called so that its child would have the name of somebody's object."""
    on, name = attack.on, f"shop-{kind.lower()}"
    called = f"audit-{name}-config" if kind == "Secret" else f"audit-{name}"
    foreign = {"apiVersion": "v1", "kind": kind, **FOREIGN[kind]}
    foreign["metadata"] = {**foreign["metadata"], "name": called}
    on.apply(foreign)

    def now() -> dict[str, Any]:
        found = on.get(kind, called, "-n", RECEIVERS)
        del found["metadata"]["resourceVersion"]  # it moves with the status of an AuditSink, which is the operator's
        return found

    def judged() -> bool:
        return on.condition(name).get("reason") == "NameTaken" or "ownerReferences" in now()["metadata"]

    before = now()
    attack.create("mallory", pipeline(name, outputs=[{"name": "console", "stdout": {}}]))
    try:
        on.wait_for("a verdict", judged)
        ready, after = on.condition(name), now()
        changed = any(after.get(part) != before.get(part) for part in PARTS)
        answer = f"{ready.get('reason')}: {ready.get('message')}"
        attack.table.add(f"mallory: {kind} {called}", "TAKEN OVER" if changed else "operator", answer)
        assert ready.get("reason") == "NameTaken"
        assert not changed
    finally:
        on.kubectl("delete", "auditpipeline", name)
        on.kubectl("delete", kind, called, "-n", RECEIVERS, "--ignore-not-found")
