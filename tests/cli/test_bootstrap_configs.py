"""The configuration of each distribution: a golden file, and the tool's own types, or the fields that it documents.

Goldens are rendered again with UPDATE_GOLDEN=1. Where a tool's types can be had as a Go module they decode strictly
(tests/schemas); of the others tests/data/bootstrap/fields.yaml records the fields with their source.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from auditpipeline.cli import main as command_line
from auditpipeline.control import bootstrap, names
from auditpipeline.control import bootstrap_embedded as embedded
from auditpipeline.control import bootstrap_hosts as hosts
from auditpipeline.control import bootstrap_kubeadm as kubeadms
from auditpipeline.control import bootstrap_secret as secrets
from auditpipeline.control.bootstrap_text import SECRETS
from auditpipeline.core.errors import Invalid
from auditpipeline.core.policyfile import load
from tests.cluster import binaries
from tests.cluster.processes import run

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "bootstrap"
RECORDED = yaml.safe_load((TESTS / "data" / "bootstrap" / "fields.yaml").read_text())
FILES = {name: f"the content of {name}\nin two lines\n".encode() for name in embedded.EMBEDDED} | {
    "policy.yaml": bootstrap.STATIC_POLICY.encode(),
    "ca.key": b"must stay where it is",
}
LOCAL = "/home/me/auditpipeline"
KUBECONFIG = """\
clusters: [{name: a, cluster: {server: "https://10.96.0.9:443/audit"}}]
contexts: [{name: a, context: {cluster: a}}]
current-context: a
"""
BEHIND_SERVICE = FILES | {"webhook.kubeconfig": KUBECONFIG.encode()}
CONFIGURATIONS: dict[str, Callable[[], str]] = {
    **{f"kubeadm-{version}.yaml": partial(kubeadms.kubeadm, version) for version in kubeadms.KUBEADM_VERSIONS},
    "kind.yaml": partial(kubeadms.kind, LOCAL),
    "minikube.sh": partial(kubeadms.minikube, LOCAL),
    "k3s.yaml": hosts.k3s,
    "rke2.yaml": hosts.rke2,
    "plain-systemd.env": hosts.systemd,
    "plain-static-pod.yaml": hosts.static_pod,
    **{f"talos-{version}.yaml": partial(embedded.talos, version, FILES) for version in embedded.TALOS_VERSIONS},
    "kops.yaml": partial(embedded.kops, FILES),
    "secret.yaml": partial(secrets.secret, BEHIND_SERVICE, LOCAL, secrets.NAMESPACE),
}
WITH_FLAGS = [name for name in CONFIGURATIONS if name not in ("kops.yaml", "secret.yaml")]


def documents(name: str) -> list[dict[str, Any]]:
    """The YAML documents of a configuration."""
    return list(yaml.safe_load_all(CONFIGURATIONS[name]()))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_its_golden_file(name: str) -> None:
    """A change of it is seen in the change's own files."""
    path, text = GOLDEN / name, CONFIGURATIONS[name]()
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_no_golden_file_is_stale() -> None:
    """Each belongs to a configuration."""
    assert {found.name for found in GOLDEN.iterdir()} == CONFIGURATIONS.keys()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_says_what_to_do_next(name: str) -> None:
    """How the files come there, how to install, and how to go back; in lines that fit a terminal."""
    comments = [line for line in CONFIGURATIONS[name]().splitlines() if line.startswith("#")]
    text = "\n".join(comments)
    assert "bootstrap files" in text or "Makes the certificates" in text
    assert name.startswith("kubeadm") or ("helm install" in text and "To go back" in text)
    assert [line for line in comments if len(line) > 125 and LOCAL not in line] == []


# What the tools' own types say.
@pytest.fixture(scope="module")
def schemas() -> Path:
    """The program that decodes strictly."""
    return binaries.find("bootstrap-schemas")["bootstrap-schemas"]


def decoded(schemas: Path, api_version: str, text: str) -> str:
    """What is wrong with the text; empty where nothing is."""
    done = subprocess.run([schemas, api_version], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is (done.stderr == "")
    return done.stderr


@pytest.mark.parametrize("version", ["v1beta3", "v1beta4"])
def test_kubeadm_reads_its_configuration_strictly(schemas: Path, version: str) -> None:
    """With the types of k8s.io/kubernetes/cmd/kubeadm."""
    assert decoded(schemas, f"kubeadm.k8s.io/{version}", kubeadms.kubeadm(version)) == ""


def test_kind_reads_its_configuration_strictly_and_kubeadm_its_patches(schemas: Path) -> None:
    """With the types of sigs.k8s.io/kind; each patch says which version of kubeadm's configuration it patches."""
    text = kubeadms.kind(LOCAL)
    assert decoded(schemas, "kind.x-k8s.io/v1alpha4", text) == ""
    (node,) = yaml.safe_load(text)["nodes"]
    versions = [yaml.safe_load(patch)["apiVersion"] for patch in node["kubeadmConfigPatches"]]
    assert versions == ["kubeadm.k8s.io/v1beta4", "kubeadm.k8s.io/v1beta3"]
    for version, patch in zip(versions, node["kubeadmConfigPatches"], strict=True):
        assert decoded(schemas, version, patch) == ""


def test_the_strict_readers_refuse_what_is_wrong(schemas: Path) -> None:
    """A field with a slip, and v1beta3's map in v1beta4."""
    slip = kubeadms.kubeadm("v1beta4").replace("pathType", "pathtype2")
    assert "pathtype2" in decoded(schemas, "kubeadm.k8s.io/v1beta4", slip)
    assert decoded(schemas, "kubeadm.k8s.io/v1beta4", kubeadms.kubeadm("v1beta3")) != ""
    assert "extramounts2" in decoded(
        schemas, "kind.x-k8s.io/v1alpha4", kubeadms.kind("/x").replace("extraMounts", "extramounts2")
    )


def test_the_static_pod_is_valid() -> None:
    """By Kubernetes' own schema, with no unknown field."""
    (pod,) = documents("plain-static-pod.yaml")
    pod["spec"]["containers"][0]["image"] = "kube-apiserver"
    kubernetes_validate.validate(pod, "1.37", strict=True)


# What the other tools document.
def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a document with their paths."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for child in value:
            yield from leaves(child, f"{path}[]")
    else:
        yield path, value


TYPES: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str) and value != "",
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int),
    "octal": lambda value: bool(re.fullmatch(r"0o[0-7]{3}", value)),
    "mode": lambda value: bool(re.fullmatch(r"0[0-7]{3}", value)),
    "duration": lambda value: bool(re.fullmatch(r"\d+(ms|s|m|h)", value)),
    "quantity": lambda value: bool(re.fullmatch(r"\d+(\.\d+)?", value)),
    "flag": lambda value: bool(re.fullmatch(r"[a-z0-9-]+=\S+", value)),
}


def strange(name: str, record: str) -> list[str]:
    """The leaves of a configuration that the record does not have, or with another type."""
    fields = RECORDED[record]["fields"]
    found = []
    for document in documents(name):
        kind = document.pop("kind", "")
        document.pop("apiVersion", None)
        base = f"{kind}." if any(path.startswith(f"{kind}.") for path in fields) else ""
        for path, value in leaves(document):
            known = [field for field in fields if re.fullmatch(_pattern(field), f"{base}{path}")]
            kinds = {fields[field] for field in known}
            if not any(each == "policy" or (TYPES[each](value) if each in TYPES else value == each) for each in kinds):
                found.append(f"{path}: {value!r}")
    return found


def _pattern(field: str) -> str:
    escaped = re.escape(field).replace(r"\*", r"[^.\[]+")
    return escaped + r"([.\[].*)?" if field.endswith((".auditPolicy", ".configuration")) else escaped


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("talos-v1.13.yaml", "talos-v1.13"),
        ("talos-v1.14.yaml", "talos-v1.14"),
        ("kops.yaml", "kops"),
        ("k3s.yaml", "k3s"),
        ("rke2.yaml", "rke2"),
        ("kubeadm-v1beta2.yaml", "kubeadm-v1beta2"),
    ],
)
def test_every_field_is_one_that_the_tool_documents(name: str, record: str) -> None:
    """With its type; the record names its source."""
    assert strange(name, record) == []


def test_a_field_of_another_release_is_found() -> None:
    """The record of one form does not pass the other."""
    assert strange("talos-v1.14.yaml", "talos-v1.13") != []
    assert strange("kubeadm-v1beta4.yaml", "kubeadm-v1beta2") != []


@pytest.mark.parametrize(
    ("name", "place"),
    [("talos-v1.13.yaml", ("cluster", "apiServer", "auditPolicy")), ("talos-v1.14.yaml", ("configuration",))],
)
def test_talos_gets_the_policy_as_an_object(name: str, place: tuple[str, ...]) -> None:
    """It is the static policy, and no flag names a file for it."""
    whole: Any = documents(name)[-1]
    for key in place:
        whole = whole[key]
    assert whole == yaml.safe_load(bootstrap.STATIC_POLICY)
    assert load(yaml.safe_dump(whole).encode(), name).policy is not None
    assert "audit-policy-file:" not in CONFIGURATIONS[name]()


# Flags.
def flags_of(name: str) -> dict[str, str]:
    """The flags of kube-apiserver in a configuration, however it writes them."""
    pairs = re.findall(
        r"(?:name: |--|- |apiserver\.|^ +)(audit-[a-z-]+)(?:\n +value: |=|: )'?([^\s'\"]+)", _code(name), re.MULTILINE
    )
    return dict(pairs)


def _code(name: str) -> str:
    return "\n".join(line for line in CONFIGURATIONS[name]().splitlines() if not line.startswith("#"))


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_every_distribution_gets_every_flag(name: str) -> None:
    """The same limits and the batch mode everywhere; paths differ, and Talos has its own way for the policy."""
    wanted = {k: v for k, v in bootstrap.APISERVER_FLAGS.items() if not k.endswith("-file")}
    found = flags_of(name)
    assert {k: v for k, v in found.items() if not k.endswith("-file")} == wanted
    assert found.keys() >= bootstrap.APISERVER_FLAGS.keys() - {"audit-policy-file"}
    assert name.startswith("talos") is ("audit-policy-file" not in found)


@pytest.mark.controlplane
@pytest.mark.parametrize("name", WITH_FLAGS)
def test_kube_apiserver_knows_every_flag(name: str) -> None:
    """By its own help."""
    text = run([str(binaries.find("kube-apiserver")["kube-apiserver"]), "--help"])
    known = set(re.findall(r"^ +--([a-z0-9-]+)", text, re.MULTILINE))
    assert flags_of(name).keys() <= known


def test_kops_asks_for_as_many_events_a_second() -> None:
    """Smaller batches, since they cannot be cut, and more of them: kube-apiserver's defaults are 400 and 10."""
    assert embedded.KOPS_BATCH * embedded.KOPS_BATCHES_A_SECOND == 400 * 10


def test_the_environment_file_is_one_that_a_shell_and_systemd_read() -> None:
    """One quoted value; systemd splits it at spaces where a unit writes it without braces."""
    script = f"{hosts.systemd()}printf '%s\\n' $AUDITPIPELINE_FLAGS"
    words = run(["sh", "-c", script]).split()
    assert words == [f"--{name}={value}" for name, value in bootstrap.APISERVER_FLAGS.items()]


# Secrets.
@pytest.mark.parametrize("name", ["talos-v1.13.yaml", "talos-v1.14.yaml", "kops.yaml"])
def test_what_is_embedded_says_so_and_leaves_the_authoritys_key_out(name: str) -> None:
    """The warning is the first thing in it; every file that a node needs is in it, but for Talos' policy."""
    text = CONFIGURATIONS[name]()
    assert text.startswith(f"# {SECRETS.splitlines()[0]}")
    assert "must stay where it is" not in text
    assert all(f"the content of {each}" in text for each in embedded.EMBEDDED if each != "policy.yaml")


def test_kops_keeps_private_keys_private() -> None:
    """Mode 0600 for the two files with a key."""
    (cluster,) = documents("kops.yaml")
    modes = {
        asset["path"].removeprefix(f"{bootstrap.DIRECTORY}/"): asset["mode"] for asset in cluster["spec"]["fileAssets"]
    }
    assert {name for name, mode in modes.items() if mode == "0600"} == {"webhook.kubeconfig", "gateway/tls.key"}


@pytest.mark.parametrize("tool", ["talos", "kops"])
def test_without_the_files_nothing_is_printed(tool: str) -> None:
    """And the message says how to make them."""
    files = {name: content for name, content in FILES.items() if name != "gateway/tls.key"}
    with pytest.raises(Invalid, match=r"gateway/tls.key .* bootstrap files --dir"):
        embedded.kops(files) if tool == "kops" else embedded.talos("v1.14", files)


@pytest.mark.parametrize("version", ["v1beta1", "v1.14"])
def test_an_unknown_version_of_kubeadm_is_told(version: str) -> None:
    """With the versions that there are."""
    with pytest.raises(Invalid, match="v1beta4, v1beta3, v1beta2"):
        kubeadms.kubeadm(version)


# The command line.
def call(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Standard output of `auditpipeline bootstrap`, which succeeds."""
    with pytest.raises(SystemExit) as caught:
        command_line.main(("bootstrap", *arguments))
    out, err = capsys.readouterr()
    assert (caught.value.code, err) == (0, "")
    return out


def test_the_secret_is_valid_and_holds_what_the_gateway_serves_with_and_nothing_else() -> None:
    """Neither the CA's key, nor the client certificate that opens the gateway."""
    (document,) = documents("secret.yaml")
    kubernetes_validate.validate(document, "1.37", strict=True)
    assert document["metadata"]["name"] == names.GATEWAY_BOOTSTRAP_SECRET
    assert CONFIGURATIONS["secret.yaml"]().startswith("# THIS OUTPUT HOLDS A PRIVATE KEY")
    content = {key: base64.b64decode(value) for key, value in document["data"].items()}
    assert content == {name: FILES[f"gateway/{name}"] for name in ("tls.crt", "tls.key", "client-ca.crt")}


def test_the_secret_says_how_to_install_at_the_address_of_its_certificate() -> None:
    """An address is the Service's own; a name is somebody else's business."""
    assert "--set gateway.service.clusterIP=10.96.0.9\n" in CONFIGURATIONS["secret.yaml"]()
    text = KUBECONFIG.replace("10.96.0.9", "audit.example").encode()
    printed = secrets.secret(BEHIND_SERVICE | {"webhook.kubeconfig": text}, LOCAL, secrets.NAMESPACE)
    assert "gateway.kind=StatefulSet\n" in printed
    assert "clusterIP" not in printed


def test_a_secret_of_a_nodes_own_files_is_refused() -> None:
    """A certificate for 127.0.0.1 would be refused by kube-apiserver only when everything stands."""
    text = KUBECONFIG.replace("10.96.0.9:443", "127.0.0.1:9443").encode()
    with pytest.raises(Invalid, match=r"for 127.0.0.1, .* --address CLUSTERIP:443"):
        secrets.secret(BEHIND_SERVICE | {"webhook.kubeconfig": text}, LOCAL, secrets.NAMESPACE)
    for name in ("gateway/tls.key", "webhook.kubeconfig"):
        files = {each: content for each, content in BEHIND_SERVICE.items() if each != name}
        with pytest.raises(Invalid, match=rf"{name} is missing there: run .*bootstrap files"):
            secrets.secret(files, LOCAL, secrets.NAMESPACE)


def test_the_secret_is_made_of_what_bootstrap_files_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which says how; without --address it needs none."""
    folder = tmp_path / "made"
    assert "bootstrap secret" not in call("files", "--dir", str(tmp_path / "node"), capsys=capsys)
    said = call("files", "--dir", str(folder), "--address", "[fd00:96::9]:443", capsys=capsys)
    assert f"auditpipeline bootstrap secret --dir {folder}" in said
    document = yaml.safe_load(call("secret", "--dir", str(folder), "--namespace", "audit", capsys=capsys))
    assert document["metadata"]["namespace"] == "audit"
    found = {key: base64.b64decode(value) for key, value in document["data"].items()}
    assert found == {path.name: path.read_bytes() for path in (folder / "gateway").iterdir()}


@pytest.mark.parametrize("arguments", [("kops",), ("talos",), ("talos", "--config-version", "v1.13"), ("k3s",)])
def test_a_file_with_keys_is_nobody_elses(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written with --output it holds what is printed without, and has the mode 0600 where it holds a key."""
    folder, output = tmp_path / "made", tmp_path / "out" / "config"
    call("files", "--dir", str(folder), capsys=capsys)
    output.parent.mkdir()
    output.write_text("what stood there before")
    output.chmod(0o644)
    printed = call(*arguments, "--dir", str(folder), capsys=capsys)
    said = call(*arguments, "--dir", str(folder), "--output", str(output), capsys=capsys)
    assert output.read_text() == printed
    assert "PRIVATE KEY" not in said
    secret = arguments != ("k3s",)
    assert ("private keys" in said) is secret
    assert output.stat().st_mode & 0o777 == (0o600 if secret else 0o644)
    key = (folder / "gateway" / "tls.key").read_text().splitlines()[1]
    assert (key in printed) is secret
    assert (folder / "ca.key").read_text().splitlines()[1] not in printed


def test_the_script_for_minikube_makes_what_it_starts_with(tmp_path: Path) -> None:
    """Run for real, but for minikube itself: the files are where its file sync finds them, with their modes."""
    home, programs, told = tmp_path / "home", tmp_path / "programs", tmp_path / "told"
    programs.mkdir()
    (programs / "minikube").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{told}"\n')
    (programs / "minikube").chmod(0o755)
    ours = shutil.which("auditpipeline", path=str(Path(sys.executable).parent))
    assert ours
    (programs / "auditpipeline").symlink_to(ours)
    script = kubeadms.minikube(str(tmp_path / "made here"))
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(home)}
    for _ in range(2):
        subprocess.run(["sh", "-s"], input=script, text=True, check=True, env=environment, capture_output=True)
    synced = home / ".minikube" / "files"
    arguments = dict(word.split("=", 1)[1].split("=", 1) for word in told.read_text().splitlines()[1:])
    assert arguments == {
        f"apiserver.{name}": value for name, value in bootstrap.flags(kubeadms.MINIKUBE_FOLDER).items()
    }
    for flag in ("audit-policy-file", "audit-webhook-config-file"):
        assert (synced / arguments[f"apiserver.{flag}"].lstrip("/")).is_file()
    modes = {str(path.relative_to(synced)): path.stat().st_mode & 0o777 for path in synced.rglob("*") if path.is_file()}
    gateway, audit = f"{bootstrap.DIRECTORY.lstrip('/')}/gateway", kubeadms.MINIKUBE_FOLDER.lstrip("/")
    assert modes == {
        f"{audit}/policy.yaml": 0o644,
        f"{audit}/webhook.kubeconfig": 0o600,
        f"{gateway}/tls.crt": 0o644,
        f"{gateway}/tls.key": 0o600,
        f"{gateway}/client-ca.crt": 0o644,
    }
