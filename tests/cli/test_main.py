"""The command line: one line and exit code 2 for what the user can mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from auditpipeline.cli import main as command_line
from auditpipeline.cli.operator import operator


def call(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command"),
        (["serve"], "--config"),
        (["operator", "--resync", "soon"], "--resync"),
        (["operator", "--kubeconfig", "/nowhere"], "/nowhere"),
        (["operator", "--gateway-kind", "Deployment"], "'DaemonSet', 'StatefulSet'"),
        (["operator", "--gateway-storage-size", "huge"], "--gateway-storage-size: 'huge' is no size"),
        (["operator", "--egress-allow", "127.0.0.1/8"], "--egress-allow: '127.0.0.1/8' has bits behind its prefix"),
        (["operator", "--egress-allow", "siem.example:443"], "write 10.1.2.3, 10.1.0.0/16, 10.1.2.3:8080"),
        (["operator", "--egress-allow", "[::1]:70000"], "write 1 to 65535"),
        (["bootstrap", "secret", "--dir", "/nowhere"], "bootstrap files --dir DIR --address CLUSTERIP:443"),
        (["bootstrap", "kubeadm", "--config-version", "v1"], "v1beta4, v1beta3, v1beta2"),
        (["bootstrap", "files", "--address", "9443"], "HOST:PORT"),
        (["bootstrap", "files", "--policy", "/nowhere"], "/nowhere"),
        (["operator", "--node-cidr", "10.0.0.1/16"], "10.0.0.0/16"),
        (["operator", "--scraper-cidr", "nodes"], "give a network such as"),
        (["bootstrap", "files", "--dir", "/proc/none"], "/proc/none"),
        (["gateway-init", "/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a traceback, never a page of usage."""
    code, _, err = call(*arguments, capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_version_and_help_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard output."""
    assert call("version", capsys=capsys)[0] == 0
    code, out, _ = call("--help", capsys=capsys)
    assert code == 0
    assert all(command in out for command in ("operator", "serve", "bootstrap", "gateway-init"))


def test_the_operator_is_told_of_its_gateway_by_flags_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool takes 80 % of its volume."""
    monkeypatch.setenv("AUDITPIPELINE_GATEWAY_KIND", "StatefulSet")
    found = operator.make_context("operator", ["--gateway-storage-size", "10Gi"]).params
    assert (found["gateway_kind"], found["gateway_storage_size"]) == ("StatefulSet", 8 * 2**30)


def test_the_operator_is_told_what_outputs_may_connect_to() -> None:
    """As often as it is given, in the order in which it is given: a configuration must not change by itself."""
    found = operator.make_context("operator", ["--egress-allow", "[::1]:443", "--egress-allow", "10.0.0.0/8"]).params
    assert found["egress_allow"] == ("[::1]:443", "10.0.0.0/8")


def test_the_data_plane_starts_without_kopf_and_kubernetes() -> None:
    """A receiver's installation has neither, so nothing on its way may import them."""
    code = (
        "import sys; sys.modules['kopf'] = sys.modules['kubernetes'] = None\n"
        "import auditpipeline.cli.main, auditpipeline.cli.serve, auditpipeline.cli.run, auditpipeline.cli.spool\n"
        "import auditpipeline.cli.bootstrap, auditpipeline.cli.preflight, auditpipeline.cli.policy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bootstrap_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second run says that everything is good, and changes no file."""
    folder = tmp_path / "node"
    assert call("bootstrap", "files", "--dir", str(folder), capsys=capsys)[0] == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    _, out, _ = call("bootstrap", "files", "--dir", str(folder), capsys=capsys)
    assert "everything is there and good" in out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
