"""`auditpipeline bootstrap`: the static side of a control-plane node, written or printed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from auditpipeline.cli.serve import DATA_PLANE_UID
from auditpipeline.control import bootstrap as plan
from auditpipeline.control import bootstrap_embedded as embedded
from auditpipeline.control import bootstrap_hosts as hosts
from auditpipeline.control import bootstrap_kubeadm as kubeadms
from auditpipeline.control import bootstrap_secret as secrets
from auditpipeline.control.loops import is_local
from auditpipeline.core.errors import Invalid

Command = Callable[..., Any]
LOCAL = "auditpipeline"
_OUTPUT = click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write; absent: standard output."
)
_ON_NODE = click.option(
    "--dir", "directory", default=plan.DIRECTORY, show_default=True, help="Where the files are on the node."
)


def _local(purpose: str) -> Callable[[Command], Command]:
    return click.option(
        "--dir", "directory", default=LOCAL, show_default=True, help=f"Folder on this machine {purpose}."
    )


@click.group()
def bootstrap() -> None:
    """Make kube-apiserver post its audit events to the gateway.

    `files` makes policy, kubeconfig and certificates. The other commands print the configuration that makes a
    distribution's kube-apiserver use them, with what to do next; `secret` prints what a gateway behind a Service
    serves with.
    """


@bootstrap.command()
@click.option(
    "--dir", "directory", default=plan.DIRECTORY, show_default=True, type=click.Path(path_type=Path, file_okay=False)
)
@click.option(
    "--address", default=plan.ADDRESS, show_default=True, metavar="HOST:PORT", help="Where the gateway listens."
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Static policy to write; absent: all that AuditPipelines may ask for, credentials at Metadata.",
)
def files(directory: Path, address: str, policy: Path | None) -> None:
    """Write policy, webhook kubeconfig and certificates into a folder of a control-plane node.

    Run it again to renew: what is there and still good stays, the policy always stays.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Invalid("--address", f"{address!r} is not HOST:PORT, such as {plan.ADDRESS}")
    text = policy.read_text() if policy else plan.STATIC_POLICY
    fresh = plan.files(_files_in(directory), address, datetime.now(UTC), text)
    for name, file in sorted(fresh.items()):
        _write(directory / name, file)
        click.echo(f"wrote {directory / name}")
    if not fresh:
        click.echo(f"{directory}: everything is there and good")
    click.echo("kube-apiserver needs these flags, and a restart:")
    for flag, value in plan.flags(str(directory)).items():
        click.echo(f"  --{flag}={value}")
    if not is_local(host.strip("[]")):
        click.echo("The gateway's Pods behind that address need a Secret, which this prints, private key included:")
        click.echo(f"  auditpipeline bootstrap secret --dir {directory}")


@bootstrap.command()
@click.option(
    "--config-version", default=kubeadms.KUBEADM_VERSIONS[0], show_default=True, help="v1beta4, v1beta3 or v1beta2."
)
@_ON_NODE
@_OUTPUT
def kubeadm(config_version: str, directory: str, output: Path | None) -> None:
    """Print the kubeadm ClusterConfiguration with extraArgs and extraVolumes."""
    _put(kubeadms.kubeadm(config_version, directory), output)


@bootstrap.command()
@_local("with the files, mounted into the node")
@_OUTPUT
def kind(directory: str, output: Path | None) -> None:
    """Print kind's Cluster with extraMounts and kubeadmConfigPatches."""
    _put(kubeadms.kind(str(Path(directory).absolute())), output)


@bootstrap.command()
@_local("for the files")
@_OUTPUT
def minikube(directory: str, output: Path | None) -> None:
    """Print a shell script that hands the files to minikube and starts it."""
    _put(kubeadms.minikube(str(Path(directory).absolute())), output)


@bootstrap.command()
@_ON_NODE
@_OUTPUT
def k3s(directory: str, output: Path | None) -> None:
    """Print what belongs into /etc/rancher/k3s/config.yaml.d."""
    _put(hosts.k3s(directory), output)


@bootstrap.command()
@_ON_NODE
@_OUTPUT
def rke2(directory: str, output: Path | None) -> None:
    """Print what belongs into /etc/rancher/rke2/config.yaml.d."""
    _put(hosts.rke2(directory), output)


@bootstrap.command()
@click.option("--config-version", default=embedded.TALOS_VERSIONS[0], show_default=True, help="v1.14 or v1.13.")
@_local("with the files to embed")
@_OUTPUT
def talos(config_version: str, directory: str, output: Path | None) -> None:
    """Print a patch of Talos' machine configuration; it holds private keys."""
    _put(embedded.talos(config_version, _files_in(Path(directory))), output, secret=True)


@bootstrap.command()
@_local("with the files to embed")
@_OUTPUT
def kops(directory: str, output: Path | None) -> None:
    """Print kubeAPIServer and fileAssets for a kOps Cluster; it holds private keys."""
    _put(embedded.kops(_files_in(Path(directory))), output, secret=True)


@bootstrap.command()
@click.option(
    "--form",
    default="systemd",
    show_default=True,
    type=click.Choice(tuple(hosts.PLAIN_FORMS)),
    help="An environment file for a systemd unit, or what to add to a static Pod.",
)
@_ON_NODE
@_OUTPUT
def plain(form: str, directory: str, output: Path | None) -> None:
    """Print the flags for a kube-apiserver that a systemd unit or a static Pod starts."""
    _put(hosts.PLAIN_FORMS[form](directory), output)


@bootstrap.command()
@_local("with the files")
@click.option("--namespace", default=secrets.NAMESPACE, show_default=True, help="The operator's namespace.")
@_OUTPUT
def secret(directory: str, namespace: str, output: Path | None) -> None:
    """Print the Secret of a gateway behind a Service; it holds a private key."""
    _put(secrets.secret(_files_in(Path(directory)), directory, namespace), output, secret=True)


def _files_in(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _put(text: str, output: Path | None, *, secret: bool = False) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    _write(output, plan.File(text.encode(), 0o600 if secret else 0o644))
    click.echo(f"wrote {output}{', which holds private keys' if secret else ''}")


def _write(path: Path, file: plan.File) -> None:
    """Write a file whole or not at all; the gateway's belong to the data plane's user where root may say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    # What a run that broke off left would keep its mode.
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode), "wb") as stream:
        stream.write(file.content)
        os.fsync(stream.fileno())
    if path.parent.name == "gateway" and os.geteuid() == 0:
        os.chown(fresh, DATA_PLANE_UID, DATA_PLANE_UID)
    fresh.rename(path)
