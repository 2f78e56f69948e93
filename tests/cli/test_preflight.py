"""`auditpipeline preflight` on real files, against a real gateway, and on processes with real command lines."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from auditpipeline.cli import main as command_line
from auditpipeline.cli import preflight as preflight_command
from auditpipeline.control import bootstrap, certificates, kubeconfig, preflight, preflight_advice, preflight_node
from auditpipeline.control import bootstrap_hosts as hosts
from auditpipeline.control.preflight import Check, Process, Stat
from auditpipeline.core.config import MAX_BODY, Listen, Tls
from auditpipeline.core.errors import Invalid
from tests.cluster.controlplane import ControlPlane
from tests.dataplane.setting import Destination, Running, Setting

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 2**30


def write(folder: Path, address: str, now: datetime | None = None) -> None:
    """What `bootstrap files` writes into the folder."""
    there = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, file in bootstrap.files(there, address, now or datetime.now(UTC)).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)


class Site:
    """A node's folders: what bootstrap wrote, a manifest with its flags, and an empty spool."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.root, self.folder, self.spool = root, root / "node", root / "spool"
        self.manifest = root / "kube-apiserver.yaml"
        write(self.folder, self.address)
        self.manifest.write_text(hosts.static_pod(str(self.folder)))
        self.setting = Setting(root / "gateway")

    @asynccontextmanager
    async def gateway(self, folder: Path | None = None) -> AsyncIterator[Running]:
        """The data plane, serving with what bootstrap wrote (into another folder)."""
        made = (folder or self.folder) / "gateway"
        tls = Tls(str(made / "tls.crt"), str(made / "tls.key"), str(made / "client-ca.crt"))
        config = self.setting.config()
        listen = Listen(self.address, "127.0.0.1:0", tls, self.setting.server_tls)
        async with self.setting.running(msgspec.structs.replace(config, listen=listen)) as running:
            yield running

    async def run(self, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Exit code, and the checks by name."""
        arguments = ["preflight", "--dir", str(self.folder), "--spool", str(self.spool), "--spool-size", "1Mi"]
        if "--manifest" not in more:
            arguments += ["--manifest", str(self.manifest)]
        code, out, _ = await asyncio.to_thread(call, *arguments, *more, "--output", "json", capsys=capsys)
        answer = json.loads(out)
        assert answer["ok"] is (code == 0)
        checks: list[dict[str, str]] = answer["checks"]
        # Whatever failed says what mends it, and nothing that is fine does.
        assert all(bool(check["fix"]) is (check["state"] != "ok") for check in checks)
        assert (code == 1) is any(check["state"] == "failed" for check in checks)
        return code, {check["name"]: check for check in checks}


def call(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def failed(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    """Name and message of what failed."""
    return {name: check["message"] for name, check in checks.items() if check["state"] == "failed"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A node where everything is as it should be."""
    (tmp_path / "gateway").mkdir()
    return Site(tmp_path)


async def test_a_node_that_is_right_passes_every_check(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty EventList goes the way of events and is answered 200; nothing of it is stored."""
    async with site.gateway() as running:
        code, checks = await site.run(capsys)
        assert (code, failed(checks)) == (0, {})
        assert await running.metric('auditpipeline_requests_total{code="200"}') == 1
        assert (await running.report()).events.received == 0
    assert {"gateway reachable", "TLS", "empty EventList", "name in the certificate", "policy"} <= checks.keys()
    assert [name for name, check in checks.items() if check["state"] == "skipped"] == ["clock"]


async def test_a_gateway_that_does_not_run_is_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything else is checked all the same, with the certificate on the disk."""
    code, checks = await site.run(capsys)
    assert code == 1
    assert failed(checks) == {"gateway reachable": f"{site.address}: Connection refused"}
    assert "name in the certificate" in checks


def test_the_spool_of_a_gateway_behind_a_service_is_not_looked_for_on_this_node(tmp_path: Path) -> None:
    """It is on a volume of its Pod; a folder of this node has neither to have room nor to be anybody's."""
    write(tmp_path, "10.96.0.9:443")
    (check,) = preflight_command.of_spool(tmp_path, tmp_path / "spool", 2**60)
    assert (check.state, "10.96.0.9" in check.message) == ("skipped", True)
    assert "kubectl get pvc" in check.fix


@pytest.mark.parametrize(("host", "word"), [("127.0.0.1", "gateway.hostPaths"), ("10.96.0.9", "bootstrap secret")])
def test_what_mends_a_gateway_that_is_not_trusted_depends_on_where_it_is(host: str, word: str) -> None:
    """A folder of the node, or a Secret."""
    assert word in preflight_advice.trust(host)
    assert ("StatefulSet" in preflight_advice.not_running(host)) is (host == "10.96.0.9")


async def test_a_gateway_with_the_files_of_another_folder_is_told(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither side trusts the other."""
    write(site.root / "other", site.address)
    async with site.gateway(site.root / "other"):
        _, checks = await site.run(capsys)
    assert failed(checks).keys() == {"issuer of the gateway's certificate", "TLS"}
    assert "gateway.hostPaths.bootstrap" in checks["TLS"]["fix"]


async def test_a_client_certificate_that_the_gateway_refuses_is_told(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """kube-apiserver trusts the gateway, and shows a certificate of another CA."""
    write(site.root / "other", site.address)
    ours, others = (site.folder / "webhook.kubeconfig", site.root / "other" / "webhook.kubeconfig")
    mixed = yaml.safe_load(ours.read_text()) | {"users": yaml.safe_load(others.read_text())["users"]}
    ours.write_text(yaml.safe_dump(mixed))
    async with site.gateway():
        _, checks = await site.run(capsys)
    assert failed(checks).keys() == {"issuer of kube-apiserver's certificate", "client certificate"}
    assert checks["client certificate"]["message"].startswith("refused")


async def test_a_certificate_for_another_address_is_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """The kubeconfig dials a name that the certificate does not have."""
    webhook = site.folder / "webhook.kubeconfig"
    webhook.write_text(webhook.read_text().replace("127.0.0.1", "localhost"))
    async with site.gateway():
        _, checks = await site.run(capsys)
    assert failed(checks).keys() == {"name in the certificate", "TLS"}
    assert "the certificate is for 127.0.0.1" in checks["name in the certificate"]["message"]
    assert "--address" in checks["name in the certificate"]["fix"]


async def test_another_path_or_program_is_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is part of the message."""
    webhook = site.folder / "webhook.kubeconfig"
    webhook.write_text(webhook.read_text().replace("/audit", "/events"))
    async with site.gateway():
        _, checks = await site.run(capsys)
    assert failed(checks) == {"empty EventList": "answered 404: 404: Not Found"}


async def test_something_else_that_listens_there_is_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that speaks no TLS."""
    async with Destination().listening(port=int(site.address.rpartition(":")[2])):
        _, checks = await site.run(capsys)
    assert failed(checks).keys() == {"TLS"}


@pytest.mark.parametrize("name", ["webhook.kubeconfig", "ca.key", "gateway/tls.key"])
async def test_a_key_that_others_may_read_is_told(site: Site, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the command that mends it."""
    path = site.folder / name
    path.chmod(0o640)
    async with site.gateway():
        _, checks = await site.run(capsys)
    assert failed(checks) == {f"mode of {path}": "mode 0640: others may read the key"}
    assert checks[f"mode of {path}"]["fix"] == f"chmod 0600 {path}"


async def test_a_policy_that_kube_apiserver_would_refuse_is_told(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the line; an unknown field counts too, which kube-apiserver would pass over."""
    policy = site.folder / "policy.yaml"
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Everything\n")
    async with site.gateway():
        _, checks = await site.run(capsys)
        assert failed(checks).keys() == {"policy"}
        assert "policy.yaml:4:" in checks["policy"]["message"]
        policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {level: Metadata, verb: [get]}\n")
        assert "unknown field" in failed((await site.run(capsys))[1])["policy"]


async def test_certificates_that_end_are_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Of both sides; the CA has nine years left."""
    shutil.rmtree(site.folder)
    write(site.folder, site.address, datetime.now(UTC) - timedelta(days=345))
    async with site.gateway():
        _, checks = await site.run(capsys)
    assert failed(checks).keys() == {"certificate of kube-apiserver", "certificate of the gateway"}
    assert "bootstrap files" in checks["certificate of the gateway"]["fix"]
    write(site.folder, site.address)
    async with site.gateway():
        assert (await site.run(capsys))[0] == 0


async def test_without_any_file_the_first_thing_to_do_is_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, and exit code 1."""
    shutil.rmtree(site.folder)
    code, checks = await site.run(capsys)
    assert code == 1
    assert failed(checks).keys() == {"policy", "kubeconfig"}
    assert "bootstrap files" in checks["kubeconfig"]["fix"]


async def test_a_full_disk_and_a_spool_of_somebody_else_are_told(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for a spool that no disk has; a folder that is not the gateway's."""
    site.spool.mkdir(mode=0o500)
    async with site.gateway():
        _, checks = await site.run(capsys, "--spool-size", "4000Ti")
    assert failed(checks).keys() == {f"room for {site.spool}", f"owner of {site.spool}"}


async def test_the_clock_is_compared_with_the_servers(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """By the date of whatever it answers; no credential is needed."""
    setting = site.setting
    tls = setting.authority.issue("api", "127.0.0.1")
    async with site.gateway(), Destination().listening(setting.authority.server(tls)) as server:
        path = site.root / "admin.kubeconfig"
        path.write_text(cluster_kubeconfig(f"https://127.0.0.1:{server.port}", setting.authority.ca))
        code, checks = await site.run(capsys, "--kubeconfig", str(path))
    assert (code, checks["clock"]["state"]) == (0, "ok")
    code, checks = await site.run(capsys, "--kubeconfig", str(path))
    assert "refused" in failed(checks)["clock"]


def cluster_kubeconfig(server: str, ca: Path) -> str:
    """A kubeconfig without a user."""
    return yaml.safe_dump(
        {
            "clusters": [{"name": "a", "cluster": {"server": server, "certificate-authority": str(ca)}}],
            "contexts": [{"name": "a", "context": {"cluster": "a"}}],
            "current-context": "a",
        }
    )


async def test_the_text_has_a_line_for_each_check(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """And below what failed a line with what mends it; no key stands in it."""
    arguments = ["--dir", str(site.folder), "--manifest", str(site.manifest), "--spool", str(site.spool)]
    code, out, err = await asyncio.to_thread(call, "preflight", *arguments, "--spool-size", "1Mi", capsys=capsys)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    (position,) = (number for number, line in enumerate(lines) if line.startswith("FAILED"))
    assert lines[position + 1].startswith("        mend: is the gateway's Pod running")
    assert lines[-1].endswith("checks failed")
    assert "PRIVATE" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spool-size", "much"], "--spool-size"),
        (["--manifest", "/nowhere"], "/nowhere"),
        (["--manifest", __file__], "is not valid YAML"),
        (["--output", "xml"], "xml"),
    ],
)
def test_a_mistake_in_the_arguments_is_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, as everywhere."""
    code, _, err = call("preflight", *arguments, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


# Pure decisions.
def states(checks: Iterator[Check]) -> list[str]:
    return [check.state for check in checks]


@pytest.mark.parametrize(
    ("days", "state", "said"),
    [
        (-1, "failed", "begins"),
        (0, "ok", "until"),
        (334, "ok", "until"),
        (336, "failed", "29 days"),
        (366, "failed", "ended"),
    ],
)
def test_a_certificate_is_judged_by_the_day(days: int, state: str, said: str) -> None:
    """A year long: before it, in it, near its end, and after it."""
    pem = certificates.leaf(certificates.authority(NOW), "x", (), NOW, bootstrap.LEAF_LIFETIME).certificate
    check = preflight.certificate("of x", pem, NOW + timedelta(days=days))
    assert (check.state, said in check.message) == (state, True)
    assert preflight.certificate("of x", "nothing", NOW).state == "failed"


def test_a_certificate_for_serving_is_none_for_a_client() -> None:
    """And the CA has to be the very one."""
    ca, other = certificates.authority(NOW), certificates.authority(NOW)
    leaf = certificates.leaf(ca, "x", ("127.0.0.1",), NOW)
    assert preflight.issued("x", leaf.certificate, ca.certificate, preflight.SERVER_AUTH).state == "ok"
    assert preflight.issued("x", leaf.certificate, ca.certificate, preflight.CLIENT_AUTH).state == "failed"
    assert preflight.issued("x", leaf.certificate, other.certificate, preflight.SERVER_AUTH).state == "failed"
    both = other.certificate + ca.certificate
    assert preflight.issued("x", leaf.certificate, both, preflight.SERVER_AUTH).state == "ok"
    assert preflight.pair("x", leaf.certificate, other.key).state == "failed"


def test_addresses_are_compared_as_addresses() -> None:
    """Whatever they are written like."""
    leaf = certificates.leaf(certificates.authority(NOW), "x", ("::1", "Gateway.example"), NOW)
    for host, state in (("0:0:0:0:0:0:0:1", "ok"), ("gateway.example", "ok"), ("127.0.0.1", "failed")):
        assert preflight.name_of(leaf.certificate, host, host).state == state


def test_clocks_may_be_a_minute_apart() -> None:
    """In either direction."""
    found = [preflight.clock(NOW, NOW + timedelta(seconds=apart), "x").state for apart in (-61, -60, 0, 60, 61)]
    assert found == ["failed", "ok", "ok", "ok", "failed"]


def test_a_spool_has_room_and_an_owner() -> None:
    """No folder yet is fine."""
    good, others = Stat(0o40700, 65532), Stat(0o40755, 0)
    assert states(preflight.folder("/s", None, GIB, GIB, 65532)) == ["ok", "ok"]
    assert states(preflight.folder("/s", good, GIB, GIB, 65532)) == ["ok", "ok"]
    assert states(preflight.folder("/s", others, GIB - 1, GIB, 65532)) == ["failed", "failed"]


PATHS = {"audit-policy-file": "/p", "audit-webhook-config-file": "/w"}
GOOD = bootstrap.APISERVER_FLAGS | PATHS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"audit-webhook-mode": None}, ""),
        ({"audit-webhook-truncate-max-batch-size": None}, ""),
        ({"audit-policy-file": None}, "--audit-policy-file is not there"),
        ({"audit-webhook-config-file": None}, "--audit-webhook-config-file is not there"),
        ({"audit-webhook-config-file": "/other"}, "--audit-webhook-config-file is /other"),
        ({"audit-webhook-mode": "blocking"}, "--audit-webhook-mode is blocking"),
        ({"audit-webhook-mode": "blocking-strict"}, "--audit-webhook-mode is blocking-strict"),
        ({"audit-webhook-initial-backoff": None}, ""),
        ({"audit-webhook-initial-backoff": "1m"}, ""),
        (
            {"audit-webhook-initial-backoff": "1s"},
            "--audit-webhook-initial-backoff is 1s: a batch is lost where the gateway is away for 8 s",
        ),
        ({"audit-webhook-initial-backoff": "5us"}, ""),
        ({"audit-webhook-truncate-enabled": None}, "--audit-webhook-truncate-enabled is not set"),
        ({"audit-webhook-truncate-enabled": "false"}, "--audit-webhook-truncate-enabled is not set"),
        ({"audit-webhook-truncate-max-batch-size": str(MAX_BODY + 1)}, "--audit-webhook-truncate-max-batch-size is"),
    ],
)
def test_flags_are_judged_one_by_one(changes: dict[str, str | None], said: str) -> None:
    """kube-apiserver's defaults for what is not there: batch, no truncation, batches of 10 MiB."""
    flags = {name: value for name, value in (GOOD | changes).items() if value is not None}
    (check,) = preflight.flags(Process("x", flags), PATHS, {}, MAX_BODY)
    assert (check.state, check.message.startswith(said)) == ("failed" if said else "ok", True)


def test_what_changed_after_the_start_needs_a_restart() -> None:
    """kube-apiserver reads its files once."""
    process = Process("x", GOOD, NOW)
    before, after = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
    assert states(preflight.flags(process, PATHS, {"/p": before, "/w": before}, MAX_BODY)) == ["ok", "ok"]
    (_, check) = preflight.flags(process, PATHS, {"/p": before, "/w": after}, MAX_BODY)
    assert (check.state, check.fix) == ("failed", "restart kube-apiserver")
    assert check.message.startswith("/w changed")


def test_a_kube_apiserver_that_is_not_root_has_to_be_able_to_read_its_kubeconfig() -> None:
    """Of whoever the file is; root may read everything."""
    rows = [(0, 0, "ok"), (0, 5, "ok"), (5, 5, "ok"), (5, 0, "failed")]
    for uid, owner, state in rows:
        assert preflight.readable(Process("x", {}, NOW, uid), "/w", Stat(0o100600, owner)).state == state
    assert preflight.key_file("/w", Stat(0o100600, 5), [0]).state == "failed"


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--a=b", "--c-d=e=f"], {"a": "b", "c-d": "e=f"}),
        (["--a", "b", "--yes", "--c", "d"], {"a": "b", "yes": "true", "c": "d"}),
        (["-a=b", "server", "--a=c", "--last"], {"a": "c", "last": "true"}),
        (["--audit_log_path=x", ""], {"audit-log-path": "x"}),
    ],
)
def test_flags_are_read_as_kube_apiserver_reads_them(words: list[str], flags: dict[str, str]) -> None:
    """With one dash or two, `=` or a word of its own; the last one counts."""
    assert preflight_node.flags_in(words) == flags


@pytest.mark.parametrize("made", [hosts.k3s, hosts.rke2, hosts.static_pod])
def test_the_flags_of_a_configuration_are_found(made: Callable[[str], str]) -> None:
    """A static Pod, and what k3s and RKE2 are told."""
    process = preflight_node.configured(made("/x").encode(), "file")
    assert process.flags == bootstrap.flags("/x")
    assert states(preflight.flags(process, {"audit-policy-file": "/x/policy.yaml"}, {}, MAX_BODY)) == ["ok"]


@pytest.mark.parametrize("text", ["[]", "kind: Pod", "spec: {containers: [{name: etcd}]}", "a: [", "\x00"])
def test_another_file_is_no_configuration(text: str) -> None:
    """And its content is not in the message."""
    with pytest.raises(Invalid, match=r"file: is (not valid YAML|neither)"):
        preflight_node.configured(text.encode(), "file")


# Kubeconfigs.
def read_none(_: str) -> bytes:
    raise AssertionError("no file is named")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("current-context"), "has no current-context"),
        (lambda c: c.update(clusters=[]), "has no cluster 'auditpipeline'"),
        (lambda c: c["clusters"][0]["cluster"].update(server="http://127.0.0.1"), "is no https:// address"),
        (lambda c: c["clusters"][0]["cluster"].update(server="https://h:port"), "is no https:// address"),
        (lambda c: c["users"][0]["user"].update({"client-key-data": "%%%"}), "client-key is no PEM"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_told(change: Callable[[Any], None], message: str) -> None:
    """By the field; the message has no piece of a key."""
    document = yaml.safe_load(bootstrap.files({}, bootstrap.ADDRESS, NOW)["webhook.kubeconfig"].content)
    change(document)
    with pytest.raises(Invalid, match=message) as caught:
        kubeconfig.parse(yaml.safe_dump(document).encode(), "file", read_none)
    assert "PRIVATE" not in str(caught.value)


def test_a_kubeconfig_may_name_files(tmp_path: Path) -> None:
    """Relative to its own folder."""
    write(tmp_path, bootstrap.ADDRESS)
    (tmp_path / "config").write_text(cluster_kubeconfig("https://[::1]/", Path("ca.crt")))
    target = kubeconfig.load(tmp_path / "config")
    assert (target.host, target.port, target.ca) == ("::1", 443, (tmp_path / "ca.crt").read_text())


# Processes.
@contextmanager
def process(name: str, *arguments: str) -> Iterator[int]:
    """A process that calls itself `name` and waits; its id."""
    command = [name, "-c", "echo up; read line", "sh", *arguments]
    with subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"up\n"
        try:
            yield running.pid
        finally:
            running.kill()


def test_a_process_is_found_by_its_name_with_its_flags_and_its_start() -> None:
    """Only kube-apiserver is; the start is that of the process and not of the machine."""
    before = datetime.now(UTC)
    with process("/usr/local/bin/kube-apiserver", "--audit-policy-file=/p") as pid, process("etcd", "--a=b") as other:
        found = {each.source: each for each in preflight_node.apiservers()}
    assert f"kube-apiserver (process {other})" not in found
    mine = found[f"kube-apiserver (process {pid})"]
    assert mine.flags["audit-policy-file"] == "/p"
    assert mine.uid == os.geteuid()
    assert mine.started is not None
    # The boot's time is in whole seconds.
    assert abs(mine.started - before) < timedelta(seconds=60)


@pytest.mark.controlplane
def test_a_real_kube_apiserver_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With bootstrap's files and flags; after a renewal it has to start again, and without truncation that is told."""
    folder = tmp_path / "node"
    write(folder, "127.0.0.1:9443")
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    given = [f"--{name}={value}" for name, value in bootstrap.flags(str(folder)).items() if not name.endswith("-file")]
    with ControlPlane(
        audit_policy=folder / "policy.yaml",
        audit_webhook_kubeconfig=folder / "webhook.kubeconfig",
        extra_apiserver_args=given,
    ) as cluster:

        def run() -> dict[str, dict[str, str]]:
            (pid,) = (each.pid for each in cluster.processes if each.name == "kube-apiserver")
            arguments = ["--dir", str(folder), "--kubeconfig", str(cluster.kubeconfig), "--output", "json"]
            checks = json.loads(call("preflight", *arguments, capsys=capsys)[1])["checks"]
            # Other clusters may run on this machine.
            return {check["name"]: check for check in checks if f"{pid})" in check["name"] or check["name"] == "clock"}

        checks = run()
        assert len(checks) == 4
        assert failed(checks) == {}
        os.utime(folder / "webhook.kubeconfig")
        (message,) = failed(run()).values()
        assert f"{folder / 'webhook.kubeconfig'} changed after its start" in message
        cluster.stop_apiserver()
        cluster._extra_apiserver_args.clear()
        cluster.start_apiserver()
        (message,) = failed(run()).values()
        assert "--audit-webhook-truncate-enabled is not set" in message
